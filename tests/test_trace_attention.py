"""Attention by name in the trace: transformers' own code with the library's kernels below it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.meta_spec import meta_model, spec_of_model
from transformers import masking_utils, modeling_flash_attention_utils, modeling_utils

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.estimator import estimate
from willfit.formulas.attention import AttentionShape, choose_kernel
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.trace.cuda.flash_attention import _backward_2, _backward_3

BATCH, LENGTH, LAYERS, HEADS, SIZE = 4, 512, 4, 8, 32
FACTS: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "head_dim": SIZE, "vocab_size": 300, "num_hidden_layers": LAYERS,
}  # fmt: skip
NAMES = ("sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager")


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return spec_of_model(meta_model("llama", **FACTS), BFLOAT16)


def traced(
    spec: ModelSpec, name: str, *, gpu: str = "A100", train: bool = False, **facts: Any
) -> Any:
    """Allocated bytes by phase, and the whole estimate."""
    dtype = facts.pop("dtype", BFLOAT16)
    if train:
        training = Training(
            method="full", micro_batch_size=BATCH, max_length=LENGTH, attn=name,
            optimizer="adamw_torch_fused", gradient_checkpointing=False, **facts,
        )  # fmt: skip
        work = Workload(loading=Loading(dtype=dtype), training=training)
    else:
        inference = Inference(batch_size=BATCH, context_len=LENGTH + 1, attn=name, **facts)
        work = Workload(loading=Loading(dtype=dtype), inference=inference)
    machine = Machine(gpus=parse_machine(gpu).gpus)
    scenario = Scenario(model=spec, workload=work, machine=machine)
    found = estimate(scenario, trace=True)
    return {phase.name: phase.allocated_bytes for phase in found.gpus[0].phases}, found


def kernels(found: Any) -> set[str]:
    words = "attention kernel "
    return {a.removeprefix(words).split(":")[0] for a in found.assumptions if a.startswith(words)}


@pytest.mark.parametrize("train", [False, True])
def test_the_library_and_sdpa_run_the_same_flash_kernel(llama: ModelSpec, train: bool) -> None:
    """Same outputs, saved sets and workspaces: the peaks differ by blocks of a seed at most."""
    sdpa, first = traced(llama, "sdpa", train=train)
    for name in ("flash_attention_2", "flash_attention_3"):
        ours, found = traced(llama, name, train=train)
        assert kernels(first) == {"flash"} and kernels(found) == {name}
        for phase in ("prefill", "forward") if not train else ("forward", "backward"):
            if phase in sdpa:
                assert abs(ours[phase] - sdpa[phase]) <= 0.002 * sdpa[phase]


def test_padding_keeps_the_gathered_output_beside_the_padded_one(llama: ModelSpec) -> None:
    """L·(B·S·H·D·e of the output, 8·B·S of the indices), of which the last layer's half alone."""
    plain, _ = traced(llama, "flash_attention_2", train=True)
    padded, _ = traced(llama, "flash_attention_2", train=True, padded=True)
    output = 2 * BATCH * LENGTH * HEADS * SIZE
    more = padded["forward"] - plain["forward"]
    assert LAYERS * output <= more <= LAYERS * (output + 8 * BATCH * LENGTH) + 16 * BATCH * LENGTH


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_formulas_agree(llama: ModelSpec, name: str, padded: bool) -> None:
    for train in (False, True):
        ours, found = traced(llama, name, train=train, padded=padded)
        formula = estimate(found.scenario)
        theirs = {phase.name: phase.allocated_bytes for phase in formula.gpus[0].phases}
        phase = "prefill" if not train else max(ours, key=lambda each: ours[each])
        expected = theirs[phase] if not train else max(theirs.values())
        assert 0.9 < expected / ours[phase] < 1.1


def test_eager_softmax_reads_float16_without_a_copy(llama: ModelSpec) -> None:
    """bfloat16 makes a float32 copy of the scores first: 4·B·H·S² less the half ones freed, 2."""
    half, _ = traced(llama, "eager", dtype=FLOAT16)
    brain, _ = traced(llama, "eager", dtype=BFLOAT16)
    scores = BATCH * HEADS * LENGTH**2
    assert 1.9 * scores < brain["prefill"] - half["prefill"] < 2.1 * scores


def test_windows_and_soft_caps_go_into_the_kernel() -> None:
    facts = {**FACTS, "sliding_window": 64, "num_hidden_layers": 2}
    spec = spec_of_model(meta_model("gemma2", **facts), BFLOAT16)
    flash, found = traced(spec, "flash_attention_2")
    eager, _ = traced(spec, "eager")
    assert kernels(found) == {"flash_attention_2"}
    assert eager["prefill"] - flash["prefill"] > 6 * BATCH * HEADS * LENGTH**2


@pytest.mark.parametrize(
    ("name", "gpu", "dtype", "error", "why"),
    [
        ("flash_attention_2", "T4", FLOAT16, InputError, "needs compute capability 8.0"),
        ("flash_attention_2", "A100", FLOAT32, InputError, "runs in float16 or bfloat16"),
        ("flash_attention_4", "H100", BFLOAT16, UnsupportedError, "does not know what"),
    ],
)
def test_what_cannot_run_is_refused(
    llama: ModelSpec, name: str, gpu: str, dtype: Any, error: type[WillfitError], why: str
) -> None:
    with pytest.raises(error, match=why):
        traced(llama, name, gpu=gpu, dtype=dtype)


def test_a_class_without_flash_attention_is_refused_as_transformers_does() -> None:
    spec = spec_of_model(
        meta_model("bloom", hidden_size=64, n_layer=2, n_head=4, vocab_size=99), BFLOAT16
    )
    with pytest.raises(WillfitError, match="does not support Flash Attention"):
        traced(spec, "flash_attention_2")


@pytest.mark.parametrize(
    ("size", "gpu", "dtype", "kernel"),
    [
        (128, "A100", BFLOAT16, "flash"),
        (36, "A100", BFLOAT16, "flash"),
        (320, "A100", BFLOAT16, "efficient"),  # past 256 K and V come repeated to all heads
        (128, "H100", BFLOAT16, "cudnn"),
        (64, "T4", FLOAT16, "math"),  # grouped heads, which no fused kernel of sm_75 takes
    ],
)
def test_head_sizes_take_the_kernel_that_the_formulas_choose(
    size: int, gpu: str, dtype: Any, kernel: str
) -> None:
    facts = {**FACTS, "head_dim": size, "num_hidden_layers": 1}
    spec = spec_of_model(meta_model("llama", **facts), BFLOAT16)
    _, found = traced(spec, "sdpa", gpu=gpu, dtype=dtype)
    shape = AttentionShape(
        batch=BATCH, q_len=LENGTH, kv_len=LENGTH, num_heads=HEADS, num_kv_heads=2, head_dim=size,
        v_head_dim=size, dtype=dtype, masked=False, training=False,
    )  # fmt: skip
    card = parse_machine(gpu).gpus[0]
    chosen = choose_kernel(shape, implementation="sdpa", gpu=card, stack=Stack())
    assert chosen.name == kernel and kernel in kernels(found)


def test_heads_past_256_are_refused() -> None:
    facts = {**FACTS, "head_dim": 320, "num_hidden_layers": 1}
    spec = spec_of_model(meta_model("llama", **facts), BFLOAT16)
    with pytest.raises(WillfitError, match="heads of up to 256"):
        traced(spec, "flash_attention_2")


def test_float32_queries_of_a_quantised_model_are_cast_back(llama: ModelSpec) -> None:
    """After k-bit preparation the stream is float32; transformers casts to the config's type."""
    training = Training(
        method="qlora", lora=Lora(target_modules=("all-linear",)), prepare_kbit=True,
        micro_batch_size=1, max_length=64, attn="flash_attention_2", bf16=False, fp16=False,
        trainer="loop",
    )  # fmt: skip
    nf4 = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
    scenario = Scenario(
        model=llama,
        workload=Workload(loading=Loading(quantization=nf4), training=training),
        machine=Machine(gpus=parse_machine("A100").gpus),
    )
    assert kernels(estimate(scenario, trace=True)) == {"flash_attention_2"}


def test_workspaces_of_the_backward_kernels() -> None:
    """By hand: B=2, S=100, H=4, D=160, two key heads, bfloat16; then five sequences of 256 rows."""
    q, k = torch.empty(2, 100, 4, 160, dtype=torch.bfloat16), torch.empty(2, 100, 2, 160)
    two = [part.nbytes for part in _backward_2(q, k, None)]
    rows = 2 * 128 * 4
    assert two == [4 * rows * 192, 4 * rows, 2 * 2 * 100 * 4 * 160, 2 * 2 * 100 * 4 * 160]
    three = [part.nbytes for part in _backward_3(q, k, None, causal=True, sm=90)]
    expanded = 4 * 2 * 192 * 2 * 192  # rows of keys in blocks of 96
    assert three == [4 * rows, 4 * rows, 4 * rows * 192, expanded, expanded, 4 * 2 * 2 * 4]
    q, k = torch.empty(256, 4, 64, dtype=torch.bfloat16), torch.empty(256, 4, 64)
    assert [part.nbytes for part in _backward_2(q, k, 5)] == [4 * (256 + 640) * 4 * 64, 4 * 896 * 4]


def test_transformers_is_left_as_it_was(llama: ModelSpec) -> None:
    def state() -> tuple[Any, ...]:
        return (
            dict(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS),
            modeling_flash_attention_utils._lazy_imports,
            modeling_flash_attention_utils._loaded_implementation,
            modeling_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX,
            torch.nn.functional.softmax,
        )

    before = state()
    traced(llama, "flash_attention_2")
    with pytest.raises(WillfitError):
        traced(replace(llama, config={**llama.config, "head_dim": 512}), "flash_attention_2")
    assert state() == before
