"""From the tensor table to the device: which type every row is loaded in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from willfit.dtypes import DTYPES, FLOAT16, FLOAT32, DType
from willfit.errors import InputError
from willfit.formulas.experts import as_in_stack, is_merged
from willfit.formulas.quantization import (
    FLOAT16_ONLY,
    is_linear_weight,
    is_skipped,
    packed_bytes,
    skip_patterns,
    state_sizes,
)
from willfit.formulas.weights.loaded import LoadedRow, LoadedWeights
from willfit.scenario.collapse import split_row
from willfit.scenario.model import ModelSpec, TensorKind, TensorRow
from willfit.scenario.stack import Stack, release
from willfit.scenario.workload import Loading, Quantization, QuantScheme
from willfit.sources.stored import QUANTIZED_MODULE

TABLE_DTYPES: Final = (
    "float32", "float16", "bfloat16", "int8", "int4", "nf4", "fp4", "nf4-double", "fp4-double",
)  # fmt: skip
"""Rows that ``--dtypes`` knows besides ordinary types. ``int4`` is read as nf4: transformers'
4-bit loading has no plain int4, and an eighth of everything is what nothing on a GPU takes."""


def load_weights(model: ModelSpec, loading: Loading, stack: Stack) -> LoadedWeights:
    """The model as loading puts it on the device.

    Raises `InputError` for a quantisation on top of one that the checkpoint already has.
    """
    quantization = loading.quantization
    if model.quantization is not None and quantization is not None:
        raise InputError(
            f"{model.id} is already quantised ({model.quantization.method}) and cannot be "
            f"quantised again to {quantization.scheme}: leave --quantize out, or name the original"
        )
    dtype, assumption = loading_dtype(model, loading, stack)
    rows = tuple(_loaded_rows(model, quantization, dtype, stack))
    return LoadedWeights(
        rows=rows,
        dtype=dtype,
        quantization=quantization,
        stored_quantization=_stored_by_bitsandbytes(model),
        assumptions=tuple(filter(None, (assumption, _experts_note(rows, quantization)))),
    )


def _stored_by_bitsandbytes(model: ModelSpec) -> Quantization | None:
    """The settings that a checkpoint quantised by bitsandbytes carries."""
    stored = model.quantization
    if stored is None or not stored.method.startswith("bitsandbytes"):
        return None
    compute = str(stored.settings.get("bnb_4bit_compute_dtype") or "float32")
    scheme: QuantScheme = "int8" if stored.bits == 8 else "nf4"
    if stored.settings.get("bnb_4bit_quant_type") == "fp4" and scheme != "int8":
        scheme = "fp4"
    return Quantization(
        scheme=scheme,
        double_quant=bool(stored.settings.get("bnb_4bit_use_double_quant")),
        compute_dtype=DTYPES.get(compute.removeprefix("torch."), FLOAT32),
    )


def _experts_note(rows: tuple[LoadedRow, ...], quantization: Quantization | None) -> str:
    """Experts that bitsandbytes leaves alone because they are no ``nn.Linear``."""
    experts = sum(
        loaded.total_bytes
        for loaded in rows
        if len(loaded.row.shape) == 3 and "expert" in loaded.row.name and not loaded.quantized
    )
    if quantization is None or not experts:
        return ""
    return (
        f"experts are fused parameters in transformers 5, which bitsandbytes leaves as they are "
        f"({experts / 2**30:.1f} GiB)"
    )


def loading_dtype(model: ModelSpec, loading: Loading, stack: Stack) -> tuple[DType, str]:
    """Type that unquantised weights are loaded in, and the assumption where none was given.

    transformers ≥ 5 loads in the checkpoint's type (modeling_utils.py ``dtype=None → "auto"``),
    4.x in float32; bitsandbytes without a type loads in float16 before 5
    (quantizer_bnb_*.py `update_dtype`).
    """
    if loading.dtype is not None:
        return loading.dtype, ""
    if model.library == "gguf":
        return FLOAT16, ""
    if model.library != "transformers" or stack.at_least("transformers", "5.0"):
        return model.stored_dtype, f"dtype {model.stored_dtype.name}: as the checkpoint is stored"
    if model.quantization is not None:
        return model.stored_dtype, "dtype as the quantised checkpoint is stored"
    if loading.quantization is not None:
        return FLOAT16, "dtype float16: transformers 4 with bitsandbytes and no dtype given"
    return FLOAT32, "dtype float32: transformers 4 loads in float32 unless told otherwise"


def _loaded_rows(
    model: ModelSpec, quantization: Quantization | None, dtype: DType, stack: Stack
) -> Iterator[LoadedRow]:
    there = (row for row in model.tensors if _exists(row, stack))
    rows = [
        part for row in there for part in as_in_stack(_renamed(row, model, stack), model, stack)
    ]
    rows += _cached_rotary(model, dtype, stack)
    rows += _mask_buffers(model, stack)
    named = replace(model, tensors=tuple(_renamed(row, model, stack) for row in model.tensors))
    patterns = skip_patterns(named, quantization) if quantization is not None else ()
    by_layer = any(re.search(r"\d", pattern) for pattern in patterns)
    for row in rows:
        if quantization is None or not is_linear_weight(row):
            yield _plain_row(row, model, dtype)
            continue
        for part, skipped in split_row(row, lambda n: is_skipped(n, patterns), by_layer=by_layer):
            if skipped:
                yield _plain_row(part, model, dtype)
            else:
                yield _quantized_row(part, quantization)


HEAD_NAMED_OTHERWISE: Final = {"gpt_neox": ("5.14", "lm_head.weight", "embed_out.weight")}
"""Model types whose head has another name before a release: that release, the name since, the one
before (modeling_gpt_neox.py of 5.13 and 5.14)."""


def _renamed(row: TensorRow, model: ModelSpec, stack: Stack) -> TensorRow:
    renamed = HEAD_NAMED_OTHERWISE.get(str(model.config.get("model_type")))
    if renamed is None or row.name not in renamed[1:]:
        return row
    since, new, old = renamed
    return replace(row, name=new if stack.at_least("transformers", since) else old)


MASK_BUFFERS_UNTIL: Final = {
    "gpt_neox": ("4.49", "gpt_neox.layers.{{0-{last}}}.attention"),
    "gptj": ("4.45", "transformer.h.{{0-{last}}}.attn"),
    "codegen": ("4.45", "transformer.h.{{0-{last}}}.attn"),
    "gpt2": ("5.2", "transformer.h.{{0-{last}}}.attn"),
}
"""First release whose layers no longer keep a causal mask of all positions, and the module that
kept it, by model type (modeling files of the releases around it)."""


SHARED_MASK: Final = {"4.38": "int64", "4.38.2": "bool"}
"""Type of the one ``causal_mask`` that Llama and Gemma keep, by the first release with it; it is
gone in 4.39 (modeling_llama.py: ``torch.full((max, max), fill_value=1)``)."""


def _mask_buffers(model: ModelSpec, stack: Stack) -> list[TensorRow]:
    """One element for each pair of positions: in every layer (``bias``, bool) or once for all.

    `GPTNeoXAttention._init_bias` of 4.41: ``torch.tril(torch.ones(..., dtype=torch.bool))``.
    """
    architecture, model_type = model.architecture, str(model.config.get("model_type"))
    types = [t for since, t in SHARED_MASK.items() if stack.at_least("transformers", since)]
    shared = types and not stack.at_least("transformers", "4.39")
    if shared and model_type in ("llama", "gemma") and architecture is not None:
        return [_mask("model.causal_mask", architecture.max_context or 0, types[-1])]
    found = MASK_BUFFERS_UNTIL.get(model_type)
    if found is None or architecture is None or stack.at_least("transformers", found[0]):
        return []
    name = f"{found[1].format(last=architecture.num_layers - 1)}.bias"
    return [_mask(name, architecture.max_context or 0, "bool")]


def _mask(name: str, positions: int, dtype: str) -> TensorRow:
    return TensorRow(
        name=name,
        shape=(positions, positions),
        dtype=DTYPES[dtype],
        module="Attention",
        kind=TensorKind.NON_PERSISTENT_BUFFER,
    )


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Cos and sin of every position that each layer of a model type kept."""

    until: str
    """First release without them."""
    since: str = "0"
    """First release with them."""
    prefix: str = ""
    """What the buffers' names begin with."""
    dtype: DType | None = None
    """Their type; None is the model's."""
    module: str = "model.layers.{{0-{last}}}.self_attn"


CACHED_ROTARY: Final = {
    "llama": (_Tables(until="4.38"), _Tables(since="4.38.2", until="4.41", prefix="_")),
    "mistral": (_Tables(until="4.42"),),
    "mixtral": (_Tables(until="4.48"),),
    "qwen2": (_Tables(until="4.45"),),
    "phi": (_Tables(until="4.45"),),
    "gpt_neox": (
        _Tables(until="4.45", dtype=FLOAT32, module="gpt_neox.layers.{{0-{last}}}.attention"),
    ),
}
"""By model type (modeling files of 4.37 to 4.46; Llama's come back for compatibility)."""


def _cached_rotary(model: ModelSpec, dtype: DType, stack: Stack) -> list[TensorRow]:
    """Cos and sin of every layer: 2·L·max_position·D·e, D the part of a head that is turned.

    modeling_llama.py `LlamaRotaryEmbedding._set_cos_sin_cache` of 4.35: two buffers a layer.
    """
    architecture = model.architecture
    release_of = stack.version("transformers")
    there = [
        tables
        for tables in CACHED_ROTARY.get(str(model.config.get("model_type")), ())
        if release(tables.since) <= release_of < release(tables.until)
    ]
    if not there or architecture is None:
        return []
    tables = there[0]
    heads = [g.attention for g in architecture.layers if g.attention is not None]
    turned = int(heads[0].head_dim * _rotary_share(model.config))
    module = f"{tables.module.format(last=architecture.num_layers - 1)}.rotary_emb"
    return [
        TensorRow(
            name=f"{module}.{tables.prefix}{name}",
            shape=(architecture.max_context or 0, turned),
            dtype=tables.dtype or dtype,
            module="RotaryEmbedding",
            kind=TensorKind.NON_PERSISTENT_BUFFER,
        )
        for name in ("cos_cached", "sin_cached")
    ]


def _rotary_share(config: Mapping[str, Any]) -> float:
    """Share of a head's width that is turned: GPT-NeoX and Phi turn a part."""
    named = (config.get("partial_rotary_factor"), config.get("rotary_pct"))
    return next((float(share) for share in named if share is not None), 1.0)


def _exists(row: TensorRow, stack: Stack) -> bool:
    """Whether the stack's transformers has this tensor (buffers come and go with releases)."""
    if row.since is None and row.until is None:
        return True
    version = stack.version("transformers")
    after = row.since is None or version >= release(row.since)
    return after and (row.until is None or version < release(row.until))


def _plain_row(row: TensorRow, model: ModelSpec, dtype: DType) -> LoadedRow:
    target = _target_dtype(row, model, dtype)
    size = 0 if row.tied_to is not None else target.num_bytes(row.num_elements)
    state = row.module == QUANTIZED_MODULE and not _is_packed_weight(row)
    return LoadedRow(
        row=row,
        weight_bytes=0 if state else size,
        state_sizes=(size,) if state else (),
        dtype=target,
        quantized=row.module == QUANTIZED_MODULE and not state,
        merged=is_merged(row, model),
    )


def _is_packed_weight(row: TensorRow) -> bool:
    last = row.name.rpartition(".")[2]
    fused = last.endswith(("_blocks", "_proj", "_packed"))  # experts, or packed by words
    return fused or last in ("weight", "qweight")


def _target_dtype(row: TensorRow, model: ModelSpec, dtype: DType) -> DType:
    """Type of one tensor: floating parameters and stored buffers are cast, the rest stays.

    Some stay float32 under float16 (T5's ``wo``), or under bfloat16 too (DeepSeek-V3's
    ``e_score_correction_bias``): modeling_utils.py 5.23 `_get_dtype_plan`, any part of a name.
    """
    stays = (
        not row.dtype.is_floating
        or row.kind is TensorKind.NON_PERSISTENT_BUFFER
        or row.module == QUANTIZED_MODULE
        or model.library == "gguf"  # llama.cpp keeps every tensor in the type of the file
    )
    if stays:
        return row.dtype
    half = {"float16": frozenset[str](), "bfloat16": FLOAT16_ONLY}.get(dtype.name)
    if half is not None and any(n in row.name for n in model.keep_in_fp32 if n not in half):
        return FLOAT32
    return dtype


def _quantized_row(row: TensorRow, quantization: Quantization) -> LoadedRow:
    n, k = reversed(row.shape) if row.module == "Conv1D" else row.shape
    return LoadedRow(
        row=row,
        weight_bytes=packed_bytes(quantization.scheme, row.num_elements),
        state_sizes=state_sizes(
            quantization.scheme, (n, k), double_quant=quantization.double_quant
        ),
        dtype=DTYPES["int8" if quantization.scheme == "int8" else "uint8"],
        quantized=True,
    )
