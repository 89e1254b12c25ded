"""Logits and loss: the peak at the start of backward.

Bytes per token and vocabulary entry, identified on transformers 5.23 (`ForCausalLMLoss`): logits in
the model's type, their float32 copy, log-softmax 4, and in backward two more float32 tensors.
"""

from __future__ import annotations

from typing import Final

from willfit.dtypes import DType
from willfit.scenario.model import Architecture
from willfit.units import ceil_div

KEPT_OUTPUTS: Final = 14
"""bf16/fp16 model, outputs kept (plain loop): logits 2 + float 4 + log-softmax 4 + gradient 4."""
DROPPED_OUTPUTS: Final = 12
"""The same under the Trainer, which drops the outputs: the half-precision logits are freed."""
FLOAT32_MODEL: Final = 16
"""float32 model: four float32 tensors."""
TRL_ROWS: Final = 4096
TRL_COLUMNS: Final = 32768
"""Tile of TRL 1.16's fused head: tokens × vocabulary entries (kernels/chunked_logprob.py)."""


def loss_peak_bytes(
    architecture: Architecture,
    *,
    tokens: int,
    dtype: DType,
    keeps_outputs: bool,
    upcast: bool = True,
) -> int:
    """Bytes of logits, loss and their gradients at the worst moment, whole logits.

    Without ``upcast`` (masked language models, T5, BART: their own cross-entropy) log-softmax and
    both gradients stay in the logits' type.
    """
    if not upcast and dtype.block_bytes < 4:
        per_entry = (4 if keeps_outputs else 3) * dtype.block_bytes
    elif dtype.block_bytes >= 4:
        per_entry = FLOAT32_MODEL
    else:
        per_entry = KEPT_OUTPUTS if keeps_outputs else DROPPED_OUTPUTS
    if architecture.final_softcap:
        per_entry += 2 * dtype.block_bytes
    return per_entry * tokens * architecture.vocab_size


def kept_logits_bytes(architecture: Architecture, tokens: int, dtype: DType) -> int:
    """Logits that a plain loop keeps in ``outputs`` until the next step."""
    return dtype.num_bytes(tokens * architecture.vocab_size)


def chunked_loss_bytes(
    architecture: Architecture, *, tokens: int, dtype: DType, head_trained: bool
) -> int:
    """A fused head: one tile of logits and its gradient, the hidden gradient in float32.

    A trained head adds its gradient in float32, 4·V·h.
    """
    tile = min(tokens, TRL_ROWS) * min(architecture.vocab_size, TRL_COLUMNS)
    hidden = 4 * tokens * architecture.hidden_size
    head = 4 * architecture.vocab_size * architecture.hidden_size if head_trained else 0
    return 2 * dtype.num_bytes(tile) + hidden + head


def liger_chunk_rows(tokens: int, vocab_size: int, hidden_size: int) -> int:
    """Rows of one chunk of Liger's fused loss (fused_linear_cross_entropy.py)."""
    rows = ceil_div(tokens, ceil_div(vocab_size, hidden_size))
    return min(1 << (rows - 1).bit_length(), tokens)
