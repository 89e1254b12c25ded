"""What the runner did on an H200 (tests/data/measured/h200_runner.jsonl), beside what it foresees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import willfit
from willfit.estimator import estimate
from willfit.estimator.limits import with_batch_size
from willfit.live.nvml import FakeCard, FakeNvml
from willfit.runner.forecast import Sizes, scenario_of
from willfit.runner.gpus import NvmlProbe
from willfit.runner.pipeline import pipeline_from
from willfit.runner.release import PATIENCE, TOLERANCE
from willfit.scenario import Scenario, Stack
from willfit.units import MIB

FILE = Path(__file__).parent / "data/measured/h200_runner.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text().splitlines()]
MACHINE = ROWS[0]
STAGES = {row["name"]: row for row in ROWS if row["step"] == "stage"}


def step(name: str) -> dict[str, Any]:
    return next(row for row in ROWS if row["step"] == name)


def scenario(row: dict[str, Any], folder: Path) -> Scenario:
    """The stage as its run foresaw it, with the batch that it had."""
    config = dict(willfit.find_model(row["model"]).config)
    config["num_hidden_layers"] = row["num_hidden_layers"]
    if len(config.get("layer_types") or []) != row["num_hidden_layers"]:
        config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    settings = {**row["settings"], "model": str(folder / "config.json")}
    if "adapter" in settings:
        (folder / "adapter").mkdir()
        content = {"peft_type": "LORA", "task_type": "SEQ_CLS", **settings["adapter"]}
        (folder / "adapter/adapter_config.json").write_text(json.dumps(content))
        settings["adapter"] = str(folder / "adapter")
    stage = pipeline_from({"data": "d.csv", "stages": {"s": settings}}, folder).stages["s"]
    card = FakeCard(
        name=MACHINE["device"], total=MACHINE["total_bytes"], used=row["used_bytes"],
        capability=(9, 0),
    )  # fmt: skip
    live = NvmlProbe(nvml=FakeNvml(cards=(card,))).read()
    found = scenario_of(stage, Sizes(longest=row["longest"]), live)
    return with_batch_size(found, row["batch_tokens"] // row["longest"])


SINCE = {"gemma": 24 * MIB}
"""What formulas count that they did not when the run was foreseen: a mask of their own for sliding
layers, 3 bytes a position of 2 × 2,048², in the allocator's pages."""


@pytest.mark.parametrize("name", STAGES)
def test_the_forecast_is_a_little_below_what_was_measured(name: str, tmp_path: Path) -> None:
    """Formulas leave out what the allocator keeps unallocated: 5 % of the process in both."""
    row = STAGES[name]
    asked = scenario(row, tmp_path)
    asked = replace(asked, stack=Stack(versions={**asked.stack.versions, "torch": "2.11.0"}))
    found = estimate(asked, search_limits=False).gpus[0].peak
    measured = row["peak_bytes"] - row["used_bytes"]
    assert found.device_bytes == row["estimated_bytes"] + SINCE.get(name, 0)
    assert -0.06 < found.device_bytes / measured - 1 < 0


@pytest.mark.parametrize(
    ("name", "process", "reserved"), [("gemma", 0.004, 0.003), ("llama-1b", 0.04, 0.031)]
)
def test_the_trace_of_a_stage_agrees_with_its_run(
    name: str, process: float, reserved: float, tmp_path: Path
) -> None:
    """Gemma-2 in int8 with LoRA and a head: 0.3 %; a float16 Llama with 8 rows: 4 % too much."""
    row = STAGES[name]
    found = estimate(scenario(row, tmp_path), trace=True, search_limits=False).gpus[0].peak
    measured = row["peak_bytes"] - row["used_bytes"]
    assert abs(found.device_bytes / measured - 1) < process
    assert abs(found.reserved_bytes / row["reserved_bytes"] - 1) < reserved


def test_what_was_foreseen_was_enough() -> None:
    """No batch ran out of memory beside a process that left 7 GiB: the first one fitted."""
    row = STAGES["gemma"]
    assert row["out_of_memory"] == 0
    assert row["peak_bytes"] < MACHINE["total_bytes"]
    assert MACHINE["total_bytes"] - row["peak_bytes"] < 2**30  # and little more would have


def test_memory_comes_back_well_within_the_contracts_patience() -> None:
    for row in step("curve")["rounds"]:
        assert row["full_bytes"] > 0.88 * MACHINE["total_bytes"]
        assert row["seen_back_seconds"] < row["back_seconds"] < PATIENCE / 100
        assert row["after_bytes"] - row["before_bytes"] <= TOLERANCE
    for stage in step("fill")["stages"]:
        (gpu,) = stage["release"]["gpus"]
        assert gpu["after_bytes"] == gpu["before_bytes"] < gpu["peak_bytes"]
        assert stage["reserved_bytes"][0] > 0.88 * MACHINE["total_bytes"]
    (gpu,) = step("isolated")["release"]["gpus"]
    assert gpu["peak_bytes"] > 20 * 2**30 and gpu["after_bytes"] == gpu["before_bytes"]
    assert "held by process" in step("escaped")["message"]
