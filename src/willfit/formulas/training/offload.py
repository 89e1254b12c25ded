"""Activations that wait in pinned host memory between forward and backward (TRL).

trl 1.16 models/activation_offloading.py `OffloadActivations`. A saved tensor whose storage is still
being copied for another saver stays on the GPU too: norms keep their float32 input twice, products
that share an input keep it for each, attention's output is kept by it and by the next product.
"""

from __future__ import annotations

from typing import Final

from willfit.dtypes import FLOAT32
from willfit.formulas.training.saved import Stream
from willfit.scenario.model import Architecture, LayerGroup

STASH: Final = 5
"""Last saved tensors that stay on the GPU while they are copied (``max_fwd_stash_size``)."""
SMALLEST: Final = 1024
"""Bytes below which a tensor stays (``min_offload_size``)."""


def staying_per_token(architecture: Architecture, group: LayerGroup, stream: Stream) -> int:
    """Bytes a token of one layer that stay on the GPU because two operators keep them.

    RMSNorm's float32 input 4·h (q and k norms 4·D·(H + H_kv)); trained: what q, k and v share and
    what gate and up share, e·h each. A fused kernel's output, e·H·D_v, is counted by the caller.
    """
    h, e = architecture.hidden_size, stream.compute.block_bytes
    attention, staying = group.attention, 0
    if architecture.rms_norm and not stream.liger:
        staying += architecture.norms_per_layer * 4 * h
        if attention is not None and attention.qk_norm:
            staying += 4 * attention.head_dim * (attention.num_heads + attention.num_kv_heads)
    gated = group.mlp is not None and group.mlp.gated
    copied = stream.autocast and stream.residual is FLOAT32  # each product casts its own
    if stream.trained and not copied:
        apart = attention is not None and attention.qk_norm  # their savers are too far apart
        staying += 0 if stream.fused_qkv or apart else e * h
        staying += e * h if gated and not stream.fused_gate_up else 0
    return staying


def pinned_bytes(num_bytes: int, tensor_bytes: int) -> int:
    """Page-locked memory of tensors of one size: each in a block of a power of two.

    c10 CachingHostAllocator.h `allocate` rounds up with ``PowerOf2Ceil``.
    """
    if tensor_bytes <= 0:
        return num_bytes
    block = 1 << (tensor_bytes - 1).bit_length()
    return num_bytes * block // tensor_bytes
