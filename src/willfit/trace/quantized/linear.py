"""A linear layer of a checkpoint's packed tensors: they are all it holds, a kernel multiplies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch


class Kernel(ABC):
    """How a library computes with packed weights, as far as memory is concerned.

    Example: a kernel that dequantises nothing and allocates its output alone::

        class Fused(Kernel):
            def product(self, layer, x):
                return x.new_empty((*x.shape[:-1], layer.out_features))
    """

    @abstractmethod
    def product(self, layer: StoredLinear, x: torch.Tensor) -> torch.Tensor:
        """(…, K) to (…, N) with every allocation of the real one, in its order."""

    def settle(self, layer: StoredLinear) -> None:  # noqa: B027 -- most change nothing
        """What the library changes of the layer once its tensors are on the device."""

    def scratch_bytes(self, layer: StoredLinear) -> int:  # noqa: ARG002
        """What the layer needs of one scratch that the whole model shares and keeps."""
        return 0


class StoredLinear(torch.nn.Linear):
    """Has the tensors of the checkpoint under their own names and no ``weight``.

    A ``nn.Linear`` by class alone, so that PEFT and modelling code take it for one.
    """

    qweight: torch.Tensor
    scales: torch.Tensor
    qzeros: torch.Tensor | None
    g_idx: torch.Tensor

    def __init__(
        self,
        replaced: torch.nn.Module,
        tensors: Mapping[str, torch.Tensor],
        kernel: Kernel,
    ) -> None:
        """``replaced``: a ``Linear`` or transformers' ``Conv1D``, whose weight is transposed.

        ``tensors``: what the checkpoint stores of it, by the last part of the name.
        """
        torch.nn.Module.__init__(self)
        there: Any = replaced
        wide, deep = there.weight.shape
        linear = isinstance(replaced, torch.nn.Linear)
        self.out_features, self.in_features = (wide, deep) if linear else (deep, wide)
        self.kernel = kernel
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.register_parameter("bias", there.bias)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The packed weight, for code that asks for its device or type."""
        return next(iter(self._buffers.values()))  # type: ignore[return-value]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The kernel's product, bias included."""
        return self.kernel.product(self, input)

    def drop(self, *names: str) -> None:
        """Let tensors go that the library replaces by empty ones."""
        for name in names:
            if name in self._buffers:
                self._buffers[name] = None

    def repack(self, name: str) -> None:
        """The same bytes in another order: a new tensor, then the old one goes."""
        setattr(self, name, torch.empty_like(getattr(self, name)))
