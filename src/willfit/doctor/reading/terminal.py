"""Terminal: text as it was to be seen, without colours, cursor moves and overwritten letters."""

from __future__ import annotations

import re
from typing import Final

_ESCAPED: Final = re.compile(r"(?:\\x1[bB]|\\u001[bB]|\\033|\\e|#033|\^\[|␛|\x9b)(?=[\[\]])|\x9b")
"""How the escape character is spelled where it was printed: sed, Python, bash, syslog, less."""
_SEQUENCE: Final = re.compile(
    r"\x1b(?:"
    r"\[[0-?]{0,64}[ -/]{0,4}[@-~]"  # colours, cursor
    r"|\][^\x07\x1b\n]{0,2000}(?:\x07|\x1b\\)"  # titles, links
    r"|[()*+][0-9A-Za-z]"  # character sets
    r"|[@-Z\\^_=>78c]"
    r")?"
)
_BARE: Final = re.compile(r"\[(?:\d{1,3}(?:;\d{1,3}){0,5})?m")
"""Colours whose escape character was lost on the way: ``[31m``."""
_INVISIBLE: Final = re.compile(
    r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u2060\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """One physical line without escape sequences; carriage returns become newlines."""
    text = _SEQUENCE.sub("", _ESCAPED.sub("\x1b", text).replace("\x1b\x1b", "\x1b"))
    if "[0m" in text:
        text = _BARE.sub("", text)
    if "\b" in text:
        text = _erased(text)
    return _INVISIBLE.sub("", text.replace("\r", "\n").replace("\x85", "\n"))


def _erased(text: str) -> str:
    """A backspace takes the letter before it away."""
    letters: list[str] = []
    for letter in text:
        if letter != "\b":
            letters.append(letter)
        elif letters and letters[-1] != "\r":
            letters.pop()
    return "".join(letters)
