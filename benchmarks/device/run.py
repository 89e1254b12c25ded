"""``python -m benchmarks.device.run``: the grid on the device that is here, resumable."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.device.cases import EXPANDABLE, Case, cases, scenario_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CASE_LIMIT: Final = 90.0
"""Seconds that a case may take before its process is ended."""
POISONED: Final = ("CUDA error", "AcceleratorError", "illegal memory access")
"""Failures after which a process can do no more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases whose rows are missing; returns 0 where all were tried."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.run", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="rows are appended here")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpu", default="H100", help="card of the scenarios")
    parser.add_argument("--tiny", action="store_true", help="small models and lengths")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds for the whole grid")
    parser.add_argument("--case-limit", type=float, default=CASE_LIMIT)
    parser.add_argument("--only", action="append", help="cases whose name contains this")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        return _work(arguments)
    return _supervise(arguments)


def _wanted(arguments: argparse.Namespace) -> list[Case]:
    parts = arguments.only or [""]
    return [case for case in cases() if any(part in case.name for part in parts)]


def _done(out: Path) -> set[str]:
    """Names of the cases that have a row."""
    if not out.exists():
        return set()
    rows = (json.loads(line) for line in out.read_text("utf-8").splitlines() if line.strip())
    return {row["name"] for row in rows}


def _append(out: Path, row: dict[str, Any]) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _supervise(arguments: argparse.Namespace) -> int:
    """A process a group, started ahead so that its imports are done when its turn comes."""
    deadline = time.time() + arguments.budget
    wanted = _wanted(arguments)
    groups = list(dict.fromkeys(case.group for case in wanted))
    ahead: dict[str, subprocess.Popen[str]] = {}
    for index, group in enumerate(groups):
        for name in groups[index : index + (3 if arguments.device == "cuda" else 1)]:
            if name not in ahead:
                ahead[name] = _start(arguments, name, deadline)
        members = [case for case in wanted if case.group == group]
        _group(arguments, group, members, ahead[group], deadline)
    left = {case.name for case in wanted} - _done(arguments.out)
    print(f"{len(wanted) - len(left)} of {len(wanted)} cases have a row", flush=True)
    return 0 if not left else 1


def _start(arguments: argparse.Namespace, group: str, deadline: float) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "benchmarks.device.run", "--worker", group, "--out",
        str(arguments.out), "--device", arguments.device, "--gpu", arguments.gpu, "--budget",
        str(deadline),
        *(["--tiny"] if arguments.tiny else []),
        *(part for only in arguments.only or () for part in ("--only", only)),
    ]  # fmt: skip
    environment = dict(os.environ)
    if group == "expandable":
        environment["PYTORCH_CUDA_ALLOC_CONF"] = EXPANDABLE
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)


def _group(
    arguments: argparse.Namespace,
    group: str,
    members: list[Case],
    process: subprocess.Popen[str],
    deadline: float,
) -> None:
    """See a group to its end: what hangs is ended, and the rest goes on in a new process."""
    while True:
        _go(process)
        stuck = _watch(arguments, process, deadline)
        missing = [case for case in members if case.name not in _done(arguments.out)]
        if not missing or time.time() > deadline:
            return
        if stuck or process.returncode != 0:
            reason = stuck or f"the process ended with code {process.returncode}"
            _append(arguments.out, {"name": missing[0].name, "group": group, "failure": reason})
            missing = missing[1:]
        if not missing:
            return
        process = _start(arguments, group, deadline)


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write("go\n")
        process.stdin.close()
    except BrokenPipeError:
        pass


def _watch(arguments: argparse.Namespace, process: subprocess.Popen[str], deadline: float) -> str:
    """Wait for the process; "" where it ended by itself, else why it was ended."""
    seen, since = -1, time.time()
    while process.poll() is None:
        time.sleep(0.2)
        size = arguments.out.stat().st_size if arguments.out.exists() else 0
        if size != seen:
            seen, since = size, time.time()
        overdue = time.time() - since > arguments.case_limit
        if overdue or time.time() > deadline + 15:
            process.kill()
            process.wait()
            return f"not done after {time.time() - since:.0f} s"
    return ""


def _work(arguments: argparse.Namespace) -> int:
    """The cases of one group in this process, those without a row."""
    members = [case for case in _wanted(arguments) if case.group == arguments.worker]
    _import(members)
    sys.stdin.readline()
    done = _done(arguments.out)
    for case in members:
        if case.name in done:
            continue
        if time.time() > arguments.budget:
            return 0
        row = _row(case, arguments)
        _append(arguments.out, row)
        print(f"{row['seconds']:6.1f} s  {case.name}  {_said(row)}", flush=True)
        if any(word in json.dumps(row, default=str) for word in POISONED):
            return 0  # the row is written; the rest goes on in a new process
    return 0


def _import(members: list[Case]) -> None:
    import torch  # noqa: F401

    if any(not case.probe for case in members):
        import accelerate  # type: ignore[import-untyped]  # noqa: F401
        import peft  # noqa: F401
        import transformers  # noqa: F401
        from transformers import BitsAndBytesConfig, Trainer  # noqa: F401

        from willfit.live import measure  # noqa: F401


def _row(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    started = time.time()
    row: dict[str, Any] = {
        "name": case.name, "group": case.group, "arguments": case.arguments,
        "extra": dict(case.extra), "layers": case.layers, "gpu": arguments.gpu,
        "tiny": arguments.tiny,
    }  # fmt: skip
    try:
        if case.probe:
            from benchmarks.device.probes import PROBES

            row["rows"] = PROBES[case.probe](arguments.device, arguments.tiny)
        else:
            row["measurement"] = _measured(case, arguments)
    except Exception as error:  # one case's failure is its row, the others go on
        row["failure"] = f"{type(error).__name__}: {str(error)[:500]}"
        row["traceback"] = traceback.format_exc()[-3000:]
    _forget()
    row["seconds"] = time.time() - started
    return row


def _forget() -> None:
    """Let go of what libraries keep: bitsandbytes' manager holds every embedding it was told of.

    ``Trainer`` registers them for 32-bit states (`GlobalOptimManager.register_module_override`).
    """
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    if bitsandbytes is not None:
        bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()
    gc.collect()


def _measured(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.device.tiny import tiny_config, tiny_scenario
    from willfit.live.measure import measure_here
    from willfit.trace.quiet import quiet

    scenario = scenario_of(case, arguments.gpu)
    config = dict(scenario.model.config)
    if arguments.tiny:
        scenario, config = tiny_scenario(scenario), tiny_config(config)
    checkpoint = _saved(scenario, config, arguments) if case.disk else None
    with quiet():
        found = measure_here(
            scenario,
            device=arguments.device,
            config=config,
            checkpoint=checkpoint,
            history=case.history,
        )
    return found.as_dict()


def _saved(scenario: Any, config: dict[str, Any], arguments: argparse.Namespace) -> str:
    """A checkpoint of random weights on disk, written once."""
    import torch
    import transformers

    size = "tiny" if arguments.tiny else "whole"
    folder = Path("/tmp") / f"willfit-{scenario.model.id.replace('/', '-')}-{size}"
    if not (folder / "config.json").exists():
        cls = getattr(transformers, scenario.model.model_class)
        settings = transformers.AutoConfig.for_model(**config)
        with torch.device(arguments.device):
            model = cls._from_config(settings, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
    return str(folder)


def _said(row: dict[str, Any]) -> str:
    found = row.get("measurement")
    if row.get("failure") or (found and found["failure"]):
        return str(row.get("failure") or found["failure"])[:150]  # type: ignore[index]
    if found is None:
        return f"{len(row['rows'])} rows"
    peak = max((r["allocated_bytes"] for r in found["readings"]), default=0)
    return f"{peak / 2**30:.2f} GiB { ({k: round(v, 4) for k, v in found['seconds'].items()}) }"


if __name__ == "__main__":
    sys.exit(main())
