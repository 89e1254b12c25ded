"""Which attention kernel a GPU takes, and what that kernel allocates, saves and needs.

Kernel choice: torch 2.13 `sdp_utils.cpp` (also read in the CUDA wheel's library); transformers 5.23
integrations/sdpa_attention.py and masking_utils.py for masks and grouped queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import InputError
from willfit.scenario.machine import Gpu
from willfit.scenario.model import Architecture
from willfit.scenario.stack import Stack
from willfit.scenario.workload import SdpaKernel
from willfit.units import round_up

_HALF: Final = (FLOAT16, BFLOAT16)
_FLASH_NAMES: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")

_MASKLESS: Final = ("flex_attention", *_FLASH_NAMES)
"""Implementations that take no mask of every query and key."""

IMPLEMENTATIONS: Final = ("eager", "sdpa", "flex_attention", *_FLASH_NAMES)
"""Values of ``attn_implementation`` (transformers 5.23 modeling_utils.py `AttentionInterface`)."""

SDPA_SINCE: Final = "4.36"
"""transformers release whose decoders took SDPA by default (4.35 and before: eager)."""
SDPA_REFUSED_SINCE: Final = "5.0"
"""transformers release from which the classes' own flags are known here (modeling_utils.py)."""
ENABLE_GQA_SINCE: Final = "4.54"
"""transformers release that passes ``enable_gqa`` instead of repeating K and V."""
CUDNN_FIRST_SINCE: Final = "2.11"
"""torch release whose SDPA tries cuDNN before flash on Hopper and on data-centre Blackwell."""
SAFE_SOFTMAX_SINCE: Final = "2.5"
"""torch release whose math kernel calls ``_safe_softmax``."""
T5_KEEPS_TYPE_SINCE: Final = "5.15"
"""transformers whose T5 leaves eager attention's softmax in the scores' type."""
SOFTMAX_REUSED_SINCE: Final = "2.11"
"""torch release whose ``_safe_softmax`` was measured to write into the softmax; before, a copy."""


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """One attention call."""

    batch: int
    q_len: int
    kv_len: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    dtype: DType
    masked: bool
    """Whether a mask tensor is passed (padding, packing, a window shorter than the context)."""
    training: bool
    causal: bool = True
    eager_score_bytes: int | None = None
    """Bytes per score of eager attention in this type where the class has its own."""
    broadcasts_kv: bool = False
    """Whether a single head of K and V goes into the products as it is (Falcon), not repeated."""
    softcapped: bool = False
    """Whether scores go through tanh (Gemma-2), which keeps one more copy for backward."""
    math_score_bytes: int = 9
    """Bytes per score inside the math kernel (`math_score_bytes`)."""
    dropout: bool = False
    """Whether dropout is active on the softmax."""
    softmax_in_own_type: bool = False
    """Whether eager attention's softmax is in 16 bit where the scores are, not in float32."""
    always_repeats: bool = False
    """Whether K and V are repeated to all heads also without a mask (before `ENABLE_GQA_SINCE`)."""
    mask_trained: bool = False
    """Whether the mask needs a gradient: T5's positions by heads, in training."""

    @property
    def score_elements(self) -> int:
        """B·H·S_q·S_kv."""
        return self.batch * self.num_heads * self.q_len * self.kv_len

    @property
    def grouped(self) -> bool:
        """Whether several query heads share one key head."""
        return self.num_heads != self.num_kv_heads

    @property
    def broadcast(self) -> bool:
        """Whether K and V have fewer heads and nobody says so: no repeat, no ``enable_gqa``."""
        return self.grouped and self.broadcasts_kv

    @property
    def repeats(self) -> bool:
        """Whether transformers repeats K and V before it calls SDPA."""
        return self.grouped and not self.broadcasts_kv and (self.masked or self.always_repeats)

    def repeated_kv_bytes(self) -> int:
        """K and V copied to every query head: e·B·H·S_kv·(D + D_v); 0 without groups."""
        if not self.grouped:
            return 0
        return self.dtype.num_bytes(
            self.batch * self.num_heads * self.kv_len * (self.head_dim + self.v_head_dim)
        )

    def broadcast_kv_bytes(self, element: int) -> int:
        """K and V as products have them, ``element`` bytes each: at all heads or as they are.

        matmul expands the one head by a stride of zero, which sequences side by side make a copy.
        """
        heads = self.num_kv_heads if self.broadcast and self.batch == 1 else self.num_heads
        return element * self.batch * heads * self.kv_len * (self.head_dim + self.v_head_dim)

    def output_bytes(self) -> int:
        """The attention output: e·B·H·S_q·D_v."""
        return self.dtype.num_bytes(self.batch * self.num_heads * self.q_len * self.v_head_dim)


@dataclass(frozen=True, kw_only=True)
class KernelChoice:
    """The kernel that runs, and why."""

    name: str
    """``flash``, ``efficient``, ``cudnn``, ``math``, ``eager`` or an implementation's own name."""
    reason: str


def takes_sdpa(architecture: Architecture, stack: Stack) -> bool:
    """Whether the class has an SDPA path in the stack's release of transformers."""
    if not stack.at_least("transformers", SDPA_SINCE):
        return False
    if not architecture.sdpa_releases:
        return architecture.supports_sdpa
    return any(
        stack.at_least("transformers", first) and not (end and stack.at_least("transformers", end))
        for first, end in architecture.sdpa_releases
    )


def default_implementation(architecture: Architecture, stack: Stack) -> str:
    """``attn_implementation`` where none is given: SDPA where the class supports it, else eager."""
    return "sdpa" if takes_sdpa(architecture, stack) else "eager"


def resolve_implementation(
    name: str | None, architecture: Architecture | None, stack: Stack
) -> tuple[str, tuple[str, ...]]:
    """The implementation that is taken and what to tell the user; raises on an unknown name.

    Without an architecture and a name, SDPA stands for what the class will take.
    """
    if name is None:
        if architecture is None:
            return "sdpa", ()
        taken = default_implementation(architecture, stack)
        why = "" if taken == "sdpa" else ": the class has no SDPA path"
        return taken, (f"attention {taken}, the library's default{why}",)
    wanted = name.strip().lower().replace("-", "_")
    if wanted in ("bettertransformer", "to_bettertransformer"):
        return "sdpa", ("BetterTransformer is gone from transformers; SDPA is what it became",)
    if wanted not in IMPLEMENTATIONS:
        raise InputError(
            f"unknown attention {name[:40]!r}: expected one of {', '.join(IMPLEMENTATIONS)}"
        )
    lacks = architecture is not None and not takes_sdpa(architecture, stack)
    if wanted == "sdpa" and lacks and stack.at_least("transformers", SDPA_REFUSED_SINCE):
        raise InputError(
            f"the class has no SDPA path in transformers {stack.versions['transformers']}, which "
            "stops in from_pretrained: leave --attn out, which takes eager"
        )
    return wanted, ()


def choose_kernel(
    shape: AttentionShape,
    *,
    implementation: str,
    gpu: Gpu | None,
    stack: Stack,
    forced: SdpaKernel | None = None,
) -> KernelChoice:
    """The kernel of one attention call on this GPU (sm_80 where none is named).

    ``forced``: the only one that ``torch.nn.attention.sdpa_kernel`` allows. Raises `InputError`
    where what was asked for cannot run.
    """
    sm = gpu.sm if gpu is not None and gpu.vendor == "nvidia" else 80
    if forced is not None and implementation != "sdpa":
        raise InputError(
            f"--sdpa-kernel {forced} chooses among SDPA's kernels and attention is "
            f"{implementation}: add --attn sdpa or leave it out"
        )
    if implementation in _FLASH_NAMES:
        _require_flash(shape, implementation, gpu, sm)
        return KernelChoice(name=implementation, reason="asked for")
    if implementation in ("eager", "flex_attention"):
        return KernelChoice(name=implementation, reason="asked for, or the class has no other")
    return _sdpa(shape, sm, stack) if forced is None else _forced(shape, sm, stack, forced)


def _forced(shape: AttentionShape, sm: int, stack: Stack, name: SdpaKernel) -> KernelChoice:
    """The one kernel that is allowed; torch falls back to no other (sdp_utils.cpp)."""
    why = {**_REFUSALS, "math": _never}[name](shape, sm, stack)
    if why is not None:
        raise InputError(
            f"--sdpa-kernel {name} cannot run here ({why}), torch would stop with 'No available "
            "kernel. Aborting execution.': name another kernel or leave it out"
        )
    return KernelChoice(name=name, reason="forced by sdpa_kernel")


def _require_flash(shape: AttentionShape, name: str, gpu: Gpu | None, sm: int) -> None:
    card = gpu.name if gpu is not None else "this GPU"
    if sm < 80:
        raise InputError(
            f"{name} needs compute capability 8.0 and {card} has {sm / 10:.1f}: use sdpa there"
        )
    if shape.dtype not in _HALF:
        raise InputError(
            f"{name} runs in float16 or bfloat16 and the model is {shape.dtype.name}: "
            "add --dtype bfloat16 or use sdpa"
        )


def _sdpa(shape: AttentionShape, sm: int, stack: Stack) -> KernelChoice:
    """The first backend of torch's order whose conditions hold."""
    refusals: list[str] = []
    for name, refuse in _order(sm, stack):
        why = refuse(shape, sm, stack)
        if why is None:
            note = "; ".join(refusals)
            return KernelChoice(name=name, reason=note or f"SDPA's first choice on sm_{sm}")
        refusals.append(f"no {name}: {why}")
    return KernelChoice(name="math", reason="; ".join(refusals))


_Refusal = Callable[[AttentionShape, int, Stack], "str | None"]


def _order(sm: int, stack: Stack) -> list[tuple[str, _Refusal]]:
    """CuDNN first on sm_90 and sm_100 since torch 2.11; else flash, then memory-efficient.

    sdp_utils.cpp `check_prefer_cudnn_attention` asks for a cuDNN above 9.15, which comes with torch
    2.11; measured on an H200 with 2.11.
    """
    fused: list[tuple[str, _Refusal]] = [("flash", _flash), ("efficient", _efficient)]
    if sm // 10 in (9, 10) and stack.at_least("torch", CUDNN_FIRST_SINCE):
        return [("cudnn", _cudnn), *fused]
    return fused


_UNLIKE_HEADS: Final = "takes no fewer heads of K and V without enable_gqa"
"""sdp_utils_cpp.h `check_batch_size_and_num_heads_dense`; modeling_falcon.py calls SDPA so."""


def _flash(shape: AttentionShape, sm: int, _: Stack) -> str | None:
    if sm < 80:
        return f"needs sm_80, this is sm_{sm}"
    if shape.broadcast:
        return _UNLIKE_HEADS
    if shape.dtype not in _HALF:
        return f"needs 16 bit, this is {shape.dtype.name}"
    if shape.masked:
        return "takes no mask"
    if max(shape.head_dim, shape.v_head_dim) > 256 or shape.head_dim != shape.v_head_dim:
        return f"head sizes {shape.head_dim} and {shape.v_head_dim}"
    if shape.training and 192 < shape.head_dim <= 224 and sm in (86, 89, 120, 121):
        return f"no backward for head size {shape.head_dim} on sm_{sm}"
    return None


def _efficient(shape: AttentionShape, sm: int, stack: Stack) -> str | None:
    if shape.dtype is BFLOAT16 and sm < 80:
        return "bfloat16 needs sm_80"
    if shape.broadcast:
        return _UNLIKE_HEADS
    if passes_grouped(shape, stack) and not stack.at_least("torch", "2.14"):
        return "takes no grouped queries in torch 2.13"
    if shape.head_dim % 8 and shape.dtype in _HALF:
        return f"head size {shape.head_dim} is not a multiple of 8"
    return None


def _cudnn_alone(shape: AttentionShape, sm: int, stack: Stack) -> str | None:
    """Where it is not first in the order it runs all the same, from sm_80 on."""
    return _cudnn(shape, sm, stack) if sm >= 80 else f"needs sm_80, this is sm_{sm}"


def _cudnn(shape: AttentionShape, sm: int, _: Stack) -> str | None:
    """A mask that needs a gradient: sdp_utils_cpp.h `check_attn_mask_shape`."""
    if shape.dtype not in _HALF:
        return f"needs 16 bit, this is {shape.dtype.name}"
    if shape.broadcast:
        return _UNLIKE_HEADS
    limit = 256 if sm // 10 == 9 else 128
    if shape.head_dim % 8 or max(shape.head_dim, shape.v_head_dim) > limit:
        return f"head size {shape.head_dim}"
    if shape.mask_trained:
        return "gives a mask no gradient"
    if shape.kv_len == 1:
        return "needs more than one key"
    return None


def _never(*_: object) -> None:
    """The math kernel runs everywhere."""


_REFUSALS: Final[dict[str, _Refusal]] = {
    "flash": _flash,
    "efficient": _efficient,
    "cudnn": _cudnn_alone,
}


def kernel_refusal(kernel: str, shape: AttentionShape, gpu: Gpu, stack: Stack) -> str | None:
    """Why one kernel of SDPA does not take this call on this GPU; None where it does.

    torch 2.13 `sdp_utils.cpp`: the conditions that a kernel forced by ``sdpa_kernel`` is held to.
    """
    if kernel not in _REFUSALS or gpu.vendor != "nvidia":
        return None
    return _REFUSALS[kernel](shape, gpu.sm, stack)


def repeats_always(stack: Stack) -> bool:
    """Whether transformers repeats K and V to all heads also without a mask."""
    return not stack.at_least("transformers", ENABLE_GQA_SINCE)


def passes_grouped(shape: AttentionShape, stack: Stack) -> bool:
    """Whether grouped K and V reach SDPA as they are; a mask makes transformers repeat them.

    integrations/sdpa_attention.py `use_gqa_in_sdpa`: no mask and head size ≤ 256.
    """
    return (
        shape.grouped
        and not (shape.masked or shape.broadcasts_kv)
        and shape.head_dim <= 256
        and not repeats_always(stack)
    )


def mask_bytes(batch: int, q_len: int, kv_len: int, implementation: str, dtype: DType) -> int:
    """The 4-D mask that lives through the forward pass: bool for SDPA, floats too for eager."""
    elements = batch * q_len * kv_len
    if implementation in _MASKLESS:
        return 0
    return elements + (dtype.num_bytes(elements) if implementation == "eager" else 0)


def sdpa_bias_bytes(shape: AttentionShape) -> int:
    """The float copy that SDPA makes of a bool mask on every call: e·B·S_q·(S_kv padded to 8)."""
    if not shape.masked:
        return 0
    return shape.dtype.num_bytes(shape.batch * shape.q_len * round_up(shape.kv_len, 8))


def forward_temporary_bytes(shape: AttentionShape, kernel: str) -> int:
    """Extra bytes at the worst moment inside the call, output included, inputs q, k, v not."""
    return _FORWARD.get(kernel, _fused_forward)(shape)


def _fused_forward(shape: AttentionShape) -> int:
    """Output and, in training, the log-sum-exp; a mask repeats K and V and is made a float bias.

    Measured on an H200 (torch 2.11): exact for cuDNN; flash may split keys over more blocks where
    batch and heads are few, which takes some MiB more.
    """
    lse = 4 * shape.batch * shape.num_heads * shape.q_len if shape.training else 0
    repeated = shape.repeated_kv_bytes() if shape.repeats else 0
    return shape.output_bytes() + lse + repeated + sdpa_bias_bytes(shape)


def _efficient_forward(shape: AttentionShape) -> int:
    """As the others, and the output in float32 first where D_v > 128: 4·B·H·S_q·D_v; measured.

    A mask's float copy is padded to 8 keys by a second copy, before there is an output
    (ATen/native/transformers/attention.cpp `pad_bias`).
    """
    wide = shape.v_head_dim > 128 and shape.dtype is not FLOAT32
    elements = shape.batch * shape.num_heads * shape.q_len * shape.v_head_dim
    forward = _fused_forward(shape) + (4 * elements if wide else 0)
    if not shape.masked or shape.kv_len % 8 == 0:
        return forward
    repeated = shape.repeated_kv_bytes() if shape.repeats else 0
    unpadded = shape.dtype.num_bytes(shape.batch * shape.q_len * shape.kv_len)
    return max(forward, repeated + sdpa_bias_bytes(shape) + unpadded)


def _varlen_forward(shape: AttentionShape) -> int:
    """FlashAttention-2: with padding, q, k, v are gathered without it first."""
    unpadded = 0
    if shape.masked:
        unpadded = shape.dtype.num_bytes(
            shape.batch
            * (
                shape.q_len * shape.num_heads * shape.head_dim
                + shape.kv_len * shape.num_kv_heads * (shape.head_dim + shape.v_head_dim)
            )
        )
    lse = 4 * shape.batch * shape.num_heads * shape.q_len
    return shape.output_bytes() * (2 if shape.masked else 1) + lse + unpadded


def _flex_forward(shape: AttentionShape) -> int:
    """FlexAttention: the output and its log-sum-exps; masks are kept by blocks of 128."""
    return shape.output_bytes() + 4 * shape.batch * shape.num_heads * shape.q_len + _flex_kv(shape)


def _flex_kv(shape: AttentionShape) -> int:
    """K and V copied to all heads where their number is no power of two.

    integrations/flex_attention.py `flex_attention_forward`.
    """
    return shape.repeated_kv_bytes() if shape.num_heads & (shape.num_heads - 1) else 0


def math_score_bytes(stack: Stack) -> int:
    """Bytes per score that the math kernel holds at once in float32.

    native/transformers/attention.cpp: scores 4 and softmax 4; since torch 2.5, inside
    `_safe_softmax` (one operator to the dispatcher), a bool of masked places 1 and the result of
    `where` 4, which later is the softmax itself. Measured on an H200 with torch 2.11: 9.000.
    """
    if not stack.at_least("torch", SAFE_SOFTMAX_SINCE):
        return 8
    return 9 if stack.at_least("torch", SOFTMAX_REUSED_SINCE) else 13


def _math_forward(shape: AttentionShape) -> int:
    """9·B·H·S² in float32 (`math_score_bytes`), and float32 copies of the inputs.

    Half inputs go through float32: q twice (scaled), k and v at their own heads, and repeated to
    all heads where they are grouped (one after the other where matmul broadcasts them, and not at
    all where it needs no copy); the causal mask S²·4, or the float form of the one given. With
    few queries the moment of the product is more: scaled k at all heads, 4·B·H·S_kv·D, and the
    scores. Measured on an H200 (torch 2.11) to 0.1 %.
    """
    heads = shape.batch * shape.num_heads
    keys = shape.batch * (shape.num_kv_heads if shape.broadcast else shape.num_heads)
    kv = 4 * shape.batch * shape.kv_len * (shape.head_dim + shape.v_head_dim)
    copies = 4 * heads * shape.q_len * shape.head_dim * (1 if shape.dtype is FLOAT32 else 2)
    if shape.dtype is not FLOAT32:
        copies += kv * shape.num_kv_heads
    if shape.broadcast:
        copies += shape.broadcast_kv_bytes(4) // 2 if shape.batch > 1 else 0
    elif shape.grouped:
        copies += kv * shape.num_heads
    causal = 4 * shape.q_len * shape.kv_len if shape.causal and shape.q_len > 1 else 0
    work = max(
        shape.math_score_bytes * shape.score_elements,
        4 * shape.score_elements + 4 * keys * shape.kv_len * shape.head_dim,
    )
    return work + copies + causal + sdpa_bias_bytes(shape)


def _eager_forward(shape: AttentionShape) -> int:
    """B·H·S² times: 10 in bfloat16 (scores 2, float32 copy 4, softmax 4), 8 in float16 and float32.

    CUDA's softmax reads float16 and writes float32 in one kernel, not so bfloat16
    (ATen/native/SoftMax.cpp). Where the softmax stays in the scores' type, 2·e: the scores and what
    is made of them. K and V are repeated to all heads.
    """
    per_score = 10 if shape.dtype is BFLOAT16 else 8
    if shape.softmax_in_own_type:
        per_score = 2 * shape.dtype.block_bytes
    if shape.eager_score_bytes is not None:
        per_score = shape.eager_score_bytes
    repeated = shape.repeated_kv_bytes() // (2 if shape.broadcasts_kv else 1)
    return per_score * shape.score_elements + repeated


_FORWARD: Final[dict[str, Callable[[AttentionShape], int]]] = {
    "flash": _fused_forward,
    "efficient": _efficient_forward,
    "cudnn": _fused_forward,
    "math": _math_forward,
    "eager": _eager_forward,
    "flex_attention": _flex_forward,
    **dict.fromkeys(_FLASH_NAMES, _varlen_forward),
}


def saved_bytes(shape: AttentionShape, kernel: str) -> int:
    """Bytes kept for backward by one layer's attention call: q, k, v, output, statistics, mask.

    Padded flash-attn keeps the gathered output, and the next product the padded one.
    """
    if kernel == "math":
        return _math_saved(shape)
    if kernel == "eager":
        return _eager_saved(shape)
    repeated = shape.repeats and kernel not in _MASKLESS
    if kernel == "flex_attention":
        repeated = bool(_flex_kv(shape))
    kv_heads = shape.num_heads if repeated else shape.num_kv_heads
    tensors = shape.dtype.num_bytes(
        shape.batch
        * (
            shape.q_len * shape.num_heads * (shape.head_dim + shape.v_head_dim)
            + shape.kv_len * kv_heads * (shape.head_dim + shape.v_head_dim)
        )
    )
    lse_len = round_up(shape.q_len, 32) if kernel == "efficient" else shape.q_len
    bias = 0 if kernel in _MASKLESS else sdpa_bias_bytes(shape)
    if kernel in _FLASH_NAMES and shape.masked:
        bias = shape.output_bytes()
    return tensors + 4 * shape.batch * shape.num_heads * lse_len + bias


def _math_saved(shape: AttentionShape) -> int:
    """float32 softmax, 4·B·H·S², scaled q and k, and v at all heads: measured to the byte.

    Dropout keeps its result in float32 and a mask of one byte a score.
    """
    heads = shape.batch * shape.num_heads
    per_score = 9 if shape.dropout else 4
    query = 4 * heads * shape.q_len * shape.head_dim
    return per_score * shape.score_elements + query + shape.broadcast_kv_bytes(4)


def _eager_saved(shape: AttentionShape) -> int:
    """The softmax, what the product with v reads where that is another tensor, q, k and v.

    float32 softmax 4 and its half copy 2 (float32, or a softmax in 16 bit: itself alone). Dropout
    keeps a mask of one byte, and its result, which the product then reads.
    """
    e = shape.dtype.block_bytes
    softmax = e if shape.softmax_in_own_type else FLOAT32.block_bytes
    read = e + 1 if shape.dropout else e if e < softmax else 0
    per_score = softmax + read + (e if shape.softcapped else 0)
    query = shape.dtype.num_bytes(shape.batch * shape.num_heads * shape.q_len * shape.head_dim)
    return per_score * shape.score_elements + query + shape.broadcast_kv_bytes(e)


def backward_temporary_bytes(shape: AttentionShape, kernel: str) -> int:
    """Extra bytes inside the backward call: gradients of q, k, v and the kernel's workspace.

    Fused kernels: float32 dq accumulator 4·B·H·S·D (flash: S↑128, D↑32), softmax-d 4·B·H·S, and
    under GQA dk, dv at all heads before they are summed; memory-efficient with D > 128: float32 dk
    and dv too. math and eager: see `_score_gradient_bytes`. Measured on an H200 (torch 2.11).
    """
    if kernel in ("math", "eager"):
        return _score_gradient_bytes(shape, kernel) * shape.score_elements
    heads = shape.batch * shape.num_heads
    rows = round_up(shape.q_len, 128) * heads
    wide = kernel == "efficient" and shape.head_dim > 128 and shape.dtype is not FLOAT32
    keys = 8 * heads * round_up(shape.kv_len, 128) * shape.head_dim if wide else 0
    return _input_gradients(shape) + 4 * rows * (round_up(shape.head_dim, 32) + 1) + keys


def _score_gradient_bytes(shape: AttentionShape, kernel: str) -> int:
    """B·H·S² times, beside what is saved: the softmax's gradient 4, grad·softmax 4, the result 4.

    CUDA's softmax backward makes the product first (native/cuda/SoftMax.cu). eager in 16 bit: the
    half copy of the softmax, 2, goes before; float16's result is in float16 at once. Measured.
    """
    if kernel == "math" or shape.dtype is FLOAT32:
        return 12
    return 8 if shape.dtype is FLOAT16 else 10


def _input_gradients(shape: AttentionShape) -> int:
    """dq, and dk and dv at all heads; grouped ones at their own heads besides."""
    heads = shape.num_heads
    if shape.grouped and not shape.repeats:
        heads += shape.num_kv_heads
    return shape.dtype.num_bytes(
        shape.batch
        * (
            shape.num_heads * shape.q_len * shape.head_dim
            + heads * shape.kv_len * (shape.head_dim + shape.v_head_dim)
        )
    )
