"""The page around a report: one file that loads nothing and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Final

from willfit._version import __version__
from willfit.report.drawing import Drawing, svg
from willfit.report.html.markup import Html, code, element, folded, html, section
from willfit.report.html.style import STYLE
from willfit.report.peak import NARROW, WIDE

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the browser may do for the page: draw it."""
JSON_ID: Final = "willfit-json"


def page(
    title: str, *content: str, data: Mapping[str, Any] | None = None, command: str = ""
) -> str:
    """A whole document; ``data`` is the contract's object, ``command`` what made it."""
    made = [section("The command", code(command, wrapped=True))] if command else []
    inside = "".join([element("h1", title), *map(html, content), *made, _data(data), _footer()])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="willfit {__version__}">\n'
        f'<title>{html(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{inside}</main>\n</body>\n</html>\n"
    )


def _data(data: Mapping[str, Any] | None) -> Html:
    if data is None:
        return Html("")
    text = escape(json.dumps(data, indent=1))
    return folded("All numbers, as JSON", Html(f'<pre id="{JSON_ID}">{text}</pre>\n'))


def _footer() -> Html:
    return element("footer", f"willfit {__version__}. GiB is 2³⁰ bytes.")


def figure(draw: Callable[[int], Drawing]) -> Html:
    """A picture twice: as wide as a page, and for a phone; the page's style shows one of them."""
    both = (("willfit-wide", WIDE), ("willfit-narrow", NARROW))
    inside = "".join(
        f'<div class="{css}">{svg(draw(width), embedded=True)}</div>' for css, width in both
    )
    return Html(f"<figure>{inside}</figure>\n")


def verdict(words: str, kind: str | None) -> Html:
    """The answer, in words that do without their colour."""
    return element("p", words[:1].upper() + words[1:] + ".", css=f"verdict {kind or ''}".strip())
