"""``willfit measure --suite``: build the cases, run what has no row yet, and sum up."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser
from willfit.errors import InputError, WillfitError
from willfit.units import format_bytes

if TYPE_CHECKING:
    from willfit.live.suite.case import Case, Suite
    from willfit.live.suite.run import Answer, Work
    from willfit.live.suite.summary import Judged
    from willfit.scenario import Scenario


def run_suite_command(arguments: argparse.Namespace) -> int:
    """Make the bundle, or run the suite; returns the exit code."""
    from willfit.live.suite.case import load_suite

    if arguments.suite is None:
        raise InputError("--bundle belongs to --suite: add --suite h200, t4 or cpu")
    if arguments.model is not None:
        raise InputError(f"--suite has its own models: leave {arguments.model[:60]} out")
    suite = load_suite(arguments.suite)
    if arguments.bundle:
        return _bundle(arguments, suite)
    return _run(arguments, suite)


def _bundle(arguments: argparse.Namespace, suite: Suite) -> int:
    from willfit.cli.needs import require_run_extra
    from willfit.report.suite import render_bundle

    require_run_extra()
    from willfit.runner.bundle.measuring import bundle_suite

    made = bundle_suite(
        suite,
        out=Path(arguments.bundle),
        wheels=Path(arguments.wheels) if arguments.wheels else None,
        python=arguments.python,
    )
    sys.stdout.write(render_bundle(made))
    return 0


def _run(arguments: argparse.Namespace, suite: Suite) -> int:
    from willfit.live.suite.run import run_suite

    if arguments.device == "cpu" and suite.device != "cpu":
        raise InputError(f"suite {suite.name} has models for a GPU: --suite cpu has small ones")
    out = Path(arguments.out or f"{suite.name}.jsonl")
    cases = suite.named(tuple(arguments.only or ()))
    tally = run_suite(
        [work_of(case, suite.gpu) for case in cases],
        device=arguments.device or suite.device,
        out=out,
        budget=arguments.budget or suite.budget_seconds,
        row_of=_row_of(suite.name),
        watching=_Said(),
    )
    _sum_up(arguments, suite, out, tally.left)
    return 0


def work_of(case: Case, gpu: str) -> Work:
    """The case with its scenario, or why there is none."""
    from willfit.live.suite.run import Work

    if case.probe:
        return Work(case=case, scenario=None)
    try:
        return Work(case=case, scenario=scenario_of(case, gpu))
    except WillfitError as error:
        return Work(case=case, scenario=None, refused=str(error))


def scenario_of(case: Case, gpu: str = "", stack: str = "") -> Scenario:
    """The scenario that the case's arguments describe, with the fields that have no flag."""
    from willfit.cli.build import build_request
    from willfit.live.shortened import shortened
    from willfit.live.suite.tiny import tiny

    parser = Parser(prog="willfit estimate")
    add_scenario_options(parser)
    words = shlex.split(case.arguments)
    words += ["--gpu", gpu] if gpu and "--gpu" not in words else []
    words += ["--stack", stack] if stack else []
    arguments = parser.parse_args(words)
    arguments.trace = True
    scenario = build_request(arguments).scenario
    for path, value in case.extra.items():
        scenario = replace(scenario, workload=_with(scenario.workload, path.split("."), value))
    if case.layers is not None:
        scenario = shortened(scenario, case.layers)
    return tiny(scenario) if case.tiny else scenario


def _with(holder: Any, path: list[str], value: Any) -> Any:
    """The dataclass with the field at the path set."""
    name, *rest = path
    return replace(holder, **{name: _with(getattr(holder, name), rest, value) if rest else value})


def _row_of(suite: str) -> Any:
    def row_of(work: Work, answer: Answer) -> dict[str, Any]:
        case = work.case
        head = {
            "name": case.name, "suite": suite, "settles": case.settles,
            "arguments": case.arguments, "extra": dict(case.extra), "tiny": case.tiny,
            "case_seconds": answer["seconds"], "expected_seconds": case.seconds,
        }  # fmt: skip
        if work.scenario is None:
            return {"id": f"probe:{suite}:{case.name}", **head, **_probed(case, answer)}
        from willfit.live.measure import measured
        from willfit.report.ledger import ledger_row

        command = f"willfit measure --suite {suite} --only {shlex.quote(case.name)}"
        row = ledger_row(measured(answer), work.scenario, command=command, layers=case.layers)
        return {**row, **head}

    return row_of


def _probed(case: Case, answer: Answer) -> dict[str, Any]:
    found = answer.get("result")
    rows = found if isinstance(found, dict) else {}
    return {"probe": case.probe, "rows": [], "failure": answer.get("error", ""), **rows}


class _Said:
    """Progress on stderr."""

    def begins(self, case: Case, number: int, total: int) -> None:
        print(f"willfit: {number} of {total}  {case.name} …", file=sys.stderr, flush=True)

    def ended(self, row: Mapping[str, Any]) -> None:
        print(f"willfit:   {_said(row)}", file=sys.stderr, flush=True)

    def left_out(self, cases: Sequence[Case]) -> None:
        names = ", ".join(case.name for case in cases)
        print(f"willfit: no time for {names}: the same command goes on", file=sys.stderr)


def _said(row: Mapping[str, Any]) -> str:
    seconds = f"{row['case_seconds']:.1f} s"
    if row.get("failure"):
        return f"{seconds}, failed: {str(row['failure'])[:150]}"
    if row.get("probe"):
        return f"{seconds}, {len(row['rows'])} rows"
    most = max((entry["bytes"] for entry in row["measured"]), default=0)
    return f"{seconds}, {format_bytes(most)} at most"


def _sum_up(arguments: argparse.Namespace, suite: Suite, out: Path, left: Sequence[str]) -> None:
    from willfit.live.rows import read_rows
    from willfit.report.suite import render_summary, summary_json

    rows = [row for row in read_rows(out) if "name" in row]
    judged = judge(rows, trace=bool(arguments.trace))
    if arguments.json:
        import json

        content = summary_json(suite, rows, judged, left)
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    sys.stdout.write(render_summary(suite, rows, judged, left, out.name))


def judge(rows: Sequence[Mapping[str, Any]], *, trace: bool) -> list[Judged]:
    """The rows that ran, beside their estimates; each is computed again from the row alone."""
    from willfit.live.beside import beside, estimated
    from willfit.live.measured.facts import on_these
    from willfit.live.measurement import measurement_from
    from willfit.live.suite.case import Case
    from willfit.live.suite.summary import Judged

    found = []
    for row in rows:
        if row.get("probe") or row.get("failure") or "measurement" not in row:
            continue
        measurement = measurement_from(row["measurement"])
        case = Case(
            name=row["name"], arguments=row["arguments"], extra=row["extra"],
            layers=row["layers"], tiny=row["tiny"],
        )  # fmt: skip
        scenario = on_these(scenario_of(case), measurement.gpus, measurement.versions)
        if trace:
            print(f"willfit: tracing {case.name}", file=sys.stderr, flush=True)
        levels = [estimated(scenario, "formula", on_gpu=measurement.on_gpu)]
        levels += [estimated(scenario, "trace", on_gpu=measurement.on_gpu)] if trace else []
        found.append(
            Judged(name=row["name"], settles=row["settles"], lines=beside(measurement, levels))
        )
    return found
