"""Specials: holders that people do not think of, each with its name and the line that frees it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    TracebackType,
)
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data.dataloader import DataLoader, _BaseDataLoaderIter

from willfit.live.memory.kinds import is_below
from willfit.live.memory.steps import MAP

_HOOKS: Final = ("_hooks", "_hooks_with_kwargs")


@dataclass(frozen=True, kw_only=True)
class Special:
    """One kind of holder: how it is known, called and made to let go."""

    kind: str
    is_one: Callable[[Sequence[Any], int], bool]
    """Whether the object at that place of a way is one."""
    words: Callable[[Any], str]
    line: str = "del {x}"
    """``{x}`` is the expression for it."""

    @property
    def deletes(self) -> bool:
        """Whether nothing but deleting the holder helps."""
        return self.line == "del {x}"


def special_at(way: Sequence[Any], place: int) -> Special | None:
    """The kind of the object at a place; the last object of a way is what is held, not a holder."""
    if place >= len(way) - 1:
        return None
    return next((one for one in SPECIALS if one.is_one(way, place)), None)


def _is(*kinds: Any) -> Callable[[Sequence[Any], int], bool]:
    return lambda way, place: isinstance(way[place], kinds)


def _named(module: str, name: str) -> Callable[[Sequence[Any], int], bool]:
    return lambda way, place: is_below(way[place], module, name)


def _is_map(way: Sequence[Any], place: int) -> bool:
    return isinstance(way[place], GeneratorType) and way[place].__qualname__ == MAP


def _is_hook_table(way: Sequence[Any], place: int) -> bool:
    """A module whose table of hooks is what holds."""
    module = way[place]
    if not isinstance(module, nn.Module) or len(way) < place + 3:
        return False
    tables = [value for name, value in vars(module).items() if name.endswith(_HOOKS)]
    return any(way[place + 2] is table for table in tables)


def _is_accelerate_hook(way: Sequence[Any], place: int) -> bool:
    module = way[place]
    if not isinstance(module, nn.Module) or len(way) < place + 3:
        return False
    names = ("_hf_hook", "_old_forward")
    return any(way[place + 2] is vars(module).get(name) for name in names)


def _is_hooked_tensor(way: Sequence[Any], place: int) -> bool:
    tensor = way[place]
    hooks = getattr(tensor, "_backward_hooks", None) if isinstance(tensor, torch.Tensor) else None
    return hooks is not None and any(one is hooks for one in way[place + 1 : place + 3])


def _is_chained(way: Sequence[Any], place: int) -> bool:
    """An exception that came from another: each has a traceback of its own."""
    error = way[place]
    return isinstance(error, BaseException) and bool(error.__cause__ or error.__context__)


def _is_finalizer(way: Sequence[Any], place: int) -> bool:
    kind = type(way[place])
    return (kind.__module__, kind.__qualname__) == ("weakref", "finalize._Info")


def _has_closure(way: Sequence[Any], place: int) -> bool:
    held = way[place + 1]
    return isinstance(way[place], FunctionType) and held is way[place].__closure__


def _has_default(way: Sequence[Any], place: int) -> bool:
    function, held = way[place], way[place + 1]
    return isinstance(function, FunctionType) and (
        held is function.__defaults__ or held is function.__kwdefaults__
    )


def _name(one: Any) -> str:
    return str(getattr(one, "__name__", type(one).__name__))


def _type(one: Any) -> str:
    return type(one).__name__


def _partial_name(one: Any) -> str:
    return _name(one.func)


def _method_name(one: Any) -> str:
    owner = getattr(one, "__self__", None)
    return f"{type(owner).__name__}.{_name(one)}"


SPECIALS: Final = (
    Special(kind="executor.map", is_one=_is_map, line="{x}.close()",
            words=lambda _: "the generator returned by `executor.map`"),
    Special(kind="generator", is_one=_is(GeneratorType), line="{x}.close()",
            words=lambda one: f"suspended generator `{_name(one)}`"),
    Special(kind="coroutine", is_one=_is(CoroutineType), line="{x}.close()",
            words=lambda one: f"suspended coroutine `{_name(one)}`"),
    Special(kind="async generator", is_one=_is(AsyncGeneratorType), line="await {x}.aclose()",
            words=lambda one: f"suspended async generator `{_name(one)}`"),
    Special(kind="future", is_one=_is(Future, asyncio.Future),
            words=lambda one: "a task" if isinstance(one, asyncio.Task) else "a future"),
    Special(kind="executor", is_one=_is(Executor), line="{x}.shutdown(cancel_futures=True)",
            words=lambda one: f"a task waiting in `{_type(one)}`"),
    Special(kind="thread", is_one=_is(threading.Thread),
            words=lambda one: f"thread `{one.name}`"),
    Special(kind="exception", is_one=_is_chained,
            words=lambda one: f"exception `{_type(one)}`"),
    Special(kind="exception", is_one=_is(BaseException), line="{x}.__traceback__ = None",
            words=lambda one: f"exception `{_type(one)}`"),
    Special(kind="traceback", is_one=_is(TracebackType), words=lambda _: "traceback"),
    Special(kind="lru_cache", is_one=_is(functools._lru_cache_wrapper), line="{x}.cache_clear()",
            words=lambda one: f"functools cache of `{_name(one)}`"),
    Special(kind="closure", is_one=_has_closure,
            words=lambda one: f"closure of `{_name(one)}`"),
    Special(kind="default argument", is_one=_has_default,
            words=lambda one: f"default argument of `{_name(one)}`"),
    Special(kind="partial", is_one=_is(functools.partial),
            words=lambda one: f"functools.partial of `{_partial_name(one)}`"),
    Special(kind="bound method", is_one=_is(MethodType, BuiltinMethodType),
            words=lambda one: f"bound method `{_method_name(one)}`"),
    Special(kind="optimizer", is_one=_is(torch.optim.Optimizer),
            words=lambda one: f"optimizer `{_type(one)}`"),
    Special(kind="scheduler", is_one=_is(torch.optim.lr_scheduler.LRScheduler),
            words=lambda one: f"learning rate scheduler `{_type(one)}`"),
    Special(kind="trainer", is_one=_named("transformers.trainer", "Trainer"),
            words=lambda one: f"`{_type(one)}`", line="willfit.release({x}); del {x}"),
    Special(kind="accelerator", is_one=_named("accelerate.", "Accelerator"),
            words=lambda one: f"`{_type(one)}`", line="{x}.free_memory()"),
    Special(kind="pipeline", is_one=_named("transformers.pipelines", "Pipeline"),
            words=lambda one: f"pipeline `{_type(one)}`"),
    Special(kind="peft", is_one=_named("peft.", "PeftModel"),
            words=lambda one: f"PEFT wrapper `{_type(one)}`"),
    Special(kind="dataloader", is_one=_is(DataLoader, _BaseDataLoaderIter),
            words=lambda one: f"`{_type(one)}`"),
    Special(kind="kv cache", is_one=_named("transformers.cache_utils", "Cache"),
            words=lambda one: f"KV cache `{_type(one)}`"),
    Special(kind="accelerate hook", is_one=_is_accelerate_hook,
            words=lambda one: f"accelerate's hook on `{_type(one)}`",
            line="from accelerate.hooks import remove_hook_from_submodules; "
            "remove_hook_from_submodules({x})"),
    Special(kind="hook", is_one=_is_hook_table,
            words=lambda one: f"hook registered on `{_type(one)}`",
            line="{x}._forward_hooks.clear()"),
    Special(kind="hook", is_one=_is_hooked_tensor, line="{x}._backward_hooks.clear()",
            words=lambda _: "hook registered on a tensor"),
    Special(kind="finalizer", is_one=_is_finalizer,
            line="# lets go when the object is gone that it waits for",
            words=lambda _: "`weakref.finalize` of an object that is still alive"),
)  # fmt: skip
"""The first that fits counts."""
