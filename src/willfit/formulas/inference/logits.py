"""Logits: which positions get them, in which type."""

from __future__ import annotations

from typing import Final

from willfit.dtypes import DType
from willfit.scenario.model import Architecture
from willfit.scenario.stack import Stack

LAST_ONLY_SINCE: Final = "4.45"
"""transformers release whose `generate` asks for the last position's logits only
(``num_logits_to_keep``); before, every position's were made and upcast to float32."""
KEEP_TYPE: Final = frozenset({
    "gpt2", "gpt_neo", "gpt_neox", "gpt_bigcode", "opt", "bloom", "falcon", "mpt", "xglm",
    "persimmon", "stablelm", "dbrx",
})  # fmt: skip
"""Model types whose classes never upcast them (transformers 4.35.2, 4.37.2 and 4.42.4
modeling_*.py; GPT-J and CodeGen do, as Llama and those after it)."""


def logits_bytes(
    architecture: Architecture,
    *,
    batch: int,
    q_len: int,
    dtype: DType,
    stack: Stack,
    full: bool,
    model_type: str = "",
) -> int:
    """Bytes of logits at their largest moment.

    `generate`: the last position in the model's type and its float32 copy, (e + 4)·B·V
    (generation/utils.py). ``model(**inputs)``: e·B·S·V; a soft cap or a factor makes a second copy.
    Before 4.45 both made every position and a float32 copy, (e + 4)·B·S·V, but for `KEEP_TYPE`.
    """
    vocab = architecture.vocab_size
    if not stack.at_least("transformers", LAST_ONLY_SINCE):
        elements = batch * q_len * vocab
        return dtype.num_bytes(elements) + (
            0 if model_type in KEEP_TYPE else _upcast(dtype, elements)
        )
    if full:
        elements = batch * q_len * vocab
        copies = 2 if architecture.final_softcap or architecture.scaled_logits else 1
        return copies * dtype.num_bytes(elements)
    elements = batch * vocab
    return dtype.num_bytes(elements) + _upcast(dtype, elements)


def _upcast(dtype: DType, elements: int) -> int:
    return 4 * elements if dtype.block_bytes < 4 else 0
