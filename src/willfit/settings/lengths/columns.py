"""Which columns of a table say how long a sample is: counts, token ids or texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from willfit.errors import InputError
from willfit.settings.lengths.table import Table

Kind = Literal["count", "ids", "text"]

IDS: Final = ("input_ids",)
COUNTS: Final = ("num_tokens", "n_tokens", "token_count", "length")
"""``length`` is what the Trainer's ``length_column_name`` is by default."""
TEXTS: Final = (
    ("messages",),
    ("conversations",),
    ("prompt", "response_a", "response_b"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("question", "answer"),
    ("sentence1", "sentence2"),
    ("text",),
    ("sentence",),
    ("content",),
)
"""Columns that make a sample's text together; the first that are all there."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is read of a row."""

    kind: Kind
    names: tuple[str, ...]


def choose(table: Table, given: Sequence[str], *, tokenizer_given: bool) -> Columns:
    """The columns asked for, or those with a usual name; raises `InputError` without any."""
    names = {name.lower(): name for name in reversed(table.names)}
    if given:
        missing = [name for name in given if name not in table.names]
        if missing:
            raise InputError(f"{table.path} has no column {missing[0]!r}: {_has(table)}")
        return Columns(kind=_kind(given), names=tuple(given))
    texts = [group for group in TEXTS if all(name in names for name in group)]
    if not (tokenizer_given and texts):
        for name in (*IDS, *COUNTS):
            if name in names:
                return Columns(kind=_kind((name,)), names=(names[name],))
    if not texts:
        raise InputError(
            f"no column of {table.path} has the name of a text or of token counts: name it with "
            f"--text-column ({_has(table)})"
        )
    return Columns(kind="text", names=tuple(names[name] for name in texts[0]))


def _kind(names: Sequence[str]) -> Kind:
    if len(names) > 1:
        return "text"
    name = names[0].lower()
    return "ids" if name in IDS else "count" if name in COUNTS else "text"


def _has(table: Table) -> str:
    shown = ", ".join(name[:40] for name in table.names[:8])
    return f"it has {shown}" + (f" and {len(table.names) - 8} more" * (len(table.names) > 8))
