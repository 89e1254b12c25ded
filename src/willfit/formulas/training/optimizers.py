"""Optimizers: bytes of state per parameter, and what a step allocates on top.

States and step temporaries measured by stepping the real optimizers (torch 2.13, transformers 5.23,
bitsandbytes 0.50.2, torchao 0.18) on 1024×2048 parameters; names as ``TrainingArguments.optim``.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import Final

from willfit.errors import InputError
from willfit.scenario.stack import Stack

FUSED_DEFAULT_SINCE: Final = "2.8"
"""torch release from which the Trainer's default is the fused AdamW (training_args.py)."""
BNB_SMALL: Final = 4096
"""bitsandbytes keeps float32 states for tensors with fewer elements (optim/optimizer.py)."""
PAGED_FROM: Final = 100_000
"""Elements from which a paged optimizer's state is in managed memory (`get_state_buffer`)."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What one optimizer holds and needs."""

    states: float
    """States per parameter in the parameter's own type (AdamW 2)."""
    state_bytes: float | None = None
    """Bytes per parameter whatever its type (8-bit and 32-bit bitsandbytes), else None."""
    step_all: float = 0.0
    """Step temporaries as copies of all trainable parameters (foreach kernels)."""
    step_largest: float = 0.0
    """Step temporaries as copies of the largest parameter."""
    paged: bool = False
    """Whether states live in managed memory, outside PyTorch's allocator, and page to the host."""
    factored: bool = False
    """Whether a matrix has a row and a column of state in float32 (Adafactor)."""
    gradients_freed: bool = False
    """Whether each gradient is used and freed during backward (LOMO)."""
    full_embeddings: bool = False
    """Whether the Trainer keeps the states of embeddings in float32 (8-bit bitsandbytes)."""
    upcasts: int = 0
    """Float32 copies of gradient and weight that a step makes of another type, to work in."""
    compensated: bool = False
    """Whether half-precision parameters have one more state, their rounding error (Kahan)."""
    on_host: bool = False
    """Whether all states are kept in host memory between steps."""
    closed: bool = True
    """Whether there is a formula; else only the trace knows it."""
    whole_tensors: bool = False
    """Whether FSDP2's shards (DTensor) are refused in the first step: a kernel, or a state that is
    a plain tensor, gets both kinds (torch 2.13, bitsandbytes 0.50.2, transformers 5.23)."""

    @property
    def eight_bit(self) -> bool:
        """Whether bitsandbytes' or torchao's quantised states."""
        return self.state_bytes is not None and self.state_bytes < 4


_FUSED = Optimizer(states=2)
_FOREACH = Optimizer(states=2, step_all=1)
_BNB = Optimizer(states=0, whole_tensors=True)
_BNB8 = replace(_BNB, state_bytes=2 + 8 / 256, full_embeddings=True)
_BNB32 = replace(_BNB, state_bytes=8)
_PAGED8 = replace(_BNB8, paged=True)
_LION8 = replace(_BNB, state_bytes=1 + 4 / 256, full_embeddings=True)
_ADEMAMIX8 = replace(_BNB, state_bytes=3 + 12 / 256, full_embeddings=True)
_PAGED32 = replace(_BNB32, paged=True)

OPTIMIZERS: Final[dict[str, Optimizer]] = {
    "adamw_torch_fused": _FUSED,
    "adamw_torch": _FOREACH,
    "adamw_hf": Optimizer(states=2, step_largest=1),  # the denominator: transformers 4.45 `AdamW`
    "adamw_anyprecision": Optimizer(states=2, step_largest=3),
    "sgd": Optimizer(states=0),
    "adagrad": Optimizer(states=1, step_all=2),
    "rmsprop": Optimizer(states=1, step_all=1),
    "adafactor": Optimizer(states=0, factored=True, step_largest=2, upcasts=2, whole_tensors=True),
    "adamw_bnb_8bit": _BNB8,
    "adamw_8bit": _BNB8,
    "paged_adamw_8bit": _PAGED8,
    "paged_adamw_32bit": _PAGED32,
    "paged_adamw": _PAGED32,
    "adamw_bnb_32bit": _BNB32,
    "lion_8bit": _LION8,
    "lion_32bit": replace(_BNB, state_bytes=4),
    "paged_lion_8bit": replace(_LION8, paged=True),
    "paged_lion_32bit": replace(_BNB, state_bytes=4, paged=True),
    "ademamix": replace(_BNB, state_bytes=12),
    "ademamix_8bit": _ADEMAMIX8,
    "paged_ademamix_32bit": replace(_BNB, state_bytes=12, paged=True),
    "paged_ademamix_8bit": replace(_ADEMAMIX8, paged=True),
    "rmsprop_bnb": replace(_BNB, state_bytes=4),
    "rmsprop_bnb_32bit": replace(_BNB, state_bytes=4),
    "rmsprop_bnb_8bit": _LION8,
    "adamw_torch_8bit": Optimizer(states=0, state_bytes=2 + 8 / 256, step_largest=2),
    "adamw_torch_4bit": Optimizer(states=0, state_bytes=1 + 8 / 128, step_largest=2),
    "lorafa": Optimizer(states=2, step_largest=3, closed=False),
    "schedule_free_adamw": _FOREACH,
    "schedule_free_radam": _FOREACH,
    "schedule_free_sgd": Optimizer(states=1),
    "stable_adamw": Optimizer(states=2, compensated=True),
    "grokadamw": Optimizer(states=3, step_largest=6, on_host=True),
    "lomo": Optimizer(states=0, gradients_freed=True, upcasts=2),
    "adalomo": Optimizer(states=0, factored=True, gradients_freed=True, upcasts=1, step_largest=2),
}
"""Optimizers by the name that ``optim`` takes."""
_TRACED: Final = Optimizer(states=2, closed=False)
_TRACED_WHOLE: Final = replace(_TRACED, whole_tensors=True)
LOW_RANK: Final[dict[str, Optimizer]] = {
    "galore_adamw": _TRACED,
    "galore_adafactor": _TRACED_WHOLE,
    "galore_adamw_layerwise": _TRACED,
    "apollo_adamw": _TRACED_WHOLE,
    "apollo_adamw_layerwise": _TRACED_WHOLE,
}
"""Optimizers of projected gradients: their states hang on every matrix's shape and type."""


_OLD_ORDER: Final = "galore-torch 1.0 gives bitsandbytes its arguments in an order of old"
REFUSED: Final[dict[str, str]] = {
    "adamw_torch_npu_fused": "it runs on Huawei's NPUs, not on a GPU",
    "adamw_torch_xla": "it runs on TPUs, not on a GPU",
    "galore_adamw_8bit": _OLD_ORDER,
    "galore_adamw_8bit_layerwise": _OLD_ORDER,
    "galore_adafactor_layerwise": "the Trainer of transformers 5.23 cannot make it ('Cannot "
    "combine manual `lr` and `relative_step=True` options')",
}
"""Names of the Trainer that no run can have, with the reason."""


def default_optimizer(stack: Stack) -> str:
    """The Trainer's default: fused AdamW since torch 2.8, else the foreach one."""
    if stack.at_least("torch", FUSED_DEFAULT_SINCE):
        return "adamw_torch_fused"
    return "adamw_torch"


def canonical(name: str) -> str:
    """The name as the tables have it: ``OptimizerNames.ADAMW_TORCH`` is adamw_torch."""
    return name.strip().lower().removeprefix("optimizernames.")


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name; raises `InputError` naming the nearest."""
    key = canonical(name)
    if key in LOW_RANK:
        return LOW_RANK[key]
    if key in REFUSED:
        raise InputError(f"optimizer {key}: {REFUSED[key]}")
    if key not in OPTIMIZERS:
        near = difflib.get_close_matches(key, OPTIMIZERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(OPTIMIZERS)}"
        raise InputError(f"unknown optimizer {name[:40]!r}: {hint}")
    return OPTIMIZERS[key]


def state_bytes(
    optimizer: Optimizer, shape: tuple[int, ...], element_bytes: int, *, full_states: bool = False
) -> int:
    """Bytes of state of one parameter tensor.

    ``full_states``: float32 whatever the optimizer (an embedding under 8-bit bitsandbytes).
    """
    elements = math.prod(shape)
    if optimizer.factored:
        if len(shape) < 2:
            return 4 * elements
        return 4 * (elements // shape[-1] + elements // shape[-2])
    if optimizer.state_bytes is None:
        states = optimizer.states + (optimizer.compensated and element_bytes < 4)
        return round(states * element_bytes) * elements
    if optimizer.eight_bit and (full_states or elements < BNB_SMALL):
        return 4 * round(optimizer.state_bytes) * elements
    return round(optimizer.state_bytes * elements)


def paged_bytes(
    optimizer: Optimizer, shape: tuple[int, ...], element_bytes: int, *, full_states: bool = False
) -> int:
    """Bytes of one parameter's states outside the GPU: paged ones of 100,000 elements or more.

    The scales of 8-bit states stay on the GPU (bitsandbytes optim/optimizer.py `init_state`).
    """
    elements = math.prod(shape)
    if optimizer.on_host:
        return state_bytes(optimizer, shape, element_bytes)
    if not optimizer.paged or elements < PAGED_FROM:
        return 0
    if optimizer.eight_bit and not full_states:
        return math.floor(optimizer.state_bytes or 0) * elements
    return state_bytes(optimizer, shape, element_bytes, full_states=full_states)


def step_copies(optimizer: Optimizer, element_bytes: int) -> float:
    """Bytes an element of the largest parameter that a step takes for a while."""
    if optimizer.upcasts and element_bytes < 4:
        return 4 * (optimizer.upcasts + optimizer.step_largest)
    return optimizer.step_largest * element_bytes
