"""Linear-attention and state-space layers: the states they keep, whatever the context.

Each function gives the state shapes that transformers 5.23 keeps for that mixer (its modelling
file's ``update_conv_state`` / ``update_recurrent_state`` calls).
"""

from __future__ import annotations

from typing import Final

from willfit.dtypes import FLOAT32
from willfit.scenario.model import Recurrent, Scan
from willfit.sources.architecture.fields import Fields

DELTA_CHUNK: Final = 64
"""Default of `torch_chunk_gated_delta_rule`, which no config changes."""


def mamba(fields: Fields, hidden_size: int) -> Recurrent:
    """Mamba-1 (mamba, falcon_mamba, jamba): conv (D, K) and state (D, N), D = expand × hidden."""
    inner = fields.size("intermediate_size") if fields.size("state_size") else None
    expand = fields.size("mamba_expand", fields.size("expand", 2)) or 2
    inner = inner or expand * hidden_size
    kernel = fields.size("mamba_d_conv", fields.size("conv_kernel", 4)) or 4
    state = fields.size("mamba_d_state", fields.size("state_size", 16)) or 16
    return Recurrent(
        conv_elements=inner * kernel,
        state_elements=inner * state,
        state_dtype=FLOAT32,
        inner_size=inner,
        conv_size=inner,
        scan=Scan(kind="selective", num_heads=inner, key_dim=state, value_dim=1),
    )


def mamba2(fields: Fields) -> Recurrent:
    """Mamba-2: conv (D + 2·G·N, K) and state (heads, head_dim, N)."""
    heads = _first(fields, "mamba_n_heads", "mamba_num_heads", "num_heads", default=128)
    head_dim = _first(fields, "mamba_d_head", "mamba_head_dim", "head_dim", default=64)
    groups = _first(fields, "mamba_n_groups", "n_groups", default=1)
    state = _first(fields, "mamba_d_state", "ssm_state_size", "state_size", default=128)
    kernel = _first(fields, "mamba_d_conv", "conv_kernel", default=4)
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    return Recurrent(
        conv_elements=channels * kernel,
        state_elements=heads * head_dim * state,
        inner_size=inner,
        state_dtype=FLOAT32,
        conv_size=channels,
        widened=fields.text("model_type") == "falcon_h1",
        scan=Scan(
            kind="chunked",
            num_heads=heads,
            key_dim=state,
            value_dim=head_dim,
            chunk_len=_first(fields, "mamba_chunk_size", "chunk_size", default=256),
        ),
    )


def gated_delta_net(fields: Fields) -> Recurrent:
    """Qwen3-Next: conv (2·key + value widths, K) and state (value heads, key dim, value dim)."""
    key_dim = fields.size("linear_key_head_dim", 128) or 128
    value_dim = fields.size("linear_value_head_dim", 128) or 128
    key_heads = fields.size("linear_num_key_heads", 16) or 16
    value_heads = fields.size("linear_num_value_heads", 32) or 32
    kernel = fields.size("linear_conv_kernel_dim", 4) or 4
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    return Recurrent(
        conv_elements=channels * kernel,
        state_elements=value_heads * key_dim * value_dim,
        state_dtype=FLOAT32,
        inner_size=value_heads * value_dim,
        conv_size=channels,
        scan=Scan(
            kind="delta",
            num_heads=value_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            chunk_len=DELTA_CHUNK,
            shares_keys=key_heads != value_heads,
        ),
    )


def short_convolution(fields: Fields, hidden_size: int) -> Recurrent:
    """LFM2: a convolution state (hidden, L_cache) and nothing recurrent."""
    kernel = fields.size("conv_L_cache", 3) or 3
    return Recurrent(
        conv_elements=hidden_size * kernel,
        state_elements=0,
        inner_size=hidden_size,
        conv_size=hidden_size,
    )


def lightning(num_heads: int, head_dim: int) -> Recurrent:
    """MiniMax-01 lightning attention: a (heads, D, D) state."""
    return Recurrent(
        conv_elements=0,
        state_elements=num_heads * head_dim * head_dim,
        inner_size=num_heads * head_dim,
    )


def _first(fields: Fields, *names: str, default: int) -> int:
    for name in names:
        value = fields.size(name)
        if value is not None:
            return value
    return default
