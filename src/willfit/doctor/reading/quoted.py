r"""Quoted text: a traceback inside JSON, a repr or a log's field, with ``\n`` for its lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_DEEPEST: Final = 12
"""Levels of JSON whose texts are taken."""
_BREAK: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:r\\n|[nr])")
_ESCAPES: Final = {r"\"": '"', r"\'": "'", r"\t": "    ", r"\/": "/", r"\\": "\\"}
_ESCAPE: Final = re.compile(r"\\[\"'t/\\]")
_PATH_BEFORE: Final = re.compile(r"(?:[A-Za-z]:|\.{1,3}|[\w.-])\\[^\s\"'<>|]{0,300}$")
_PATH_AFTER: Final = re.compile(
    r"[\w.-]{1,80}(?:\\[\w.-]{1,80}){0,20}\.(?:py|dll|exe|cu|cpp|gguf)\b"
)


def texts_in(line: str) -> str:
    """The line, where it quotes lines those instead, a newline between them."""
    stripped = line.strip()
    if stripped[:1] in ("{", "[", '"') and stripped[-1:] in ("}", "]", '"'):
        said = _json_texts(stripped)
        # a string alone may be one of a program: only lines are worth taking out
        if said and (stripped[0] != '"' or "\n" in said[0]):
            return "\n".join(said)
    return _broken(line) if "\\" in line else line


def _json_texts(line: str) -> list[str]:
    """Texts of more than a word in a line of JSON; none where it is not JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [text.rstrip("\n") for text in _strings(value, 0) if " " in text.strip()]


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth < _DEEPEST and isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one, depth + 1)


def _broken(line: str) -> str:
    r"""The line broken at each ``\n`` that is not part of a Windows path."""
    pieces: list[str] = []
    begun = 0
    for found in _BREAK.finditer(line):
        if not _in_path(line, begun, found):
            pieces.append(line[begun : found.start()])
            begun = found.end()
    if not pieces:
        return line
    pieces.append(line[begun:])
    return "\n".join(_ESCAPE.sub(lambda found: _ESCAPES[found[0]], piece) for piece in pieces)


def _in_path(line: str, begun: int, found: re.Match[str]) -> bool:
    after = _PATH_AFTER.match(line, found.end() - 1)
    before = line[max(begun, found.start() - 320) : found.start()]
    return bool(after) or _PATH_BEFORE.search(before) is not None
