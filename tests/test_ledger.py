"""The ledger's fast subset: no source may get worse than what was reached."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.ledger import figures
from benchmarks.ledger.__main__ import main
from benchmarks.ledger.amounts import estimated
from benchmarks.ledger.importers import sources
from benchmarks.ledger.importers.llmperf_bnb_a10_derived import express as express_llm_perf
from benchmarks.ledger.importers.peft_metamath import express_by_trace
from benchmarks.ledger.judging import judge
from benchmarks.ledger.models import from_config
from benchmarks.ledger.moments import moments_traced, step_ends
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.releases import others, side_directory, trace_under
from benchmarks.ledger.row import Expressed, Outcome, PublishedRow
from benchmarks.ledger.run import judge_all, rows_of

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.estimator import estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve
from willfit.trace.recording import EMPTY_CACHE, Event, Place, Recording

OWN = Path(__file__).parent / "data" / "measured" / "published"
"""The published rows in the project's own form."""
ROUNDING = 0.0002
"""Recorded figures are rounded to a ten-thousandth; another torch rounds a buffer otherwise."""


@pytest.fixture(scope="module")
def outcomes(shared: Path) -> list[Outcome]:
    rows = figures.subset(rows_of(shared / "measured"))
    return list(judge_all(rows, ["formula"], jobs=1, cached=False).outcomes)


RECORDED = figures.recorded()["formula"]


@pytest.mark.parametrize("source", sorted(RECORDED))
def test_a_source_is_no_worse_than_it_was(outcomes: list[Outcome], source: str) -> None:
    """The subset's figures; ``python -m benchmarks.ledger --record`` writes better ones down."""
    now, then = figures.figures(outcomes, "formula")[source], RECORDED[source]
    assert now["rows"] == then["rows"]
    assert now["expressed"] >= then["expressed"]
    for name in ("median", "p95"):
        if then[name] is not None:
            assert now[name] <= then[name] + ROUNDING, name


def test_every_source_has_an_importer_and_rows(shared: Path) -> None:
    published = {path.stem for path in (shared / "measured").glob("*.jsonl")}
    assert published <= set(sources())
    assert published - {path.stem for path in OWN.glob("*.jsonl")} == {"allocator_snapshots"}


def test_every_row_has_an_estimate_or_a_reason(outcomes: list[Outcome]) -> None:
    assert len(outcomes) > 600
    assert all((o.estimated_bytes is None) == (o.reason is not None) for o in outcomes)


def test_what_is_off_by_a_tenth_is_explained(outcomes: list[Outcome], shared: Path) -> None:
    off = {o.id for o in outcomes if abs(o.error or 0) > 0.10}
    assert off
    named = {name.partition(":")[0] for name in off}
    rows = [row for row in rows_of(shared / "measured", sorted(named)) if row["id"] in off]
    found = [o for row in rows for o in judge(row).outcomes if abs(o.error or 0) > 0.10]
    assert [o.id for o in found if not o.why] == []


@pytest.mark.parametrize("source", ["hub_pages", "torchtitan", "vendor_inference_tables"])
def test_the_own_form_says_what_the_importer_says(shared: Path, source: str) -> None:
    """The same bytes at both ends, from settings that are written down and from the source's."""
    published = {row["id"]: row for row in rows_of(shared / "measured", [source])}
    own = list(rows_of(OWN, [source]))
    assert {row["id"] for row in own} == set(published)
    for row in own[::5]:
        ours, theirs = judge(row).outcomes, judge(published[row["id"]]).outcomes
        assert [_amounts(o) for o in ours] == [_amounts(o) for o in theirs]


def _amounts(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.kind,
        outcome.measured_bytes,
        outcome.estimated_bytes,
        outcome.unknown_low_bytes,
        outcome.unknown_high_bytes,
        outcome.generation,
    )


def test_the_json_has_the_documented_keys(shared: Path, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    arguments = ["--rows", str(shared / "measured"), "--source", "peft_metamath"]
    assert main([*arguments, "--level", "formula", "--json", str(target)]) == 0
    rows = json.loads(target.read_text())["rows"]
    assert rows[0].keys() == {
        "id", "source", "tier", "task", "level", "kind", "measured_bytes", "estimated_bytes",
        "low_bytes", "high_bytes", "reason",
    }  # fmt: skip


TRACED = {
    # adapter: largest error of the reserved peak, rounded up from what was reached
    "lora--llama-3.2-3B-rank32.json": 0.002,
    "lora--llama-3.2-3B-rank32-lorafa.json": 0.002,
    "boft--llama-3.2-3B-default.json": 0.012,
    "ia3--llama-3.2-3B-default.json": 0.005,
    "loha--llama-3.2-3B-rank32.json": 0.002,
    "prompt_tuning--llama-3.2-3B-default.json": 0.004,
    "shira--llama-3.2-3B-lr_0.0003-random_seed_42.json": 0.007,
    "trainable_tokens--llama-3.2-3B-sos+eos.json": 0.002,
    "prefixtuning--llama-3.2-3B-lr_0.001.json": 0.054,
    "full-finetuning--llama-3.2-3B-lr_0.00001.json": 0.044,
}


@pytest.mark.parametrize("name", sorted(TRACED))
def test_a_traced_method_is_as_near_as_it_was(shared: Path, name: str) -> None:
    rows = _published(shared, name)
    errors = {o.kind.partition("_minus")[0]: o.error for o in judge(rows[-1], "trace").outcomes}
    assert errors["torch_max_memory_reserved"] == pytest.approx(0, abs=TRACED[name])
    assert errors["torch_memory_allocated_end_of_step_avg_over_all_steps"] == pytest.approx(
        0, abs=0.005
    )
    for which in ("99pct", "avg"):
        assert errors[f"torch_memory_reserved_end_of_step_{which}"] == pytest.approx(0, abs=0.03)


GENERATED = {
    # row: (batch, largest error of allocated, of reserved), rounded up from what was reached
    "optimum_benchmark_history:165": (1, 0.0005, 0.001),
    "optimum_benchmark_history:169": (8, 0.0005, 0.002),
    "optimum_benchmark_history:167": (32, 0.0005, 0.001),
}


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_generation_is_traced_under_its_own_release(shared: Path, name: str) -> None:
    """Llama-2-7B, 512 new tokens, transformers 4.35.2: from a side directory that pip makes."""
    _needs("transformers==4.35.2")
    lines = (shared / "measured" / "optimum_benchmark_history.jsonl").read_text().splitlines()
    (row,) = [row for row in map(json.loads, lines) if row["id"] == name]
    row["measured"] = [m for m in row["measured"] if m["kind"].startswith("generate:torch")]
    batch, allocated, reserved = GENERATED[name]
    assert row["batch"] == batch
    errors = {o.kind.rpartition("_")[2]: o.error for o in judge(row, "trace").outcomes}
    assert errors["allocated"] == pytest.approx(0, abs=allocated)
    assert errors["reserved"] == pytest.approx(0, abs=reserved)


def test_a_release_that_cannot_be_had_is_a_reason() -> None:
    assert side_directory("transformers==4.33.0.dev0") == (
        "no side directory is known for transformers==4.33.0.dev0"
    )


def test_adalora_is_traced_by_the_release_that_held_what_was_measured(shared: Path) -> None:
    """Since PEFT 0.21 its ranks ask for gradients, and every layer keeps what is divided by them."""
    (row, *_) = _published(shared, "adalora--llama-3.2-3B-rank32.json")
    (result,) = [r for r in express_by_trace(row) if r.kind.startswith("torch_max_memory_reserved")]
    assert isinstance(result, Expressed)
    assert others(result.scenario.stack) == ("peft==0.20.0",)
    _needs("peft==0.20.0")
    outcome = next(o for o in judge(row, "trace").outcomes if o.kind == result.kind)
    assert outcome.error == pytest.approx(0, abs=0.002)


def test_models_of_one_name_are_traced_apart() -> None:
    """Copies of a checkpoint bear its name and differ in their config, such as the kernel."""
    pytest.importorskip("transformers")
    workload = Workload(inference=Inference(batch_size=1, context_len=8))
    amounts = [
        estimated(
            Expressed(
                kind="peak",
                scenario=Scenario(
                    model=from_config("owner/copy", _gpt2(layers)),
                    workload=workload,
                ),
                reading=Reading(amount="allocated"),
            ),
            "trace",
        ).nominal
        for layers in (1, 3)
    ]
    assert amounts[1] - amounts[0] > 2 * 12 * 768**2 * 2  # two layers' matrices in float16


def _gpt2(layers: int) -> dict[str, object]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": layers,
        "n_embd": 768,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
        "torch_dtype": "float16",
    }


def _needs(requirement: str) -> None:
    found = side_directory(requirement)
    if isinstance(found, str):
        pytest.skip(found)


def _published(shared: Path, name: str) -> list[PublishedRow]:
    lines = (shared / "measured" / "peft_metamath.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["repo_path"].endswith("/" + name)]


MOMENTS = {
    # row and what it read: largest error by trace, rounded up from what was reached
    ("fsdp_qlora_profile_nb:0", "after forward"): 0.005,
    ("fsdp_qlora_profile_nb:8", "after model"): 0.005,
    ("fsdp_qlora_profile_nb:8", "after forward"): 0.06,
    ("fsdp_qlora_profile_nb:8", "after backward"): 0.005,
    ("fsdp_qlora_profile_nb:20", "after forward"): 0.005,
    ("fsdp_qlora_profile_nb:56", "after backward"): 0.01,
    ("hf_sdpa_tables:1", "peak"): 0.013,
    ("hf_sdpa_tables:2", "peak"): 0.003,
    ("hf_sdpa_tables:167", "peak"): 0.011,
    ("hf_sdpa_tables:249", "peak"): 0.002,
    ("hf_sdpa_tables:275", "peak"): 0.003,
    ("hub_pages:28", "init_mem"): 0.03,
    ("llmperf_bnb_a10_derived:0", "prefill"): 0.005,
    ("llmperf_bnb_a10_derived:13", "prefill"): 0.002,
    ("llmperf_bnb_a10_derived:66", "prefill"): 0.007,
    ("llmperf_bnb_a10_derived:116", "prefill"): 0.002,
}
"""Small models, and one of a billion parameters that the trace shortens."""


@pytest.mark.parametrize("key", sorted(MOMENTS))
def test_a_traced_row_is_as_near_as_it_was(shared: Path, key: tuple[str, str]) -> None:
    name, read = key
    source = name.partition(":")[0]
    lines = (shared / "measured" / f"{source}.jsonl").read_text().splitlines()
    (row,) = [row for row in map(json.loads, lines) if row["id"] == name]
    wanted = [entry for entry in row["measured"] if read in entry["kind"]]
    (outcome,) = judge({**row, "measured": wanted}, "trace").outcomes
    assert outcome.error is not None
    assert abs(outcome.error) <= MOMENTS[key]


LLM_PERF = {
    # row: its run's transformers, whether its absmax is nested, largest error by formula
    "llmperf_bnb_a10_derived:18": ("4.40.2", True, 0.002),  # Pythia-12B, 8.04 GB
    "llmperf_bnb_a10_derived:19": ("4.44.2", False, 0.002),  # the same model, 8.55 GB
    "llmperf_bnb_a10_derived:117": ("4.40.2", False, 0.002),  # Llama-7B in 8 bit
    "llmperf_bnb_a10_derived:195": ("4.45.2", False, 0.002),  # Qwen2-0.5B in 8 bit
    "llmperf_bnb_a10_derived:198": ("4.44.2", False, 0.002),  # DeepSeek-V2-Lite in 8 bit
}


@pytest.mark.parametrize("name", sorted(LLM_PERF))
def test_two_figures_of_a_model_are_of_two_runs(shared: Path, name: str) -> None:
    """Nested where accelerate lost the settings, a weight copied to float32, rests of blocks."""
    lines = (shared / "measured" / "llmperf_bnb_a10_derived.jsonl").read_text().splitlines()
    (row,) = [row for row in map(json.loads, lines) if row["id"] == name]
    (result,) = express_llm_perf(row)
    assert isinstance(result, Expressed)
    release_, nested, most = LLM_PERF[name]
    quantization = result.scenario.workload.loading.quantization
    assert quantization is not None
    assert (result.scenario.stack.versions["transformers"], quantization.double_quant) == (
        release_,
        nested,
    )
    (outcome,) = judge(row).outcomes
    assert outcome.error == pytest.approx(0, abs=most)


def test_moments_are_read_between_the_phases() -> None:
    """Loaded 1 KiB; forward keeps 2 KiB of 3; backward frees them and leaves a gradient of 1."""
    place, outside = Place("layer", "aten.mm"), Place("", "aten.sum")
    events = [
        Event("weight", 1024, "load", outside, None),
        Event("kept", 2048, "forward", place, None),
        Event("passing", 1024, "forward", place, None),
        Event("passing", 0, "forward", place, None),
        Event("gradient", 1024, "backward", place, None),
        Event("kept", 0, "backward", place, None),
        Event("state", 4096, "step", outside, None),
    ]
    assert moments_traced(Recording(events=events)) == {
        "loaded": 1024,
        "forward": 3072,
        "backward": 2048,
    }


def test_the_end_of_a_step_is_read_before_the_cache_is_emptied() -> None:
    """1 KiB and 30 MiB are held; a free segment of 40 MiB is still reserved, then given back."""
    mib, outside = 2**20, Place("", "test")
    events = [
        Event("weight", 1024, "load", outside, None),
        Event("state", 30 * mib, "step", outside, None),
        Event("passing", 40 * mib, "step", outside, None),
        Event("passing", 0, "step", outside, None),
        Event(EMPTY_CACHE, 0, "step", outside, None),
        Event("gradient", 512, "step", outside, None),
        Event(EMPTY_CACHE, 0, "step", outside, None),
    ]
    assert step_ends(Recording(events=events)) == (
        (1024 + 30 * mib, (2 + 30 + 40) * mib),
        (1024 + 512 + 30 * mib, (2 + 30) * mib),
    )


def test_generate_works_on_what_the_model_returned() -> None:
    """The logits, 2 KiB, are alive when the model returns; scores and their copy come after."""
    inside, outside = Place("lm_head", "aten.mm"), Place("", "aten._to_copy")
    events = [
        Event("weight", 1024, "load", outside, None),
        Event("logits", 2048, "prefill", inside, None),
        Event("scores", 512, "prefill", outside, None),
        Event("logits", 0, "prefill", outside, None),
        Event("cache", 512, "decode", inside, None),
    ]
    assert moments_traced(Recording(events=events))["forward"] == 3072


@pytest.mark.parametrize("release", ["4.46.3", "4.57.6"])
def test_an_older_release_is_traced_and_said(release: str) -> None:
    """QLoRA and generation by its code: a step's peak is its own, the weights are the same."""
    _needs(f"transformers=={release}")
    stack = Stack(versions={**TESTED, "transformers": release})
    training = Training(
        method="qlora", lora=Lora(r=8), micro_batch_size=1, max_length=128, bf16=True
    )
    plain = Loading(dtype=BFLOAT16)  # 4.x would load float32
    loading = replace(plain, quantization=Quantization(scheme="nf4"))
    for work in (
        Workload(loading=plain, inference=Inference(context_len=64, max_new_tokens=8)),
        Workload(loading=loading, training=training),
    ):
        asked = Scenario(
            model=resolve("HuggingFaceTB/SmolLM-135M"),
            workload=work,
            machine=Machine(gpus=parse_machine("L4").gpus),
            stack=stack,
        )
        then = trace_under(others(stack), asked).estimate
        now = estimate(replace(asked, stack=Stack()))
        assert (
            then.level == "trace" and f"untested stack: transformers {release}" in then.assumptions
        )
        weights = [
            next(
                part.num_bytes
                for part in found.gpus[0].phases[-1].components
                if part.name == "weights"
            )
            for found in (then, now)
        ]
        assert weights[0] == pytest.approx(weights[1], rel=0.02)
