"""Taking apart: what a library's objects hold beside themselves is let go of, one kind a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import nn

from willfit.live.memory.kinds import is_below


def take_apart(one: Any) -> tuple[str, ...]:
    """Let go of what an object holds for others; returns what was done, in words.

    The object itself is left to its owner. Containers are gone through, one level after the other.
    """
    if isinstance(one, dict):
        return _each(one.values())
    if isinstance(one, list | tuple | set | frozenset):
        return _each(one)
    done: list[str] = []
    for is_one, free in _ROWS:
        if is_one(one):
            done += free(one)
    return tuple(dict.fromkeys(done))


def _each(objects: Iterable[Any]) -> tuple[str, ...]:
    done: list[str] = []
    for one in list(objects):
        done += take_apart(one)
    return tuple(dict.fromkeys(done))


def empty(one: Any) -> int:
    """Take the tensors out of modules for good, whoever holds the modules; returns their number.

    Each parameter and buffer becomes one of no elements: the object stays and cannot be used.
    """
    if isinstance(one, dict):
        return sum(empty(part) for part in one.values())
    if isinstance(one, list | tuple | set | frozenset):
        return sum(empty(part) for part in one)
    if isinstance(one, torch.Tensor):
        return _emptied(one)
    inner = one if isinstance(one, nn.Module) else getattr(one, "model", None)
    if not isinstance(inner, nn.Module):
        return 0
    return sum(_emptied(tensor) for tensor in [*inner.parameters(), *inner.buffers()])


def _emptied(tensor: torch.Tensor) -> int:
    try:
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    except (RuntimeError, TypeError, NotImplementedError):  # a wrapper class that refuses it
        return 0
    return 1


def _trainer(trainer: Any) -> list[str]:
    """Its model, optimizer and scheduler, wherever it and its callbacks keep them."""
    done: list[str] = []
    for part in ("optimizer", "model"):
        done += take_apart(getattr(trainer, part, None))
    accelerator = getattr(trainer, "accelerator", None)
    done += take_apart(accelerator) if accelerator is not None else []
    names = (
        "model",
        "model_wrapped",
        "optimizer",
        "lr_scheduler",
        "deepspeed",
        "_past",
        "_tr_loss",
    )
    for keeper in (trainer, getattr(trainer, "callback_handler", None)):
        for name in (*names, "train_dataloader", "eval_dataloader"):
            if getattr(keeper, name, None) is not None:
                setattr(keeper, name, None)
    return [*done, "the trainer's references to its model and optimizer"]


def _accelerator(accelerator: Any) -> list[str]:
    accelerator.free_memory()
    return ["accelerate's references"]


def _pipeline(pipeline: Any) -> list[str]:
    done = take_apart(pipeline.model)
    for name in ("model", "assistant_model"):
        if getattr(pipeline, name, None) is not None:
            setattr(pipeline, name, None)
    return [*done, "the pipeline's model"]


def _optimizer(optimizer: Any) -> list[str]:
    held = bool(optimizer.state)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["params"] = []
    return ["optimizer states"] if held else []


def _wrapped_optimizer(wrapper: Any) -> list[str]:
    inner = getattr(wrapper, "optimizer", None)
    return _optimizer(inner) if isinstance(inner, torch.optim.Optimizer) else []


def _module(module: nn.Module) -> list[str]:
    done = []
    if any("_hf_hook" in vars(part) for part in module.modules()):
        from accelerate.hooks import (  # type: ignore[import-untyped]  # it has no stubs
            remove_hook_from_submodules,
        )

        remove_hook_from_submodules(module)
        done.append("accelerate's hooks")
    if any(parameter.grad is not None for parameter in module.parameters()):
        module.zero_grad(set_to_none=True)
        done.append("gradients")
    return done + (["KV caches"] if _drop_caches(module) else [])


def _drop_caches(module: nn.Module) -> int:
    """Caches of keys and values that a model keeps between calls, as static ones are."""
    count = 0
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if is_below(value, "transformers.cache_utils", "Cache"):
                setattr(part, name, None)
                count += 1
    return count


def _is_below(module: str, name: str) -> Callable[[Any], bool]:
    return lambda one: is_below(one, module, name)


_ROWS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], list[str]]], ...]] = (
    (_is_below("transformers.trainer", "Trainer"), _trainer),
    (_is_below("accelerate.", "Accelerator"), _accelerator),
    (_is_below("transformers.pipelines", "Pipeline"), _pipeline),
    (_is_below("accelerate.", "AcceleratedOptimizer"), _wrapped_optimizer),
    (lambda one: isinstance(one, torch.optim.Optimizer), _optimizer),
    (lambda one: isinstance(one, nn.Module), _module),
)
