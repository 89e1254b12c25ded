"""Results to make reports of: real estimates and plans, and a run as it ends on two GPUs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from willfit.cli import estimate as estimate_command
from willfit.cli import plan as plan_command
from willfit.cli.parser import Parser
from willfit.comparing import Compared, compare
from willfit.planning.result import Planning
from willfit.report.html import comparison_html, estimate_html, plan_html, run_html
from willfit.results import Component, Estimate, GpuEstimate, PhaseEstimate
from willfit.runner.release import GpuRelease, Release
from willfit.runner.result import Forecast, RunReport, StageReport
from willfit.units import GIB

QLORA = "llama-3-8b --gpu T4 --train qlora --max-length 1024 --lora-r 64"
SETTINGS = {
    "no GPU": "gpt2",
    "does not fit": QLORA,
    "two GPUs": "llama-3-8b --gpu T4x2",
    "eight GPUs": "llama-3-8b --gpu H100x8 --train full --strategy fsdp",
    "refused": 'bloom-3b --gpu T4x2 --quantize nf4 --max-memory \'{0: "600MB", 1: "1GB"}\'',
    "a GGUF engine": "llama-3-8b --gpu T4 --engine llama.cpp",
}
HOSTILE = "</pre><script>alert(1)</script> ]]> &amp; \x00\x1b[31m \u202egnp.exe \ud800 \"' 漢字"


def parsed(command: Any, asked: str) -> argparse.Namespace:
    parser = Parser(prog="willfit")
    command.configure(parser)
    found: argparse.Namespace = parser.parse_args(shlex.split(asked))
    return found


@cache
def estimate_of(asked: str) -> Estimate:
    return estimate_command.compute(parsed(estimate_command, asked))[0]


@cache
def planning() -> Planning:
    return plan_command.compute(parsed(plan_command, f"{QLORA} --top 2 --samples 1000"))


def run_report(*, num_gpus: int = 2) -> RunReport:
    def stage(name: str, peak: int) -> StageReport:
        gpus = tuple(
            GpuRelease(index=i, name="Tesla T4", before_bytes=GIB // 4, peak_bytes=peak,
                       after_bytes=GIB // 4, holders=("process 7, python",) if i else ())
            for i in range(num_gpus)
        )  # fmt: skip
        return StageReport(
            name=name, fingerprint="f", num_rows=100, num_computed=90, num_failed=1,
            failures={"12": HOSTILE}, reasons=("the template is another",), seconds=120.0,
            start_seconds=20.0, tokens=900, padded_tokens=1000, num_retries=3, num_ooms=2,
            num_starts=4, reserved_bytes=(peak - GIB,), host_bytes=3 * GIB,
            forecast=Forecast(device_bytes=(peak + GIB,), batch_tokens=8192),
            release=Release(gpus=gpus, seconds=1.8), remarks=("a remark",),
        )  # fmt: skip

    return RunReport(
        folder="runs/x", stages=(stage("gemma", 11 * GIB), stage("llama", 8 * GIB)),
        seconds=240.0, output="submission.csv", output_rows=100, complete=False,
    )  # fmt: skip


@cache
def comparison_of() -> Any:
    first, second = estimate_of("mistral-7b --gpu T4"), estimate_of("llama-3-8b --gpu T4")
    sides = [
        Compared(label="mistral-7b --gpu T4", estimate=first),
        Compared(label="llama-3-8b --gpu T4", estimate=second),
        Compared(label="nobody/nothing", reason="no source knows it"),
    ]
    return compare(sides)


def _estimate_page(asked: str) -> str:
    return estimate_html(estimate_of(asked))


PAGES: dict[str, Callable[[], str]] = {
    **{name: partial(_estimate_page, asked) for name, asked in SETTINGS.items()},
    "plan": lambda: plan_html(planning(), [{"target": "peft", "text": "a < b\n"}, None]),
    "comparison": lambda: comparison_html(comparison_of()),
    "run": lambda: run_html(run_report()),
    "run without GPUs": lambda: run_html(run_report(num_gpus=0)),
}


def gpu_of(
    parts: dict[str, int], budget: int | None = None, spread: int = 0, index: int = 0
) -> GpuEstimate:
    total = sum(parts.values())
    phase = PhaseEstimate(
        name="forward",
        allocated_bytes=total,
        reserved_bytes=total,
        device_bytes=total,
        components=tuple(Component(name=n, num_bytes=b, note="why") for n, b in parts.items()),
    )
    return GpuEstimate(
        index=index,
        name="NVIDIA T4",
        phases=(phase,),
        capacity_bytes=budget,
        budget_bytes=budget,
        low_device_bytes=max(total - spread, 0),
        high_device_bytes=total + spread,
    )
