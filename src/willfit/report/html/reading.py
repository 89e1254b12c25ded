"""The contract's object out of a saved page, read as data."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from willfit.errors import BrokenFileError
from willfit.report.html.page import JSON_ID


def embedded_json(page: str, name: str = "this page") -> dict[str, Any]:
    """The JSON object that the page was made with.

    Raises `BrokenFileError` where it has none; ``name`` is what the message calls the page.
    """
    finder = _Finder()
    finder.feed(page)
    try:
        content = json.loads("".join(finder.found))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BrokenFileError(
            f"{name} holds no numbers of willfit: expected a page that --html wrote"
        )
    return content


class _Finder(HTMLParser):
    """Collects the text of the one element that has the id."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_inside = tag == "pre" and ("id", JSON_ID) in attrs and not self.found

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            self.found.append(data)
