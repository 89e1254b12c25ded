"""Traces over several GPUs: accelerate's hooks between them, and ranks with formulas on top."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.meta_spec import meta_model, spec_of_model
from tests.test_trace import INT8, LORA, SMALL, STEP, normal

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.outcome import load
from willfit.estimator.ranks.scaled import Scaled
from willfit.estimator.replay import replay
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.trace import trace as door
from willfit.trace.recording import Event, Layer, Place, Recording
from willfit.units import MIB, round_up

LAYERS = 16
HIDDEN = SMALL["hidden_size"]
BATCH, LENGTH = 2, 96


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return spec_of_model(meta_model("llama", None, **SMALL, num_hidden_layers=LAYERS), BFLOAT16)


@pytest.fixture(scope="module")
def t5() -> ModelSpec:
    sizes = {"d_model": 256, "d_kv": 32, "d_ff": 512, "num_heads": 8, "vocab_size": 1000}
    model = meta_model("t5", "T5ForConditionalGeneration", **sizes, num_layers=14)
    return spec_of_model(model, BFLOAT16)


def scenario(spec: ModelSpec, workload: Workload, gpu: str = "L4x2") -> Scenario:
    return Scenario(model=spec, workload=workload, machine=Machine(gpus=parse_machine(gpu).gpus))


def job(asked: Scenario) -> Any:
    loaded = load(asked)
    made = door._Job(
        scenario=asked,
        weights=loaded.weights,
        gpus=[share.gpu for share in loaded.split.shares],
        loads_to_gpu=True,
        placement=loaded.split.device_map or {},
    )
    return made, loaded


PLACED = Loading(strategy="device_map")
GENERATE = Inference(batch_size=BATCH, context_len=LENGTH, max_new_tokens=8)
TRAIN = Training(method="full", **STEP)
WORK = {
    "generate": Workload(inference=GENERATE),
    "train": Workload(loading=PLACED, training=TRAIN),
    "train, checkpointed": Workload(
        loading=PLACED, training=replace(TRAIN, gradient_checkpointing=True)
    ),
    "lora": Workload(loading=PLACED, training=Training(method="lora", lora=LORA, **STEP)),
    "qlora": Workload(
        loading=replace(PLACED, quantization=Quantization(scheme="nf4", compute_dtype=BFLOAT16)),
        training=Training(method="qlora", lora=LORA, bf16=True, **STEP),
    ),
    "int8": Workload(loading=Loading(quantization=INT8), inference=GENERATE),
    "offloaded": Workload(
        loading=Loading(max_memory={0: 14_000_000, "cpu": 10**9}), inference=GENERATE
    ),
}


@pytest.mark.parametrize("work", WORK)
def test_layers_that_repeat_on_each_gpu_are_the_whole_model(llama: ModelSpec, work: str) -> None:
    made, loaded = job(scenario(llama, WORK[work], "L4" if work == "offloaded" else "L4x2"))
    short = door.shorten(made.config, loaded.weights, loaded.split.device_map)
    assert short is not None and len(short.stacks) == 2  # as many segments
    repeated, whole = made.run(short).recording, made.run(None).recording
    assert normal(repeated) == normal(whole)
    for gpu, _ in enumerate(loaded.split.shares):
        ours, theirs = replay(repeated.on(gpu)), replay(whole.on(gpu))
        assert [p.reserved_bytes for p in ours] == [p.reserved_bytes for p in theirs]


def test_two_stacks_over_two_gpus(t5: ModelSpec) -> None:
    made, loaded = job(scenario(t5, WORK["generate"]))
    short = door.shorten(made.config, loaded.weights, loaded.split.device_map)
    assert short is not None
    assert normal(made.run(short).recording) == normal(made.run(None).recording)


def test_what_crosses_between_gpus(llama: ModelSpec) -> None:
    """Copies of prefill: hidden states, and cos and sin for each layer of the other GPU."""
    made, loaded = job(scenario(llama, WORK["generate"]))
    placed = loaded.split.device_map
    first = [placed[f"model.layers.{layer}"] for layer in range(LAYERS)].count(0)
    rotary, head = placed["model.rotary_emb"], placed["lm_head"]
    assert 0 < first < LAYERS and head == 1
    away = first if rotary == 1 else LAYERS - first
    stream = 2 * BATCH * (LENGTH - 8) * HIDDEN
    cos = 2 * BATCH * (LENGTH - 8) * SMALL["head_dim"]
    events = made.run(None).recording.events
    copies = [
        e.num_bytes
        for e in events
        if e.phase == "prefill" and e.num_bytes and e.place.op == "aten.clone.default"
        and e.num_bytes in (stream, cos)
    ]  # fmt: skip
    assert copies.count(cos) == 2 * away
    assert copies.count(stream) >= 1


def test_each_gpu_holds_its_own_weights_and_cache(llama: ModelSpec) -> None:
    asked = scenario(llama, WORK["generate"])
    traced, formula = estimate(asked, trace=True), estimate(asked, search_limits=False)
    assert traced.level == "trace" and len(traced.gpus) == 2
    for ours, theirs in zip(traced.gpus, formula.gpus, strict=True):
        mine = {part.name: part.num_bytes for part in ours.phases[-1].components}
        other = {part.name: part.num_bytes for part in theirs.phases[-1].components}
        assert mine["weights"] == other["weights"] and ours.layers == theirs.layers
        grown = 2 * BATCH * SMALL["num_key_value_heads"] * LENGTH * SMALL["head_dim"]
        assert 0 <= mine["kv_cache"] - other["kv_cache"] <= grown  # one tensor, old and new


def test_gradients_and_states_are_on_the_gpu_of_their_weights(llama: ModelSpec) -> None:
    asked = scenario(llama, WORK["train"])
    traced = estimate(asked, trace=True)
    for gpu in traced.gpus:
        backward = next(phase for phase in gpu.phases if phase.name == "backward")
        parts = {part.name: part.num_bytes for part in backward.components}
        assert parts["optimizer_states"] == pytest.approx(2 * parts["weights"], rel=0.02)


def test_weights_on_the_host_come_to_the_gpu_one_module_at_a_time(llama: ModelSpec) -> None:
    asked = scenario(llama, WORK["offloaded"], "L4")
    traced = estimate(asked, trace=True)
    assert traced.off_gpu_bytes > 0
    held = {part.name: part.num_bytes for part in traced.gpus[0].phases[0].components}
    largest = max(row.num_elements * 2 for row in llama.tensors)
    made, _ = job(asked)
    fetched = {e.handle: e.num_bytes for e in made.run(None).recording.events
               if e.place.op == "fetch"}  # fmt: skip
    assert max(fetched.values()) <= largest
    assert held["weights"] <= 14_000_000


def test_different_gpus_take_their_own_kernels(llama: ModelSpec) -> None:
    asked = scenario(llama, WORK["generate"], "T4,L4")
    result = estimate(asked, trace=True)
    kernels = {text.split()[2].rstrip(":") for text in result.assumptions if "kernel" in text}
    assert {"math", "flash"} <= kernels


@pytest.mark.parametrize("strategy", ["ddp", "dp"])
def test_ranks_have_what_they_share_by_formula_on_top(llama: ModelSpec, strategy: str) -> None:
    alone = estimate(scenario(llama, Workload(training=TRAIN), "L4"), trace=True)
    work = Workload(loading=Loading(strategy=strategy), training=TRAIN)  # type: ignore[arg-type]
    ranks = estimate(scenario(llama, work, "L4x4"), trace=True)
    formula = estimate(scenario(llama, work, "L4x4"), search_limits=False)
    assert any("by formula, on top of one GPU's trace" in text for text in ranks.assumptions)
    assert len(ranks.gpus) == 4
    one, rank, known = (
        {part.name: part.num_bytes for part in result.gpus[0].phases[-1].components}
        for result in (alone, ranks, formula)
    )
    assert rank["weights"] <= one["weights"]
    for name in ("weights", "optimizer_states", "communication"):
        if name == "communication":  # of a segment in whole pages a block keeps a rest under 1 MiB
            asked = known.get(name, 0)
            assert asked <= rank.get(name, 0) <= round_up(asked, 2 * MIB)
        else:
            assert rank[name] == pytest.approx(known[name], rel=0.02, abs=600_000), name


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp"])
def test_a_rank_s_shares_are_the_formulas(llama: ModelSpec, strategy: str) -> None:
    """Two ways to the same bytes: scaled allocations, and counted parameters."""
    work = Workload(loading=Loading(strategy=strategy), training=TRAIN)  # type: ignore[arg-type]
    ranks = estimate(scenario(llama, work, "L4x4"), trace=True)
    formula = estimate(scenario(llama, work, "L4x4"), search_limits=False)
    for gpu, known in zip(ranks.gpus, formula.gpus, strict=True):
        held, counted = (
            {part.name: part.num_bytes for part in phases[-1].components}
            for phases in (gpu.phases, known.phases)
        )
        for name in ("weights", "optimizer_states"):  # a large block keeps a rest under 1 MiB
            assert held[name] == pytest.approx(counted[name], rel=0.02, abs=3 * MIB), name


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_float32_model_s_adapters_under_mixed_precision(
    llama: ModelSpec, strategy: str, lora: Lora | None
) -> None:
    """FSDP's shards stay float32, frozen ones too; DeepSpeed casts all and has masters."""
    loading = Loading(strategy=strategy, dtype=FLOAT32)  # type: ignore[arg-type]
    work = Workload(loading=loading, training=Training(method="lora", lora=lora, bf16=True, **STEP))
    asked = scenario(llama, work, "L4x4")
    traced = estimate(asked, trace=True).gpus[0].phases[-1]
    counted = estimate(asked, search_limits=False).gpus[0].phases[-1]
    held, known = (
        {part.name: part.num_bytes for part in phase.components} for phase in (traced, counted)
    )
    for name in ("weights", "adapters", "optimizer_states"):
        assert held[name] == pytest.approx(known[name], rel=0.02, abs=MIB), name


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fp16_s_scaler_sees_fsdp_s_float32_shards(llama: ModelSpec, method: Any) -> None:
    """What is gathered in float16 has a shard in float32: nothing is refused, as on one GPU it is."""
    half, brain = (
        estimate(
            scenario(llama, Workload(loading=Loading(strategy="fsdp", dtype=own), training=train), "L4x4"),
            trace=True,
        ).gpus[0].peak
        for own, train in (
            (FLOAT16, Training(method=method, fp16=True, **STEP)),
            (BFLOAT16, Training(method=method, bf16=True, **STEP)),
        )
    )  # fmt: skip
    assert half.allocated_bytes == pytest.approx(brain.allocated_bytes, abs=MIB)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp"])
def test_a_rank_computes_what_one_gpu_does(llama: ModelSpec, strategy: str) -> None:
    """Only what is shared differs, also where a long row moves the peak to another moment."""
    train = replace(TRAIN, max_length=16 * TRAIN.max_length)
    alone = estimate(scenario(llama, Workload(training=train), "L4"), trace=True)
    work = Workload(loading=Loading(strategy=strategy), training=train)  # type: ignore[arg-type]
    rank = estimate(scenario(llama, work, "L4x4"), trace=True)
    for mine, other in zip(rank.gpus[0].phases, alone.gpus[0].phases, strict=True):
        held, whole = (
            {part.name: part.num_bytes for part in phase.components} for phase in (mine, other)
        )
        for name in ("activations", "logits"):
            if mine.name == "forward":
                assert held.get(name, 0) == pytest.approx(whole.get(name, 0), rel=0.01), name
        assert held["weights"] <= whole["weights"]
    backward = [next(p for p in r.gpus[0].phases if p.name == "backward") for r in (rank, alone)]
    shared = ("weights", "gradients", "optimizer_states", "communication", "fragmentation")
    own = [
        sum(part.num_bytes for part in phase.components if part.name not in shared)
        for phase in backward
    ]
    if strategy not in ("zero1", "zero2"):  # whose buckets are larger than this model
        assert own[0] == pytest.approx(own[1], rel=0.02)


def test_a_rank_has_its_shards_flat_by_layer_and_its_buffers_from_the_first_step() -> None:
    layers = [Layer("model.layers", number) for number in range(2)]
    place = Place("", "aten.empty")
    alone = Recording(
        events=[
            Event("a", 100, "load", place, layers[0]),
            Event("b", 60, "load", place, layers[0]),
            Event("c", 40, "load", place, layers[1]),
            Event("x", 30, "forward", place, layers[0]),
            Event("x", 0, "forward", place, layers[0]),
            Event("t", 80, "step", place, None),
            Event("t", 0, "step", place, None),
        ],
        categories={"a": "weights", "b": "weights", "c": "weights"},
    )
    rank = Scaled(
        parts={"weights": 0.5, "optimizer_states": 0.25},
        buffers={"communication": 7},
        phases=frozenset(("load", "backward", "step")),
    )
    made = rank.recording(alone)
    assert [(event.phase, event.num_bytes) for event in made.events] == [
        ("load", 80), ("load", 20), ("forward", 7), ("forward", 30), ("forward", 0), ("step", 20),
        ("step", 0),
    ]  # fmt: skip
    assert list(made.categories.values()).count("communication") == 1
    assert rank.has("forward") and rank.has("clip") and not rank.has("decode")


def test_ranks_give_cached_segments_back_where_their_gpu_is_full(llama: ModelSpec) -> None:
    train = replace(TRAIN, max_length=16 * TRAIN.max_length)
    work = Workload(loading=Loading(strategy="ddp"), training=train)
    roomy = estimate(scenario(llama, work, "24GiB:sm_89,24GiB:sm_89"), trace=True).gpus[0]
    needs = max(phase.allocated_bytes for phase in roomy.phases)
    context = roomy.peak.device_bytes - roomy.peak.reserved_bytes
    wasted = roomy.peak.reserved_bytes - needs
    assert wasted > 2**21
    size = f"{roomy.peak.device_bytes - wasted // 4}B:sm_89"
    full = estimate(scenario(llama, work, f"{size},{size}"), trace=True).gpus[0]
    assert context + needs <= full.peak.device_bytes < roomy.peak.device_bytes


def test_a_placement_that_is_refused_is_not_run(llama: ModelSpec) -> None:
    loading = Loading(quantization=INT8, max_memory={0: 3_000_000, "cpu": 10**9})
    asked = scenario(llama, Workload(loading=loading, inference=GENERATE), "L4")
    result = estimate(asked, trace=True)
    assert result.refused and result.level == "formula"


def test_tensor_parallel_training_is_refused_in_words(llama: ModelSpec) -> None:
    work = Workload(loading=Loading(strategy="tp"), training=TRAIN)
    with pytest.raises(UnsupportedError, match="tp"):
        estimate(scenario(llama, work), trace=True)
