"""The ledger's arithmetic: errors, quantiles, repeats, ranges left out, verdicts, readings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.ledger.__main__ import main
from benchmarks.ledger.importers import about, importer
from benchmarks.ledger.judging import Judged, generation_of, judge
from benchmarks.ledger.page import render_page
from benchmarks.ledger.page.picture import scatter
from benchmarks.ledger.page.tables import percent, table
from benchmarks.ledger.ranges import leave_one_out, parts
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import Demand, Known, Miss, Outcome
from benchmarks.ledger.run import judge_all, rows_of
from benchmarks.ledger.summary import best_of, by_source, noise, overall, summarise

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.uncertainty import uncertainty
from willfit.results import Component, Estimate, GpuEstimate, PhaseEstimate
from willfit.scenario import Inference, Loading, Machine, Scenario, Training, Workload
from willfit.sources.resolve import resolve


def outcome(measured: int, estimated: int | None, **more: Any) -> Outcome:
    given: dict[str, Any] = {
        "id": f"some:{measured}-{estimated}",
        "source": "some",
        "tier": "A",
        "task": "inference",
        "level": "formula",
        "kind": "peak",
        "measured_bytes": measured,
        "estimated_bytes": estimated,
        "unknown_low_bytes": estimated,
        "unknown_high_bytes": estimated,
        "reason": None if estimated else "not known",
        "work": "inference",
        "counter": "allocated",
    }
    return Outcome(**{**given, **more})


def test_an_error_is_the_distance_to_what_unknown_settings_leave_open() -> None:
    open_ended = {"unknown_low_bytes": 80, "unknown_high_bytes": 120}
    assert outcome(100, 90).error == pytest.approx(-0.10)
    assert outcome(100, 90, **open_ended).error == 0
    assert outcome(100, 90, **open_ended).alone == pytest.approx(-0.10)
    assert outcome(150, 90, **open_ended).error == pytest.approx(-0.20)  # (120 - 150) / 150
    assert outcome(100, None).error is None


def test_a_summary_is_of_what_is_expressed() -> None:
    errors = [outcome(100, 100 + n) for n in range(1, 21)] + [outcome(100, None)]
    summary = summarise("some", "peak", errors)
    assert (summary.num_rows, summary.num_expressed) == (21, 20)
    assert summary.median == pytest.approx(0.105)
    assert summary.p95 == pytest.approx(0.19)  # the 19th of 20
    assert summary.worst == pytest.approx(0.20)


def test_sources_weigh_the_same_whatever_their_rows() -> None:
    many = [outcome(100, 101, source="many")] * 50
    few = [outcome(100, 105, source="few"), outcome(100, 105, source="few")]
    one = [outcome(100, 103, source="one")]
    found = overall(by_source([*many, *few, *one]))
    assert (found.num_sources, found.num_rows) == (3, 53)
    assert found.median == pytest.approx(0.03)


def test_the_trace_is_preferred_where_it_has_a_figure() -> None:
    formula, trace = outcome(100, 90, id="a"), outcome(100, 99, id="a", level="trace")
    silent = outcome(100, None, id="b", level="trace")
    kept = best_of([formula, trace, outcome(100, 80, id="b"), silent])
    assert {(o.id, o.level) for o in kept} == {("a", "trace"), ("b", "formula")}


def test_repeats_give_the_noise() -> None:
    """100 and 104 of one experiment: 4 / 102; the second level of a row is no repeat."""
    runs = [outcome(100, 1, id="a", experiment="x"), outcome(104, 1, id="b", experiment="x")]
    again = outcome(100, 2, id="a", experiment="x", level="trace")
    assert noise([*runs, again]) == pytest.approx(4 / 102)
    assert noise([outcome(7, 1, experiment="y")]) is None


def _spread(source: str, *per_mille: int, **more: Any) -> list[Outcome]:
    return [
        outcome(1_000_000 + 1000 * n, 1_000_000, source=source, id=f"{source}:{i}", **more)
        for i, n in enumerate(per_mille)
    ]


def test_a_range_holds_so_many_of_sources_that_weigh_the_same() -> None:
    """Three sources of one row each, +2, +4, −3 %: nothing of a third may be left outside."""
    rows = [*_spread("a", 20), *_spread("b", 40), *_spread("c", -30)]
    found = parts(rows)["formula", "allocated", "inference"]
    assert found.above == pytest.approx(0.04)
    assert found.below == pytest.approx(0.03)


def test_a_source_is_held_to_the_others() -> None:
    rows = [*_spread("a", 20), *_spread("b", 40), *_spread("c", 30), *_spread("d", 90)]
    held = {one.source: one for one in leave_one_out(rows)}
    assert held["d"].num_inside == 0  # 9 % above, the others at most 4
    assert held["a"].num_inside == 1
    assert held["a"].half_width == pytest.approx((0.01 + 0.09) / 2)


def test_what_another_job_left_makes_no_range(shared: Path) -> None:
    """By what the row records of its run, whatever the error."""
    published = {
        row["id"]: row
        for name in ("optimum_benchmark_history", "hf_docs")
        for row in rows_of(shared / "measured", [name])
    }
    reserved, allocated = (
        "generate:torch_max_memory_reserved",
        "generate:torch_max_memory_allocated",
    )
    for number, kind, is_apart in (
        (108, reserved, True), (112, reserved, True), (108, allocated, False), (118, reserved, False),
    ):  # fmt: skip
        row = published[f"optimum_benchmark_history:{number}"]
        assert about("optimum_benchmark_history").is_apart(row, kind) == is_apart
    apart = {
        n
        for n in published
        if n.startswith("hf_docs") and about("hf_docs").is_apart(published[n], "")
    }
    assert {"hf_docs:1", "hf_docs:5", "hf_docs:17"} <= apart and "hf_docs:12" not in apart
    rows = [*_spread("a", 20), *_spread("b", 40), *_spread("c", 30)]
    far = outcome(300, 100, source="d", apart=True)
    assert parts([*rows, far]) == parts(rows) != parts([*rows, replace(far, apart=False)])


def test_unknown_settings_are_not_held_against_the_range() -> None:
    wide = outcome(130, 100, source="a", unknown_low_bytes=90, unknown_high_bytes=128)
    rows = [wide, *_spread("b", 5), *_spread("c", 5)]
    assert parts(rows)["formula", "allocated", "inference"].above == pytest.approx(
        0.02
    )  # (130 - 128) / 100


def test_wrong_verdicts_are_counted_apart() -> None:
    def known(ran_out: bool, *needs: int) -> Known:
        demands = tuple(
            Demand(
                low_bytes=need,
                high_bytes=need,
                tensor_bytes=0,
                budget_bytes=100,
                level="formula",
                work="inference",
            )
            for need in needs
        )
        return Known(
            id="x:1", source="x", level="formula", gpu="T4", sm=(75,), ran_out=ran_out,
            demands=demands,
        )  # fmt: skip

    def demand(low: int, high: int, **more: Any) -> Demand:
        given: dict[str, Any] = {"level": "formula", "work": "inference", "budget_bytes": 1000}
        return Demand(low_bytes=low, high_bytes=high, **{**given, "tensor_bytes": 900, **more})

    assert demand(900, 900).verdict == "fits"  # and with the uncertainty of 900
    assert demand(999, 999).verdict == "tight"
    assert demand(1900, 1900).verdict == "does_not_fit"
    assert demand(100, 100, refused=True).verdict == "does_not_fit"
    assert known(True, 90).is_wrong_fits
    assert not known(True, 90, 110).is_wrong_fits
    assert known(False, 110).is_wrong_does_not_fit
    assert not known(False, 110, 90).is_wrong_does_not_fit
    page = render_page(Judged(outcomes=(), known=(known(True, 90), known(False, 90))), ())
    assert "Wrong “fits”: `x:1` (formula, T4)." in page
    assert "Wrong “does not fit”: none." in page


def _estimate(*gpus: tuple[tuple[str, int, int], ...]) -> Estimate:
    def phases(rows: tuple[tuple[str, int, int], ...]) -> tuple[PhaseEstimate, ...]:
        return tuple(
            PhaseEstimate(
                name=name,
                allocated_bytes=allocated,
                reserved_bytes=reserved,
                device_bytes=reserved + 5,
                components=(Component(name="weights", num_bytes=allocated - 1),),
            )
            for name, allocated, reserved in rows
        )

    made = [
        GpuEstimate(
            index=index,
            name="",
            phases=phases(rows),
            capacity_bytes=None,
            budget_bytes=None,
            low_device_bytes=0,
            high_device_bytes=0,
        )
        for index, rows in enumerate(gpus)
    ]
    empty: Any = None
    return Estimate(
        level="formula", scenario=empty, num_params=0, num_trainable_params=0, gpus=tuple(made),
        host=empty, kv_cache_bytes=None, largest_layer_bytes=0, largest_layer="",
    )  # fmt: skip


def test_a_reading_is_of_its_phases_and_gpus() -> None:
    two = _estimate(
        (("load", 100, 120), ("prefill", 90, 130), ("decode", 80, 140)),
        (("load", 50, 60), ("prefill", 70, 75), ("decode", 60, 80)),
    )
    assert Reading()(two) == 100
    assert Reading(without=("load",))(two) == 90
    assert Reading(amount="reserved", phases=("prefill",))(two) == 130
    assert Reading(gpus="sum")(two) == 100 + 70
    assert Reading(gpus=1, amount="device")(two) == 85
    assert Reading(gpus=1, plus_bytes=7)(two) == 77
    assert Reading(phases=("load",), components=("weights",))(two) == 99
    with pytest.raises(UnsupportedError):
        Reading(phases=("backward",))(two)


def test_a_miss_explains_what_it_names() -> None:
    miss = Miss(why="a copy", ids=("x:1",), kind="reserved", level="trace")
    assert miss.explains({"id": "x:1"}, "reserved peak", "trace")
    assert not miss.explains({"id": "x:2"}, "reserved peak", "trace")
    assert not miss.explains({"id": "x:1"}, "allocated peak", "trace")
    assert not miss.explains({"id": "x:1"}, "reserved peak", "formula")


def test_a_generation_is_by_the_release_that_a_row_records() -> None:
    def row(version: str) -> dict[str, Any]:
        return {"id": "hub_pages:1", "versions": {"transformers": version}}

    assert generation_of(row("4.50.0")) == "today"
    assert generation_of(row("4.49.1")) == "older"
    assert generation_of(row("5.1")) == "today"
    assert generation_of({"id": "hub_pages:1"}) == "unrecorded"


STRANGE: list[dict[str, Any]] = [
    {"id": "hub_pages:x", "tier": "A", "task": "inference", "measured": [{"kind": "k", "bytes": 9}]},
    {"id": "nobody:1", "tier": "A", "task": "train", "measured": [{"kind": "k", "bytes": 9}]},
    {"id": "hf_docs:2", "tier": "A", "task": "train", "measured": "much"},
    {"id": "", "tier": "", "task": "", "measured": [{"kind": 3, "bytes": True}, 7, None]},
    {"id": "peft_metamath:1", "tier": "A", "task": "train", "measured": [{"kind": "k", "bytes": -1}]},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_a_row_in_another_form_is_a_reason_and_no_end(number: int) -> None:
    for found in judge(STRANGE[number]).outcomes:
        assert found.estimated_bytes is None
        assert found.reason


def test_processes_and_kept_answers_say_the_same(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WILLFIT_LEDGER", str(tmp_path))
    rows = list(rows_of(shared / "measured", ["hub_pages", "fsdp_qlora_bench"]))[:24]
    alone = judge_all(rows, ["formula"], jobs=1, cached=False)
    assert judge_all(rows, ["formula"], jobs=2) == alone
    kept = list(tmp_path.rglob("*.json"))
    assert len(kept) == len(rows)
    assert judge_all(rows, ["formula"], jobs=1) == alone
    kept[0].write_text("{")  # a torn file is judged again
    assert judge_all(rows, ["formula"], jobs=1) == alone


def test_a_folder_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", str(tmp_path / "none")]) == 1
    assert "give one with --rows" in capsys.readouterr().err


def test_percentages_and_tables_are_readable() -> None:
    assert [percent(v) for v in (0.0004, 0.0234, 0.141, None)] == ["0.0 %", "2.3 %", "14 %", "–"]
    assert percent(-0.02, signed=True) == "−2.0 %"
    assert percent(0.0001, signed=True) == "0.0 %"
    assert table(("a", "b"), [("x|y", "1")])[2] == "| x/y | 1 |"


def test_the_picture_has_a_square_for_each_measurement() -> None:
    rows = [outcome(2**30, 2**30), outcome(2**34, 2**33, tier="B"), outcome(1, None)]
    drawing = scatter(rows)
    assert "2 published measurements" in drawing.description
    assert "1 lie within 10 %" in drawing.description


def test_the_printed_range_is_wider_where_nobody_measured(shared: Path) -> None:
    from willfit.cli import estimate as command
    from willfit.cli.parser import Parser

    def on(gpu: str, dtype: str) -> Estimate:
        parser = Parser()
        command.configure(parser)
        words = ["HuggingFaceTB/SmolLM-135M", "--gpu", gpu, "--dtype", dtype, "--context", "64"]
        return command.compute(parser.parse_args(words))[0]

    usual, emulated = on("T4", "float16"), on("T4", "bfloat16")
    wide = uncertainty(emulated.scenario, "formula", emulated.scenario.machine.gpus[0])
    assert uncertainty(usual.scenario, "formula", usual.scenario.machine.gpus[0]).wider == 1
    assert wide.wider == 2
    assert any("no measurement covers bfloat16" in said for said in emulated.assumptions)
    gpu = emulated.binding
    tensors = gpu.peak.device_bytes - next(
        p.num_bytes for p in gpu.peak.components if p.name == "cuda_context"
    )
    assert gpu.high_device_bytes - gpu.peak.device_bytes >= round(tensors * wide.above)
    assert json.dumps(emulated.assumptions)
    assert estimate(usual.scenario).verdict == "fits"


def test_a_row_that_raises_ends_no_other(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """An importer's error, whatever it is, becomes that row's reason."""
    rows = list(rows_of(shared / "measured", ["hub_pages"]))[:3]

    express = importer("hub_pages", "formula")

    def broken(row: Any) -> Any:
        if row["id"] == rows[1]["id"]:
            raise ZeroDivisionError("by nothing")
        return express(row)

    monkeypatch.setattr("benchmarks.ledger.judging.importer", lambda *_: broken)
    found = judge_all(rows, ["formula"], jobs=1, cached=False).outcomes
    failed = [o for o in found if o.id == rows[1]["id"]]
    assert {o.reason for o in failed} == {"fails with ZeroDivisionError: by nothing"}
    assert len(failed) == len(rows[1]["measured"])
    assert {o.id for o in found} == {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("strategy", "dtype", "wider"),
    [("ddp", {"fp16": True}, 2), ("zero2", {"fp16": True}, 1), ("fsdp", {"fp16": True}, 1),
     ("zero2", {"bf16": True}, 2), ("fsdp", {"bf16": True}, 2), ("fsdp", {}, 2)],
)  # fmt: skip
def test_bfloat16_that_is_cast_whole_is_not_emulated(
    strategy: Any, dtype: dict[str, bool], wider: float
) -> None:
    """DeepSpeed and FSDP compute in the type that they cast to; autocast leaves norms as they are."""
    machine = Machine(gpus=parse_machine("T4x2").gpus)
    workload = Workload(
        loading=Loading(dtype=BFLOAT16, strategy=strategy),
        training=Training(method="lora", **dtype),
    )
    scenario = Scenario(model=resolve("gpt2"), workload=workload, machine=machine)
    assert uncertainty(scenario, "formula", machine.gpus[0]).wider == wider


@pytest.mark.parametrize(
    ("model", "gpus", "work"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4", "A100x2", "gptq_several"),
        ("Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4", "A100", "inference"),
        ("Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int8", "A100x2", "several"),
        ("Qwen/Qwen2.5-0.5B-Instruct-AWQ", "A100x2", "several"),
    ],
)
def test_a_kind_that_alone_is_off_has_a_range_of_its_own(model: str, gpus: str, work: str) -> None:
    """Four measurements of GPTQ in 4 bit over several GPUs would widen every range of these."""
    machine = Machine(gpus=parse_machine(gpus).gpus)
    scenario = Scenario(
        model=resolve(model), workload=Workload(inference=Inference()), machine=machine
    )
    found = uncertainty(scenario, "trace", machine.gpus[0])
    assert found.work == work
    assert (found.above > 0.3) is (work == "gptq_several")
    said = estimate(scenario, search_limits=False).assumptions
    assert any("GPTQ in 4 bit" in each for each in said) is (work == "gptq_several")
