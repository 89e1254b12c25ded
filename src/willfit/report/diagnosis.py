"""A diagnosis as text for a terminal and as the contract's JSON; computes no number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from willfit.doctor.amounts import amount
from willfit.doctor.diagnosis import Case, Diagnosis, Remedy
from willfit.doctor.edits import OwnLine
from willfit.doctor.lint import Finding
from willfit.report.text import Style, bar, wrapped
from willfit.units import format_bytes

SCHEMA: Final = "willfit.diagnosis/1"

_WORDS: Final[Mapping[str, str]] = {
    "activations_batch_seq": "activations: batch × sequence length",
    "address_space": "addresses, not memory, ran out",
    "allocator_limit": "one allocation is larger than this device allows",
    "attention_quadratic": "attention scores, which grow with the square of the length",
    "compute_buffer": "the engine's compute buffer",
    "config_ignored": "a setting that is ignored",
    "config_mistake": "a setting that is wrong",
    "context_overhead": "the CUDA context and libraries take more than was left for them",
    "corrupted_shape_bug": "a size that no model needs: a wrong shape or wrong data",
    "cuda_graphs": "CUDA graphs, captured on top of the budget",
    "eval_accumulation": "results of evaluation that pile up",
    "fragmentation": "fragmentation: free memory in pieces that are too small",
    "host_ram": "the host's memory, not the GPU's",
    "jit_overhead": "kernels compiled and loaded at work",
    "kv_cache": "the KV cache",
    "leak_previous": "something that an earlier run left behind",
    "library_workspace": "a library's workspace",
    "loading_peak": "the peak while loading",
    "logits_vocab": "logits: positions × vocabulary",
    "merge_spike": "merging an adapter",
    "model_too_big": "the model is larger than the GPU",
    "multi_gpu_imbalance": "one GPU is full and others are not",
    "nccl_buffers": "NCCL's buffers",
    "not_a_memory_problem": "not a memory problem",
    "not_fatal": "a warning: nothing failed",
    "offload_setting": "an offload setting",
    "optimizer_states": "optimizer states, made in the first step",
    "other_process": "another process on the GPU",
    "per_process_cap": "a limit that the process has set on itself",
    "pinned_host_memory": "page-locked host memory",
    "placement_bug": "the wrong device, or weights placed wrongly",
    "reference_model": "a second copy of the model as reference",
    "resume_spike": "states that are loaded on top when a run is resumed",
    "save_gather": "weights gathered for saving",
    "scheduler_split": "the engine's split of layers between GPU and host",
    "serving_budget": "the share of the GPU that the engine was given",
    "shm": "shared memory (/dev/shm)",
    "slots_limit": "more requests at a time than there are slots",
    "unified_memory": "memory that GPU and host share",
    "unknown": "not known from this text",
    "vision_tokens": "tokens of images",
    "workspace_limit": "a fixed workspace, not the GPU's memory",
}
_CONFIDENCE: Final = {"certain": "", "likely": " (likely)", "guess": " (a guess)"}
_SEVERITY: Final = {"error": "red", "waste": "yellow", "leak": "yellow", "ignored": "cyan"}
_SHOWN_CASES: Final = 8
_SHOWN_CHANGES: Final = 6


def cause_words(name: str) -> str:
    """A cause as people would say it."""
    return _WORDS.get(name, name)


def diagnosis_json(
    diagnosis: Diagnosis,
    lint: Sequence[tuple[str, Finding]] = (),
    *,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contract's object ``willfit.diagnosis/1``; ``lint`` with the file of each finding."""
    return {
        "schema": SCHEMA,
        "reports": [_case_json(case) for case in diagnosis.cases],
        "lint": [_finding_json(name, finding) for name, finding in lint],
        **(extra or {}),
    }


def _case_json(case: Case) -> dict[str, Any]:
    report = case.report
    return {
        "family": report.family,
        "fields": dict(report.fields),
        "cause": case.cause.name,
        "confidence": case.cause.confidence,
        "evidence": list(case.cause.evidence),
        "changes": [_remedy_json(remedy) for remedy in case.changes],
        "line": report.line,
        "quote": report.quote,
        "release": report.release,
        "stage": report.context.stage,
        "times": report.times,
        "notes": list(case.notes),
    }


def _remedy_json(remedy: Remedy) -> dict[str, Any]:
    return {
        "id": remedy.id,
        "title": remedy.title,
        "saves_bytes": remedy.saves_bytes,
        "snippet": remedy.snippet,
        "quality_cost": remedy.quality,
        "relative_time": remedy.relative_time,
        "plan": remedy.plan,
        "own_lines": [_own_line_json(line) for line in remedy.own_lines],
    }


def _own_line_json(line: OwnLine) -> dict[str, Any]:
    cell = {} if line.cell is None else {"cell": line.cell}
    return {**cell, "line": line.line, "before": line.before, "after": line.after}


def _finding_json(name: str, finding: Finding) -> dict[str, Any]:
    cell = {} if finding.cell is None else {"cell": finding.cell}
    return {
        "file": name,
        "rule": finding.rule,
        **cell,
        "line": finding.line,
        "severity": finding.severity,
        "message": finding.message,
        "fix": finding.fix,
    }


def render_diagnosis(
    diagnosis: Diagnosis,
    lint: Sequence[tuple[str, Finding]] = (),
    style: Style | None = None,
    *,
    remarks: Sequence[str] = (),
) -> str:
    """The whole report; ``lint`` with the name of the file of each finding."""
    style = style or Style()
    lines: list[str] = []
    for case in diagnosis.cases[:_SHOWN_CASES]:
        lines += [*_case(case, style), ""]
    left = len(diagnosis.cases) - _SHOWN_CASES
    if left > 0:
        lines += [f"{left} more reports (--json has them all)", ""]
    if lint:
        lines += [*_lint(lint, style), ""]
    if not diagnosis.cases and not lint:
        lines += ["nothing found: no report of memory that ran out, nothing that costs memory", ""]
    for remark in remarks if diagnosis.cases else ():
        lines += wrapped(remark, first="read: ", rest="  ")
    return "\n".join(lines).rstrip() + "\n"


def _case(case: Case, style: Style) -> Iterator[str]:
    report = case.report
    yield from wrapped(_heading(case), first="", rest="  ")
    numbers = _numbers(report.fields)
    if numbers:
        yield from wrapped(numbers, first="  ", rest="  ")
    drawn = _drawn(report.fields)
    if drawn:
        yield drawn
    words = cause_words(case.cause.name)
    sure = _CONFIDENCE[case.cause.confidence]
    yield f"cause: {style.paint(words, 'bold')}{sure}"
    for sentence in case.cause.evidence:
        yield from wrapped(sentence, first="  - ", rest="    ")
    if case.changes:
        yield "what to do:"
        yield from _changes(case.changes[:_SHOWN_CHANGES], style)
    for note in case.notes:
        yield from wrapped(note, first="note: ", rest="  ")


def _heading(case: Case) -> str:
    report = case.report
    parts = [
        part for part in (report.release, report.speaker, _stage(report.context.stage)) if part
    ]
    times = f", {report.times} times" if report.times > 1 else ""
    inside = f"  ({', '.join(parts)})" if parts else ""
    return f"line {report.line}: {report.family}{inside}{times}"


def _stage(stage: str) -> str:
    return "" if stage == "unknown" else f"in {stage}"


def _numbers(fields: Mapping[str, Any]) -> str:
    """What the message says, in one line."""
    named = (
        ("tried_bytes", "asked for"), ("free_bytes", "free"), ("total_bytes", "in total"),
        ("allocated_bytes", "allocated"), ("reserved_bytes", "reserved"),
        ("reserved_unallocated_bytes", "reserved but unallocated"),
        ("this_process_bytes", "by this process"), ("allowed_bytes", "allowed"),
    )  # fmt: skip
    parts = [f"{amount(fields[name])} {words}" for name, words in named if name in fields]
    if "gpu" in fields and parts:
        parts[0] = f"GPU {fields['gpu']}: {parts[0]}"
    return ", ".join(parts)


def _drawn(fields: Mapping[str, Any]) -> str:
    """Allocated, cached and other memory against the card, where the message has all of them."""
    total, free = fields.get("total_bytes"), fields.get("free_bytes")
    allocated = fields.get("allocated_bytes")
    if not total or free is None or allocated is None or free > total:
        return ""
    reserved = fields.get("reserved_bytes")
    cached = fields.get("reserved_unallocated_bytes", (reserved or allocated) - allocated)
    outside = total - free - allocated - cached
    if min(cached, outside) < 0:
        return ""
    return f"  {bar([allocated, cached, outside], total, 48)}  █ live ▓ cached ▒ other"


def _changes(changes: Sequence[Remedy], style: Style) -> Iterator[str]:
    """Numbered; those of one plan under one number, for they belong together."""
    for number, (_, group) in enumerate(groupby(enumerate(changes), key=_plan), start=1):
        remedies = [remedy for _, remedy in group]
        placed = any(remedy.own_lines for remedy in remedies)
        for place, remedy in enumerate(remedies):
            lead = f"  {number}. " if place == 0 else "   + "
            yield from _change(remedy, lead, style, snippet=not placed)


def _plan(numbered: tuple[int, Remedy]) -> object:
    index, remedy = numbered
    return ("alone", index) if remedy.plan is None else ("plan", remedy.plan)


def _change(remedy: Remedy, lead: str, style: Style, *, snippet: bool) -> Iterator[str]:
    amount = "" if remedy.saves_bytes is None else _saving(remedy.saves_bytes)
    title = f"{amount}{remedy.title}"
    if remedy.quality != "none":
        title += f" (quality cost {remedy.quality})"
    yield from wrapped(title, first=lead, rest="     ")
    for line in remedy.snippet.splitlines() if snippet else ():
        yield f"       {style.paint(line, 'dim')}"
    for own in remedy.own_lines:
        cell = "" if own.cell is None else f"cell {own.cell} "
        yield f"     {cell}line {own.line} becomes"
        yield from (f"       {style.paint(text, 'dim')}" for text in own.after.splitlines())


def _saving(num_bytes: int) -> str:
    sign = "saves" if num_bytes >= 0 else "takes"
    return f"{sign} {format_bytes(abs(num_bytes))}: "


def _lint(lint: Sequence[tuple[str, Finding]], style: Style) -> Iterator[str]:
    """By place and rule."""
    for (name, cell, line, rule), group in groupby(lint, key=_place):
        findings = [finding for _, finding in group]
        inside = "" if cell is None else f" cell {cell}"
        severity = findings[0].severity
        painted = style.paint(severity, _SEVERITY[severity])
        yield f"{name}{inside} line {line}: {painted} [{rule}]"
        for finding in findings:
            yield from wrapped(finding.message, first="  ", rest="  ")
            if finding.fix:
                yield from wrapped(finding.fix, first="  fix: ", rest="       ")


def _place(named: tuple[str, Finding]) -> tuple[str, int | None, int, str]:
    name, finding = named
    return name, finding.cell, finding.line, finding.rule
