"""PEFT's adapters of any method, put into a model that holds no values."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, Final

import torch

from willfit.errors import InputError
from willfit.trace.fakes import replace_tensors
from willfit.trace.quantized import known_to_peft


def with_adapter(
    model: torch.nn.Module, config: Mapping[str, Any]
) -> tuple[torch.nn.Module, dict[int, str]]:
    """PEFT's model around ours, and the base's paths by ``id`` of its modules.

    ``config`` is the content of an ``adapter_config.json``. Raises `InputError` on a method or
    setting that the installed PEFT does not know.
    """
    import peft
    from peft import mapping

    kind = str(config.get("peft_type", "")).upper()
    kind = RENAMED.get(kind, kind)
    known: Any = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    cls = next((cls for name, cls in known.items() if str(name.value).upper() == kind), None)
    if cls is None:
        raise InputError(
            f"peft_type {kind[:40] or '(none)'} is not known to PEFT {peft.__version__}: "
            f"it has {', '.join(sorted(str(name.value) for name in known))}"
        )
    fields = set(cls.__dataclass_fields__)
    given = {
        key: value
        for key, value in config.items()
        if key in fields and key not in ("peft_type", "peft_version") and not _LOADS.search(key)
    }
    given["inference_mode"] = False
    if "prompt_tuning_init" in given:
        given["prompt_tuning_init"] = "RANDOM"  # else a tokenizer would be fetched
    try:
        settings = cls(**given)
        known_to_peft(settings, model)
        return _put_in(model, settings)
    except Exception as error:  # whatever a strange config breaks
        raise InputError(
            f"PEFT {peft.__version__} refuses this {kind} adapter: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


_LOADS: Final = re.compile(r"tokenizer|megatron|mapping|revision|path|kwargs|init_text|^adapters$")
"""Fields that name something to load or import; a stranger's file has no say in that."""
RENAMED: Final = {"BONE": "MISS"}
"""Methods that PEFT has under another name now."""


def _put_in(model: torch.nn.Module, settings: Any) -> tuple[torch.nn.Module, dict[int, str]]:
    """Adapters on the meta device, or, where their set-up reads values, on zeros.

    The zeros have addresses and no pages until they are touched: a method that reads a few of the
    base's values costs little, one that factorises all of them takes its time.
    """
    import peft

    put: Any = peft.get_peft_model
    base: Any = copy.deepcopy(model)
    paths = {id(module): path for path, module in base.named_modules()}
    try:
        return put(base, settings), paths
    except (NotImplementedError, RuntimeError):
        replace_tensors(model, _zeros_like, lambda tensor: tensor.device.type == "meta")
        paths = {id(module): path for path, module in model.named_modules()}
        return put(model, settings), paths


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """Numpy's zeros come from calloc, which takes no page before it is written to."""
    import numpy as np

    num_bytes = tensor.numel() * tensor.element_size()
    flat = torch.from_numpy(np.zeros(max(num_bytes, 1), dtype=np.uint8))
    return flat[:num_bytes].view(tensor.dtype).view(tensor.shape)
