"""A scenario run for real: tiny models on a CPU go the whole way that a GPU goes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.device.cases import Case, cases, scenario_of

from willfit.cli.main import main
from willfit.errors import InputError, UnsupportedError
from willfit.live.beside import Line, beside, estimated
from willfit.live.measured.facts import on_these
from willfit.live.measurement import (
    MeasuredGpu,
    Measurement,
    Reading,
    measurement_from,
    peak_of,
    phases_of,
)
from willfit.live.suite.tiny import LENGTH, tiny
from willfit.live.tensors import traced_tensors
from willfit.scenario import Inference, Scenario, Workload
from willfit.sources.resolve import resolve
from willfit.trace.recording import Event, Place, Recording
from willfit.units import GIB, MIB

BY_NAME = {case.name: case for case in cases()}


def tiny_scenario(case: Case) -> Scenario:
    return replace(tiny(scenario_of(case, "H200")), machine=None)


def tiny_run(case: Case, **changes: Any) -> Measurement:
    pytest.importorskip("bitsandbytes")
    from willfit.live.measured.here import measure_here

    return measure_here(tiny_scenario(case), device="cpu", **changes)


def done(found: Measurement) -> list[str]:
    assert found.failure == ""
    return list(phases_of(found.readings))


def test_importing_it_costs_no_torch() -> None:
    code = "import sys, willfit.live.measure, willfit.cli.measure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["lora/llama1", "loop/llama1", "qlora/thread mb2"])
def test_training_is_read_by_phase_and_step(name: str) -> None:
    found = tiny_run(BY_NAME[name])
    assert done(found) == ["load", "adapters", "forward", "backward", "step"]
    assert [r.step for r in found.readings if r.phase == "step"] == [1, 2]
    assert found.seconds["step_tokens"] == 2 * LENGTH
    parts = sum(found.seconds[part] for part in ("forward", "backward", "step"))
    assert 0 < found.seconds["optimizer_step"] < 10 * parts


def test_a_refusal_is_a_measurement() -> None:
    found = tiny_run(replace(BY_NAME["lora/gemma2 eager"], extra={}), checkpoint="/nowhere")
    assert (found.failure_kind, bool(found.failure)) == ("refused", True)
    assert [reading.phase for reading in found.readings] == ["failed"]
    assert {line.phase for line in beside(found, ())} <= {"failed"}, "no peak of half a run"


# ---- without CUDA a measurement and a trace count the same thing


def lines(case: Case) -> dict[str, Line]:
    scenario, found = tiny_scenario(case), tiny_run(case)
    assert found.counted == "tensors"
    scenario = on_these(scenario, found.gpus, found.versions)
    levels = [estimated(scenario, level, on_gpu=False) for level in ("formula", "trace")]
    return {line.phase: line for line in beside(found, levels)}


@pytest.mark.parametrize(
    ("name", "phase", "trace", "formula"),
    [
        # an encoder's pass is the trace's to the byte
        ("infer/bert", "forward", 0.0, 0.02),
        ("infer/llama1 bf16 decode 512", "prefill", 0.001, 0.01),
        ("full/llama1 fp32 bf16 autocast", "step", 0.01, 0.02),
        ("loop/llama1", "backward", 0.005, 0.02),
    ],
)
def test_live_tensors_of_a_host_are_those_of_the_trace(
    name: str, phase: str, trace: float, formula: float
) -> None:
    line = lines(BY_NAME[name])[phase]
    assert abs(line.error("trace") or 0) <= trace
    assert abs(line.error("formula") or 0) <= formula
    assert line.measured_bytes > 0
    assert line.trace_bytes is not None
    assert line.formula_bytes is not None


PEFT = {
    "IA3": {},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "LOHA": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
}


@pytest.mark.parametrize("kind", PEFT)
def test_any_method_of_peft(kind: str) -> None:
    config = {"peft_type": kind, "task_type": "CAUSAL_LM", **PEFT[kind]}
    extra = {"training.lora": None, "training.adapter_config": config}
    found = lines(replace(BY_NAME["lora/llama1"], extra=extra))
    assert abs(found["backward"].error("trace") or 1) <= 0.01
    assert found["adapters"].measured_bytes > found["load"].measured_bytes


def test_trl_by_its_own_trainer() -> None:
    pytest.importorskip("trl")
    plain = BY_NAME["lora/llama1"]
    found = tiny_run(replace(plain, arguments=f"{plain.arguments} --trainer trl"))
    assert done(found) == ["load", "adapters", "forward", "backward", "step"]
    assert "trl" in found.versions


def test_of_loading_what_it_leaves_counts_and_no_workspace() -> None:
    """100 for a moment, 40 kept, 10 of a workspace; then 40 + 7."""

    def event(handle: str, num_bytes: int, phase: str) -> Event:
        return Event(handle, num_bytes, phase, Place("", ""), None)  # type: ignore[arg-type]

    events = [
        event("block", 100, "load"), event("block", 0, "load"), event("weight", 40, "load"),
        event("cublas", 10, "prefill"), event("hidden", 7, "prefill"), event("hidden", 0, "prefill"),
    ]  # fmt: skip
    recording = Recording(events=events, categories={"cublas": "workspaces"})
    assert traced_tensors(recording) == {"load": 40, "prefill": 47}


# ---- several GPUs, by stand-ins for torch's counters and NVML


def reading(phase: str, amount: int, gpu: int = 0, step: int = 0, **more: Any) -> Reading:
    given = {
        "reserved_bytes": amount, "held_bytes": 0, "held_reserved_bytes": 0, "process_bytes": None,
        "device_bytes": None, "host_bytes": 0, **more,
    }  # fmt: skip
    return Reading(phase=phase, step=step, gpu_index=gpu, allocated_bytes=amount, **given)


def test_every_gpu_has_its_own_readings() -> None:
    pytest.importorskip("torch")
    from willfit.live.memory.counters import Counted, FakeCounters
    from willfit.live.meter import Meter
    from willfit.live.nvml import FakeCard, FakeNvml

    def counted(index: int, peak: int, reserved: int) -> Counted:
        return Counted(
            index=index, name="Tesla T4", allocated_bytes=peak // 2, reserved_bytes=reserved,
            peak_allocated_bytes=peak, peak_reserved_bytes=reserved, ever_allocated_bytes=peak,
            uuid=f"u{index}",
        )  # fmt: skip

    mine = os.getpid()
    cards = [
        FakeCard(
            name="Tesla T4", total=16 * GIB, used=used, uuid=f"GPU-u{index}",
            processes=((mine, "python", used - 50 * MIB), (99_999_999, "other", 50 * MIB)),
        )
        for index, used in ((0, 4 * GIB), (1, 3 * GIB))
    ]  # fmt: skip
    counters = FakeCounters(states=[[counted(0, 3 * GIB, 3 * GIB), counted(1, 2 * GIB, 2 * GIB)]])
    meter = Meter("cuda", counters=counters, nvml=FakeNvml(cards=tuple(cards)))
    meter.start()
    meter.mark("load")
    found = meter.readings
    assert [(r.gpu_index, r.allocated_bytes) for r in found] == [(0, 3 * GIB), (1, 2 * GIB)]
    assert [r.device_bytes for r in found] == [4 * GIB, 3 * GIB]
    assert [r.context_bytes for r in found] == [GIB - 50 * MIB, GIB - 50 * MIB]
    assert counters.calls == ["give_back", "begin_peak", "begin_peak"]


def test_without_the_process_s_share_what_was_there_before_is_taken_off() -> None:
    gpu = MeasuredGpu(
        index=0, name="T4", capacity_bytes=16 * GIB, compute_capability=(7, 5), idle_bytes=GIB
    )
    found = Measurement(
        device="T4", gpus=(gpu,), readings=(reading("load", GIB, device_bytes=3 * GIB),)
    )
    amounts = {(line.phase, line.kind): line.measured_bytes for line in beside(found, ())}
    assert amounts[("load", "device")] == 2 * GIB


def test_the_peak_of_a_phase_is_of_all_its_steps() -> None:
    found = peak_of((reading("step", 5, step=1), reading("step", 7, step=2)), "step")
    assert found is not None
    assert found.step == 2
    assert peak_of((), "step") is None


def test_a_measurement_survives_json() -> None:
    gpu = MeasuredGpu(index=0, name="T4", capacity_bytes=1, compute_capability=(7, 5))
    found = Measurement(
        device="T4", gpus=(gpu,), readings=(reading("load", 5),), series=((32, 1, 2),),
        versions={"torch": "2.13.0"}, failure="no", failure_kind="died",
    )  # fmt: skip
    assert measurement_from(json.loads(json.dumps(found.as_dict()))) == found
    assert measurement_from({**found.as_dict(), "later": 1}) == found


def test_what_was_alive_at_the_peak() -> None:
    from willfit.live.measured.history import alive_at_peak

    events = [
        {"action": "alloc", "addr": 1, "size": 8, "frames": [{"filename": "a.py", "line": 3}]},
        {"action": "alloc", "addr": 2, "size": 4},
        {"action": "free_requested", "addr": 1},
        {"action": "alloc", "addr": 3, "size": 4},
        {"action": "free_requested", "addr": 2},
    ]
    assert [(row.num_bytes, row.count) for row in alive_at_peak(events)] == [(8, 1), (4, 1)]


# ---- what cannot be tried, and what ends


@pytest.mark.parametrize(
    ("model", "more", "error", "words"),
    [
        ("timm/resnet50", {}, UnsupportedError, "timm model"),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", {}, InputError, "--checkpoint"),
        ("llama-3.2-1b", {"engine": "vllm"}, UnsupportedError, "leave --engine out"),
    ],
)
def test_what_is_refused_before_a_process_starts(
    model: str, more: dict[str, Any], error: type[Exception], words: str
) -> None:
    from willfit.live.measure import measure

    work = Workload(inference=Inference(context_len=8, **more))
    with pytest.raises(error, match=words):
        measure(Scenario(model=resolve(model), workload=work))


def test_a_checkpoint_is_of_the_model_that_was_asked_for(tmp_path: Path) -> None:
    """Its numbers would be another model's under this one's name."""
    from willfit.live.measure import measure

    work = Workload(inference=Inference(context_len=8))
    scenario = Scenario(model=resolve("llama-3.2-1b"), workload=work)
    with pytest.raises(InputError, match=r"no config\.json that can be read"):
        measure(scenario, checkpoint=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')
    with pytest.raises(InputError, match=r"another model.*hidden_size is 4096, not 2048"):
        measure(scenario, checkpoint=str(tmp_path))


def test_a_library_that_is_missing_is_said_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from willfit.errors import MissingLibraryError
    from willfit.live.measured.refuse import refuse

    here = ("torch", "transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in here else None)
    for name, words in (
        ("qlora/thread mb2", "bitsandbytes"),
        ("lora/llama1", "peft"),
        ("full/llama1 8bit", "bitsandbytes"),
    ):
        with pytest.raises(MissingLibraryError, match=f"pip install {words}"):
            refuse(tiny_scenario(BY_NAME[name]), None)
    refuse(tiny_scenario(BY_NAME["loop/llama1"]), None)


def test_without_torch_nothing_is_started(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from willfit.live.measured import process

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(process.subprocess, "Popen", None)
    assert main(["measure", "gpt2", "--task", "load"]) == 4
    assert "measuring needs torch: pip install 'willfit[trace]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "num_gpus", "conf", "found"),
    [
        ({}, 2, "", {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ({"CUDA_VISIBLE_DEVICES": "3,5,7"}, 2, "", {"CUDA_VISIBLE_DEVICES": "3,5"}),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, "", {"CUDA_VISIBLE_DEVICES": ""}),
        # the shell's allocator would be in no record of the run
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, 1, "", {"CUDA_VISIBLE_DEVICES": "0"}),
        (
            {"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"}, 1, "expandable_segments:True",
            {
                "CUDA_VISIBLE_DEVICES": "0", "PYTORCH_ALLOC_CONF": "expandable_segments:True",
                "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            },
        ),
    ],
)  # fmt: skip
def test_a_worker_has_the_scenario_s_gpus_and_allocator_from_its_start(
    given: dict[str, str],
    num_gpus: int,
    conf: str,
    found: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from willfit.live.measured.process import environment

    names = ("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    made = environment(num_gpus, conf)
    assert {name: made[name] for name in names if name in made} == found


def test_a_library_that_ends_the_process_for_want_of_memory(tmp_path: Path) -> None:
    """In the way of bitsandbytes, which prints CUDA's error and exits with 1."""
    from willfit.live.measured.process import Worker

    (tmp_path / "ends_it.py").write_text(
        "import os, sys\nprint('Error out of memory at line 380', file=sys.stderr)\nos._exit(1)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        with Worker(libraries=("ends_it",)) as worker:
            found = worker.ask({"what": "look", "device": "cpu"}, 30)
    assert found["kind"] == "out_of_memory"
    assert "ended with code 1; its last line was: Error out of memory" in found["error"]


def test_what_does_not_fit_in_host_memory_is_told_with_the_layers_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Llama-3-8B in bfloat16: 2.0 GiB of tables and 0.41 GiB a layer, 15 GiB in all."""
    pytest.importorskip("torch")
    from willfit.live import host_room

    monkeypatch.setattr(host_room, "free_ram", lambda: 8 * GIB)
    work = Workload(inference=Inference(context_len=64))
    with pytest.raises(InputError, match="try --layers 8"):
        host_room.require_room(Scenario(model=resolve("llama-3-8b"), workload=work))


def small() -> Scenario:
    return tiny_scenario(BY_NAME["infer/llama1 bf16 decode 512"])


def test_a_worker_that_is_killed_is_told_with_its_signal() -> None:
    from willfit.live.measure import measured
    from willfit.live.measured.process import Worker

    with Worker() as worker:
        threading.Timer(0.4, os.kill, (worker.pid, signal.SIGKILL)).start()
        found = measured(worker.ask({"scenario": small(), "device": "cpu"}, 60))
    assert found.failure_kind == "died"
    assert "SIGKILL" in found.failure
    assert not _lives(worker.pid)


def test_a_worker_that_hangs_is_ended_and_what_it_started_too(tmp_path: Path) -> None:
    """In place of a hanging driver: the process is stopped and cannot answer."""
    from willfit.live.measured.process import Worker

    with Worker() as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        worker._ready = True  # its imports were done when it stopped
        found = worker.ask({"scenario": small(), "device": "cpu"}, 0.3)
    assert found == {"error": "not done after 0.3 s, and ended", "kind": "not_done"}
    assert not _lives(worker.pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _config(folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(dict(small().model.config)))
    return path


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_the_command_ends_its_worker(how: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C says so in one sentence; a killed command's worker sees its pipe end."""
    command = [sys.executable, "-m", "willfit", "measure", str(_config(tmp_path)), "--context", "8"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    worker = _child_of(process.pid)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted: the run was ended, nothing is left running" in said
        assert "Traceback" not in said
    end = time.monotonic() + 30
    while _lives(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(worker)


def _child_of(pid: int) -> int:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this kernel does not list children")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = path.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise AssertionError("no worker was started")


# ---- the command


def test_the_command_prints_records_and_the_ledger_reads_it_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.ledger.run import judge_all, rows_of

    file = tmp_path / "rows" / "mine.jsonl"
    config = str(_config(tmp_path))
    words = [config, "--batch-size", "2", "--context", "24", "--max-new-tokens", "4"]
    assert main(["measure", *words, "--json", "--record", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "willfit.measurement/1"
    assert shown["scenario"]["workload"]["inference"]["batch_size"] == 2
    assert {line["phase"] for line in shown["lines"]} == {"load", "prefill", "decode", "peak"}
    assert all(isinstance(line["measured_bytes"], int) for line in shown["lines"])
    assert measurement_from(shown).readings, "the run is read back from the command's JSON"

    row = json.loads(file.read_text())
    assert str(tmp_path) not in file.read_text(), "no path of this machine"
    assert row["config"]["hidden_size"] == 64
    with file.open("ab") as torn:
        torn.write(b'{"id": "measured:')  # a writer that died
    outcomes = judge_all(
        list(rows_of(tmp_path / "rows")), ["formula"], jobs=1, cached=False
    ).outcomes
    assert {outcome.kind for outcome in outcomes} == {entry["kind"] for entry in row["measured"]}
    for outcome in outcomes:
        assert outcome.reason is None
        decoding = "decode" in outcome.kind  # of which a CPU's buffers are a part, this small
        assert abs(outcome.error or 0) < (0.1 if decoding else 0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["llama-3.2-1b", "--stack", "torch=2.6"], "leave --stack out"),
        (["llama-3.2-1b", "--live"], "leave --live out"),
        (["llama-3.2-1b", "--only", "x"], "--only belongs to --suite"),
        (["llama-3.2-1b", "--layers", "17"], "has 16 layers"),
        (["llama-3.2-1b", "--layers", "2", "--checkpoint", "x"], "leave one out"),
        (["llama-3.2-1b", "--suite", "cpu"], "leave llama-3.2-1b out"),
        (["--suite", "nope"], "there are cpu, h200, ranks, recorded, t4"),
        (["--bundle", "x"], "--bundle belongs to --suite"),
    ],
)
def test_bad_settings_get_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", *words]) == 1
    written = capsys.readouterr()
    assert said in written.err
    assert len(written.err.strip().splitlines()) == 1
    assert written.out == ""


@pytest.mark.parametrize(("where", "said"), [("", "Is a directory"), ("no/", "File exists")])
def test_a_row_that_cannot_be_written_is_said_before_the_run(
    where: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no").write_text("a file")
    file = str(tmp_path / "no" / "x.jsonl") if where else str(tmp_path)
    assert main(["measure", "llama-3.2-1b", "--context", "8", "--record", file]) == 1
    written = capsys.readouterr().err
    assert said in written
    assert "running" not in written


def test_exit_codes_tell_memory_from_other_failures() -> None:
    from willfit.cli.measure import exit_code

    table = {"": 0, "out_of_memory": 3, "refused": 5, "died": 5, "not_done": 5}
    for kind, code in table.items():
        failure = "why" if kind else ""
        found = Measurement(device="cpu", failure=failure, failure_kind=kind)  # type: ignore[arg-type]
        assert exit_code(found) == code


def test_what_ran_out_of_memory_is_shown_with_what_was_estimated() -> None:
    from willfit.report.measurement import render

    gpu = MeasuredGpu(index=0, name="NVIDIA T4", capacity_bytes=14 * GIB, compute_capability=(7, 5))
    found = Measurement(
        device="NVIDIA T4", capacity_bytes=14 * GIB, gpus=(gpu,),
        readings=(reading("load", 13 * GIB), reading("failed", 13 * GIB)),
        failure="OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        failure_kind="out_of_memory",
    )  # fmt: skip
    work = Workload(inference=Inference(context_len=2048))
    scenario = on_these(Scenario(model=resolve("llama-3-8b"), workload=work), (gpu,), {})
    levels = [estimated(scenario, "formula")]
    text = render(found, scenario, levels, beside(found, levels))
    assert "ran out of memory after load" in text
    assert "Tried to allocate 2.00 GiB" in text
    assert "of 14.00 GiB: does not fit" in text
    assert max(map(len, text.splitlines())) <= 80
