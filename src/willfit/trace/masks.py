"""A mask of ones is none: transformers looks into the one it is given, which a fake one forbids."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

_CHECK: Final = "_ignore_causal_mask_sdpa"
_CHECKS: Final = (
    ("transformers.masking_utils", None),
    ("transformers.modeling_attn_mask_utils", "AttentionMaskConverter"),
)
"""Where releases keep the check: transformers ≥ 4.53 in the first, all since 4.36 in the second."""


def nothing_hidden() -> Iterator[tuple[Any, str, Any]]:
    """Rows for `replaced` by which the check takes a mask for one of ones."""
    for module, owner in _CHECKS:
        try:
            place: Any = importlib.import_module(module)
        except ImportError:
            continue
        place = getattr(place, owner) if owner else place
        kept = inspect.getattr_static(place, _CHECK, None)
        if kept is not None:
            check = _without_mask(getattr(place, _CHECK))
            yield place, _CHECK, staticmethod(check) if isinstance(kept, staticmethod) else check


def _without_mask(original: Callable[..., Any]) -> Callable[..., Any]:
    def check(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        for name in ("padding_mask", "attention_mask"):
            if name in given:
                given[name] = None
        if isinstance(given.get("q_offset"), torch.Tensor):  # a static cache's, now 0
            if given["q_length"] == 1:
                return False  # what is not written yet is hidden
            given["q_offset"] = 0
        return original(**given)

    return check
