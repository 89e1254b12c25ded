"""A scenario run for real: tiny models on a CPU go the whole way that a GPU goes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from benchmarks.device.cases import Case, cases, scenario_of
from benchmarks.device.tiny import LENGTH, tiny_config, tiny_scenario

from willfit.live.measurement import Measurement, Reading, peak_of
from willfit.live.meter import alive_at_peak

BY_NAME = {case.name: case for case in cases()}


def tiny_run(case: Case, **changes: Any) -> Measurement:
    pytest.importorskip("bitsandbytes")
    from willfit.live.measure import measure_here

    scenario = tiny_scenario(scenario_of(case, "H200"))
    return measure_here(
        scenario, device="cpu", config=tiny_config(scenario.model.config), **changes
    )


def phases_of(found: Measurement) -> list[str]:
    assert found.failure == ""
    return list(dict.fromkeys(reading.phase for reading in found.readings))


def test_importing_it_costs_no_torch() -> None:
    code = "import sys, willfit.live.measure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["lora/llama1", "loop/llama1", "qlora/thread mb2"])
def test_training_is_read_by_phase_and_step(name: str) -> None:
    found = tiny_run(BY_NAME[name])
    assert phases_of(found) == ["load", "adapters", "forward", "backward", "step"]
    assert [r.step for r in found.readings if r.phase == "step"] == [1, 2]
    assert found.seconds["step_tokens"] == 2 * LENGTH
    parts = sum(found.seconds[part] for part in ("forward", "backward", "step"))
    assert 0 < found.seconds["optimizer_step"] < 10 * parts


def test_generation_is_read_by_phase() -> None:
    found = tiny_run(BY_NAME["infer/llama1 bf16 decode 512"])
    assert phases_of(found) == ["load", "prefill", "decode"]
    assert found.seconds["decode_token"] > 0
    assert found.as_dict()["device"] == "cpu"


def test_a_refusal_is_a_measurement() -> None:
    found = tiny_run(replace(BY_NAME["lora/gemma2 eager"], extra={}), checkpoint="/nowhere")
    assert found.failure
    assert [reading.phase for reading in found.readings] == ["failed"]


def test_the_grid_has_no_case_twice() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    assert all(case.probe or scenario_of(case, "H200") for case in cases() if not case.layers)


def test_what_was_alive_at_the_peak() -> None:
    events = [
        {"action": "alloc", "addr": 1, "size": 8, "frames": [{"filename": "a.py", "line": 3}]},
        {"action": "alloc", "addr": 2, "size": 4},
        {"action": "free_requested", "addr": 1},
        {"action": "alloc", "addr": 3, "size": 4},
        {"action": "free_requested", "addr": 2},
    ]
    assert [(row.num_bytes, row.count) for row in alive_at_peak(events)] == [(8, 1), (4, 1)]


def test_the_peak_of_a_phase_is_of_all_its_steps() -> None:
    def reading(step: int, amount: int) -> Reading:
        return Reading(
            phase="step", step=step, allocated_bytes=amount, reserved_bytes=amount, held_bytes=0,
            held_reserved_bytes=0, process_bytes=None, device_bytes=None, host_bytes=0,
        )  # fmt: skip

    found = peak_of((reading(1, 5), reading(2, 7)), "step")
    assert found is not None
    assert found.step == 2
    assert peak_of((), "step") is None
