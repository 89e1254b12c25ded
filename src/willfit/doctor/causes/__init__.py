"""Why memory ran out: one file a kind of evidence, asked in a fixed order."""

from __future__ import annotations

from typing import Final

from willfit.doctor.causes import (
    cap,
    disguised,
    engines,
    fragmentation,
    host,
    impossible,
    leak,
    loading,
    moments,
    others,
    outside,
    pinned,
    recovered,
    remaining,
    reserved,
    said,
    serving,
    settings,
    shm,
    single_buffer,
    tensors,
    unified,
)
from willfit.doctor.causes.cause import NAMES, Cause, Confidence, Rule, guess
from willfit.doctor.causes.estimated import cause_by, largest_part
from willfit.doctor.causes.facts import Facts
from willfit.doctor.report import Report
from willfit.doctor.sizes.asked import asked_of

__all__ = ["HARD", "NAMES", "SOFT", "Cause", "Confidence", "Facts", "Rule", "cause_of"]

HARD: Final[tuple[Rule, ...]] = (
    settings.RULE,
    said.RULE,
    shm.RULE,
    host.RULE,
    recovered.RULE,
    impossible.RULE,
    cap.RULE,
    others.RULE,
    single_buffer.RULE,
    pinned.RULE,
    unified.RULE,
    serving.RULE,
    reserved.RULE,
    engines.RULE,
    disguised.RULE,
    moments.RULE,
    leak.RULE,
    outside.RULE,
    loading.RULE,
)
"""In the order in which they are asked: what the text itself proves. No estimate contradicts
these."""

SOFT: Final[tuple[Rule, ...]] = (
    tensors.RULE,
    fragmentation.RULE,
    remaining.RULE,
)
"""What numbers and frames make likely, for a text without a scenario."""


FACTORS: Final = 3
"""Products that are named."""
_NOT_THE_CARD: Final = frozenset({"other_process", "per_process_cap", "multi_gpu_imbalance",
                                  "corrupted_shape_bug", "not_a_memory_problem"})  # fmt: skip
"""Causes that have nothing to do with how the card is filled, or say it themselves."""


def cause_of(report: Report, scenario_facts: Facts | None = None) -> Cause:
    """Why the memory of ``report`` ran out; with facts of the scenario, by what it needs.

    The first rule that finds its evidence decides.
    """
    cause = _by(HARD, report)
    if scenario_facts is not None and (cause is None or cause.confidence == "guess"):
        cause = (
            cause_by(report, scenario_facts)
            or _by((tensors.RULE,), report, only="likely")
            or largest_part(scenario_facts)
            or cause
        )
    cause = cause or _by(SOFT, report) or guess("unknown", "Nothing in the text tells the cause.")
    return cause.with_also(*_also(report, cause, scenario_facts))


def _by(rules: tuple[Rule, ...], report: Report, only: Confidence | None = None) -> Cause | None:
    found = (cause for rule in rules if (cause := rule.find(report)) is not None)
    return next((cause for cause in found if only in (None, cause.confidence)), None)


def _also(report: Report, cause: Cause, facts: Facts | None) -> tuple[str, ...]:
    """What is worth saying whatever the cause: the asked-for size, and the printed advice."""
    asked = asked_of(report)
    small = asked.words if asked is not None and asked.is_segment and not asked.tells else ""
    sized = _sized(facts.factors) if facts is not None else ""
    advice = "" if cause.name == "fragmentation" else fragmentation.bound(report)
    rest = "" if cause.name in _NOT_THE_CARD else outside.context(report)
    return (sized, f"{small}." if ":" in small else "", rest, advice)


def _sized(factors: tuple[str, ...]) -> str:
    """What the asked-for size can be; more than one product may come to it."""
    return f"The size asked for can be {'; or '.join(factors[:FACTORS])}." if factors else ""
