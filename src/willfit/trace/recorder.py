"""The recorder: sees every operator's outputs and tells allocations and frees from them."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from willfit.formulas.phase import ComponentName, PhaseName
from willfit.trace.cuda.hidden import Call, Hidden
from willfit.trace.fakes import with_value
from willfit.trace.modules import Modules
from willfit.trace.recording import Event, Handle, Layer, Place, Recording


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records while it is entered (outside of the fake mode: what runs inside that is not real).

    A storage is allocated when an operator first gives it out and freed when Python and autograd
    have let go of it, which happens at the same moments as in a real run.
    """

    def __init__(self, hidden: Mapping[Any, Hidden], *, workspace_bytes: int = 0) -> None:
        """``hidden``: temporaries by operator; ``workspace_bytes``: cuBLAS's for each thread."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.phase: PhaseName = "load"
        self._modules: Modules | None = None
        self._hidden = hidden
        self._workspace_bytes = workspace_bytes
        self._threads: set[str] = set()
        self._storages: dict[int, _Storage] = {}
        self._numbers = count(1)

    @contextmanager
    def following(self, modules: Modules) -> Iterator[None]:
        """Events carry these modules while they run."""
        self._modules = modules
        with modules.followed():
            yield

    def adopt(
        self, tensor: torch.Tensor, handle: Handle, category: ComponentName, layer: Layer | None
    ) -> None:
        """Know a tensor that was allocated elsewhere (the weights, by loading)."""
        storage = tensor.untyped_storage()
        self._remember(storage, handle, layer)
        self.recording.categories[handle] = category

    def allocate(
        self, num_bytes: int, op: str, category: ComponentName, layer: Layer | None = None
    ) -> Handle:
        """An allocation that no operator shows; lives until `release`."""
        handle = next(self._numbers)
        self._append(handle, num_bytes, Place("", op), layer)
        self.recording.categories[handle] = category
        return handle

    def release(self, handle: Handle, layer: Layer | None = None) -> None:
        """Free what `allocate` gave."""
        self._append(handle, 0, Place("", "free"), layer)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor's storage is already recorded."""
        return tensor.untyped_storage()._cdata in self._storages

    def mark(self, tensors: Iterable[Any], category: ComponentName) -> None:
        """Say what some tensors hold."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                storage = self._storages.get(tensor.untyped_storage()._cdata)
                if storage is not None:
                    self.recording.categories.setdefault(storage.handle, category)

    def layer_of(self, tensor: torch.Tensor) -> Layer | None:
        """The layer that a tensor's storage was allocated for."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage.layer if storage is not None else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator and note what it allocated."""
        kwargs = kwargs or {}
        try:
            out = func(*args, **kwargs)
        except DataDependentOutputException:
            if func is not _aten._local_scalar_dense.default:
                raise
            return self._zero(args[0])
        if func in _FACTORIES and out.numel() == 1:
            out = with_value(out, func, args, kwargs)
        new = [
            (position, tensor)
            for position, tensor in _tensors(out)
            if tensor.untyped_storage()._cdata not in self._storages
        ]
        hidden = self._hidden.get(func)
        if new or hidden is not None:
            self._note(func, args, kwargs, out, new, hidden)
        return out

    def _note(
        self,
        func: Any,
        args: Any,
        kwargs: Mapping[str, Any],
        out: Any,
        new: Sequence[tuple[int, torch.Tensor]],
        hidden: Hidden | None,
    ) -> None:
        module, layer = self._where()
        place = Place(module or "", str(func))
        if func in _PRODUCTS:
            self._take_workspace(place)
        borrowed = []
        for num_bytes in hidden(Call(args, kwargs, out)) if hidden is not None else ():
            borrowed.append(next(self._numbers))
            self._append(borrowed[-1], num_bytes, place, layer)
            self.recording.categories[borrowed[-1]] = "temporaries"
        for position, tensor in new:
            storage = tensor.untyped_storage()
            num_bytes = storage.nbytes()
            if num_bytes == 0 or func in _ON_HOST or storage._cdata in self._storages:
                continue
            handle = next(self._numbers)
            mine = layer if module is not None else self._of_argument(args, position)
            self._append(handle, num_bytes, place, mine)
            self._remember(storage, handle, mine)
        for handle in reversed(borrowed):
            self._append(handle, 0, place, layer)

    def _where(self) -> tuple[str | None, Layer | None]:
        """Module at work and its layer; (None, None) outside of the model."""
        module = self._modules.path() if self._modules is not None else None
        return module, (self._modules.layer(module) if self._modules and module else None)

    def _zero(self, tensor: torch.Tensor) -> bool | int | float:
        """What a value that the code reads is taken as: no tensor here has any."""
        module = self._where()[0]
        where = _NUMBER.sub(".N", module) if module else "the training code"
        note = f"values that {where} reads were taken as 0"
        if note not in self.recording.assumptions:
            self.recording.assumptions.append(note)
        if tensor.dtype == torch.bool:
            return False
        return 0.0 if tensor.dtype.is_floating_point else 0

    def _of_argument(self, args: Sequence[Any], position: int) -> Layer | None:
        """The layer of the argument that an output belongs to: optimizers work on lists."""
        if not args:
            return None
        first = args[0]
        if isinstance(first, (list, tuple)):
            first = first[position] if position < len(first) else None
        return self.layer_of(first) if isinstance(first, torch.Tensor) else None

    def _take_workspace(self, place: Place) -> None:
        """CuBLAS's workspace comes with a thread's first product and stays."""
        in_backward = torch._C._current_autograd_node() is not None
        thread = "backward" if in_backward else "forward"
        if self._workspace_bytes and thread not in self._threads:
            self._threads.add(thread)
            handle = f"cuBLAS workspace of the {thread} thread"
            self._append(handle, self._workspace_bytes, place, None)
            self.recording.categories[handle] = "workspaces"

    def _append(self, handle: Handle, num_bytes: int, place: Place, layer: Layer | None) -> None:
        self.recording.events.append(Event(handle, num_bytes, self.phase, place, layer))

    def _remember(self, storage: Any, handle: Handle, layer: Layer | None) -> None:
        key = storage._cdata
        known = self._storages[key] = _Storage(storage, self._forget)
        known.key, known.handle, known.layer = key, handle, layer

    def _forget(self, storage: _Storage) -> None:
        self._storages.pop(storage.key, None)
        module, layer = self._where()
        place = Place(module or "", "free")
        self._append(storage.handle, 0, place, storage.layer if module is None else layer)


class _Storage(weakref.ref[Any]):
    """A storage that is alive; calls back when it is not."""

    __slots__ = ("handle", "key", "layer")

    key: int
    handle: Handle
    layer: Layer | None


def _tensors(out: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """Tensors with a storage of their own, by position; a sparse one has two inside."""
    for position, tensor in enumerate(out if isinstance(out, (list, tuple)) else (out,)):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.layout == torch.strided:
            yield position, tensor
        elif tensor.layout == torch.sparse_coo:
            yield position, tensor._indices()
            yield position, tensor._values()


_NUMBER = re.compile(r"\.\d+")
_aten = torch.ops.aten
_ON_HOST = {_aten.lift_fresh.default}
"""Operators whose results stay in host memory: ``torch.tensor(0.0)`` of an optimizer's step."""
_FACTORIES = {
    _aten.rand.default, _aten.randn.default, _aten.randint.default, _aten.randint.low,
    _aten.zeros.default, _aten.ones.default, _aten.full.default, _aten.arange.default,
}  # fmt: skip
"""Operators that make a tensor of nothing: a single number keeps its value, for code decides by
such (``torch.rand(1) > dropout``)."""
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default}
"""Operators that cuBLAS serves."""
