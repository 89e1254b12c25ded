"""flash-attn for releases of transformers that import its functions by name (before 4.54).

Since 4.43 they are names of ``modeling_flash_attention_utils``; before, of each model's module.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

_UTILS = "transformers.modeling_flash_attention_utils"


def is_imported_by_name() -> bool:
    """Whether the installed release has no way of its own to load the library late."""
    if importlib.util.find_spec(_UTILS) is None:
        return True
    return not hasattr(importlib.import_module(_UTILS), "_lazy_imports")


def imported_by_name(
    dense: Callable[..., torch.Tensor], varlen: Callable[..., torch.Tensor]
) -> list[tuple[Any, str, Any]]:
    """(owner, name, value): the functions wherever they would be, and the checks that they are."""
    base: Any = importlib.import_module("transformers.modeling_utils").PreTrainedModel
    rows: list[tuple[Any, str, Any]] = [
        (base, "_check_and_enable_flash_attn_2", classmethod(_enabled)),
        (torch.Tensor, "item", _item),
    ]
    names = {
        "flash_attn_func": dense,
        "flash_attn_varlen_func": varlen,
        "_flash_supports_window_size": True,
    }
    places: list[Any] = list(_models())
    if importlib.util.find_spec(_UTILS) is not None:
        utils: Any = importlib.import_module(_UTILS)
        forward = utils._flash_attention_forward
        rows += [(module, "_flash_attention_forward", forward) for module in places]
        rows.append((utils, "torch", _Torch()))
        places = [utils]
    return [*rows, *((module, *named) for module in places for named in names.items())]


def _models() -> Iterator[Any]:
    """Every model's module that is loaded; those of a real run import the library on loading."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and ".modeling_" in name:
            yield module


def _enabled(_: Any, config: Any, *__: Any, **___: Any) -> Any:
    config._attn_implementation = "flash_attention_2"
    return config


_ITEM = torch.Tensor.item


def _item(tensor: torch.Tensor) -> Any:
    """The largest position is asked for, to see whether the table of angles is long enough."""
    return 0 if isinstance(tensor, FakeTensor) else _ITEM(tensor)


class _Rising:
    """Differences of positions: none is negative, since a row is one sequence."""

    def __ge__(self, _: object) -> _Rising:
        return self

    def all(self) -> bool:
        return True


class _Torch:
    """torch, whose ``diff`` reads no values."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def diff(*_: Any, **__: Any) -> _Rising:
        return _Rising()
