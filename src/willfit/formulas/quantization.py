"""bitsandbytes: which modules it quantises and what they then take, piece by piece.

Sources: bitsandbytes 0.50.2 (nn/modules.py, functional.py) and transformers 5.23
(integrations/bitsandbytes.py, quantizers/base.py `get_modules_to_not_convert`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from willfit.scenario.model import ModelSpec, TensorRow
from willfit.scenario.workload import Quantization
from willfit.units import ceil_div

BLOCK: Final = 64
"""Weights per absmax of nf4 and fp4 (bitsandbytes nn/modules.py `Params4bit`, blocksize 64)."""
NESTED_BLOCK: Final = 256
"""First-level absmax values per second-level one (functional.py `quantize_4bit`)."""
CODE_BYTES: Final = 16 * 4
"""The 4-bit code book, float32, one per layer (functional.py `get_4bit_type`)."""
NESTED_CODE_BYTES: Final = 256 * 4
"""The 8-bit code book of nested absmax, float32, one per layer."""

OUTPUT_EMBEDDINGS: Final = (
    "lm_head", "embed_out", "proj_out", "cls.predictions.decoder", "lm_head.decoder",
)  # fmt: skip
"""Paths under which transformers' classes return `get_output_embeddings`."""

FLOAT16_ONLY: Final = frozenset({
    "wo", "input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm",
    "post_mlp_layernorm", "q_norm", "k_norm", "norm", "expert_bias", "query_tokens", "qformer",
    "time_decay", "time_first", "classifier.weight", "indexer.weights_proj",
    "self_attn.compressor.kv_proj", "self_attn.compressor.gate_proj",
    "self_attn.compressor.indexer.kv_proj", "self_attn.compressor.indexer.gate_proj",
    "self_attn.compressor.indexer.scorer.weights_proj",
})  # fmt: skip
"""What stays float32 under float16 alone and is not quantised: transformers 5.23
``_keep_in_fp32_modules``. Every other kept name is of ``_keep_in_fp32_modules_strict``: float32
under bfloat16 too, and not kept from being quantised (modeling_utils.py `_get_dtype_plan`)."""

_LINEAR: Final = ("Linear", "Conv1D")
_BOUNDARY: Final = r"(?:(?<=\.)|(?=\.|$))"


def state_sizes(scheme: str, shape: tuple[int, int], *, double_quant: bool) -> tuple[int, ...]:
    """Bytes of each tensor of the quantisation state of an N×K weight, packed weight excluded.

    int8: SCB 4·N. nf4/fp4: absmax 4·⌈NK/64⌉ and code 64; doubly quantised: absmax ⌈NK/64⌉, code,
    nested absmax 4·⌈blocks/256⌉, nested code 1,024 and the float32 offset. Exact.
    """
    n, k = shape
    if scheme == "int8":
        return (4 * n,)
    blocks = ceil_div(n * k, BLOCK)
    if not double_quant:
        return (4 * blocks, CODE_BYTES)
    return (blocks, CODE_BYTES, 4 * ceil_div(blocks, NESTED_BLOCK), NESTED_CODE_BYTES, 4)


def packed_bytes(scheme: str, num_elements: int) -> int:
    """Bytes of the weight itself: one per element for int8, half of one for nf4 and fp4."""
    return num_elements if scheme == "int8" else ceil_div(num_elements, 2)


def skip_patterns(model: ModelSpec, quantization: Quantization) -> tuple[str, ...]:
    """Patterns of modules left in 16 bit: those given, else tied ones, the last, the output head.

    transformers 5.23 quantizers/base.py `get_keys_to_not_convert`: a given list replaces the
    default; modules kept in float32 (T5's ``wo``) are added to either.
    """
    given = quantization.skip_modules
    named = _default_skipped(model.tensors) if given is None else given
    return (*named, *(name for name in model.keep_in_fp32 if name in FLOAT16_ONLY))


def is_linear_weight(row: TensorRow) -> bool:
    """Whether the row is the weight of a ``nn.Linear`` or ``Conv1D`` with a storage of its own."""
    return row.module in _LINEAR and row.name.endswith(".weight") and row.tied_to is None


def is_skipped(name: str, patterns: Sequence[str]) -> bool:
    """Whether the module that owns tensor ``name`` is left alone.

    transformers 5.23 quantizers_utils.py `should_convert_module`: an entry matches from the start
    up to a module boundary, as a regular expression, or as a suffix.
    """
    owner = name.rpartition(".")[0]
    return any(owner.endswith(key) or _matches(key, owner) for key in patterns)


def _matches(key: str, owner: str) -> bool:
    try:
        return re.match(rf"(?:{key}){_BOUNDARY}", owner) is not None
    except re.error:
        return owner.startswith(key)


def _default_skipped(rows: Sequence[TensorRow]) -> tuple[str, ...]:
    tied = [name for row in rows if row.tied_to for name in (row.name, row.tied_to)]
    parameters = [row for row in rows if row.is_parameter and row.tied_to is None]
    last = [list(parameters[-1].names())[-1]] if parameters else []
    heads = [row.name for row in rows if row.owner in OUTPUT_EMBEDDINGS and row.is_parameter]
    names = dict.fromkeys([*tied, *last, *heads])
    return tuple(name.removesuffix(".weight") for name in names)
