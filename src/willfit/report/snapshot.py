"""An explained memory snapshot as text for a terminal, and as data for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from willfit.doctor.report import Frame
from willfit.doctor.snapshots.explanation import (
    Explanation,
    FailedRequest,
    GpuExplanation,
    Growth,
    LineUse,
)
from willfit.doctor.snapshots.outcome import Outcome, Reproduction
from willfit.report.text import GLYPHS, Style, bar, table, titled, wrapped
from willfit.units import format_bytes

_LINES: Final = 8
"""Lines of code shown of each kind."""
_FOLDERS: Final = 3
"""Parts of a path shown."""
_LONGEST: Final = 56
"""Characters of a name shown: with the amount before it, a line of 80."""


def snapshot_text(
    explanation: Explanation, outcomes: Sequence[Outcome] = (), style: Style | None = None
) -> str:
    """The whole report, GPU by GPU, then what other settings would have done."""
    style = style or Style()
    lines: list[str] = []
    for gpu in explanation.gpus:
        lines += [*_gpu(gpu, style), ""]
    if outcomes:
        lines += [*_tried(outcomes, style), ""]
    lines += titled([("note", explanation.notes)])
    return "\n".join(lines).rstrip() + "\n"


def snapshot_data(explanation: Explanation, outcomes: Sequence[Outcome] = ()) -> dict[str, Any]:
    """``{"gpus": […], "settings": […], "notes": […]}``: every amount an integer of bytes."""
    return {
        "gpus": [asdict(gpu) for gpu in explanation.gpus],
        "settings": [
            {
                **asdict(outcome),
                "reproduction": {
                    **asdict(outcome.reproduction),
                    "faithful": outcome.reproduction.faithful,
                },
                "sentence": sentence(outcome),
            }
            for outcome in outcomes
        ],
        "notes": list(explanation.notes),
    }


def sentence(outcome: Outcome) -> str:
    """What a setting would have done, in one sentence."""
    conf, reserved = outcome.alloc_conf, format_bytes(outcome.reserved_bytes)
    if outcome.served is None:
        if outcome.peak_reserved_bytes == outcome.recorded_peak_bytes:
            most = format_bytes(outcome.peak_reserved_bytes)
            return f"{conf} would have changed nothing: {most} reserved at most"
        return (
            f"{conf} would have reserved {format_bytes(outcome.peak_reserved_bytes)} at most "
            f"instead of {format_bytes(outcome.recorded_peak_bytes)}"
        )
    asked = format_bytes(outcome.requested_bytes)
    if outcome.served:
        return (
            f"{conf} would have served the {asked}: reserved {reserved} instead of "
            f"{format_bytes(outcome.recorded_bytes)}"
        )
    if outcome.fails_earlier:
        return f"{conf} would not have helped: an earlier request would have failed"
    live = f"{format_bytes(outcome.live_bytes)} of {format_bytes(outcome.capacity_bytes or 0)}"
    return f"{conf} would not have helped: {live} were live"


def _gpu(gpu: GpuExplanation, style: Style) -> Iterator[str]:
    when = "at the failure" if gpu.failure is not None else "at the end"
    yield style.paint(f"GPU {gpu.gpu} {when}", "bold") + f"  {gpu.num_events:,} events recorded"
    if gpu.failure is not None:
        yield from _failure(gpu.failure)
    yield from _parts(gpu, style)
    if gpu.categories:
        yield ""
        yield from _categories(gpu)
    yield from _uses("which lines allocated it:", gpu.lines)
    yield from _uses("largest blocks:", gpu.largest)
    yield from _uses("in use since before the recording began:", gpu.earlier)
    for growth in gpu.growing:
        yield from _growing(growth, style)


def _failure(failure: FailedRequest) -> Iterator[str]:
    yield from wrapped(
        f"asked for {format_bytes(failure.requested_bytes)}, for which a segment of "
        f"{format_bytes(failure.segment_bytes)} was due; the device had "
        f"{format_bytes(failure.free_bytes)}, and the largest free block for it was "
        f"{format_bytes(failure.largest_free_bytes)}",
        first="  ",
        rest="  ",
    )
    where = _where(failure.user, failure.library)
    if where:
        yield from wrapped(f"by {where}", first="  ", rest="    ")
    if failure.capped:
        yield "  the device had enough: a cap on this process refused it"
    elif failure.fits_together:
        yield "  all that is free would have served it, were it in one piece"
    else:
        yield "  all that is free would not have served it, even in one piece"


def _parts(gpu: GpuExplanation, style: Style) -> Iterator[str]:
    parts = [
        ("in use", gpu.live_bytes, ""),
        ("cached", gpu.cached_bytes, "whole segments or pages, given back when needed"),
        ("fragmentation", gpu.fragmentation_bytes, "free between what is in use"),
        ("private pools", gpu.private_bytes, "free, for CUDA graphs and MemPool alone"),
        ("outside PyTorch", gpu.outside_bytes or 0, "contexts and other processes"),
    ]
    shown = [part for part in parts if part[1] or part[0] == "fragmentation"]
    for glyph, (name, amount, note) in zip(GLYPHS, shown, strict=False):
        yield f"  {glyph} {name:<16}{format_bytes(amount):>11}  {note}".rstrip()
    total = f"    {'reserved':<16}{format_bytes(gpu.reserved_bytes):>11}"
    before = f"  at most {format_bytes(gpu.peak_reserved_bytes)} before"
    more = gpu.peak_reserved_bytes != gpu.reserved_bytes
    yield style.paint(total, "bold") + (before if more else "")
    capacity = gpu.total_bytes or gpu.reserved_bytes
    if capacity:
        yield f"  {bar([amount for _, amount, _ in shown], capacity)}"


def _categories(gpu: GpuExplanation) -> list[str]:
    rows = [
        (
            use.name.replace("_", " "),
            format_bytes(use.num_bytes),
            format_bytes(use.guessed_bytes) if use.guessed_bytes else "-",
        )
        for use in gpu.categories
    ]
    return table(("what it is for", "in use", "guessed from names"), rows)


def _uses(title: str, uses: Sequence[LineUse]) -> Iterator[str]:
    if not uses:
        return
    yield ""
    yield title
    for use in uses[:_LINES]:
        times = f"{use.count:,} blocks, " if use.count > 1 else ""
        where = _where(use.user, use.library) or "no stack was recorded"
        head = f"  {format_bytes(use.num_bytes):>10}  "
        yield from wrapped(
            f"{where} ({times}{use.category.replace('_', ' ')}{'?' if use.guessed else ''})",
            first=head,
            rest=" " * len(head),
        )
    if len(uses) > _LINES:
        yield f"              and {len(uses) - _LINES:,} more"


def _growing(growth: Growth, style: Style) -> Iterator[str]:
    use = growth.use
    yield ""
    yield from wrapped(
        f"grows in every round: {_where(use.user, use.library)} allocated "
        f"{format_bytes(use.num_bytes)} in {growth.rounds:,} rounds of the loop at "
        f"{_named(growth.loop)} and nothing of it was freed",
        first=style.paint("leak? ", "yellow"),
        rest="  ",
    )


def _tried(outcomes: Sequence[Outcome], style: Style) -> Iterator[str]:
    yield style.paint("other allocator settings, replayed", "bold")
    for outcome in outcomes:
        yield from wrapped(sentence(outcome), first="  ", rest="    ")
    yield from wrapped(_evidence(outcomes[0].reproduction), first="  ", rest="    ")
    notes = dict.fromkeys(
        note if len(outcomes) == 1 else f"{outcome.alloc_conf}: {note}"
        for outcome in outcomes
        for note in outcome.notes
    )
    for line in notes:
        yield from wrapped(line, first="  note: ", rest="    ")


def _evidence(reproduction: Reproduction) -> str:
    """How far the replay can be believed."""
    allocations = f"{reproduction.num_allocations:,} allocations"
    if not reproduction.num_unlike and reproduction.fails_alike is not False:
        return (
            f"evidence: with its own settings the replay reserves what was recorded after each of "
            f"{allocations}" + (", and fails where it failed" if reproduction.fails_alike else "")
        )
    differs = (
        f"with its own settings the replay differs after {reproduction.num_unlike:,} of "
        f"{allocations}, by {format_bytes(reproduction.largest_difference_bytes)} at most"
    )
    if reproduction.fails_alike is False:
        differs += ", and does not fail where it failed"
    return ("evidence: " if reproduction.faithful else "not to be relied on: ") + differs


def _where(user: Frame | None, library: Frame | None) -> str:
    frames = [_named(frame) for frame in (user, library) if frame is not None]
    return ", in ".join(frames)


def _named(frame: Frame) -> str:
    """``llama/modeling_llama.py:310 forward``."""
    parts = re.split(r"[\\/]", frame.file)
    after = next((i + 1 for i, part in enumerate(parts) if part.endswith("-packages")), 0)
    path = "/".join(parts[max(after, len(parts) - _FOLDERS) :])
    line = f":{frame.line}" if frame.line else ""
    return f"{_shown(path + line)} {_shown(frame.function)}".strip()


def _shown(name: str) -> str:
    """The end of a name; a file may say anything, control codes for the terminal too."""
    end = "".join(char if char.isprintable() else "?" for char in name[-_LONGEST:])
    return end if len(name) <= _LONGEST else f"…{end[1:]}"
