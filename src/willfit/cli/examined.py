"""What all that was given to the doctor comes to, together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from willfit.cli.given import Given
from willfit.cli.options import TRAINING_ONLY
from willfit.devices import parse_machine
from willfit.errors import InputError, WillfitError

if TYPE_CHECKING:
    from willfit.cli.build import Finding as FindingModels
    from willfit.doctor.diagnose import OwnCode
    from willfit.doctor.diagnosis import Diagnosis
    from willfit.doctor.lint import Finding
    from willfit.doctor.report import Report
    from willfit.report.text import Style
    from willfit.scenario import Scenario, Stack
    from willfit.settings import Settings

TOLD: Final = 2**21
"""Bytes at the beginning of a log that are read for settings."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What all that was given came to."""

    diagnosis: Diagnosis
    lint: tuple[tuple[str, Finding], ...]
    """With the name of the file of each."""
    remarks: tuple[str, ...] = ()
    snapshot_text: str = ""
    snapshot: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that were read from what was given, by their flag."""

    @property
    def found(self) -> bool:
        """Whether there is anything to be said."""
        return bool(self.diagnosis.cases or self.lint)

    def json(self) -> dict[str, Any]:
        """The contract's object."""
        from willfit.report.diagnosis import diagnosis_json

        extra: dict[str, Any] = {"remarks": list(self.remarks), "settings": self.settings}
        if self.snapshot is not None:
            extra["snapshot"] = self.snapshot
        return diagnosis_json(self.diagnosis, self.lint, extra=extra)

    def text(self, style: Style) -> str:
        """The report for people."""
        from willfit.report.diagnosis import render_diagnosis

        if self.snapshot_text and not self.found:
            return self.snapshot_text
        said = render_diagnosis(self.diagnosis, self.lint, style, remarks=self.remarks)
        return self.snapshot_text + ("\n" if self.snapshot_text else "") + said


def examine(
    arguments: argparse.Namespace,
    files: Sequence[Given],
    style: Style,
    *,
    finding: FindingModels | None = None,
) -> Examined:
    """Reports of the texts, findings in the code, and the scenario that both tell of.

    ``finding`` says what the models' names mean that are told of; None is the usual sources.
    """
    from willfit.doctor.diagnose import diagnose_reports
    from willfit.doctor.find import reports_in

    reports = [report for source in _texts(files) for report in reports_in(source)]
    code = _own_code(files, reports)
    told = _told(files, code)
    scenario, remarks = _scenario(arguments, told, finding, named=bool(reports))
    lint = tuple((one.name, found) for one in files for found in _lint(one, arguments))
    shown, data = _snapshot(files, style)
    return Examined(
        diagnosis=diagnose_reports(reports, scenario, code=code),
        lint=lint,
        remarks=remarks,
        snapshot_text=shown,
        snapshot=data,
        settings={} if told is None else {**dict(told.flags), "model": told.model},
    )


def _texts(files: Sequence[Given]) -> Iterator[Path | Iterator[bytes] | str]:
    """What may report a failure: logs as they are, and what notebooks printed."""
    for one in files:
        if one.kind == "log":
            yield one.log()
        elif one.kind == "notebook":
            yield one.notebook.outputs()


def _own_code(files: Sequence[Given], reports: Sequence[Report]) -> OwnCode | None:
    """The first script or notebook, with the line of it that a traceback names."""
    from willfit.doctor.diagnose import OwnCode

    for one in files:
        if one.kind == "notebook":
            cells = {cell.index: cell.source for cell in one.notebook.cells}
            every = range(max(cells, default=-1) + 1)  # cells of text count too
            return OwnCode(source=[cells.get(index, "") for index in every])
        if one.kind == "script":
            base = Path(one.name).name
            frames = (frame for report in reports for frame in reversed(report.context.frames))
            lines = (frame.line for frame in frames if Path(frame.file).name == base)
            return OwnCode(source=one.text, line=next((x for x in lines if x is not None), None))
    return None


def _told(files: Sequence[Given], code: OwnCode | None) -> Settings | None:
    """Settings that code tells, and where it tells of no model, that logs do."""
    from willfit.settings.code import read_code
    from willfit.settings.told import read_told

    found: Settings | None = None
    if code is not None:
        found = read_code(code.source, code.line, code.cell)
        if found.model is not None:
            return found
    for one in files:
        if one.kind == "log":
            told = read_told(one.beginning(TOLD).splitlines())
            if told.model is not None or found is None:
                found = told
    return found


def _scenario(
    arguments: argparse.Namespace,
    told: Settings | None,
    finding: FindingModels | None,
    *,
    named: bool,
) -> tuple[Scenario | None, tuple[str, ...]]:
    """Of the flags over what the files tell; flags that contradict themselves are an error."""
    from willfit.cli.build import build_request

    typed = {name for name, value in vars(arguments).items() if value is not None}
    flags = dict(told.flags) if told is not None else {}
    model = arguments.model or (told.model if told is not None else None)
    if model is None:
        said = _unnamed(typed, arguments.gpu)
        return None, said if named else ()
    merged = argparse.Namespace(**vars(arguments))
    merged.model = model
    if "train" not in flags and arguments.train is None:
        flags = {name: value for name, value in flags.items() if name not in TRAINING_ONLY}
    for name, value in flags.items():
        if getattr(merged, name, None) is None:
            setattr(merged, name, value)
    try:
        request = build_request(merged, finding=finding)
    except WillfitError as error:
        if arguments.model is not None:
            raise
        return None, (f"no scenario: {error}",)
    said = () if told is None else (*told.assumptions, *told.ignored)
    return request.scenario, tuple(dict.fromkeys(said))


_OWN: Final = frozenset({"files", "json", "check", "fix"})


def _unnamed(typed: set[str], gpu: str | None) -> tuple[str, ...]:
    if gpu is not None:
        parse_machine(gpu)  # a name that is unknown is said, whether or not it is needed
    if typed - _OWN - {"gpu", "model"}:
        raise InputError(
            "settings are given and no model: name it with --model, such as "
            "--model meta-llama/Meta-Llama-3-8B"
        )
    return (
        "no model; name it and its settings (--model, --gpu, --train …) for what each change saves",
    )


def _lint(one: Given, arguments: argparse.Namespace) -> Iterator[Finding]:
    from willfit.doctor.lint import lint_notebook, lint_python, lint_settings

    stack = stack_of(arguments)
    if one.kind == "script":
        yield from lint_python(one.text, stack=stack, gpu=arguments.gpu or "")
    elif one.kind == "notebook":
        yield from lint_notebook(one.text, stack=stack)
    elif one.kind == "settings":
        yield from lint_settings(one.text, one.name, stack=stack)


def stack_of(arguments: argparse.Namespace) -> Stack | None:
    """Versions that code is judged by; None takes those that are installed."""
    from willfit.scenario.stack import TESTED, Stack, parse_stack

    given = parse_stack(arguments.stack or "")
    return Stack(versions={**TESTED, **given}) if given else None


def _snapshot(files: Sequence[Given], style: Style) -> tuple[str, dict[str, Any] | None]:
    """Of the last snapshot given: what filled the GPU, and what other settings would have done."""
    from willfit.doctor.snapshots import explain, outcomes, read_snapshot
    from willfit.report.snapshot import snapshot_data, snapshot_text

    chosen = [one for one in files if one.kind == "snapshot"]
    if not chosen:
        return "", None
    snapshot = read_snapshot(chosen[-1].path or chosen[-1].content)
    explanation = explain(snapshot)
    try:
        tried = outcomes(snapshot)
    except InputError as error:
        said = f"no other settings were tried: {error}"
        return snapshot_text(explanation, (), style) + f"\n{said}\n", snapshot_data(explanation)
    return snapshot_text(explanation, tried, style), snapshot_data(explanation, tried)
