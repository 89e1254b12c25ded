"""Diagnose: from a text to its failures, each with its cause and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from willfit.doctor.advice import Advice, advise
from willfit.doctor.advice.advice import NO_SETTING_HELPS
from willfit.doctor.agreement import Agreement, agreement_of
from willfit.doctor.amounts import amount
from willfit.doctor.causes import Cause, cause_of
from willfit.doctor.causes.facts import Facts
from willfit.doctor.diagnosis import Case, Diagnosis, Remedy
from willfit.doctor.facts import facts_of
from willfit.doctor.find import reports_in
from willfit.doctor.own_lines import lines_in
from willfit.doctor.report import Report
from willfit.doctor.situation import Situation, situated
from willfit.doctor.sizes import asked_of, factors_of
from willfit.errors import InputError, WillfitError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario

Source = str | bytes | Path | Iterable[bytes]
"""Text, or where to read it from."""
PLANNED: int = 3
"""Reports of one text for which a plan is searched; the others say the same of other ranks."""


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """The user's own code, and where in it the failure was."""

    source: str | Sequence[str]
    """A script, or the cells of a notebook."""
    line: int | None = None
    cell: int | None = None


def diagnose(
    text: Source, scenario: Scenario | None = None, *, code: OwnCode | None = None
) -> Diagnosis:
    """What failed, why, and what to change; no cases where the text reports no failure.

    With a ``scenario`` its estimate is held against the message's numbers, and the changes are the
    planner's for it. ``code`` is the user's own, for the lines to change in it. A path is read as
    a stream, in constant memory.
    """
    if text is None or isinstance(text, int):
        raise InputError(
            f"cannot diagnose {type(text).__name__}: expected the text of a log or an error, or "
            "the path of one"
        )
    return diagnose_reports(reports_in(text), scenario, code=code)


def diagnose_reports(
    reports: Sequence[Report], scenario: Scenario | None = None, *, code: OwnCode | None = None
) -> Diagnosis:
    """The same for reports that were found before."""
    return Diagnosis(
        cases=tuple(
            _case(report, scenario if number < PLANNED else None, code)
            for number, report in enumerate(reports)
        )
    )


@dataclass(frozen=True, kw_only=True)
class _Estimated:
    """A scenario where the message comes from, with its estimate."""

    situation: Situation | None = None
    estimate: Estimate | None = None
    agreement: Agreement | None = None
    facts: Facts | None = None
    notes: tuple[str, ...] = ()


def _case(report: Report, scenario: Scenario | None, code: OwnCode | None) -> Case:
    known = _estimated(report, scenario) if scenario is not None else _Estimated()
    cause = _with_agreement(cause_of(report, known.facts), known)
    advice = advise(report, cause, known.situation, known.agreement)
    remedies = advice.remedies if code is None else _placed(advice, code)
    return Case(
        report=report,
        cause=cause,
        changes=remedies,
        agreement=known.agreement,
        notes=(*known.notes, *advice.notes),
    )


def _estimated(report: Report, scenario: Scenario) -> _Estimated:
    situation = situated(scenario, report)
    try:
        result = estimate(situation.scenario, search_limits=False)
    except WillfitError as error:
        return _Estimated(notes=(f"no estimate of these settings: {error}",))
    asked = asked_of(report)
    factors = factors_of(asked, situation.scenario) if asked is not None else ()
    agreement = agreement_of(report, result, factors)
    explained = agreement.explained_by if agreement is not None else ""
    return _Estimated(
        situation=situation if situation.scenario.machine is not None else None,
        estimate=result,
        agreement=agreement,
        facts=facts_of(result, situation.gpu, tuple(factor.text for factor in factors), explained),
        notes=situation.notes,
    )


def _with_agreement(cause: Cause, known: _Estimated) -> Cause:
    """The cause with the comparison as evidence."""
    if known.agreement is None:
        proven = cause.name in NO_SETTING_HELPS and cause.confidence != "guess"
        silent = known.estimate is None or proven
        return cause if silent else cause.with_also(*_alone(known))
    return cause.with_also(*map(_sentence, known.agreement.sentences))


def _alone(known: _Estimated) -> Iterator[str]:
    """What the settings need by themselves, where the message has no numbers to compare."""
    assert known.estimate is not None
    gpu = known.estimate.binding
    budget, peak = gpu.budget_bytes, gpu.peak
    if budget is None:
        return
    said = f"These settings need {amount(peak.device_bytes)} in {peak.name} of {amount(budget)}"
    if peak.device_bytes > budget:
        yield f"{said}: {amount(peak.device_bytes - budget)} too much."
    elif gpu.verdict == "fits":
        yield f"{said}: by the {known.estimate.level} they fit."
    else:
        yield f"{said}, and up to {amount(gpu.high_device_bytes)} with what is not known."


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _placed(advice: Advice, code: OwnCode) -> tuple[Remedy, ...]:
    """Remedies with the lines of the user's own code in which they go.

    Those of a plan belong together: its last remedy has the lines of all of them.
    """
    lines = {
        number: lines_in(code.source, before, after, line=code.line, cell=code.cell)
        for number, (before, after) in advice.plans.items()
    }
    last = {remedy.plan: place for place, remedy in enumerate(advice.remedies)}
    return tuple(
        replace(remedy, own_lines=lines[remedy.plan])
        if remedy.plan is not None and last[remedy.plan] == place
        else remedy
        for place, remedy in enumerate(advice.remedies)
    )
