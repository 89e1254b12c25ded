"""TRL's activation offloading: what autograd keeps waits in host memory until it is needed.

trl 1.16 models/activation_offloading.py `OffloadActivations`, whose streams need a GPU: its rules
of what goes and when a copy on the GPU ends, by saved-tensor hooks of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks

from willfit.formulas.training.offload import SMALLEST, STASH
from willfit.trace.caches import HOST

_Key = tuple[Any, ...]


class _Away(NamedTuple):
    """A tensor in host memory, and how it lay on the GPU."""

    number: int
    tensor: torch.Tensor
    stride: tuple[int, ...]


class _Offloading:
    """The hooks of one step.

    Of several saved tensors with the same storage the first goes, and those that come while it is
    still in the stash stay on the GPU, as TRL has it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        self._stash: dict[int, tuple[torch.Tensor, _Key]] = {}
        """The last ones, whose copies are still under way."""
        self._back: list[torch.Tensor] = []
        """Those brought back for the operator at work; gone once the next one has run."""
        self._node: Any = None
        self._number = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | _Away:
        """A saved tensor: itself, or where it went."""
        self._number += 1
        storage = tensor.untyped_storage()._cdata
        key = (storage, tensor.storage_offset(), tensor.dtype)
        small = tensor.numel() * tensor.element_size() < SMALLEST
        stashed = any(key == other for _, other in self._stash.values())
        if stashed or small or storage in self._parameters or tensor.device.type == HOST:
            return tensor
        if not tensor.is_contiguous() or tensor.storage_offset():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        for number in [n for n in self._stash if n <= self._number - STASH]:
            del self._stash[number]
        self._stash[self._number] = (tensor, key)
        return _Away(self._number, tensor.to(HOST), tensor.stride())

    def unpack(self, packed: torch.Tensor | _Away) -> torch.Tensor:
        """A saved tensor again, on the GPU while its operator runs and until the next has run."""
        if isinstance(packed, torch.Tensor):
            return packed
        node = torch._C._current_autograd_node()
        before: list[torch.Tensor] = []
        if node is not self._node:
            self._node, before, self._back = node, self._back, []
        if packed.number in self._stash:
            tensor = self._stash[packed.number][0]
        else:
            away = packed.tensor
            tensor = torch.empty_strided(away.shape, packed.stride, dtype=away.dtype, device="cpu")
            self._back.append(tensor)

        def done(*_: object) -> None:
            before.clear()
            self._stash.clear()

        if node is not None:
            node.register_hook(done)
        return tensor

    def clear(self) -> None:
        """What is held of a step that is over."""
        self._stash.clear()
        self._back.clear()
        self._node = None


@contextmanager
def offloaded_activations(model: torch.nn.Module, *, on: bool) -> Iterator[None]:
    """A step inside, with what forward keeps for backward in host memory, or as it is."""
    if not on:
        yield
        return
    hooks = _Offloading(model)
    try:
        with saved_tensors_hooks(hooks.pack, hooks.unpack):
            yield
    finally:
        hooks.clear()


NOTE: Final = (
    "activations offloaded as TRL does: pinned copies on a stream of their own, whose waiting is "
    "not simulated"
)
