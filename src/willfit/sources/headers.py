"""From the tensor names and shapes of file headers to rows: module classes, packed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.scenario.collapse import NamedTensor, collapse
from willfit.scenario.model import StoredQuantization, TensorKind, TensorRow
from willfit.sources.stored import QUANTIZED_MODULE

_CONV1D_TYPES: Final = frozenset(
    {"gpt2", "openai-gpt", "decision_transformer", "imagegpt", "clvp", "gpt_bigcode_conv"}
)
"""Model types whose projections are transformers' transposed ``Conv1D`` (pytorch_utils.py)."""
_CONV1D_OWNERS: Final = ("c_attn", "c_proj", "c_fc", "q_attn")

_STATE_NAMES: Final = frozenset(
    {
        # gptq, awq, aqlm, vptq, hqq, eetq
        "qweight", "qzeros", "scales", "g_idx", "codes", "codebooks", "centroids", "indices",
        "W_q", "meta", "weight_scales", "qscale",
        # bitsandbytes
        "SCB", "weight_format", "absmax", "quant_map", "nested_absmax", "nested_quant_map",
        "nested_offset",
        # compressed-tensors, fp8, modelopt, quanto
        "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx", "weight_scale",
        "weight_scale_inv", "weight_scale_2", "weight_global_scale", "input_scale",
        "input_global_scale", "output_scale", "input_zero_point", "activation_scale",
        "_data", "_scale", "_shift",
    }
)  # fmt: skip
"""Last parts of tensor names that only quantised modules have."""

_STATE_ENDINGS: Final = ("_blocks", "_scales", "_scale_inv", "_weight_scale", "_packed")
"""Ends of the names of quantised expert tensors (gpt-oss ``down_proj_blocks``)."""

_BUFFERS: Final = frozenset(
    {"inv_freq", "masked_bias", "position_ids", "running_mean", "running_var",
     "num_batches_tracked", "relative_position_index", "e_score_correction_bias"}
)  # fmt: skip
"""Last parts of the names of stored buffers, which are no parameters."""

_EMBEDDINGS: Final = ("embed", "wte", "wpe", "shared", "word_embeddings", "token_embd", "tok_emb")
_HEADS: Final = ("lm_head", "embed_out", "output_projection", "score", "classifier")


def rows_from_headers(
    tensors: Iterable[NamedTensor], config: Mapping[str, Any]
) -> tuple[TensorRow, ...]:
    """Rows of a checkpoint as stored, with the module class that names and shapes tell.

    A class is a guess by name (``Linear``, ``Embedding``, ``Norm``, ``Conv2d``…) and only ever
    decides what could be quantised or placed; bytes come from shapes and types alone.
    """
    listed = list(tensors)
    by_owner: dict[str, list[NamedTensor]] = {}
    for tensor in listed:
        by_owner.setdefault(owner_of(tensor.name), []).append(tensor)
    classes = {owner: _module_class(owner, group, config) for owner, group in by_owner.items()}
    return collapse(
        replace(tensor, module=classes[owner_of(tensor.name)], kind=_kind(tensor))
        for tensor in listed
    )


def resident(tensors: Iterable[NamedTensor]) -> list[NamedTensor]:
    """The tensors that stay after loading: bitsandbytes' texts do not, the offset in them does.

    ``quant_state.bitsandbytes__nf4`` is JSON as bytes, with the offset of a double quantisation in
    it; ``weight_format`` names a layout (bitsandbytes 0.50.2 functional.py `QuantState`,
    nn/modules.py `Linear8bitLt`).
    """
    listed = list(tensors)
    names = {tensor.name for tensor in listed}
    kept: list[NamedTensor] = []
    for tensor in listed:
        path, _, last = tensor.name.rpartition(".")
        if last.startswith("bitsandbytes__"):
            weight = path.removesuffix(".quant_state")
            if f"{weight}.nested_absmax" in names:
                offset = f"{weight}.nested_offset"
                kept.append(NamedTensor(name=offset, shape=(), dtype="float32"))
        elif last != "weight_format":
            kept.append(tensor)
    return kept


def owner_of(name: str) -> str:
    """Path of the module that owns a tensor; bitsandbytes hangs its state below ``weight``."""
    return name.rpartition(".")[0].removesuffix(".weight")


def _kind(tensor: NamedTensor) -> TensorKind:
    last = tensor.name.rpartition(".")[2]
    causal_mask = last == "bias" and len(tensor.shape) == 4  # GPT-2's and NeoX's stored mask
    return TensorKind.BUFFER if last in _BUFFERS or causal_mask else TensorKind.PARAMETER


def _module_class(owner: str, tensors: Sequence[NamedTensor], config: Mapping[str, Any]) -> str:
    names = {tensor.name.rpartition(".")[2] for tensor in tensors}
    if _is_quantized(names, tensors):
        return QUANTIZED_MODULE
    if "running_mean" in names:
        return "BatchNorm2d"
    weight = next((t for t in tensors if t.name.endswith("weight")), None)
    if weight is None:
        return "Experts" if any(len(t.shape) == 3 for t in tensors) else "Module"
    return _by_weight(owner.rpartition(".")[2], len(weight.shape), config)


def _by_weight(last: str, rank: int, config: Mapping[str, Any]) -> str:
    if rank == 1:
        return "Norm"
    if rank == 2:
        if any(part in last.lower() for part in _EMBEDDINGS) and last not in _HEADS:
            return "Embedding"
        transposed = config.get("model_type") in _CONV1D_TYPES and last in _CONV1D_OWNERS
        return "Conv1D" if transposed else "Linear"
    return {3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}.get(rank, "Module")


def _is_quantized(names: set[str], tensors: Sequence[NamedTensor]) -> bool:
    if names & _STATE_NAMES or any(name.endswith(_STATE_ENDINGS) for name in names):
        return True
    narrow = ("float8", "float4", "int8", "uint8")
    return any(t.name.endswith("weight") and t.dtype.startswith(narrow) for t in tensors)


def unpacked_count(rows: Iterable[TensorRow], quantization: StoredQuantization) -> int:
    """Parameters before packing: packed words × (bits of a word / bits of a weight).

    Scales, zero points and code books are no parameters of the model and count nothing.
    """
    return sum(row.count * _weights_in(row, quantization) for row in rows if row.is_parameter)


def _weights_in(row: TensorRow, quantization: StoredQuantization) -> int:
    last = row.name.rpartition(".")[2]
    if row.module != QUANTIZED_MODULE or last == "bias":
        return row.num_elements
    packed = last in ("weight", "qweight", "weight_packed", "W_q") or last.endswith("_blocks")
    if not packed:
        return 0
    word_bits = row.dtype.block_bytes * 8
    whole = row.dtype.name.startswith(("float", "bfloat", "int8"))
    return row.num_elements if whole else int(row.num_elements * word_bits / quantization.bits)
