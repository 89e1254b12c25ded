"""What stands for a GPU where another's benchmark runs on fake tensors: torch.cuda and Triton."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import math
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from willfit.scenario.machine import Gpu
from willfit.trace.cuda.kernels import replaced

MULTIPROCESSORS: Final = {
    "A100": 108, "H100 PCIe": 114, "H100": 132, "B200": 148, "RTX 3090": 82, "RTX 4090": 128,
}  # fmt: skip
"""Of each card, from NVIDIA's data sheets: kernels of norms keep a partial sum for each."""


class OnTheCpu(TorchFunctionMode):
    """``device="cuda"`` is the fake CPU, on which autograd works without a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__setitem__ and isinstance(args[2], (bool, int, float)):
            return None  # written in place, one place at a time: nothing is allocated
        kwargs = {name: _here(value) for name, value in (kwargs or {}).items()}
        return func(*[_here(value) for value in args], **kwargs)


def _here(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


@contextlib.contextmanager
def cuda(gpu: Gpu, name: str) -> Iterator[None]:
    """``torch.cuda`` as the scripts ask it."""
    keys = sorted((key for key in MULTIPROCESSORS if key in name), key=len)
    properties = types.SimpleNamespace(
        name=name,
        multi_processor_count=MULTIPROCESSORS[keys[-1]] if keys else 0,
        total_memory=gpu.capacity_bytes,
        major=gpu.compute_capability[0],
        minor=gpu.compute_capability[1],
    )
    module: Any = torch.cuda
    rows: list[tuple[Any, str, Any]] = [
        (module, "is_available", lambda: True),
        (module, "device_count", lambda: 1),
        (module, "current_device", lambda: 0),
        (module, "get_device_properties", lambda *_: properties),
        (module, "get_device_capability", lambda *_: gpu.compute_capability),
        (module, "get_device_name", lambda *_: name),
        (module, "synchronize", lambda *_: None),
        (module, "set_device", lambda *_: None),
        (module, "empty_cache", lambda *_: None),
        (module, "manual_seed_all", lambda *_: None),
        (module, "device", lambda *_: contextlib.nullcontext()),
        (torch._C, "_cuda_getCurrentRawStream", lambda *_: 0),
        (torch, "compile", _uncompiled),
        (torch, "prod", _prod),
        (torch, "tensor", _tensor),
        (torch.nn.Module, "_apply", _applied),
        (torch._dynamo, "mark_dynamic", lambda *_, **__: None),
    ]
    with replaced(rows):
        yield


_REAL_PROD: Final = torch.prod
_REAL_TENSOR: Final = torch.tensor


def _tensor(data: Any, **given: Any) -> Any:
    """One that knows the list it was made of."""
    made: Any = _REAL_TENSOR(data, **given)
    if isinstance(data, (list, tuple)):
        made.made_of = list(data)
    return made


def _prod(tensor: Any, *args: Any, **given: Any) -> Any:
    """Of such a list it has to be right, for it is the size of a shape."""
    if hasattr(tensor, "made_of") and not (args or given):
        return _REAL_TENSOR(math.prod(tensor.made_of))
    return _REAL_PROD(tensor, *args, **given)


def _applied(module: Any, function: Callable[[Any], Any], recurse: bool = True) -> Any:
    """``Module.to``: parameters are exchanged one by one, as their data would be."""
    for child in module.children() if recurse else ():
        _applied(child, function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = function(parameter)
            if moved is not parameter:
                module._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return function if function is not None else lambda inner: inner


class _Anything:
    """An attribute of Triton's: callable, a decorator, a kernel to launch, a type to name."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Anything()

    def __getitem__(self, _: Any) -> Any:
        return _Anything()


class _Constexpr:
    """``tl.constexpr(3)``: what callers compare by its value."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return bool(self.value == getattr(other, "value", other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __index__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)


class _Kernel(_Anything):
    """A kernel: launching it does nothing."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Also what a decorator's second call gets: the function."""
        return None


def _decorator(*args: Any, **_: Any) -> Any:
    """``@jit``, ``@jit(…)``, ``@autotune(…)``, ``@heuristics(…)``."""
    if len(args) == 1 and (isinstance(args[0], (types.FunctionType, _Anything))):
        return _Kernel()
    return lambda _: _Kernel()


def _next_power_of_2(number: int) -> int:
    return 1 << max(0, (int(number) - 1).bit_length())


class _Module(types.ModuleType):
    __version__ = "3.4.0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if name in ("jit", "autotune", "heuristics"):
            return _decorator
        if name == "constexpr":
            return _Constexpr
        if name == "cdiv":
            return lambda a, b: -(-a // b)
        if name == "next_power_of_2":
            return _next_power_of_2
        return _Anything()


_OTHERS: Final = tuple(
    f"liger_kernel.transformers.{name}"
    for name in ("auto_model", "fsdp", "model", "monkey_patch", "trainer")
)
"""Modules of Liger that patch models of transformers: no kernel needs them, and every release of
transformers has others."""


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for ``triton`` and everything below it."""

    def find_spec(self, name: str, *_: Any) -> Any:
        """A stand-in's, or None for another module."""
        if name.partition(".")[0] != "triton" and not name.startswith(_OTHERS):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        """One that has every attribute."""
        return _Module(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing is in it."""
