"""The optimizer of a traced step: the Trainer's own where it can run, else its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from willfit.formulas.training.optimizers import (
    LOW_RANK,
    Optimizer,
    paged_bytes,
    state_bytes,
    step_copies,
)
from willfit.trace.cuda.kernels import replaced
from willfit.trace.cuda.optimizers import replacements
from willfit.trace.recorder import Recorder
from willfit.trace.trainer import loop_optimizer, trainer_optimizer

RENAMED: Final = {"paged_adamw": "paged_adamw_32bit"}
"""Names of bitsandbytes that the Trainer spells otherwise."""
COUNTED: Final = {
    "adamw_hf": "transformers has it no more",
    "adamw_anyprecision": "torchdistx is not on the package index",
    "adamw_torch_8bit": "torchao compiles its step",
    "adamw_torch_4bit": "torchao compiles its step",
    "stable_adamw": "optimi launches Triton kernels",
    "grokadamw": "its states go to host memory and back",
}
"""Optimizers that cannot step here, with the reason: states and temporaries by the formulas."""


@contextmanager
def optimizer_on_cuda(name: str) -> Iterator[None]:
    """What the optimizer of this name does on a GPU in place of the CPU's ways."""
    with replaced([] if name in COUNTED else replacements(name)):
        yield


def make_optimizer(
    name: str,
    rules: Optimizer,
    model: torch.nn.Module,
    recorder: Recorder,
    *,
    accumulation: int = 1,
    loop: bool = False,
) -> Any:
    """Something with ``step()``; ``rules`` serve where the real one cannot."""
    name = RENAMED.get(name, name)
    if name in COUNTED:
        note = f"optimizer {name} by its table: {COUNTED[name]}"
        recorder.recording.assumptions.append(note)
        trained: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
        return CountedOptimizer(trained, rules, recorder)
    if name in LOW_RANK:
        recorder.recording.assumptions.append(f"{name} of every linear layer, rank 128")
    make = loop_optimizer if loop else trainer_optimizer
    return make(name, model, accumulation)


def state_tensors(optimizer: Any) -> Iterator[Any]:
    """States as the optimizer holds them; a layer-wise one has an optimizer a parameter."""
    for each in getattr(optimizer, "optimizer_dict", {}).values():
        yield from state_tensors(each)
    for state in getattr(optimizer, "state", {}).values():
        for value in state.values():
            yield from (value, getattr(value, "ortho_matrix", None))
    for name in ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"):  # AdaLomo's
        yield from getattr(optimizer, name, {}).values()


class CountedOptimizer:
    """An optimizer that needs a GPU to step: its states and temporaries by the formulas' table."""

    def __init__(
        self, parameters: list[torch.Tensor], rules: Optimizer, recorder: Recorder
    ) -> None:
        self.param_groups = [{"params": parameters}]
        self._parameters = parameters
        self._rules = rules
        self._recorder = recorder
        self._has_states = False

    def step(self) -> None:
        """States in the first step, temporaries in each."""
        if not self._has_states:
            for parameter in self._parameters:
                shape, size = tuple(parameter.shape), parameter.element_size()
                amount = state_bytes(self._rules, shape, size)
                amount -= paged_bytes(self._rules, shape, size)
                if amount:
                    layer = self._recorder.layer_of(parameter)
                    self._recorder.allocate(amount, "optimizer state", "optimizer_states", layer)
        self._has_states = True
        largest = max(
            step_copies(self._rules, each.element_size()) * each.numel()
            for each in self._parameters
        )
        if largest:
            handle = self._recorder.allocate(round(largest), "optimizer step", "temporaries")
            self._recorder.release(handle)
