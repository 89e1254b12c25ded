"""A suite's summary: errors by level and counter, what failed, and where to look next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from willfit.live.suite.case import Suite
from willfit.live.suite.summary import Judged, Look, errors_of, look_next
from willfit.report.text import table, wrapped
from willfit.units import format_bytes

if TYPE_CHECKING:
    from willfit.runner.bundle.measuring import SuiteBundle

SCHEMA: Final = "willfit.suite/1"
Row = Mapping[str, Any]


def summary_json(
    suite: Suite, rows: Sequence[Row], judged: Sequence[Judged], left: Sequence[str]
) -> dict[str, Any]:
    """The summary as numbers."""
    return {
        "schema": SCHEMA,
        "suite": suite.name,
        "rows": len(rows),
        "failed": {str(row["name"]): str(row["failure"]) for row in rows if row.get("failure")},
        "left": list(left),
        "errors": [vars(one) for one in errors_of(judged)],
        "look_next": [
            {
                "name": look.name, "phase": look.line.phase, "level": look.level,
                "measured_bytes": look.line.measured_bytes, "error": look.error,
                "settles": look.settles,
            }
            for look in look_next(judged)
        ],
    }  # fmt: skip


def render_summary(
    suite: Suite, rows: Sequence[Row], judged: Sequence[Judged], left: Sequence[str], out: str
) -> str:
    """The summary as text."""
    failed = [row for row in rows if row.get("failure")]
    device = next((str(row["device"]) for row in rows if row.get("device")), "no device")
    lines = wrapped(
        f"suite {suite.name} on {device}: {len(rows)} of {len(suite.cases)} cases have a row in "
        f"{out}, {len(failed)} of them failed",
        first="",
        rest="  ",
    )
    lines += ["", *_errors(judged)]
    for row in failed:
        lines += wrapped(f"failed: {row['name']}: {str(row['failure'])[:300]}", first="", rest="  ")
    for name in left:
        lines.append(f"no time yet: {name}")
    looks = look_next(judged)
    lines += ["", "look next at:", *(line for look in looks for line in _look(look))]
    return "\n".join(lines).rstrip() + "\n"


def _errors(judged: Sequence[Judged]) -> list[str]:
    rows = [
        (
            f"{one.level}, {one.kind}",
            str(one.num_cases),
            f"{100 * one.median:.1f} %",
            f"{100 * one.p95:.1f} %",
            f"{100 * one.worst:+.1f} %",
            one.worst_name[:28],
        )
        for one in errors_of(judged)
    ]
    if not rows:
        return ["no case to compare"]
    return table(("peak", "cases", "median", "p95", "worst", "of"), rows)


def _look(look: Look) -> Iterator[str]:
    said = (
        f"{100 * look.error:+.1f} % {look.name}: {look.level} against "
        f"{format_bytes(look.line.measured_bytes)} in {look.line.phase}"
    )
    text = f"{said}. {look.settles}" if look.settles else said
    yield from wrapped(text, first="  ", rest="    ")


def render_bundle(made: SuiteBundle) -> str:
    """What was made, and what still lacks."""
    lines = [f"{made.path}: {format_bytes(made.num_bytes)}, everything for --suite {made.suite}"]
    names = ", ".join(f"{name} {version}" for name, version in made.wheels)
    lines += wrapped(f"wheels: {names}", first="  ", rest="    ")
    for sentence in made.sentences:
        lines += wrapped(f"to do: {sentence}", first="  ", rest="    ")
    lines += ["  there: sh run.sh"]
    return "\n".join(lines) + "\n"
