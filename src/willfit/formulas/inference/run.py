"""One forward pass: what its layers have in common, and what is alive at one point of a layer.

Units: e bytes an element, h hidden size, tokens = B·S.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from willfit.dtypes import DType
from willfit.formulas.gemm import Gemm
from willfit.formulas.inference.scans import OwnScan
from willfit.scenario.model import Architecture


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes alive at one point of a layer, by what they are."""

    name: str
    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.activations + self.temporaries

    def plus(self, *, activations: int = 0, temporaries: int = 0) -> Moment:
        """The moment with so many bytes more."""
        if not activations and not temporaries:
            return self
        return Moment(
            name=self.name,
            activations=self.activations + activations,
            temporaries=self.temporaries + temporaries,
        )


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass over ``q_len`` new tokens with ``kv_len`` in the cache afterwards."""

    batch: int
    q_len: int
    kv_len: int
    masked: bool
    gemm: Gemm
    kernel_of: Mapping[int | None, str] = field(default_factory=dict)
    """Kernel by window (None for full attention)."""
    fused_qkv: bool = False
    """Whether queries, keys and values are views of one product, which then stays alive."""
    fused_gate_up: bool = False
    """The same of gate and up."""
    cached: bool = True
    """Whether K and V live in the cache rather than in the layer."""
    copies_experts: bool = False
    """Whether the weights of every token's experts are copied side by side."""
    weighs_in_float32: bool = False
    """Whether the routing weights are float32, and experts' outputs times them."""
    math_score_bytes: int = 9
    """Bytes per score inside SDPA's math kernel, by torch's release."""
    always_repeats: bool = False
    """Whether the release of transformers repeats K and V without a mask too."""
    softmax_in_float32: bool = False
    """Whether the release computes a softmax in float32 that today's leaves in its type (T5)."""
    widens_down: bool = False
    """Whether the MLP's last product is float32 beside float16 (T5's ``wo``)."""
    own_scan: OwnScan | None = None
    """How transformers goes through a prompt in mixers; None where an engine has kernels."""
    adapter: Mapping[str, int] = field(default_factory=dict)
    """Temporary bytes a token of an adapted product, by what its input is."""

    def adapted(self, kind: str) -> int:
        """What adapters of such products need besides the product."""
        return self.tokens * self.adapter.get(kind, 0)

    def masked_in(self, window: int | None) -> bool:
        """Whether layers of such a window get a mask: of padding or pieces, or of the window.

        masking_utils.py `_ignore_causal_mask_sdpa`: never skipped where there are as many keys as
        the window is long.
        """
        return self.masked or (
            window is not None and self.q_len > 1 and self.keys_in(window) >= window
        )

    def keys_in(self, window: int | None) -> int:
        """Keys that a call sees: a sliding layer those of its window before the new ones."""
        return self.kv_len if window is None else min(self.kv_len, window - 1 + self.q_len)

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return self.batch * self.q_len

    @property
    def dtype(self) -> DType:
        """Working type of the activations."""
        return self.gemm.dtype


def stream_bytes(architecture: Architecture, run: Pass, copies: int) -> int:
    """``copies`` of the residual stream: input embeddings, layer input, residual, norm output."""
    hidden = architecture.hidden_size
    extra = 0
    if architecture.learned_positions:
        extra = run.tokens * hidden + run.q_len * hidden
    extra += position_elements(architecture, run)
    copies -= 1 if architecture.post_norm and copies > 2 else 0
    rotary = 0 if architecture.learned_positions else 2 * run.q_len * _head_dim(architecture)
    return run.dtype.num_bytes(copies * run.tokens * hidden + extra + rotary)


def position_elements(architecture: Architecture, run: Pass) -> int:
    """T5's positions by heads, H·S², which all layers share; a row each where the mask is in them.

    It was before the release that leaves the softmax in its type (modeling_t5.py).
    """
    if not architecture.relative_bias:
        return 0
    heads = next((g.attention.num_heads for g in architecture.layers if g.attention), 0)
    rows = run.batch if run.masked and run.softmax_in_float32 else 1
    return rows * heads * run.q_len**2


def _head_dim(architecture: Architecture) -> int:
    """Width of cos and sin, which live through all layers: the head size of the first attention."""
    first = (g.attention.head_dim for g in architecture.layers if g.attention is not None)
    return next(first, 0) if architecture.rms_norm else 0
