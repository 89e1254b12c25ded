"""From a model on the meta device to one of fake tensors, which run everywhere and hold nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes


def fake_mode() -> FakeTensorMode:
    """The mode that all tensors of one trace belong to."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def to_fakes(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake one on the (fake) CPU, tied ones by the same.

    On the fake CPU because autograd on fake CUDA tensors needs a CUDA build and a device. Tensors
    that modules keep as plain attributes follow too, for adapters share them that way.
    """
    memo: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in memo:
            memo[id(tensor)] = _fake(tensor, mode)
        return memo[id(tensor)]

    for module in model.modules():
        owned: list[dict[str, Any]] = [module._parameters, module._buffers, module.__dict__]
        for tensors in owned:
            for name, value in list(tensors.items()):
                if isinstance(value, torch.Tensor) and not _is_fake(value):
                    tensors[name] = fake(value)


def _is_fake(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ == "FakeTensor" or hasattr(tensor, "fake_mode")


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, torch.nn.Parameter):
        return made
    parameter: Any = torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return parameter  # type: ignore[no-any-return]


def with_value(made: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """The fake tensor that a factory made, with the value that the factory gives."""
    with _disable_current_modes():
        real = func(*args, **kwargs)
    mode = made.fake_mode
    return mode.fake_tensor_converter.from_real_tensor(mode, real, make_constant=True)
