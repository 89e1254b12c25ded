"""Pieces of a page; what is not `Html` already is escaped wherever it goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from willfit.report.palette import look
from willfit.report.writing import printable


class Html(str):
    """Text that is markup already, made by this module alone."""

    __slots__ = ()


def html(text: str) -> Html:
    """The text with everything escaped that markup could be made of."""
    return text if isinstance(text, Html) else Html(escape(printable(text)))


def element(name: str, *content: str, css: str = "") -> Html:
    """``<name class="css">content</name>``."""
    css = f' class="{css}"' if css else ""
    return Html(f"<{name}{css}>{''.join(map(html, content))}</{name}>\n")


def section(title: str, *content: str, level: int = 2) -> Html:
    """A heading and what belongs to it; nothing where there is no content."""
    if not any(content):
        return Html("")
    return Html(
        f"<section>\n{element(f'h{level}', title)}{''.join(map(html, content))}</section>\n"
    )


def listing(items: Iterable[str]) -> Html:
    """A list with a point for each; nothing where there is none."""
    points = "".join(element("li", item) for item in items)
    return Html(f"<ul>\n{points}</ul>\n") if points else Html("")


def named(facts: Iterable[tuple[str, str]]) -> Html:
    """Facts by name."""
    rows = "".join(element("dt", name) + element("dd", text) for name, text in facts)
    return Html(f"<dl>\n{rows}</dl>\n") if rows else Html("")


def code(text: str, *, wrapped: bool = False) -> Html:
    """Code to copy: lines are kept; ``wrapped`` shows a long one in several."""
    css = ' class="wrapped"' if wrapped else ' tabindex="0"'
    return Html(f"<pre{css}><code>{escape(_lines(text))}</code></pre>\n")


def _lines(text: str) -> str:
    return re.sub(r"[^\n\t]+", lambda line: printable(line[0]), text)


def folded(title: str, *content: str) -> Html:
    """Content that opens when asked for."""
    inside = "".join(map(html, content))
    return Html(f"<details>\n<summary>{html(title)}</summary>\n{inside}</details>\n")


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 0
) -> Html:
    """A table whose first column names the rows; the last ``words`` columns are text, not amounts.

    Nothing where there are no rows.
    """
    if not rows:
        return Html("")
    amounts = range(1, len(header) - words)
    head = "".join(
        f'<th scope="col"{_css(place in amounts)}>{html(text)}</th>'
        for place, text in enumerate(header)
    )
    body = "".join(f"<tr>{_cells(row, amounts)}</tr>\n" for row in rows)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html(caption)}">'
        f"<table>\n<caption>{html(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _cells(row: Sequence[str], amounts: range) -> str:
    first, *others = row
    cells = "".join(
        f"<td{_css(place in amounts)}>{html(text)}</td>" for place, text in enumerate(others, 1)
    )
    return f'<th scope="row">{html(first)}</th>{cells}'


def _css(is_amount: bool) -> str:
    return ' class="amount"' if is_amount else ""


def component(name: str) -> Html:
    """A component's name with its colour before it."""
    shown = look(name)
    key = f'<span class="key" style="background:{shown.color}"></span>'
    return Html(f'<span class="component">{key} {html(shown.words)}</span>')
