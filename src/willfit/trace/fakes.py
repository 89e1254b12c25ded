"""From a model on the meta device to one of fake tensors, which run everywhere and hold nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes


def fake_mode() -> FakeTensorMode:
    """The mode that all tensors of one trace belong to."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def to_fakes(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake one on the (fake) CPU, tied ones by the same.

    On the fake CPU because autograd on fake CUDA tensors needs a CUDA build and a device. Tensors
    that modules keep as plain attributes follow too, for adapters share them that way.
    """

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu"
            )

    replace_tensors(model, fake, lambda tensor: not _is_fake(tensor), attributes=True)


def replace_tensors(
    model: torch.nn.Module,
    make: Callable[[torch.Tensor], torch.Tensor],
    chosen: Callable[[torch.Tensor], bool],
    *,
    attributes: bool = False,
) -> None:
    """Others in place of a model's chosen tensors, parameters again where they were, ties kept.

    ``attributes``: those too that a module keeps as plain attributes.
    """
    memo: dict[int, torch.Tensor] = {}
    for module in model.modules():
        owned: list[dict[str, Any]] = [module._parameters, module._buffers]
        for tensors in [*owned, module.__dict__] if attributes else owned:
            for name, tensor in list(tensors.items()):
                if not isinstance(tensor, torch.Tensor) or not chosen(tensor):
                    continue
                if id(tensor) not in memo:
                    memo[id(tensor)] = _as_it_was(tensor, make(tensor))
                tensors[name] = memo[id(tensor)]


def _as_it_was(tensor: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, torch.nn.Parameter):
        return made
    parameter: Any = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return parameter  # type: ignore[no-any-return]


def _is_fake(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or hasattr(tensor, "fake_mode")


def with_value(made: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """The fake tensor that a factory made, with the value that the factory gives."""
    with _disable_current_modes():
        real = func(*args, **kwargs)
    mode = made.fake_mode
    return mode.fake_tensor_converter.from_real_tensor(mode, real, make_constant=True)
