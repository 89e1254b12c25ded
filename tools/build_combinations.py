"""Writes docs/combinations.md: what `willfit.load` makes of every combination that guides name.

``python -m tools.build_combinations``
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from willfit.live.combinations import COMBINATIONS, MACHINES, Combination, Judged, judge
from willfit.scenario.stack import TESTED

TARGET: Final = Path(__file__).parents[1] / "docs" / "combinations.md"
_OF_THE_MACHINE: Final = ("GPUs and memory in use", "NVIDIA T4: ", "A100 is read as", "SDPA takes")
"""Beginnings of notes that speak of the machine rather than of the combination."""
INTRODUCTION: Final = f"""\
# Combinations: what works, and what is refused with which reason

Each row is a call of `willfit.load` with these arguments, judged as it is given, without loading
anything, on a machine with these GPUs: prompts of 511 tokens and one new token, batch 1, unless
the arguments say otherwise; transformers {TESTED["transformers"]}, bitsandbytes
{TESTED["bitsandbytes"]}, torch {TESTED["torch"]}. A row that works shows the peak on the fullest
GPU and what may be used there. `load` raises the sentence of a row that does not, before anything
is downloaded or put on a GPU; what only does not fit, it changes, unless `as_given=True` forbids
that.

This page is written by `python -m tools.build_combinations`; a test keeps it current.
"""


def document() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for group, rows in groupby(COMBINATIONS, key=lambda combination: combination.group):
        lines += [f"## {group}", "", *_section(list(rows)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _section(rows: list[Combination]) -> Iterator[str]:
    judged = {row.id: [judge(row, machine) for machine in MACHINES] for row in rows}
    reasons: list[str] = []
    yield f"| combination | arguments | {' | '.join(MACHINES)} |"
    yield f"|---|---|{'---|' * len(MACHINES)}"
    for row in rows:
        cells = [_cell(result, reasons) for result in judged[row.id]]
        yield f"| {row.title} | {_code(row)} | {' | '.join(cells)} |"
    yield ""
    for number, reason in enumerate(reasons, 1):
        yield f"{number}. {reason}"
    yield from _notes(rows, judged)


def _cell(result: Judged, reasons: list[str]) -> str:
    if result.works:
        return f"works: {result.reason}"
    if result.reason not in reasons:
        reasons.append(result.reason)
    return f"refused ({reasons.index(result.reason) + 1})"


def _code(row: Combination) -> str:
    shown = ", ".join(f"{name}={_value(value)}" for name, value in row.settings.items())
    return f"`load({row.model.rpartition('/')[2]!r}{', ' if shown else ''}{shown})`"


def _value(value: Any) -> str:
    return repr(dict(value)) if hasattr(value, "items") else repr(value)


def _notes(rows: list[Combination], judged: dict[str, list[Judged]]) -> Iterator[str]:
    """What `load` says of the rows that work, each remark once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for result in judged[row.id]:
            for note in result.notes if result.works else ():
                titles = said.setdefault(note, [])
                titles += [] if row.title in titles else [row.title]
    kept = {note: titles for note, titles in said.items() if not note.startswith(_OF_THE_MACHINE)}
    if kept:
        yield ""
        yield "What `load` says of those that work:"
        yield ""
    for note, titles in kept.items():
        yield f"- *{'; '.join(titles)}*: {note}"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
