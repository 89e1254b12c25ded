"""Pieces of HTML that every answer uses; whatever text goes in comes out escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, Literal

from willfit.report.peak import NARROW, WIDE, peak_svg
from willfit.results import Estimate, GpuEstimate

Standing = Literal["fits", "tight", "does_not_fit", "known", "unknown"]

_SIGNS: Final[dict[Standing, str]] = {
    "fits": "✓", "tight": "≈", "does_not_fit": "✗", "known": "→", "unknown": "?",
}  # fmt: skip
"""Beside the colour, for those who do not see it."""
VERDICTS: Final = {"fits": "✓ fits", "tight": "≈ tight", "does_not_fit": "✗ does not fit"}
"""A verdict in a cell of a table."""


def text(words: object) -> str:
    """Text that is no markup."""
    return escape(str(words), quote=True)


def verdict(standing: Standing, words: str, more: str = "") -> str:
    """The first thing that is read, and what a screen reader says."""
    sign = f'<span class="wf-sign" aria-hidden="true">{_SIGNS[standing]}</span>'
    rest = f'<p class="wf-more">{text(more)}</p>' if more else ""
    return (
        f'<div class="wf-verdict wf-{standing}">{sign}<div><h2 class="wf-said">{text(words)}</h2>'
        f"{rest}</div></div>"
    )


def refusal(sentence: str) -> str:
    """What was given cannot be used."""
    return (
        '<div class="wf-verdict wf-refused"><span class="wf-sign" aria-hidden="true">!</span>'
        f'<div><h2 class="wf-said">{text(_sentence(sentence))}</h2></div></div>'
    )


def remarks(sentences: Iterable[str]) -> str:
    """Sentences that come before an answer."""
    return "".join(f'<p class="wf-remark">{text(_sentence(said))}</p>' for said in sentences)


def _sentence(words: str) -> str:
    """With a capital before and a sign at the end, which may be there already."""
    said = words.rstrip(". ")
    return said[:1].upper() + said[1:] + ("" if said.endswith(("?", "!", "…")) else ".")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: the first column names the row; cells are HTML that is escaped already."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wf-scroll" role="region" aria-label="{text(caption)}" tabindex="0"><table>'
        f'<caption class="wf-quiet">{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(title: str, content: str, *, opened: bool = False) -> str:
    """Something for those who want to know more; nothing where it is empty."""
    if not content:
        return ""
    is_open = " open" if opened else ""
    return f"<details{is_open}><summary>{text(title)}</summary>{content}</details>"


def listed(items: Iterable[str]) -> str:
    """Sentences, one below the other; "" without any."""
    inside = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<ul>{inside}</ul>" if inside else ""


def code(content: str, name: str) -> str:
    """Text to be copied, with its button."""
    return (
        f'<div class="wf-code"><button type="button" class="wf-copy" data-copy '
        f'aria-label="Copy {text(name)}">Copy</button>'
        f'<pre tabindex="0" aria-label="{text(name)}"><code>{text(content)}</code></pre></div>'
    )


def heading(words: str) -> str:
    """A heading within an answer."""
    return f"<h3>{text(words)}</h3>"


def bars(sides: Sequence[tuple[str, GpuEstimate]], title: str) -> str:
    """Stacked bars against the capacity, in two widths of which the page shows one."""
    wide = peak_svg(sides, title, width=WIDE, embedded=True)
    narrow = peak_svg(sides, title, width=NARROW, embedded=True)
    return widths(wide, narrow)


def widths(wide: str, narrow: str) -> str:
    """A picture in two widths, of which the page shows the one that there is room for."""
    return (
        f'<figure class="wf-figure"><div class="wf-wide">{wide}</div>'
        f'<div class="wf-narrow">{narrow}</div></figure>'
    )


def standing_of(estimate: Estimate) -> Standing:
    """How an estimate stands, for the look of its verdict."""
    if estimate.unsupported:
        return "unknown"
    return estimate.verdict or "known"
