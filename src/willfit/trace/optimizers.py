"""The optimizer of a traced step: torch's own where it runs on fake tensors, else its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

from willfit.formulas.training.optimizers import Optimizer, state_bytes
from willfit.trace.recorder import Recorder

_TORCH: Final[dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]]] = {
    "adamw_torch": lambda parameters: torch.optim.AdamW(parameters, foreach=True),
    "adamw_torch_fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "adamw_hf": lambda parameters: torch.optim.AdamW(parameters, foreach=False),
    "sgd": lambda parameters: torch.optim.SGD(parameters, foreach=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, foreach=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, foreach=True),
}
"""Built as CUDA builds them by default: lists of tensors at once."""


def make_optimizer(
    name: str, rules: Optimizer, parameters: Iterable[torch.Tensor], recorder: Recorder
) -> Any:
    """Something with ``step()`` and ``zero_grad()``; ``rules`` serve where torch's own cannot."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    make = _TORCH.get(name)
    return make(trained) if make is not None else CountedOptimizer(trained, rules, recorder)


class CountedOptimizer:
    """An optimizer that needs a GPU to step: its states and temporaries by the formulas' table."""

    def __init__(
        self, parameters: list[torch.Tensor], rules: Optimizer, recorder: Recorder
    ) -> None:
        self._parameters = parameters
        self._rules = rules
        self._recorder = recorder
        self._has_states = False

    def step(self) -> None:
        """States in the first step, temporaries in each."""
        if not self._has_states and not self._rules.paged:
            for parameter in self._parameters:
                amount = state_bytes(self._rules, tuple(parameter.shape), parameter.element_size())
                if amount:
                    layer = self._recorder.layer_of(parameter)
                    self._recorder.allocate(amount, "optimizer state", "optimizer_states", layer)
        self._has_states = True
        sizes = [parameter.untyped_storage().nbytes() for parameter in self._parameters]
        for amount in (
            round(self._rules.step_largest * max(sizes, default=0)),
            round(self._rules.step_all * sum(sizes)),
        ):
            if amount:
                handle = self._recorder.allocate(amount, "optimizer step", "temporaries")
                self._recorder.release(handle)

    def zero_grad(self) -> None:
        """Gradients are let go, as torch does by default."""
        for parameter in self._parameters:
            parameter.grad = None
