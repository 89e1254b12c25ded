"""Laws of the time model, and single published speeds that its ranges must hold."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.devices import find_gpu, parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.errors import UnsupportedError
from willfit.estimator.timing import Timing, job_seconds, relative_time, timing
from willfit.formulas.timing.attention import score_pairs
from willfit.formulas.timing.lengths import expected_longest, packed, padded
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
from willfit.scenario.model import Attention
from willfit.sources.resolve import resolve

LLAMA = "meta-llama/Meta-Llama-3-8B"
HALF = Loading(dtype=BFLOAT16)
HEADS = Attention(num_heads=4, num_kv_heads=4, head_dim=8, v_head_dim=8)


def _infer(
    model: str = LLAMA, gpu: str = "A100-80GB", loading: Loading = HALF, **settings: Any
) -> Timing:
    given_settings = {"context_len": 1024, "max_new_tokens": 128, **settings}
    return timing(
        Scenario(
            model=resolve(model),
            workload=Workload(loading=loading, inference=Inference(**given_settings)),
            machine=Machine(gpus=parse_machine(gpu).gpus),
        )
    )


def _train(
    model: str = LLAMA, gpu: str = "A100-80GB", loading: Loading = HALF, **settings: Any
) -> Timing:
    given_settings = {
        "method": "full", "micro_batch_size": 2, "max_length": 1024, "optimizer": "adamw_torch",
        "gradient_checkpointing": False, **settings,
    }  # fmt: skip
    return timing(
        Scenario(
            model=resolve(model),
            workload=Workload(loading=loading, training=Training(**given_settings)),
            machine=Machine(gpus=parse_machine(gpu).gpus),
        )
    )


def _step(timed: Timing) -> float:
    assert timed.step_seconds is not None
    return timed.step_seconds.nominal


def _decode(timed: Timing) -> float:
    assert timed.decode_seconds_per_token is not None
    return timed.decode_seconds_per_token.nominal


@given(batch=st.integers(1, 64), length=st.integers(16, 4096), more=st.integers(1, 512))
def test_more_work_takes_longer(batch: int, length: int, more: int) -> None:
    """Monotone in batch and in length, both of the prompt and of what is trained on."""
    for one, two in (
        (_train(micro_batch_size=batch, max_length=length),
         _train(micro_batch_size=batch, max_length=length + more)),
        (_train(micro_batch_size=batch, max_length=length),
         _train(micro_batch_size=batch + more, max_length=length)),
    ):  # fmt: skip
        assert _step(one) <= _step(two) * (1 + 1e-12)
        assert one.flops < two.flops
    prompt = _infer(batch_size=batch, context_len=length + 128)
    longer = _infer(batch_size=batch, context_len=length + 128 + more)
    assert prompt.prefill_seconds is not None
    assert longer.prefill_seconds is not None
    assert prompt.prefill_seconds.nominal <= longer.prefill_seconds.nominal * (1 + 1e-12)
    assert _decode(prompt) <= _decode(longer) * (1 + 1e-12)


def test_a_larger_model_takes_longer() -> None:
    sizes = [f"Qwen/Qwen2.5-{size}-Instruct" for size in ("0.5B", "1.5B", "7B", "14B", "32B")]
    steps = [_step(_train(model)) for model in sizes]
    prompts = [_infer(model, context_len=4096).prefill_seconds for model in sizes]
    assert steps == sorted(steps)
    assert [p.nominal for p in prompts if p] == sorted(p.nominal for p in prompts if p)


@pytest.mark.parametrize(
    "gpu", ["T4", "P100", "V100", "RTX 4090", "L40S", "H100", "M2 Ultra 192GB"]
)
def test_a_range_has_its_ends_in_order(gpu: str) -> None:
    for span in (
        _train(gpu=gpu).step_seconds,
        _infer(gpu=gpu).batch_seconds,
        _infer(gpu=gpu).tokens_per_second,
    ):
        assert span is not None
        assert 0 < span.low < span.nominal < span.high


def test_checkpointing_adds_one_forward_of_the_layers() -> None:
    """Reentrant: 2·(P_layers + attention) FLOPs more, 8 for 6: the head is not run again."""
    model = resolve(LLAMA)
    plain = _train(attn="eager")
    again = _train(attn="eager", gradient_checkpointing=True, use_reentrant=True)
    layers = model.num_params - 2 * 128256 * 4096 - 65 * 4096  # no embedding, no head, no norms
    tokens, scores = 2 * 1024, 4 * 2 * 32 * 1024 * 1024 * 128 * 32
    assert again.flops - plain.flops == pytest.approx(2 * layers * tokens + scores, rel=1e-9)
    assert 1.2 < _step(again) / _step(plain) < 1.4


def test_frozen_weights_save_a_third_of_the_products() -> None:
    lora = _train(method="lora", lora=Lora(r=8, target_modules=("q_proj",)))
    assert 0.6 < lora.flops / _train().flops < 0.7


def test_freezing_the_head_saves_its_gradient() -> None:
    """Frozen embeddings have none; a frozen head saves 2·V·h·T."""
    frozen = _train(freeze=("lm_head", "embed_tokens"))
    saved = 2 * 128256 * 4096 * 2 * 1024
    assert _train().flops - frozen.flops == pytest.approx(saved, rel=1e-6)
    assert _step(frozen) < _step(_train())


def test_two_gpus_under_ddp_halve_a_samples_time() -> None:
    """LoRA sends next to nothing; full fine-tuning over PCIe pays for its gradients."""
    lora: dict[str, Any] = {"method": "lora", "lora": Lora(r=8)}
    one, two = _train(gpu="L40S", **lora), _train(gpu="L40Sx2", **lora)
    assert relative_time(one, two) == pytest.approx(0.5, rel=0.03)
    full = relative_time(_train(gpu="L40S"), _train(gpu="L40Sx2"))
    assert 0.5 < full < 1.0


def test_a_split_model_is_no_faster_and_replicas_are() -> None:
    alone = _infer(gpu="A100-80GB")
    split = _infer(gpu="A100-80GBx2", loading=replace(HALF, strategy="device_map"))
    copies = _infer(gpu="A100-80GBx2", loading=replace(HALF, strategy="replicas"))
    assert relative_time(alone, split) == pytest.approx(1.0)
    assert relative_time(alone, copies) == pytest.approx(0.5)
    assert any("one after the other" in note for note in split.assumptions)


def test_tensor_parallel_is_faster_but_not_by_its_degree() -> None:
    alone = _infer(gpu="A100-80GB", context_len=8192, batch_size=8)
    shared = _infer(
        gpu="A100-80GBx4", context_len=8192, batch_size=8, loading=replace(HALF, strategy="tp")
    )
    assert 0.25 < relative_time(alone, shared) < 1.0


def test_grouped_queries_and_windows_make_long_contexts_cheaper() -> None:
    """Qwen1.5-7B caches 32 heads, Llama-3-8B 8; Mistral-7B-v0.1 never more than 4,096 tokens."""
    growth = {
        model: _decode(_infer(model, context_len=32000, batch_size=8))
        - _decode(_infer(model, context_len=4096, batch_size=8))
        for model in ("Qwen/Qwen1.5-7B-Chat", LLAMA, "mistralai/Mistral-7B-v0.1")
    }
    many, few, windowed = growth.values()
    assert many > 2 * few
    assert windowed < few / 2


def test_a_mixture_computes_its_active_experts() -> None:
    """Qwen3-30B-A3B: 30.5 billion parameters, 3.3 of them a token (the vendor's figure)."""
    timed = _infer("Qwen/Qwen3-30B-A3B", context_len=1025, max_new_tokens=1, full_logits=True)
    attention = 48 * 4 * 32 * 128 * 1024 * 1025 / 2
    embedding = 151936 * 2048
    active = (timed.flops - attention) / (2 * 1024) + embedding
    assert active == pytest.approx(3.3e9, rel=0.02)


def test_decoding_reads_all_weights_and_prefill_computes() -> None:
    large = _infer("Qwen/Qwen2.5-32B-Instruct", context_len=2048)
    assert large.limited_by == "bandwidth" or large.limited_by == "launch"
    weights = 2 * resolve("Qwen/Qwen2.5-32B-Instruct").num_params
    card = find_gpu("A100-80GB")
    assert card.bandwidth_bytes_per_s is not None
    assert large.decode_seconds_per_token is not None
    assert large.decode_seconds_per_token.low > 0.9 * weights / card.bandwidth_bytes_per_s
    assert _infer(context_len=4097, max_new_tokens=1, batch_size=4).limited_by == "compute"
    assert _infer("Qwen/Qwen2.5-0.5B-Instruct").limited_by == "launch"


def test_weights_off_the_gpu_cross_pcie_for_every_token() -> None:
    """Llama-3-8B with 6 GB of a T4: ten go over PCIe 3, 15.75 GB/s at most."""
    capped = _infer(
        gpu="T4", loading=Loading(dtype=FLOAT16, max_memory={0: 6 * 10**9, "cpu": 30 * 10**9})
    )
    assert capped.limited_by == "pcie"
    assert capped.decode_seconds_per_token is not None
    assert capped.decode_seconds_per_token.low > 9e9 / 15.76e9


def test_bfloat16_is_emulated_on_a_t4() -> None:
    """No tensor cores for it: one report has 4.3 times float16's time for the same batch."""
    half, brain = (
        _step(_train("answerdotai/ModernBERT-base", "T4", Loading(dtype=FLOAT32),
                     micro_batch_size=32, max_length=128, **{flag: True}))
        for flag in ("fp16", "bf16")
    )  # fmt: skip
    assert 4 < brain / half < 10


def test_eight_bit_decodes_slower_and_a_float32_compute_type_trains_slower() -> None:
    half = Loading(dtype=FLOAT16)
    eight = replace(half, quantization=Quantization(scheme="int8"))
    small = "Qwen/Qwen2.5-0.5B-Instruct"  # 3.9 times slower in a report from Colab
    slower = _decode(_infer(small, "T4", eight)) / _decode(_infer(small, "T4", half))
    assert 3 < slower < 5
    single, double = (
        _step(_train(gpu="T4", method="qlora", lora=Lora(r=8), loading=replace(
            half, quantization=Quantization(scheme="nf4", compute_dtype=dtype))))
        for dtype in (None, FLOAT16)
    )  # fmt: skip
    assert single > 2 * double


def test_chunked_prefill_costs_time_and_no_flops() -> None:
    whole, chunked = _infer(context_len=8192), _infer(context_len=8192, prefill_chunk_size=256)
    assert chunked.flops == pytest.approx(whole.flops, rel=1e-9)
    assert chunked.prefill_seconds is not None
    assert whole.prefill_seconds is not None
    assert chunked.prefill_seconds.nominal > whole.prefill_seconds.nominal


def test_liger_and_offloading_move_time_the_way_they_should() -> None:
    settings: dict[str, Any] = {"micro_batch_size": 4, "trainer": "trl", "bf16": True}
    plain = _step(_train(**settings))
    assert _step(_train(use_liger_kernel=True, **settings)) < plain
    assert _step(_train(offload_activations=True, **settings)) > plain


def test_a_paged_optimizer_is_slow_at_the_slow_end_alone() -> None:
    here = _train(gpu="L4", optimizer="adamw_bnb_32bit").step_seconds
    paged = _train(gpu="L4", optimizer="paged_adamw_32bit").step_seconds
    assert here is not None
    assert paged is not None
    assert paged.nominal == here.nominal
    assert paged.high > here.high + 8 * 8e9 * 2 / 32e9  # eight bytes of states, there and back


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    batch=st.integers(1, 5),
)
def test_the_longest_of_a_batch_is_what_every_batch_averages_to(
    lengths: list[int], batch: int
) -> None:
    size = min(batch, len(lengths))
    every = [max(rows) for rows in itertools.combinations(lengths, size)]
    mean, square = expected_longest(lengths, batch)
    assert mean == pytest.approx(sum(every) / len(every))
    assert square == pytest.approx(sum(x * x for x in every) / len(every))


@given(lengths=st.lists(st.integers(1, 500), min_size=64, max_size=400), batch=st.integers(1, 16))
def test_grouping_by_length_pads_less(lengths: list[int], batch: int) -> None:
    random = padded(lengths, batch, None, grouped=False)
    grouped = padded(lengths, batch, None, grouped=True)
    assert random.mean >= random.real - 1e-9
    assert random.real - 1e-9 <= grouped.mean <= random.mean + 1e-9
    assert 0 <= random.waste < 1
    per_row, seen = packed(lengths, 512)
    assert per_row == pytest.approx(512 * len(lengths) / sum(lengths))
    assert seen <= 512


def test_the_mean_length_decides_time_and_the_longest_does_not() -> None:
    """Nine of ten rows are short: 290 tokens of 2,000, the optimizer's step comes on top."""
    mixed = (100,) * 900 + (2000,) * 100
    timed = _train(lengths=mixed, max_length=None, micro_batch_size=1)
    assert timed.padding_waste == pytest.approx(0.0)
    assert _step(timed) < 0.45 * _step(_train(max_length=2000, micro_batch_size=1))
    padded_rows = _train(lengths=mixed, max_length=None, micro_batch_size=8)
    assert padded_rows.padding_waste > 0.5
    grouped = _train(lengths=mixed, max_length=None, micro_batch_size=8, group_by_length=True)
    assert relative_time(padded_rows, grouped) < 0.6


@pytest.mark.parametrize("window", [None, 3, 8, 50])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 9), (12, 12), (5, 20), (40, 40)])
def test_pairs_are_those_that_a_causal_mask_leaves(
    window: int | None, queries: int, keys: int
) -> None:
    seen = sum(
        1
        for query in range(keys - queries, keys)
        for key in range(query + 1)
        if window is None or query - key < window
    )
    assert score_pairs(queries, keys, replace(HEADS, window=window)) == pytest.approx(seen)
    assert score_pairs(queries, keys, replace(HEADS, causal=False)) == queries * keys


def test_a_job_is_its_steps() -> None:
    timed = _train(micro_batch_size=2, gradient_accumulation_steps=4)
    whole = job_seconds(timed, samples=1001, epochs=3)
    assert whole.nominal == pytest.approx(-(-3003 // 8) * _step(timed))
    checked = job_seconds(timed, samples=1001, epochs=3, eval_samples=100)
    assert whole.nominal < checked.nominal < whole.nominal + 100 / 8 * _step(timed)
    answered = _infer(batch_size=4)
    assert answered.batch_seconds is not None
    assert job_seconds(answered, samples=10).nominal == 3 * answered.batch_seconds.nominal


def test_what_is_not_known_is_said() -> None:
    described = _infer(gpu="24GiB:sm_86")
    assert any("not known" in text for text in described.unsupported)
    assert not _infer().unsupported
    engine = _infer(engine="vllm")
    assert any("vllm" in text for text in engine.unsupported)
    with pytest.raises(UnsupportedError, match="loading has no time"):
        timing(Scenario(model=resolve(LLAMA), workload=Workload(loading=HALF)))
    with pytest.raises(UnsupportedError, match="two inferences or two trainings"):
        relative_time(Timing(), Timing())


PUBLISHED = [
    # (tokens/s, model, GPU, settings, source)
    (40.38, "Qwen/Qwen2.5-7B-Instruct", "A100-80GB",
     {"context_len": 2049, "max_new_tokens": 2048, "attn": "flash_attention_2"},
     "QwenLM/Qwen3 docs/source/benchmark/speed_benchmark.rst at a912d23"),
    (17.54, "Qwen/Qwen2.5-32B-Instruct", "A100-80GB",
     {"context_len": 2049, "max_new_tokens": 2048, "attn": "flash_attention_2"}, "the same"),
    (47.40, "Qwen/Qwen2.5-0.5B-Instruct", "A100-80GB",
     {"context_len": 2049, "max_new_tokens": 2048, "attn": "flash_attention_2"}, "the same"),
    (24.4, "Qwen/Qwen2.5-0.5B-Instruct", "T4", {"context_len": 168, "max_new_tokens": 128},
     "dohu012/llm-quantization-benchmark README, Colab"),
    (29.4, "meta-llama/Llama-2-7b-hf", "A10", {"context_len": 307, "max_new_tokens": 287},
     "InternLM/lmdeploy issue 210: 34 ms a token"),
]  # fmt: skip


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[1]} {row[2]}")
def test_published_decoding_is_in_the_range_and_near(row: Any) -> None:
    speed, model, gpu, settings, _ = row
    timed = _infer(model, gpu, Loading(dtype=FLOAT16), **settings).tokens_per_second
    assert timed is not None
    assert timed.low < speed < timed.high
    assert timed.nominal == pytest.approx(speed, rel=0.25)


@pytest.mark.parametrize(
    ("packed_model", "original"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-4B-FP8", "Qwen/Qwen3-4B"),
        ("TheBloke/Llama-2-7B-GPTQ", "meta-llama/Llama-2-7b-hf"),
    ],
)
def test_a_packed_checkpoint_computes_what_its_original_does(
    packed_model: str, original: str
) -> None:
    """Parameters before packing follow from the stated number and the bytes, to the last one."""
    loading = Loading()
    ours = _infer(packed_model, "H100", loading).flops
    assert ours == pytest.approx(_infer(original, "H100", loading).flops, rel=1e-6)


def test_quantising_changes_no_flops() -> None:
    nf4 = replace(HALF, quantization=Quantization(scheme="nf4"))
    assert _infer(loading=nf4).flops == _infer().flops
