"""Bytes of int8, nf4, fp4 and double-quantised models equal really quantised ones, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import InputError
from willfit.formulas.gemm import Gemm, stored_scratch_bytes
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Quantization, Stack
from willfit.scenario.stack import TESTED
from willfit.sources.catalogue import load
from willfit.sources.checkpoint import spec_of
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve
from willfit.sources.structure import Checkpoint
from willfit.units import MIB

TINY = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 500,
}
MODELS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama": ("llama", None, {**TINY, "num_key_value_heads": 2, "tie_word_embeddings": False}),
    "llama tied": ("llama", None, {**TINY, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", None, {"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "opt": ("opt", None, {**TINY, "ffn_dim": 256, "word_embed_proj_dim": 128}),
    "bloom": ("bloom", None, {"hidden_size": 128, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "mixtral": ("mixtral", None, {**TINY, "num_key_value_heads": 2, "num_local_experts": 4}),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "vocab_size": 500},
    ),
    "bert classifier": ("bert", "BertForSequenceClassification", {**TINY, "num_labels": 3}),
    "llama classifier": ("llama", "LlamaForSequenceClassification", {**TINY, "num_labels": 3}),
}  # fmt: skip
SCHEMES = ["nf4", "fp4", "nf4-double", "int8"]


def real_bytes(folder: Path, cls: str, scheme: str, dtype: DType, skip: list[str] | None) -> int:
    """Bytes of every tensor of the model that transformers and bitsandbytes make of a checkpoint."""
    import torch
    import transformers

    settings = transformers.BitsAndBytesConfig(
        load_in_8bit=scheme == "int8",
        load_in_4bit=scheme != "int8",
        bnb_4bit_quant_type=scheme.partition("-")[0] if scheme != "int8" else "nf4",
        bnb_4bit_use_double_quant=scheme.endswith("double"),
        llm_int8_skip_modules=skip,
    )
    model = getattr(transformers, cls).from_pretrained(
        folder,
        quantization_config=settings,
        dtype=getattr(torch, dtype.name),
        device_map={"": "cpu"},
    )
    total, seen = 0, set()
    for tensor in [*model.parameters(), *model.buffers()]:
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        total += tensor.numel() * tensor.element_size()
        state = getattr(tensor, "quant_state", None)
        for piece in _pieces(state) if state is not None else []:
            total += piece.numel() * piece.element_size()
        scale = getattr(tensor, "SCB", None)
        if scale is not None:
            total += scale.numel() * scale.element_size()
    return total


def _pieces(state: Any) -> list[Any]:
    pieces = [state.absmax, state.code]
    if state.nested:
        pieces += [state.state2.absmax, state.state2.code, state.offset]
    return [piece for piece in pieces if hasattr(piece, "numel")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, Any]]:
    import transformers

    made: dict[str, tuple[Path, str, Any]] = {}
    for name, (model_type, cls, config) in MODELS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        loaded = transformers.AutoConfig.for_model(model_type, **config)
        if cls is None:
            model = transformers.AutoModelForCausalLM.from_config(loaded)
        else:
            model = getattr(transformers, cls)(loaded)
        model.save_pretrained(folder)
        made[name] = (folder, type(model).__name__, meta_model(model_type, cls, **config))
    return made


def our_bytes(model: Any, scheme: str, dtype: DType, skip: list[str] | None) -> int:
    quantization = Quantization(
        scheme=scheme.partition("-")[0],  # type: ignore[arg-type]
        double_quant=scheme.endswith("double"),
        skip_modules=tuple(skip) if skip is not None else None,
    )
    weights = load_weights(
        spec_of_model(model), Loading(dtype=dtype, quantization=quantization), Stack()
    )
    return weights.weight_bytes + weights.quantization_state_bytes


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_quantised_bytes_equal_the_real_models(
    checkpoints: dict[str, tuple[Path, str, Any]], name: str, scheme: str
) -> None:
    folder, cls, model = checkpoints[name]
    dtype = FLOAT16 if name == "opt" else BFLOAT16
    assert our_bytes(model, scheme, dtype, None) == real_bytes(folder, cls, scheme, dtype, None)


@pytest.mark.parametrize("skip", [["q_proj"], ["lm_head", "down_proj"], ["model.layers.0"], []])
def test_a_given_skip_list_replaces_the_default(
    checkpoints: dict[str, tuple[Path, str, Any]], skip: list[str]
) -> None:
    folder, cls, model = checkpoints["llama"]
    ours = our_bytes(model, "nf4", BFLOAT16, skip)
    assert ours == real_bytes(folder, cls, "nf4", BFLOAT16, skip)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_t5_in_float16_keeps_wo_in_float32_and_out_of_quantisation(
    checkpoints: dict[str, tuple[Path, str, Any]], scheme: str
) -> None:
    folder, cls, model = checkpoints["t5"]
    ours = our_bytes(model, scheme, FLOAT16, None)
    assert ours == real_bytes(folder, cls, scheme, FLOAT16, None)
    # 4 layers of 256 × 128 in float32 rather than bfloat16
    assert ours - our_bytes(model, scheme, BFLOAT16, None) == 2 * 4 * 256 * 128


@pytest.mark.parametrize(
    ("name", "skip"),
    [
        ("gpt2", ["c_attn"]),  # a suffix, of Conv1D layers
        ("gpt2", []),  # nothing skipped: the tied head shares the embedding, which is no linear
        ("bloom", [r"transformer\.h\.[01]\.mlp"]),  # an expression
        ("t5", ["encoder.block.0", "k"]),  # wo is added to any list
        ("mixtral", ["self_attn"]),
        ("bert classifier", ["classifier", "bert.encoder.layer.1"]),
    ],
)
@pytest.mark.parametrize("scheme", ["nf4-double", "int8"])
def test_skip_lists_reach_the_modules_that_the_library_skips(
    checkpoints: dict[str, tuple[Path, str, Any]], name: str, skip: list[str], scheme: str
) -> None:
    folder, cls, model = checkpoints[name]
    ours = our_bytes(model, scheme, BFLOAT16, skip)
    assert ours == real_bytes(folder, cls, scheme, BFLOAT16, skip)


def test_llama_3_8b_in_4_bit_is_what_was_counted_on_the_real_layers() -> None:
    # 6,979,321,856 linear parameters: half a byte each, one float32 per 64, 64 bytes of code
    # for each of 224 layers; embedding and head stay: 2 × 128,256 × 4,096 × 2 bytes; norms
    spec = load("llama-3-8b")
    assert spec is not None
    weights = load_weights(spec, Loading(quantization=Quantization(scheme="nf4")), Stack())
    linear = 6_979_321_856
    assert weights.quantization_state_bytes == linear // 64 * 4 + 224 * 64
    kept = 2 * 128_256 * 4_096 * 2 + 65 * 4_096 * 2 + 2 * 64 * 4
    assert weights.weight_bytes == linear // 2 + kept


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_quantising_a_quantised_checkpoint_again_is_refused(scheme: str) -> None:
    spec = load("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4")
    assert spec is not None
    with pytest.raises(InputError, match="already quantised"):
        load_weights(spec, Loading(quantization=Quantization(scheme=scheme)), Stack())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "claimed_gib", "ours_gib"),
    [("mistral-7b", 6.87, 6.99), ("llama-3-8b", 7.05, 8.46)],
)
def test_the_discussions_int8_sizes_and_ours(
    model: str, claimed_gib: float, ours_gib: float
) -> None:
    """The page divided everything of `AutoModel` by four; bitsandbytes does not.

    Its figures come out exactly as a quarter of float32 of the model without its head, with the cos
    and sin of every position that each layer of that transformers release kept. Really loaded, the
    head is there, head and embedding stay in 16 bit, and each row of a weight has a scale.
    """
    spec = load(model)
    assert spec is not None
    then = Stack(versions={**TESTED, "transformers": "4.37"})
    headless = with_auto_class(spec, "AutoModel", None)
    page = load_weights(headless, Loading(dtype=FLOAT32), then).weight_bytes / 4
    assert round(page / 2**30, 2) == claimed_gib
    weights = load_weights(spec, Loading(quantization=Quantization(scheme="int8")), Stack())
    ours = weights.weight_bytes + weights.quantization_state_bytes
    assert round(ours / 2**30, 2) == ours_gib


@pytest.mark.parametrize(
    ("settings", "release", "expected"),
    [
        # Llama-3.1-8B: N = 14,336, K = 4,096; measured on an A100 to the byte (DerekLiu35)
        ({"backend": "exllama_v1", "desc_act": True}, "4.48.0", 176_160_768),
        ({"backend": "exllama_v1"}, "4.48.0", 2 * 14_336 * 4_096),
        ({"backend": "exllama_v2"}, "4.48.0", 2 * 14_336 * 4_096 + 4 * 2_048 * 8 * 14_336),
        ({"backend": "cuda_old"}, "4.48.0", 0),
        ({}, "4.48.0", 2 * 14_336 * 4_096),  # AutoGPTQ's default
        ({}, "5.23.0", 0),  # GPTQModel's Marlin
        ({"sym": False}, "5.23.0", 2 * 14_336 * 4_096 + 4 * 2_048 * 8 * 14_336),
    ],
)
def test_scratch_of_gptq_is_that_of_its_kernel(
    settings: dict[str, Any], release: str, expected: int
) -> None:
    base = resolve("meta-llama/Llama-3.1-8B")
    packed = {"quant_method": "gptq", "bits": 4, "group_size": 128, **settings}
    model = spec_of(
        Checkpoint(id="copy", source="local", config={**base.config, "quantization_config": packed})
    )
    stack = Stack(versions={**TESTED, "transformers": release})
    assert stored_scratch_bytes(model, stack, find_gpu("A100-SXM4-80GB")) == expected


@pytest.mark.parametrize(
    ("compute", "nested", "today", "before"),
    [
        # 256 rows of 1,024 to 4,096: N·K = 4,194,304; input 0.5 MiB and output 2 MiB in float16
        (FLOAT16, False, 8 * MIB, 8 * MIB),
        (FLOAT16, True, 8.5 * MIB, 8 * MIB),  # absmax 4·NK/64 twice; gone with the weight
        (FLOAT32, False, (1 + 16 + 4 - 2) * MIB, (1 + 8 + 16 - 2) * MIB),
        (FLOAT32, True, (1 + 16.5 + 4 - 2) * MIB, (1 + 8 + 16 - 2) * MIB),
    ],
)
def test_an_older_product_copies_the_dequantised_weight(
    compute: DType, nested: bool, today: float, before: float
) -> None:
    """By `MatMul4Bit` of 0.43: ``dequantize_4bit(B, state).to(A.dtype)``, then the output."""
    quantization = Quantization(scheme="nf4", double_quant=nested, compute_dtype=compute)
    for copies, expected in ((False, today), (True, before)):
        gemm = Gemm(
            dtype=FLOAT16,
            quantization=quantization,
            largest_elements=2**22,
            copies_dequantised=copies,
        )
        assert gemm.forward_temporary_bytes(256, 1024, 4096) == expected
