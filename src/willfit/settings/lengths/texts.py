"""The text of a sample: plain columns, chat messages, and JSON lists written into a column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MAX_DEPTH: Final = 8
"""Lists within messages within conversations: real data have 3."""
_KEYS: Final = ("content", "value", "text")
"""Where a message (OpenAI's, ShareGPT's) or a part of one keeps its text."""
_SPEAKERS: Final = ("role", "from")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Text of one row."""

    text: str
    num_messages: int
    """Chat messages, each of which a template will wrap."""


def sample_of(values: tuple[Any, ...]) -> Sample:
    """Text of a row's columns, one after the other."""
    parts = [part for value in values for part in _parts(_listed(value), 0)]
    return Sample(
        text="\n".join(text for text, _ in parts if text),
        num_messages=sum(spoken for _, spoken in parts),
    )


def _parts(value: Any, depth: int) -> Iterator[tuple[str, int]]:
    """Texts within a value, with 1 for what somebody says in a chat."""
    if value is None or depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        spoken = int(any(key in value for key in _SPEAKERS))
        inner = next((value[key] for key in _KEYS if value.get(key) is not None), None)
        texts = [text for text, _ in _parts(inner, depth + 1)]
        yield "\n".join(texts), spoken
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item, depth + 1)
    else:
        yield str(value), 0


def _listed(value: Any) -> Any:
    """A list or message that a CSV file holds as JSON; any other text as it is."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    plain = isinstance(found, list) and all(
        item is None or isinstance(item, (str, dict)) for item in found
    )
    return found if plain else value
