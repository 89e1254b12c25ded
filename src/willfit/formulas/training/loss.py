"""Logits and loss: the peak at the start of backward.

Bytes per token and vocabulary entry, identified on transformers 5.23 (`ForCausalLMLoss`): logits in
the model's type, their float32 copy, log-softmax 4, and in backward two more float32 tensors.
"""

from __future__ import annotations

from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.scenario.model import Architecture
from willfit.units import ceil_div

KEPT_OUTPUTS: Final = 14
"""bf16/fp16 model, outputs kept (plain loop): logits 2 + float 4 + log-softmax 4 + gradient 4."""
DROPPED_OUTPUTS: Final = 12
"""The same under the Trainer, which drops the outputs: the half-precision logits are freed."""
FLOAT32_KEPT: Final = 16
"""float32 model, outputs kept: logits, log-softmax and both gradients, 4 each."""
FLOAT32_DROPPED: Final = 12
"""The same under the Trainer: no node of the loss needs the logits once log-softmax is there."""
IN_FORWARD: Final = 10
"""16-bit logits 2, their float32 copy 4 and log-softmax 4, while the loss is made of them."""
LIGER_SUMS_SINCE: Final = 80
"""Compute capability from which Liger sums a gradient by ``addmm`` into its place."""
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
    both gradients stay in the logits' type. A soft cap keeps its tanh, e more.
    """
    if not upcast and dtype.block_bytes < 4:
        per_entry = (4 if keeps_outputs else 3) * dtype.block_bytes
    elif dtype.block_bytes >= 4:
        per_entry = FLOAT32_KEPT if keeps_outputs else FLOAT32_DROPPED
    else:
        per_entry = KEPT_OUTPUTS if keeps_outputs else DROPPED_OUTPUTS
    if architecture.final_softcap:
        per_entry += dtype.block_bytes
    return per_entry * tokens * architecture.vocab_size


def loss_forward_bytes(architecture: Architecture, *, tokens: int, dtype: DType) -> int:
    """Bytes of 16-bit logits and of what the loss makes of them before backward."""
    per_entry = IN_FORWARD + (dtype.block_bytes if architecture.final_softcap else 0)
    return per_entry * tokens * architecture.vocab_size


def kept_logits_bytes(architecture: Architecture, tokens: int, dtype: DType) -> int:
    """Logits that a plain loop keeps in ``outputs`` until the next step."""
    return dtype.num_bytes(tokens * architecture.vocab_size)


def trl_loss_bytes(
    architecture: Architecture, *, tokens: int, dtype: DType, weight_dtype: DType, trained: bool
) -> int:
    """TRL's fused head at the end of its backward, ``tokens`` with a label to score.

    A tile of logits 4096·32768·e whatever the vocabulary; gradients of the hidden states, N·h, and
    of a trained head, V·h, in float32 and then in their own type; where autocast casts, the tile's
    part of the weight and of the hidden states.
    """
    rows, columns = min(tokens, TRL_ROWS), min(architecture.vocab_size, TRL_COLUMNS)
    h = architecture.hidden_size
    tile = dtype.num_bytes(rows * TRL_COLUMNS)
    hidden = (4 + dtype.block_bytes) * tokens * h
    head = (4 + weight_dtype.block_bytes) * architecture.vocab_size * h if trained else 0
    cast = dtype.num_bytes((rows + columns) * h) if dtype is not weight_dtype else 0
    return tile + hidden + head + cast


def liger_loss_bytes(
    architecture: Architecture,
    *,
    tokens: int,
    dtype: DType,
    weight_dtype: DType,
    trained: bool,
    sums_in_place: bool = True,
) -> int:
    """Liger's fused loss, which makes its gradients in forward: a chunk of logits, N·h and V·h.

    Where autocast casts, a copy of the weight for the logits, and of a trained one another in
    autocast's cache, for the inputs' gradients. ``sums_in_place``: the weight's gradient is summed
    by the product itself (`LIGER_SUMS_SINCE`), else a product and its float32 copy are beside it.
    Liger 0.8.5 ops/fused_linear_cross_entropy.py.
    """
    vocab_size, h = architecture.vocab_size, architecture.hidden_size
    logits = dtype.num_bytes(liger_chunk_rows(tokens, vocab_size, h) * vocab_size)
    head = weight_dtype.num_bytes(vocab_size * h) if trained else 0
    half = dtype.num_bytes(vocab_size * h)
    cast = half if dtype is not weight_dtype else 0
    cached = cast if trained else 0
    product = half + FLOAT32.num_bytes(vocab_size * h) if trained and not sums_in_place else 0
    return logits + dtype.num_bytes(tokens * h) + head + cached + max(cast, product)


def liger_chunk_rows(tokens: int, vocab_size: int, hidden_size: int) -> int:
    """Rows of one chunk of Liger's fused loss (fused_linear_cross_entropy.py)."""
    rows = ceil_div(tokens, ceil_div(vocab_size, hidden_size))
    return min(1 << (rows - 1).bit_length(), tokens)
