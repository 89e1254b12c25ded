"""From a model on the meta device to one of fake tensors, which run everywhere and hold nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    ``attributes``: those too that a module keeps as plain attributes, or in a dict there.
    """
    memo: dict[int, torch.Tensor] = {}
    for module in model.modules():
        owned: list[dict[str, Any]] = [module._parameters, module._buffers]
        if attributes:
            owned += [module.__dict__, *_dicts(module)]
        for tensors in owned:
            for name, tensor in list(tensors.items()):
                if not isinstance(tensor, torch.Tensor) or not chosen(tensor):
                    continue
                if id(tensor) not in memo:
                    memo[id(tensor)] = _as_it_was(tensor, make(tensor))
                tensors[name] = memo[id(tensor)]


def in_dicts(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors of a module's plain dicts (by adapter), which move when they are first used."""
    for tensors in _dicts(module):
        yield from (tensor for tensor in tensors.values() if isinstance(tensor, torch.Tensor))


def _dicts(module: torch.nn.Module) -> Iterator[dict[str, Any]]:
    for name, value in module.__dict__.items():
        if type(value) is dict and name not in ("_parameters", "_buffers", "_modules"):
            yield value


def sparse_mask(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``aten.sparse_mask`` by shapes: a fake one forgets how many values the mask has."""
    return torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors(  # type: ignore[no-any-return]
        mask.sparse_dim(),
        mask.dense_dim(),
        mask.shape,
        mask._indices().clone(),
        mask._values().to(tensor.dtype, copy=True),
        dtype=tensor.dtype,
        layout=torch.sparse_coo,
        device=mask.device,
    )


def everything(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with all places in place of a mask's, whose number is a matter of its values."""
    return [
        torch.zeros(index.numel(), dtype=torch.int64)
        if index is not None and index.dtype == torch.bool and index.dim() == 1
        else index
        for index in indices
    ]


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
