"""The estimate as a whole: the contract, sums, verdicts, the guides' own examples, properties."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.errors import InputError, UnsupportedError
from willfit.estimator import estimate
from willfit.report.contract import estimate_json
from willfit.report.terminal import render
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.catalogue import load
from willfit.units import GIB

NF4 = Quantization(scheme="nf4")
INT8 = Quantization(scheme="int8")


def machine(text: str | None, **changes: Any) -> Machine | None:
    return None if text is None else Machine(gpus=parse_machine(text).gpus, **changes)


def answer(
    model: str,
    gpu: str | None = "T4",
    *,
    inference: Inference | None = None,
    training: Training | None = None,
    limits: bool = False,
    **loading: Any,
) -> Estimate:
    spec = load(model)
    assert spec is not None
    workload = Workload(
        loading=Loading(**loading),
        inference=inference or (None if training else Inference()),
        training=training,
    )
    scenario = Scenario(model=spec, workload=workload, machine=machine(gpu))
    return estimate(scenario, search_limits=limits)


def lora(**changes: Any) -> Training:
    fields: dict[str, Any] = {"method": "lora", "lora": Lora(r=16), "micro_batch_size": 1,
                              "max_length": 512}  # fmt: skip
    return Training(**{**fields, **changes})


WORKLOADS: dict[str, dict[str, Any]] = {
    "inference": {},
    "nf4": {"quantization": NF4, "dtype": FLOAT16},
    "int8": {"quantization": Quantization(scheme="int8"), "dtype": FLOAT16},
    "lora": {"training": lora()},
    "qlora": {"training": lora(method="qlora", gradient_checkpointing=True), "quantization": NF4},
    "full": {"training": Training(method="full", micro_batch_size=1, max_length=256)},
}
MODELS = ["meta-llama/Llama-3.2-1B", "openai-community/gpt2", "google/gemma-2-2b", "opt-350m"]


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpu", ["T4", "T4x2", None])
def test_components_add_up_and_nothing_is_below_the_weights(
    model: str, workload: str, gpu: str | None
) -> None:
    result = estimate_json(answer(model, gpu, **WORKLOADS[workload]))
    parts = {part["name"]: part["bytes"] for part in result["components"]}
    assert sum(parts.values()) == result["peak"]["device_bytes"]
    assert result["peak"]["allocated_bytes"] <= result["peak"]["reserved_bytes"]
    assert result["peak"]["reserved_bytes"] <= result["peak"]["device_bytes"]
    assert parts["weights"] > 0 and min(parts.values()) > 0
    assert result["peak"]["device_bytes"] == max(p["device_bytes"] for p in result["phases"])
    for place in result["per_gpu"]:
        assert sum(part["bytes"] for part in place["components"]) == place["device_bytes"]
    low, high = result["range"]["low_device_bytes"], result["range"]["high_device_bytes"]
    assert low <= result["peak"]["device_bytes"] <= high
    json.dumps(result)


KEYS = {
    "schema", "level", "scenario", "model", "components", "peak", "range", "phases", "per_gpu",
    "host", "kv_cache_bytes", "largest_layer_bytes", "dtypes", "fits", "verdict",
    "headroom_bytes", "assumptions", "unsupported", "ignored_settings",
}  # fmt: skip


def test_the_contracts_keys_are_all_there() -> None:
    result = estimate_json(answer("llama-3-8b"))
    assert result.keys() >= KEYS
    assert result["schema"] == "willfit.estimate/1" and result["level"] == "formula"
    assert result["model"].keys() >= {"id", "library", "source", "num_params",
                                      "num_trainable_params"}  # fmt: skip
    assert set(result["scenario"]) == {"model", "workload", "machine", "stack"}
    assert result["host"].keys() == {"ram_bytes", "pinned_bytes", "disk_bytes", "fits"}
    assert result["per_gpu"][0].keys() >= {
        "index", "name", "allocated_bytes", "reserved_bytes", "device_bytes", "capacity_bytes",
        "budget_bytes", "fits", "components",
    }  # fmt: skip
    assert result["dtypes"][0].keys() == {
        "dtype", "largest_layer_bytes", "total_bytes", "training_adam_bytes",
    }  # fmt: skip


def test_without_a_gpu_there_are_amounts_and_no_verdict() -> None:
    result = estimate_json(answer("llama-3-8b", None))
    assert result["fits"] is None and result["verdict"] is None
    assert result["headroom_bytes"] is None and result["per_gpu"] == []
    assert result["scenario"]["machine"] is None


def test_attention_on_a_t4_takes_gigabytes_more_than_on_an_l4_unless_padded() -> None:
    context = Inference(context_len=4096)
    padded = Inference(context_len=4096, padded=True)
    plain = {gpu: answer("llama-3-8b", gpu, inference=context, quantization=NF4, dtype=FLOAT16)
             for gpu in ("T4", "L4")}  # fmt: skip
    masked = {gpu: answer("llama-3-8b", gpu, inference=padded, quantization=NF4, dtype=FLOAT16)
              for gpu in ("T4", "L4")}  # fmt: skip

    def gap(results: dict[str, Estimate]) -> float:
        peaks = {gpu: result.binding.peak.device_bytes for gpu, result in results.items()}
        return (peaks["T4"] - peaks["L4"]) / GIB

    assert any("attention kernel math" in note for note in plain["T4"].assumptions)
    assert any("attention kernel efficient" in note for note in masked["T4"].assumptions)
    assert gap(plain) >= 3.5
    assert abs(gap(masked)) < 0.2
    bf16 = answer("llama-3-8b", "T4", inference=padded, quantization=NF4, dtype=BFLOAT16)
    assert any("attention kernel math" in note for note in bf16.assumptions)


@pytest.mark.parametrize(
    ("scheme", "caps"),
    [("nf4", {0: 600_000_000, 1: 10**9}), ("int8", {0: 10**9, 1: 2 * 10**9})],
)
def test_the_guides_bloom_maps_are_refused_naming_the_embedding(
    scheme: Any, caps: dict[int | str, int]
) -> None:
    result = answer(
        "bloom-3b",
        "T4x2",
        quantization=Quantization(scheme=scheme),
        max_memory=caps,
    )
    assert result.fits is False and result.verdict == "does_not_fit"
    assert result.refused is not None
    assert "transformer.word_embeddings takes 1.20 GiB (1.28 GB), stays float16" in result.refused
    assert "smallest that work: {0: " in result.refused


def test_t5_11b_in_8_bit_on_a_15_gb_card_keeps_wo_out_of_int8() -> None:
    # 48 × 65,536 × 1,024 elements of ``wo`` stay in the loading type: 12.0 GiB of float32,
    # 6.0 GiB of bfloat16; in bfloat16 the card holds it
    wo = 48 * 65_536 * 1_024
    stored = answer("t5-11b", "T4", quantization=Quantization(scheme="int8"))
    half = answer("t5-11b", "T4", quantization=Quantization(scheme="int8"), dtype=BFLOAT16)
    weights = {
        name: next(p.num_bytes for p in result.binding.peak.components if p.name == "weights")
        for name, result in (("stored", stored), ("half", half))
    }
    assert stored.verdict == "does_not_fit"
    assert weights["stored"] - weights["half"] >= 2 * wo
    assert weights["stored"] > 4 * wo


def test_one_gpu_that_auto_would_not_fill_is_named() -> None:
    # 0.9 · 0.9 of what is free is less than the model, which the card holds
    held = answer("t5-11b", "15GiB:sm_75", quantization=INT8, dtype=BFLOAT16)
    assert any('"auto" fills no more than' in note for note in held.assumptions)
    assert any("bitsandbytes refuses" in note for note in held.assumptions)
    roomy = answer("t5-11b", "A100-40GB", quantization=INT8, dtype=BFLOAT16)
    assert not any('"auto"' in note for note in roomy.assumptions)


def test_an_encoder_on_one_gpu_and_its_decoder_on_the_other() -> None:
    # T5-11b's decoder alone has a cache: GPU 0, which holds the encoder, has none
    result = answer("t5-11b", "T4x2", quantization=INT8, dtype=BFLOAT16)
    caches = [
        sum(c.num_bytes for c in gpu.peak.components if c.name == "kv_cache") for gpu in result.gpus
    ]
    whole = answer("t5-11b", "A100-40GB", quantization=INT8, dtype=BFLOAT16)
    assert caches[0] == 0 and caches[1] > 0 and result.kv_cache_bytes == whole.kv_cache_bytes


def test_max_memory_is_taken_as_given_even_past_what_is_free() -> None:
    # transformers does not look at what is free where limits are given: GPU 0 overflows
    given = answer("llama-3-8b", "T4x2", max_memory={0: 20 * GIB})
    assert given.gpus[0].layers == "32 layers" and given.gpus[1].layers == "no layers"
    assert given.verdict == "does_not_fit"


@pytest.mark.parametrize("gpu", ["T4", "T4x2"])
def test_the_note_on_weights_says_what_they_are_held_in(gpu: str) -> None:
    result = answer("llama-3-8b", gpu, quantization=NF4)
    notes = [c.note for g in result.gpus for c in g.peak.components if c.name == "weights"]
    assert "nf4" in notes[0] and "bfloat16" in notes[0]
    plain = answer("llama-3-8b", gpu)
    assert not any(c.note for g in plain.gpus for c in g.peak.components if c.name == "weights")


def test_the_fine_tuning_thread_ends_well() -> None:
    """R 64 on all linear layers, 1,024 tokens, one T4: out of memory; checkpointing made it train."""
    wide = Lora(r=64, target_modules=("all-linear",))
    base = {"method": "qlora", "lora": wide, "max_length": 1024, "optimizer": "paged_adamw_32bit"}
    failed = answer("llama-3-8b", "T4:14.75GiB", training=lora(**base), quantization=NF4)
    trained = answer(
        "llama-3-8b",
        "T4:14.75GiB",
        training=lora(**base, gradient_checkpointing=True),
        quantization=NF4,
    )
    small = {**base, "lora": Lora(r=4, target_modules=("all-linear",)), "max_length": 512}
    rank_4 = answer("llama-3-8b", "T4:14.75GiB", training=lora(**small), quantization=NF4)
    assert failed.verdict == "does_not_fit"
    assert trained.verdict == "fits"
    assert rank_4.binding.peak.device_bytes < failed.binding.peak.device_bytes


def test_full_bf16_fine_tuning_has_bf16_states_and_a_foreach_copy() -> None:
    # torch.optim.AdamW on bf16 weights: 2 + 2 + 4 bytes, and the foreach step one copy more
    training = Training(method="full", trainer="loop", micro_batch_size=1, max_length=16)
    result = answer("meta-llama/Llama-3.2-1B", "A100-80GB", training=training)
    step = next(p for g in result.gpus for p in g.phases if p.name == "step")
    parts = {part.name: part.num_bytes for part in step.components}
    parameters = result.num_params
    assert parts["gradients"] == pytest.approx(2 * parameters, rel=0.001)
    assert parts["optimizer_states"] == pytest.approx(4 * parameters, rel=0.001)
    assert parts["temporaries"] == pytest.approx(2 * parameters, rel=0.001)


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("degree", [2, 4, 8])
def test_shards_times_degree_hold_at_least_the_whole(strategy: Any, degree: int) -> None:
    training = Training(method="full", micro_batch_size=1, max_length=64)
    whole = answer("meta-llama/Llama-3.2-1B", "A100-80GB", training=training, dtype=FLOAT32)
    parts = answer(
        "meta-llama/Llama-3.2-1B",
        f"A100-80GBx{degree}",
        training=training,
        dtype=FLOAT32,
        strategy=strategy,
    )

    def states(result: Estimate) -> int:
        step = next(p for p in result.gpus[0].phases if p.name == "step")
        names = ("weights", "gradients", "optimizer_states")
        return sum(part.num_bytes for part in step.components if part.name in names)

    assert states(parts) < states(whole)
    assert degree * states(parts) >= states(whole)


@pytest.mark.parametrize("degree", [2, 4, 8])
@pytest.mark.parametrize("model", ["llama-3-8b", "openai/gpt-oss-20b"])
def test_tensor_parallel_slices_hold_the_whole_together(model: str, degree: int) -> None:
    whole = answer(model, "A100-80GB", dtype=BFLOAT16).gpus[0].peak
    slices = answer(model, f"A100-80GBx{degree}", dtype=BFLOAT16, strategy="tp")
    assert len(slices.gpus) == degree

    def bytes_of(peak: Any, name: str) -> int:
        return next(part.num_bytes for part in peak.components if part.name == name)

    for name in ("weights", "kv_cache"):
        part = bytes_of(slices.gpus[0].peak, name)
        assert part < bytes_of(whole, name) <= degree * part


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="32 attention heads cannot be split over 3 GPUs"):
        answer("llama-3-8b", "A100-80GBx3", strategy="tp")


def test_the_largest_batch_and_context_are_the_last_that_fit() -> None:
    result = answer("llama-3-8b", "L4", limits=True)
    batch, context = result.limits.batch_size, result.limits.context_len
    assert batch is not None and context is not None

    def fits(**changes: Any) -> bool | None:
        return answer("llama-3-8b", "L4", inference=Inference(**changes)).fits

    assert fits(batch_size=batch, context_len=4096) and not fits(
        batch_size=batch + 1, context_len=4096
    )
    assert fits(context_len=context)
    assert context == 8192 or not fits(context_len=context + 1)


def test_what_others_hold_and_what_is_kept_free_lower_the_budget() -> None:
    spec = load("llama-3-8b")
    assert spec is not None
    workload = Workload(inference=Inference())
    free = machine("L4")
    busy = machine("L4", in_use_bytes=(2 * GIB,), reserve_bytes=GIB)
    first = estimate(Scenario(model=spec, workload=workload, machine=free), search_limits=False)
    second = estimate(Scenario(model=spec, workload=workload, machine=busy), search_limits=False)
    assert first.binding.headroom_bytes is not None
    assert second.binding.headroom_bytes == first.binding.headroom_bytes - 3 * GIB


def test_what_the_formulas_do_not_know_is_never_a_number() -> None:
    with pytest.raises(UnsupportedError, match="do not know the activations"):
        answer("microsoft/swin-tiny-patch4-window7-224", inference=Inference())
    with pytest.raises(InputError, match="--train lora or --train qlora"):
        answer("llama-3-8b", training=Training(method="full"), quantization=NF4)


@settings(max_examples=40)
@given(
    model=st.sampled_from(MODELS),
    workload=st.sampled_from(["inference", "nf4"]),
    gpu=st.sampled_from(["T4", "L4", "H100"]),
    batch=st.integers(1, 16),
    context=st.integers(2, 1024),
    padded=st.booleans(),
)
def test_inference_is_monotone_in_batch_and_context(
    model: str, workload: str, gpu: str, batch: int, context: int, padded: bool
) -> None:
    def peak(batch: int, context: int) -> int:
        inference = Inference(batch_size=batch, context_len=context, padded=padded)
        result = answer(model, gpu, inference=inference, **WORKLOADS[workload])
        return result.binding.peak.device_bytes

    assert peak(batch, context) <= peak(batch + 1, context)
    assert peak(batch, context) <= peak(batch, context + 1)


@settings(max_examples=40)
@given(
    model=st.sampled_from(MODELS),
    method=st.sampled_from(["full", "lora"]),
    checkpointing=st.booleans(),
    padded=st.booleans(),
    batch=st.integers(1, 8),
    length=st.integers(8, 1024),
    rank=st.integers(1, 128),
)
def test_training_is_monotone_in_batch_length_and_rank(
    model: str,
    method: Any,
    checkpointing: bool,
    padded: bool,
    batch: int,
    length: int,
    rank: int,
) -> None:
    def peak(batch: int, length: int, rank: int) -> int:
        training = Training(
            method=method,
            lora=Lora(r=rank, target_modules=("all-linear",)) if method == "lora" else None,
            micro_batch_size=batch,
            max_length=length,
            padded=padded,
            gradient_checkpointing=checkpointing,
        )
        return answer(model, "A100-80GB", training=training).binding.peak.device_bytes

    assert peak(batch, length, rank) <= peak(batch + 1, length, rank)
    assert peak(batch, length, rank) <= peak(batch, length + 1, rank)
    assert peak(batch, length, rank) <= peak(batch, length, rank + 1)


def amounts(result: Estimate, gpu: int = 0) -> dict[str, int]:
    return {part.name: part.num_bytes for part in result.gpus[gpu].peak.components}


def test_a_stored_4_bit_checkpoint_trains_as_many_parameters_as_the_original() -> None:
    targets = Lora(r=16, target_modules=("all-linear",))
    stored = answer("unsloth/llama-3-8b-bnb-4bit", "L4", training=lora(lora=targets))
    original = answer("llama-3-8b", "L4", training=lora(lora=targets), quantization=NF4)
    assert stored.num_trainable_params == original.num_trainable_params == 41_943_040
    # its products are dequantised as those of weights quantised while loading
    long = Inference(context_len=2048)
    double = Quantization(scheme="nf4", double_quant=True, compute_dtype=BFLOAT16)
    loaded = answer("llama-3-8b", "L4", inference=long, quantization=double)
    ready = answer("unsloth/llama-3-8b-bnb-4bit", "L4", inference=long)
    assert amounts(ready)["temporaries"] == amounts(loaded)["temporaries"]


@pytest.mark.parametrize(
    ("model", "weak", "strong"),
    [("Qwen/Qwen3-8B-FP8", "A100", "L40S"), ("openai/gpt-oss-20b", "V100-32GB", "A100")],
)
def test_stored_floats_become_bfloat16_where_the_gpu_lacks_them(
    model: str, weak: str, strong: str
) -> None:
    inference = Inference(context_len=128)
    kept = amounts(answer(model, strong, inference=inference))
    dequantised = amounts(answer(model, weak, inference=inference))
    assert dequantised["weights"] > 1.7 * kept["weights"]
    engine = Inference(context_len=128, engine="vllm")
    assert amounts(answer(model, weak, inference=engine))["weights"] < dequantised["weights"]


def test_engines_run_a_bounded_number_of_tokens_at_once() -> None:
    # llama.cpp 512, vLLM 2,048 on this card: a longer context adds to the cache alone
    for engine in ("llama.cpp", "vllm"):
        short, long = (
            amounts(answer("llama-3-8b", "A100", inference=Inference(context_len=n, engine=engine)))
            for n in (4096, 8192)
        )
        assert short["activations"] == long["activations"]
        assert short["kv_cache"] < long["kv_cache"]


def test_what_is_sharded_is_never_whole_on_a_gpu() -> None:
    training = Training(method="full", micro_batch_size=1, max_length=512, bf16=True)
    result = answer("llama-3-8b", "A100x8", training=training, strategy="fsdp")
    load = next(phase for phase in result.gpus[0].phases if phase.name == "load")
    assert load.allocated_bytes < 3 * GIB
    assert result.host.ram_bytes > 14 * GIB


def test_replicas_of_data_parallel_have_no_optimizer() -> None:
    training = Training(method="full", micro_batch_size=1, max_length=512)
    result = answer("gpt2", "T4x2", training=training, strategy="dp")
    assert {"gradients", "optimizer_states"} & amounts(result, 0).keys()
    assert not {"gradients", "optimizer_states"} & amounts(result, 1).keys()


def test_weights_off_the_gpu_are_said_with_the_verdict() -> None:
    result = answer("llama-3-8b", "T4x2", max_memory={0: 10**9}, limits=True)
    assert result.off_gpu_bytes > 14 * GIB and result.limits.batch_size is None
    assert "of weights on disk" in result.notes["offload"]  # no "cpu" in the map
    text = render(result)
    assert "of weights off the GPU" in text


def test_learned_positions_cannot_be_passed() -> None:
    with pytest.raises(InputError, match="512 positions"):
        answer("bert-base-cased", inference=Inference(context_len=513))
    with pytest.raises(InputError, match="1024 positions"):
        answer("gpt2", training=Training(method="full", max_length=2048))
    assert answer("llama-3-8b", "A100", inference=Inference(context_len=10_000)).fits


@pytest.mark.parametrize(("model", "longest"), [("roberta-base", 512), ("BAAI/bge-m3", 8192)])
def test_positions_after_the_padding_index_do_not_count(model: str, longest: int) -> None:
    spec = load(model)
    assert spec is not None and spec.architecture is not None
    assert spec.architecture.max_context == longest


def test_macos_keeps_a_quarter_of_the_memory() -> None:
    result = answer("llama-3-8b", "M1", quantization=None)
    assert result.gpus[0].budget_bytes == result.gpus[0].capacity_bytes * 3 // 4  # type: ignore[operator]


def test_all_linear_on_fused_experts_is_left_to_the_trace() -> None:
    training = lora(lora=Lora(r=16, target_modules=("all-linear",)))
    with pytest.raises(UnsupportedError, match="--trace"):
        answer("Qwen/Qwen3-30B-A3B", "H200", training=training)
