"""A diagnosis on the page: what failed, why, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.diagnosis import Case, Diagnosis, Remedy
from willfit.doctor.lint import Finding
from willfit.report.diagnosis import cause_words
from willfit.units import format_bytes
from willfit.web.show.pieces import (
    Standing,
    code,
    folded,
    heading,
    listed,
    remarks,
    table,
    text,
    verdict,
)

MOST: Final = 8
"""Reports and findings that are shown in full; a log of every rank repeats itself."""
_NUMBERS: Final = (
    ("tried_bytes", "asked for"), ("free_bytes", "free"), ("total_bytes", "in total"),
    ("allocated_bytes", "allocated by PyTorch"),
    ("reserved_unallocated_bytes", "reserved but unallocated"),
    ("this_process_bytes", "held by this process"),
)  # fmt: skip
_SURE: Final = {"certain": "", "likely": " (likely)", "guess": " (a guess)"}


def diagnosis_part(
    diagnosis: Diagnosis, lint: Sequence[Finding], said: Sequence[str], printed: str
) -> str:
    """The whole answer; ``printed`` is the terminal's text of it."""
    cases = diagnosis.cases
    standing: Standing = "known" if cases or lint else "unknown"
    parts = [verdict(standing, said_of_diagnosis(diagnosis, lint))]
    parts += [_case(case, titled=len(cases) > 1) for case in cases[:MOST]]
    if len(cases) > MOST:
        parts.append(remarks((f"{len(cases) - MOST} more reports are in the text below",)))
    parts += [_finding(finding) for finding in lint[: MOST * 4]]
    parts.append(remarks(said) if cases else "")
    parts.append(folded("The same as text", code(printed, "the diagnosis")))
    return "".join(parts)


def said_of_diagnosis(diagnosis: Diagnosis, lint: Sequence[Finding]) -> str:
    """The answer in a sentence."""
    if diagnosis.cases:
        cause = diagnosis.cases[0].cause
        return f"Cause: {cause_words(cause.name)}{_SURE.get(cause.confidence, '')}."
    if lint:
        return f"{len(lint)} {'finding' if len(lint) == 1 else 'findings'} in the code."
    return "Nothing found: no report of memory that ran out, nothing that costs memory."


def _case(case: Case, *, titled: bool) -> str:
    report = case.report
    speaker = ", ".join(filter(None, (report.family, report.release, report.speaker)))
    times = f", {report.times} times" if report.times > 1 else ""
    sure = _SURE.get(case.cause.confidence, "")
    title = heading(f"{cause_words(case.cause.name)}{sure}") if titled else ""
    source = text(f"line {report.line}: {speaker}{times}")
    return (
        f'<section class="wf-card">{title}<p class="wf-more">{source}</p>{_numbers(case)}'
        f"<h3>Why</h3>{listed(case.cause.evidence)}{''.join(_changes(case.changes))}"
        f"{remarks(case.notes)}</section>"
    )


def _numbers(case: Case) -> str:
    fields = case.report.fields
    rows = [(text(words), amount(fields[name])) for name, words in _NUMBERS if name in fields]
    return (
        table(f"What the message of line {case.report.line} says", ("Memory", "Amount"), rows)
        if rows
        else ""
    )


def _changes(changes: Sequence[Remedy]) -> Iterator[str]:
    """Numbered; those of one plan under one number, for they belong together."""
    if changes:
        yield "<h3>What to do</h3><ol>"
    for _, group in groupby(enumerate(changes), key=_plan):
        yield f"<li>{''.join(_change(remedy) for _, remedy in group)}</li>"
    if changes:
        yield "</ol>"


def _plan(numbered: tuple[int, Remedy]) -> object:
    index, remedy = numbered
    return ("alone", index) if remedy.plan is None else ("plan", remedy.plan)


def _change(remedy: Remedy) -> str:
    saved = ""
    if remedy.saves_bytes is not None:
        word = "saves" if remedy.saves_bytes >= 0 else "takes"
        saved = f"<strong>{word} {format_bytes(abs(remedy.saves_bytes))}</strong>: "
    cost = f" (quality cost {remedy.quality})" if remedy.quality != "none" else ""
    snippet = code(remedy.snippet, remedy.title) if remedy.snippet else ""
    own = "".join(
        f"<p>line {line.line} becomes</p>{code(line.after, f'line {line.line}')}"
        for line in remedy.own_lines
    )
    return f"<p>{saved}{text(remedy.title)}{cost}</p>{own or snippet}"


def _finding(finding: Finding) -> str:
    cell = "" if finding.cell is None else f"cell {finding.cell}, "
    place = f"{cell}line {finding.line}: {finding.severity} [{finding.rule}]"
    fix = f"<p><strong>Fix:</strong> {text(finding.fix)}</p>" if finding.fix else ""
    return f'<section class="wf-card">{heading(place)}<p>{text(finding.message)}</p>{fix}</section>'
