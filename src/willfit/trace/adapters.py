"""PEFT's adapters of any method, put into a model that holds no values."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch

from willfit.errors import InputError, UnsupportedError
from willfit.trace.cuda import boft, replaced
from willfit.trace.fakes import replace_tensors
from willfit.trace.quantized import known_to_peft


class Adapted(NamedTuple):
    """PEFT's model around ours."""

    model: torch.nn.Module
    paths: dict[int, str]
    """The base's paths by ``id`` of its modules."""
    on_host: frozenset[tuple[int, str]]
    """Buffers, as (``id`` of the module, name), that PEFT leaves where it made them."""


def with_adapter(model: torch.nn.Module, config: Mapping[str, Any]) -> Adapted:
    """PEFT's model around ours.

    ``config`` is the content of an ``adapter_config.json``. Raises `InputError` on a method or
    setting that the installed PEFT does not know.
    """
    settings = peft_settings(config)
    try:
        known_to_peft(settings, model)
        with replaced(boft.replacements()):
            return _put_in(model, settings)
    except Exception as error:  # whatever a strange config breaks
        raise _refused(settings.peft_type, error) from error


def peft_settings(config: Mapping[str, Any]) -> Any:
    """PEFT's configuration of an ``adapter_config.json``, without what it would load or import.

    Raises `InputError` on a method or setting that the installed PEFT does not know.
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
        return cls(**given)
    except Exception as error:  # whatever a strange config breaks
        raise _refused(kind, error) from error


def _refused(kind: Any, error: Exception) -> InputError:
    import peft

    name = str(getattr(kind, "value", kind))
    return InputError(
        f"PEFT {peft.__version__} refuses this {name} adapter: {type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}"
    )


_LOADS: Final = re.compile(r"tokenizer|megatron|mapping|revision|path|kwargs|init_text|^adapters$")
"""Fields that name something to load or import; a stranger's file has no say in that."""
RENAMED: Final = {"BONE": "MISS"}
"""Methods that PEFT has under another name now."""


def adapter_optimizer(name: str, model: Any) -> Any:
    """PEFT's own optimizer of that name; None where it has none. May freeze parameters.

    Raises `UnsupportedError` on adapters that it is not made for.
    """
    if name != "lorafa":
        return None
    from peft.optimizers import create_lorafa_optimizer

    configs: Mapping[Any, Any] = getattr(model, "peft_config", {})
    config: Any = configs.get(getattr(model, "active_adapter", None))
    if not hasattr(config, "lora_alpha"):
        raise UnsupportedError("optimizer lorafa trains LoRA adapters: give --peft-config")
    make: Any = create_lorafa_optimizer
    return make(model, r=config.r, lora_alpha=config.lora_alpha, lr=1e-4)


def _put_in(model: torch.nn.Module, settings: Any) -> Adapted:
    """Adapters on the meta device, or, where their set-up reads values, on zeros.

    The zeros have addresses and no pages until they are touched: a method that reads a few of the
    base's values costs little, one that factorises all of them takes its time.
    """
    import peft

    put: Any = peft.get_peft_model
    base: Any = copy.deepcopy(model)
    paths = {id(module): path for path, module in base.named_modules()}
    try:
        adapted = put(base, settings)
        return Adapted(adapted, paths, frozenset(_left_on_host(adapted, paths)))
    except (NotImplementedError, RuntimeError):
        replace_tensors(model, _zeros_like, lambda tensor: tensor.device.type == "meta")
        paths = {id(module): path for path, module in model.named_modules()}
        return Adapted(put(model, settings), paths, frozenset())


def _left_on_host(model: torch.nn.Module, base: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Adapters' buffers that did not follow the base to its device, here the meta device."""
    for module in model.modules():
        if id(module) not in base:
            for name, tensor in module._buffers.items():
                if tensor is not None and tensor.device.type != "meta":
                    yield id(module), name


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    """Numpy's zeros come from calloc, which takes no page before it is written to."""
    import numpy as np

    num_bytes = tensor.numel() * tensor.element_size()
    flat = torch.from_numpy(np.zeros(max(num_bytes, 1), dtype=np.uint8))
    return flat[:num_bytes].view(tensor.dtype).view(tensor.shape)
