"""The recorder: sees every operator's outputs and tells allocations and frees from them."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.utils._python_dispatch import TorchDispatchMode

from willfit.formulas.phase import ComponentName, PhaseName
from willfit.trace.cuda.hidden import OUTPUT_FIRST, Call, Hidden, Inside
from willfit.trace.fakes import everything, sparse_mask, with_value
from willfit.trace.modules import Modules
from willfit.trace.recording import EMPTY_CACHE, Event, Handle, Layer, Place, Recording

Home = Callable[[str], int]
"""Index of the GPU that a module, by its path, computes on."""


def _on_the_first(_: str) -> int:
    return 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records while it is entered (outside of the fake mode: what runs inside that is not real).

    A storage is allocated when an operator first gives it out and freed when Python and autograd
    have let go of it, which happens at the same moments as in a real run.
    """

    def __init__(
        self,
        hidden: Mapping[Any, Hidden],
        *,
        products: Mapping[Any, Inside] | None = None,
        workspaces: Sequence[int] = (0,),
        home: Home = _on_the_first,
    ) -> None:
        """``hidden``: temporaries by operator; ``workspaces``: bytes of cuBLAS's for each thread.

        One a GPU; with several GPUs ``home`` tells the GPU of a module by its path. ``products``:
        operators that call cuBLAS inside.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.phase: PhaseName = "load"
        self._modules: Modules | None = None
        self._hidden = hidden
        self._products = products or {}
        self._workspaces = workspaces
        self._home = home
        self._target: int | None = None
        self._threads: set[tuple[str, int]] = set()
        self._storages: dict[int, _Storage] = {}
        self._on_host: list[Any] = []
        self._sum: _Sum | None = None
        self._numbers = count(1)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would wrap every call otherwise, and nothing is compiled here."""
        return False

    @contextmanager
    def following(self, modules: Modules) -> Iterator[None]:
        """Events carry these modules while they run."""
        self._modules = modules
        with modules.followed():
            yield

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What happens is no module's work, though one is running: layers follow from arguments."""
        before, self._modules = self._modules, None
        try:
            yield
        finally:
            self._modules = before

    @contextmanager
    def on(self, gpu: int) -> Iterator[None]:
        """What is allocated for the duration is on this GPU, wherever its arguments are."""
        before, self._target = self._target, gpu
        try:
            yield
        finally:
            self._target = before

    def gpu_of(self, tensor: torch.Tensor) -> int:
        """Index of the GPU that a tensor is on."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage.gpu if storage is not None else 0

    def adopt(
        self,
        tensor: torch.Tensor,
        handle: Handle,
        category: ComponentName,
        layer: Layer | None,
        gpu: int = 0,
    ) -> None:
        """Know a tensor that was allocated elsewhere (the weights, by loading)."""
        storage = tensor.untyped_storage()
        self._remember(storage, handle, layer, gpu)
        self.recording.categories[handle] = category

    def allocate(
        self,
        num_bytes: int,
        op: str,
        category: ComponentName,
        layer: Layer | None = None,
        gpu: int = 0,
    ) -> Handle:
        """An allocation that no operator shows; lives until `release`."""
        handle = next(self._numbers)
        module, mine = self._where()
        self._append(handle, num_bytes, Place(module or "", op), layer or mine, gpu)
        self.recording.categories[handle] = category
        return handle

    def disregard(self, tensor: torch.Tensor) -> None:
        """A tensor that stays in host memory: whatever shares its storage allocates nothing."""
        self._on_host.append(tensor.untyped_storage())
        self._remember(self._on_host[-1], "host", None, 0)

    def release(self, handle: Handle, layer: Layer | None = None) -> None:
        """Free what `allocate` gave."""
        module, mine = self._where()
        self._append(handle, 0, Place(module or "", "free"), layer or mine)

    def empty_cache(self) -> None:
        """``torch.cuda.empty_cache()``, called here."""
        self._append(EMPTY_CACHE, 0, Place("", "empty_cache"), None)

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
        if func is _DEVICE:  # asked by autograd for every gradient, more often than all the rest
            return args[0].device
        kwargs = kwargs or {}
        try:
            out = sparse_mask(*args) if func is _aten.sparse_mask.default else func(*args, **kwargs)
        except DataDependentOutputException:
            if func is not _aten._local_scalar_dense.default:
                raise
            return self._zero(args[0])
        except DynamicOutputShapeException:
            if func is _aten.nonzero.default and args[0].dim() == 1:
                out = args[0].new_empty((args[0].numel(), 1), dtype=torch.int64)
            elif func is _aten.index.Tensor:
                out = func(args[0], everything(args[1]))
            else:
                raise
            self._assume("a selection in {} was taken as everything")
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
        gpu = self._gpu(args, 0, module)
        if func in _PRODUCTS:
            self._take_workspace(place, gpu)
        call = Call(args, kwargs, out)
        lent = list(hidden(call)) if hidden is not None else []
        later = func in OUTPUT_FIRST
        borrowed = [] if later else self._borrow(lent, place, layer, gpu)
        inside = self._products.get(func)
        if inside is not None and inside(call):
            self._take_workspace(place, gpu)
        for position, tensor in new:
            storage = tensor.untyped_storage()
            num_bytes = storage.nbytes()
            if num_bytes == 0 or func in _ON_HOST or storage._cdata in self._storages:
                continue
            if tensor.device.type == "meta":  # stands for host memory (an offloaded cache)
                continue
            handle = next(self._numbers)
            mine = layer if module is not None else self._of_argument(args, position)
            there = self._gpu(args, position, module)
            known = self._remember(storage, handle, mine, there)
            if func is _aten.add.Tensor and _accumulates(args, tensor):
                event = Event(handle, num_bytes, self.phase, place, mine, there)
                self._end_sum()
                self._sum = _Sum(args[0].untyped_storage()._cdata, known, [event])
            else:
                self._append(handle, num_bytes, place, mine, there)
        if later:
            borrowed = self._borrow(lent, place, layer, gpu)
        for ended in reversed(borrowed):
            self._append(ended, 0, place, layer)

    def _borrow(
        self, lent: Iterable[int], place: Place, layer: Layer | None, gpu: int
    ) -> list[Handle]:
        """Temporaries of a kernel, which end with the call."""
        handles: list[Handle] = []
        for num_bytes in lent:
            handle = next(self._numbers)
            handles.append(handle)
            self._append(handle, num_bytes, place, layer, gpu)
            self.recording.categories[handle] = "temporaries"
        return handles

    def _where(self) -> tuple[str | None, Layer | None]:
        """Module at work and its layer; (None, None) outside of the model."""
        module = self._modules.path() if self._modules is not None else None
        return module, (self._modules.layer(module) if self._modules and module else None)

    def _zero(self, tensor: torch.Tensor) -> bool | int | float:
        """What a value that the code reads is taken as: no tensor here has any."""
        ends = self._where()[0] is None and self.phase in _GENERATING
        if not ends:  # that no sequence has ended is what is asked for
            self._assume("values that {} reads were taken as 0")
        if tensor.dtype == torch.bool:
            return False
        return 0.0 if tensor.dtype.is_floating_point else 0

    def _assume(self, sentence: str) -> None:
        """Note what was taken for granted, once, with the module at work in the sentence."""
        module = self._where()[0]
        note = sentence.format(_NUMBER.sub(".N", module) if module else "the training code")
        if note not in self.recording.assumptions:
            self.recording.assumptions.append(note)

    def _of_argument(self, args: Sequence[Any], position: int) -> Layer | None:
        """The layer of the argument that an output belongs to: optimizers work on lists."""
        if not args:
            return None
        first = args[0]
        if isinstance(first, (list, tuple)):
            first = first[position] if position < len(first) else None
        return self.layer_of(first) if isinstance(first, torch.Tensor) else None

    def _gpu(self, args: Sequence[Any], position: int, module: str | None) -> int:
        """The GPU of an output: that of the arguments, of the module at work where there are none.

        A number may be anywhere (a CUDA kernel takes one from the host).
        """
        if len(self._workspaces) == 1:
            return 0
        if self._target is not None:
            return self._target
        for argument in args:
            several = isinstance(argument, (list, tuple))
            if several and argument:
                argument = argument[position if position < len(argument) else 0]
            if isinstance(argument, torch.Tensor) and argument.dim() and self.knows(argument):
                return self.gpu_of(argument)
        return self._home(module or "")

    def _take_workspace(self, place: Place, gpu: int) -> None:
        """CuBLAS's workspace comes with a thread's first product on a GPU and stays."""
        in_backward = torch._C._current_autograd_node() is not None
        thread = "backward" if in_backward else "forward"
        amount = self._workspaces[gpu]
        if amount and (thread, gpu) not in self._threads:
            self._threads.add((thread, gpu))
            handle = f"cuBLAS workspace of the {thread} thread on GPU {gpu}"
            self._append(handle, amount, place, None, gpu)
            self.recording.categories[handle] = "workspaces"

    def _append(
        self, handle: Handle, num_bytes: int, place: Place, layer: Layer | None, gpu: int = 0
    ) -> None:
        self._end_sum()
        self.recording.events.append(Event(handle, num_bytes, self.phase, place, layer, gpu))

    def _end_sum(self) -> None:
        """A sum whose first addend lives on has memory of its own after all."""
        if self._sum is not None:
            self.recording.events += self._sum.events
            self._sum = None

    def _remember(self, storage: Any, handle: Handle, layer: Layer | None, gpu: int) -> _Storage:
        key = storage._cdata
        known = self._storages[key] = _Storage(storage, self._forget)
        known.key, known.handle, known.layer, known.gpu = key, handle, layer, gpu
        return known

    def _forget(self, storage: _Storage) -> None:
        self._storages.pop(storage.key, None)
        module, layer = self._where()
        place = Place(module or "", "free")
        event = Event(
            storage.handle, 0, self.phase, place, storage.layer if module is None else layer
        )
        if self._sum is None:
            self.recording.events.append(event)
        elif storage.key == self._sum.addend and storage.gpu == self._sum.known.gpu:
            self._sum.known.handle = storage.handle  # the sum is where its addend was
            self.recording.events += self._sum.events[1:]
            self._sum = None
        else:
            self._sum.events.append(event)


class _Storage(weakref.ref[Any]):
    """A storage that is alive; calls back when it is not."""

    __slots__ = ("gpu", "handle", "key", "layer")

    key: int
    handle: Handle
    layer: Layer | None
    gpu: int


class _Sum:
    """Gradients that the autograd engine adds up, until it is known what becomes of the first."""

    def __init__(self, addend: int, known: _Storage, events: list[Event]) -> None:
        self.addend = addend
        """Key of the first addend's storage."""
        self.known = known
        self.events = events
        """The sum's allocation, and the frees since."""


def _accumulates(args: Sequence[Any], out: torch.Tensor) -> bool:
    """Whether the autograd engine adds to a gradient that it may write into.

    torch autograd/input_buffer.cpp `accumulate`: into the first addend where nothing else holds it
    and it is no view; fake tensors are subclasses, for which it always makes a new one.
    """
    first = args[0]
    return (
        sys._getframe(_ENGINE_DEPTH).f_code.co_name == "_engine_run_backward"
        and not torch.is_grad_enabled()
        and not first._is_view()
        and first.dtype == out.dtype
        and first.shape == out.shape
    )


_ENGINE_DEPTH: Final = 3
"""Frames from there to the caller of the dispatcher."""


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


_GENERATING = ("prefill", "decode")
_NUMBER = re.compile(r"\.\d+")
_aten = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
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
