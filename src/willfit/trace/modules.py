"""Which module is at work: by hooks in forward and recomputation, by autograd's nodes else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.nn.modules import module as torch_module

from willfit.trace.recording import Layer

_ACCUMULATE: Final = 2**64 - 1
"""Sequence number of the nodes that put gradients into ``.grad``."""


class Modules:
    """Follows a model's calls. One at a time; backward is expected in the same thread.

    Each module's entry and exit notes autograd's sequence number, so the node that runs in
    backward, which carries the number of its forward op, leads back to the module.
    """

    def __init__(self, model: torch.nn.Module, base_paths: Mapping[int, str]) -> None:
        """``base_paths``: paths in the base model by ``id``; adapters' modules follow from them."""
        self._paths = _paths(model, base_paths)
        self._stacks = {
            self._paths[id(module)]
            for module in model.modules()
            if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module) > 1
        }
        self._active: list[str] = []
        self._numbers: list[int] = []
        self._marks: list[str] = []
        self._layers: dict[str, Layer | None] = {}
        self._last_in_backward = ""

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Hooks on every module call for the duration."""
        enter = torch_module.register_module_forward_pre_hook(self._enter)
        leave = torch_module.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()

    def path(self) -> str | None:
        """Path of the module at work, "" is the model itself; None outside of the model."""
        if self._active:
            return self._active[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return None
        number = node._sequence_nr()
        if number < _ACCUMULATE and self._numbers:
            self._last_in_backward = self._marks[bisect_right(self._numbers, number) - 1]
        return self._last_in_backward

    def path_of(self, module: torch.nn.Module) -> str:
        """Path of a module, at work or not."""
        return self._paths[id(module)]

    def layer(self, path: str) -> Layer | None:
        """The layer of the outermost stack that a path is in."""
        if path not in self._layers:
            self._layers[path] = self._layer(path)
        return self._layers[path]

    def _layer(self, path: str) -> Layer | None:
        parts = path.split(".")
        for depth, part in enumerate(parts):
            stack = ".".join(parts[:depth])
            if part.isdigit() and stack in self._stacks:
                return Layer(stack=stack, number=int(part))
        return None

    def _enter(self, module: torch.nn.Module, _: Any) -> None:
        path = self._paths.get(id(module))
        self._active.append(self._active[-1] if path is None and self._active else path or "")
        self._mark(self._active[-1])

    def _leave(self, *_: Any) -> None:
        if self._active:
            self._active.pop()
        self._mark(self._active[-1] if self._active else "")

    def _mark(self, path: str) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._marks.append(path)


def _paths(model: torch.nn.Module, base_paths: Mapping[int, str]) -> dict[int, str]:
    """Path by ``id``: what the base model calls it, and below that what was put in."""
    found: dict[str, str] = {}
    for now, module in model.named_modules():
        parent, _, name = now.rpartition(".")
        above = found.get(parent, "")
        path = base_paths.get(id(module))
        found[now] = (f"{above}.{name}" if above else name) if path is None else path
    return {id(module): found[now] for now, module in model.named_modules()}
