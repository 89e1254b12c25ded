"""Optimizers: bytes of state per parameter, and what a step allocates on top.

States and step temporaries measured by stepping the real optimizers (torch 2.13, transformers 5.23,
bitsandbytes 0.50.2, torchao 0.18) on 1024×2048 parameters; names as ``TrainingArguments.optim``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from willfit.errors import InputError
from willfit.scenario.stack import Stack

FUSED_DEFAULT_SINCE: Final = "2.8"
"""torch release from which the Trainer's default is the fused AdamW (training_args.py)."""
BNB_SMALL: Final = 4096
"""bitsandbytes keeps float32 states for tensors with fewer elements (optim/optimizer.py)."""


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
    traced_only: bool = False
    """Whether it changes which parameters train, so that only the real code tells the rest."""


_FUSED = Optimizer(states=2)
_FOREACH = Optimizer(states=2, step_all=1)
_BNB8 = Optimizer(states=0, state_bytes=2 + 8 / 256)
_BNB32 = Optimizer(states=0, state_bytes=8)
_PAGED8 = Optimizer(states=0, state_bytes=2 + 8 / 256, paged=True)
_PAGED32 = Optimizer(states=0, state_bytes=8, paged=True)

OPTIMIZERS: Final[dict[str, Optimizer]] = {
    "adamw_torch_fused": _FUSED,
    "adamw_torch": _FOREACH,
    "adamw_hf": Optimizer(states=2, step_largest=3),
    "adamw_anyprecision": Optimizer(states=2, step_largest=3),
    "adamw_torch_xla": _FOREACH,
    "sgd": Optimizer(states=0),
    "adagrad": Optimizer(states=1, step_all=2),
    "rmsprop": Optimizer(states=1, step_all=1),
    "adafactor": Optimizer(states=0, factored=True, step_largest=2),
    "adamw_bnb_8bit": _BNB8,
    "adamw_8bit": _BNB8,
    "paged_adamw_8bit": _PAGED8,
    "paged_adamw_32bit": _PAGED32,
    "paged_adamw": _PAGED32,
    "adamw_bnb_32bit": _BNB32,
    "lion_8bit": Optimizer(states=0, state_bytes=1 + 4 / 256),
    "lion_32bit": Optimizer(states=0, state_bytes=4),
    "paged_lion_8bit": Optimizer(states=0, state_bytes=1 + 4 / 256, paged=True),
    "paged_lion_32bit": Optimizer(states=0, state_bytes=4, paged=True),
    "ademamix": Optimizer(states=0, state_bytes=12),
    "ademamix_8bit": Optimizer(states=0, state_bytes=3 + 12 / 256),
    "paged_ademamix_32bit": Optimizer(states=0, state_bytes=12, paged=True),
    "paged_ademamix_8bit": Optimizer(states=0, state_bytes=3 + 12 / 256, paged=True),
    "rmsprop_bnb": Optimizer(states=0, state_bytes=4),
    "rmsprop_bnb_32bit": Optimizer(states=0, state_bytes=4),
    "rmsprop_bnb_8bit": Optimizer(states=0, state_bytes=1 + 4 / 256),
    "adamw_torch_8bit": Optimizer(states=0, state_bytes=2 + 8 / 256, step_largest=2),
    "adamw_torch_4bit": Optimizer(states=0, state_bytes=1 + 8 / 128, step_largest=2),
    "lorafa": Optimizer(states=2, step_largest=3, traced_only=True),
    "lomo": Optimizer(states=0, gradients_freed=True),
    "adalomo": Optimizer(states=0, factored=True, gradients_freed=True),
}
"""Optimizers by the name that ``optim`` takes."""


def default_optimizer(stack: Stack) -> str:
    """The Trainer's default: fused AdamW since torch 2.8, else the foreach one."""
    if stack.at_least("torch", FUSED_DEFAULT_SINCE):
        return "adamw_torch_fused"
    return "adamw_torch"


def find_optimizer(name: str) -> Optimizer:
    """The optimizer of that name; raises `InputError` naming the nearest."""
    key = name.strip().lower().removeprefix("optimizernames.")
    if key not in OPTIMIZERS:
        near = difflib.get_close_matches(key, OPTIMIZERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(OPTIMIZERS)}"
        raise InputError(f"unknown optimizer {name[:40]!r}: {hint}")
    return OPTIMIZERS[key]


def state_bytes(optimizer: Optimizer, shape: tuple[int, ...], element_bytes: int) -> int:
    """Bytes of state of one parameter tensor."""
    elements = 1
    for size in shape:
        elements *= size
    if optimizer.factored:
        if len(shape) < 2:
            return 4 * elements
        return 4 * (elements // shape[-1] + elements // shape[-2])
    if optimizer.state_bytes is None:
        return round(optimizer.states * element_bytes) * elements
    if optimizer.state_bytes < 4 and elements < BNB_SMALL:
        return 4 * round(optimizer.state_bytes) * elements
    return round(optimizer.state_bytes * elements)
