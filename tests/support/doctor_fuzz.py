"""Feeds the doctor what nobody would write, and checks after each input that the laws hold.

    python -m tests.support.doctor_fuzz [--inputs 1000000] [--seed 1] [--workers 2]
                                        [--record docs/fuzz.md]

The laws: no exception; time in proportion to the length; amounts are integers from 0 on; what is
printed for an amount stands in the text; line numbers lie within it. An input that breaks one is
named by its number, from which `tests.support.doctor_inputs.made` makes it again.
`tests/test_doctor_fuzz.py` is a short run.
"""
# ruff: noqa: T201  # a command, which prints its result

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from tests.support.doctor_inputs import made

from willfit.doctor.context import context_of
from willfit.doctor.find import reports_in
from willfit.doctor.passage import Passage
from willfit.doctor.report import Context, Report

SECONDS: Final = 0.5
SECONDS_A_BYTE: Final = 100e-6
"""The time law, of CPU time: generous, as it is to find squares, not slowness."""
SIGNED: Final = frozenset({"profiled_tokens", "kv_available_bytes"})
"""What may be negative: SGLang and DeepSpeed print what is left of too little."""


class BrokenLawError(AssertionError):
    """A law that an input breaks."""


@dataclass
class Checked:
    """Checks what a report claims against the passage that it was found in."""

    squeezed: dict[int, str] = field(default_factory=dict)

    def context_of(self, passage: Passage, report: Report) -> Context:
        """The real context, after the law of printed amounts was checked."""
        words = self.squeezed.get(id(passage))
        if words is None:
            words = "\n".join(_squeezed(flat.text) for flat in passage.flats())
            self.squeezed = {id(passage): words}
        for name, text in report.printed.items():
            said = _squeezed(text)
            # the unit may stand in another place: a table's head
            bare = re.sub(r"[A-Za-z]+$", "", said)
            if said not in words and bare not in words:
                raise BrokenLawError(f"{name} {text!r} stands nowhere")
        return context_of(passage, report)


def _squeezed(text: str) -> str:
    """Without spaces and what a number may be broken by: the edges of a box or a quotation."""
    return re.sub(r"[\s#*>|│┃║/]", "", text)


def checked(text: bytes) -> list[Report]:
    """The reports of an input that keeps the laws; else the law that it breaks is raised."""
    began = time.process_time()
    reports = reports_in(text, context_of=Checked().context_of)
    seconds = time.process_time() - began
    if seconds > SECONDS + SECONDS_A_BYTE * len(text):
        raise BrokenLawError(f"{seconds:.2f} s for {len(text)} bytes")
    num_lines = _num_lines(text)
    for report in reports:
        if not 1 <= report.line <= report.last_line <= num_lines:
            raise BrokenLawError(f"lines {report.line} to {report.last_line} of {num_lines}")
        for name, value in _amounts(report.fields):
            if type(value) is not int or (value < 0 and name not in SIGNED):
                raise BrokenLawError(f"{name} is {value!r}")
    return reports


def _num_lines(text: bytes) -> int:
    """At most; a newline of UTF-16 is two bytes, and others hold its byte."""
    return text.count(b"\n") + 1


def _amounts(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, (list, tuple)):
            for row in value:
                yield from _amounts(row) if isinstance(row, Mapping) else ()
        elif name.endswith("bytes"):
            yield name, value


@dataclass
class Tally:
    """What a run found."""

    kinds: Counter[str] = field(default_factory=Counter)
    telling: Counter[str] = field(default_factory=Counter)
    """Inputs with a report, by kind."""
    families: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    slowest: tuple[float, int, str] = (0.0, 0, "")
    """Microseconds a byte, of inputs from 1 KiB on; number and kind of the input."""
    broken: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.kinds += other.kinds
        self.telling += other.telling
        self.families += other.families
        self.num_bytes += other.num_bytes
        self.slowest = max(self.slowest, other.slowest)
        self.broken += other.broken


def run(seed: int, start: int, stop: int) -> Tally:
    """Make and check the inputs of these numbers."""
    tally = Tally()
    for index in range(start, stop):
        kind, text = made(seed, index)
        tally.kinds[kind] += 1
        tally.num_bytes += len(text)
        began = time.process_time()
        try:
            reports = checked(text)
        except Exception as error:
            tally.broken.append((index, kind, f"{type(error).__name__}: {error}"[:300]))
            continue
        if len(text) >= 1024:
            spent = (time.process_time() - began) / len(text) * 1e6
            tally.slowest = max(tally.slowest, (spent, index, kind))
        tally.telling[kind] += bool(reports)
        tally.families.update({report.family for report in reports})
    return tally


def page(tally: Tally, arguments: argparse.Namespace, seconds: float) -> str:
    """The record, as `docs/fuzz.md` has it."""
    total = tally.kinds.total()
    micros, index, kind = tally.slowest
    kinds = "\n".join(
        f"| {name.replace('_', ' ')} | {count:,} | {tally.telling[name]:,} |"
        for name, count in sorted(tally.kinds.items())
    )
    families = ", ".join(f"{name} {count:,}" for name, count in tally.families.most_common())
    broken = "\n".join(f"- input {i} ({name}): {law}" for i, name, law in tally.broken[:50])
    return f"""# What the doctor reads without harm

Written by `python -m tests.support.doctor_fuzz --inputs {arguments.inputs} --seed {arguments.seed} --record docs/fuzz.md`
on {datetime.now(timezone.utc).date()}: {arguments.workers} processes on {os.cpu_count()} CPU cores, {platform.system()},
Python {platform.python_version()}. It took {seconds / 60:.0f} minutes. `tests/test_doctor_fuzz.py` is its short part.

**{total:,} inputs, {tally.num_bytes / 2**20:,.0f} MiB; {len(tally.broken)} broke a law.** The laws: no exception; at most
{SECONDS} s and {SECONDS_A_BYTE * 1e6:.0f} µs a byte of CPU time; every amount is an integer from 0 on; what is printed for
an amount stands in the text; line numbers lie within it. Each input is made from the seed and its
number alone.

The slowest, of those from 1 KiB on: {micros:.1f} µs a byte (input {index}, {kind.replace("_", " ")}).

| kind | inputs | with a report |
| --- | --- | --- |
{kinds}

Families found, by inputs: {families}.

{broken or "No law was broken."}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 where a law was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.doctor_fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", type=Path, metavar="PAGE", help="write the record there")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    tally = Tally()
    step = min(2000, max(1, arguments.inputs // arguments.workers))
    starts = range(0, arguments.inputs, step)
    with ProcessPoolExecutor(arguments.workers) as pool:
        parts = pool.map(
            run,
            [arguments.seed] * len(starts),
            starts,
            [min(start + step, arguments.inputs) for start in starts],
        )
        for part in parts:
            tally.add(part)
            done, seconds = tally.kinds.total(), time.monotonic() - began
            print(
                f"{done:,} inputs, {done / seconds:,.0f}/s, {len(tally.broken)} broken, slowest "
                f"{tally.slowest[0]:.1f} µs a byte",
                file=sys.stderr,
                flush=True,
            )
            for index, kind, law in part.broken:
                print(f"input {index} ({kind}): {law}", file=sys.stderr, flush=True)
    record = page(tally, arguments, time.monotonic() - began)
    print(record)
    if arguments.record is not None:
        arguments.record.write_text(record)
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
