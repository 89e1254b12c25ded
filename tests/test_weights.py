"""Loaded weights equal what transformers really puts into memory, tensor by tensor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.allocator.rounding import round_block
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Quantization, Stack
from willfit.sources.catalogue import load

TINY = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 500,
}
MLA = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
MODELS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama": ("llama", None, TINY),
    "gpt2": ("gpt2", None, {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "t5, wo in float32 under float16": (
        "t5",
        "T5ForConditionalGeneration",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 500},
    ),
    "bert, integer buffers": ("bert", "BertModel", TINY),
    "gemma3": ("gemma3_text", None, {**TINY, "head_dim": 16}),
    "deepseek-v3, a bias in float32 under bfloat16": ("deepseek_v3", None, {**TINY, **MLA}),
    "ernie, a router in float32 under bfloat16": (
        "ernie4_5_moe",
        None,
        {**TINY, "moe_num_experts": 4, "moe_intermediate_size": 32, "moe_k": 2},
    ),
    "mamba": ("mamba", None, {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 500}),
    "gpt-j, a stored buffer": (
        "gptj",
        None,
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500, "rotary_dim": 8, "n_positions": 64},
    ),
    "resnet, running statistics": (
        "resnet", "ResNetModel", {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16},
    ),
}  # fmt: skip
DTYPES_USED = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_tensor_takes_what_the_library_gives_it(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    logging.disable(logging.WARNING)
    model_type, cls, config = MODELS[name]
    loaded = transformers.AutoConfig.for_model(model_type, **config)
    built = (
        getattr(transformers, cls)
        if cls
        else transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(loaded)]
    )
    built(loaded).save_pretrained(tmp_path)
    spec = spec_of_model(meta_model(model_type, cls, **config))
    for dtype, ours in DTYPES_USED.items():
        model = built.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
        theirs: dict[str, int] = {}
        seen: set[int] = set()
        for key, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]:
            # a scalar buffer made in the working type (Gemma's embed_scale) is 2 bytes, not 4
            size = round_block(tensor.numel() * tensor.element_size()) if tensor.dim() == 0 else (
                tensor.numel() * tensor.element_size())  # fmt: skip
            theirs[key] = 0 if id(tensor) in seen else size
            seen.add(id(tensor))
        weights = load_weights(spec, Loading(dtype=ours), Stack())
        found = {
            key: loaded.weight_bytes if loaded.row.shape else round_block(loaded.weight_bytes)
            for loaded in weights.rows
            for key in loaded.row.names()
        }
        assert found == theirs, dtype
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("model", "transformers", "quantize", "expected"),
    [
        ("llama-3-8b", "5.23.0", None, "bfloat16"),  # as stored
        ("llama-3-8b", "4.57.0", None, "float32"),
        ("llama-3-8b", "4.57.0", "nf4", "float16"),
        ("t5-11b", "5.23.0", None, "float32"),
    ],
)
def test_the_type_that_nobody_named(
    model: str, transformers: str, quantize: Any, expected: str
) -> None:
    spec = load(model)
    assert spec is not None
    stack = Stack(versions={**Stack().versions, "transformers": transformers})
    quantization = Quantization(scheme=quantize) if quantize else None
    weights = load_weights(spec, Loading(quantization=quantization), stack)
    assert weights.dtype.name == expected
    assert any(f"dtype {expected}" in note for note in weights.assumptions)


def test_before_transformers_5_bitsandbytes_reaches_the_experts() -> None:
    # mixtral-8x7b: 46,702,792,704 parameters; all but embedding, head (2 × 32,000 × 4,096), norms
    # and nothing else are linear; half a byte and 4/64 each, 64 bytes of code for each matrix
    spec = load("mixtral-8x7b")
    assert spec is not None
    given = Loading(dtype=BFLOAT16, quantization=Quantization(scheme="nf4"))
    fused = load_weights(spec, given, Stack())
    apart = load_weights(
        spec, given, Stack(versions={**Stack().versions, "transformers": "4.57.0"})
    )
    experts = 32 * 8 * 3 * 14_336 * 4_096
    assert fused.weight_bytes - apart.weight_bytes == 2 * experts - experts // 2
    added = apart.quantization_state_bytes - fused.quantization_state_bytes
    assert added == 4 * experts // 64 + 64 * 32 * 8 * 3
    assert 24.5 < (apart.weight_bytes + apart.quantization_state_bytes) / 2**30 < 25.5
    assert any("experts are fused" in note for note in fused.assumptions)
    assert not any("experts are fused" in note for note in apart.assumptions)


def test_parts_of_a_placement_add_up_to_the_whole() -> None:
    spec = load("llama-3-8b")
    assert spec is not None
    weights = load_weights(spec, Loading(quantization=Quantization(scheme="nf4")), Stack())
    first = weights.restricted(lambda name: ".1" in name)
    rest = weights.restricted(lambda name: ".1" not in name)
    assert 0 < first.allocated_bytes < weights.allocated_bytes
    assert first.allocated_bytes + rest.allocated_bytes == weights.allocated_bytes
    assert weights.scaled(4).weight_bytes * 4 >= weights.weight_bytes


def test_allocations_come_layer_after_layer() -> None:
    spec = load("gpt2")
    assert spec is not None
    weights = load_weights(spec, Loading(dtype=FLOAT32), Stack())
    sizes = [size for size, count in weights.sizes() for _ in range(count)]
    assert sum(sizes) == weights.weight_bytes
    matrices = [768 * 2304 * 4, 768 * 768 * 4, 768 * 3072 * 4, 3072 * 768 * 4]
    assert [size for size in sizes if size in matrices] == 12 * matrices
