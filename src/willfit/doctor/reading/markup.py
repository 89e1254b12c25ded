"""Markup: what people and libraries put around lines: boxes, tables, quotes, lists, fences."""

from __future__ import annotations

import re
from typing import Final

_RULE: Final = "╭╮╰╯┌┐└┘├┤┬┴┼─━═┏┓┗┛╔╗╚╝"
_BOX: Final = re.compile(rf"[{_RULE}│┃║]")
_FRAME: Final = re.compile(r"\S{1,300}:\d{1,7} in \S")
_CELL_RULE: Final = re.compile(r"[|+\-=: ]{3,}")
_QUOTE: Final = re.compile(r"(?:[ \t]{0,8}>{1,2}(?:[ \t]|$)(?![ \t]{0,3}\d{1,7} [│|]))+")
_BULLET: Final = re.compile(r"[ \t]{0,12}[-*•] (?=\S)(?!killed)")
_BOLD: Final = re.compile(r"\*\*(?=\S)([^*]{1,2000})(?<=\S)\*\*(?=[\s:.,;)]|$)")
_FENCE: Final = re.compile(r"[ \t]{0,8}(?:```|~~~)[\w+-]{0,20}[ \t]{0,8}")
_PROGRESS: Final = re.compile(
    r"(\d{1,3}%\|[^|\n]{0,200}\| ?[\w.]{1,16}/[\w.?]{1,16} \[[^\]\n]{0,200}\])(?=\S)"
)


def unmarked(text: str) -> str:
    """The line inside; "" where it is only ornament."""
    if _BOX.search(text):
        text = _unboxed(text)
    head = text.lstrip()[:1]
    if head == "|" or head == "+":
        text = _row(text)
    elif head == ">":
        text = _QUOTE.sub("", text, count=1)
    elif head in "-*•" and head:
        text = _BULLET.sub("", text, count=1) if _BULLET.match(text) else text
    if "**" in text and text.lstrip().startswith("**"):
        text = _BOLD.sub(r"\1", text, count=1)
    return _unticked(text) if "`" in text or "~~~" in text else text


def unglued(text: str) -> str:
    """What was printed behind a progress bar, on a line of its own."""
    return _PROGRESS.sub(r"\1" + "\n", text) if "%|" in text else text


def _unboxed(text: str) -> str:
    inner = text.strip()
    if inner[:1] in _RULE or inner[-1:] in _RULE:
        return inner.strip(_RULE + " ")
    if inner[:1] not in "│┃║":
        return text.rstrip("│┃║ ")
    body = inner[1:].rstrip("│┃║ ")
    # a bar is what tells a frame of a box from prose that has the same words
    return text if _FRAME.match(body.strip()) else body.removeprefix(" ")


def _row(text: str) -> str:
    """Cells of a table; of a row with one cell, as where a text was wrapped, that one."""
    inner = text.strip()
    if _CELL_RULE.fullmatch(inner):
        return ""
    if not (inner.startswith("|") and inner.endswith("|")) or len(inner) < 3:
        return text
    cells = inner[1:-1].split("|")
    said = [cell for cell in cells if cell.strip()]
    return said[0].strip() if len(said) == 1 else inner[1:-1].strip()


def _unticked(text: str) -> str:
    if _FENCE.fullmatch(text):
        return ""
    inner = text.strip()
    if inner[:1] == inner[-1:] == "`" and " " in inner and "`" not in inner[1:-1]:
        return inner[1:-1]
    return inner[1:] if inner.startswith("`") and inner.count("`") == 1 else text
