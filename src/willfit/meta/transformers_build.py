"""The tensor table of the real class: built on the meta device, no weights, no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from willfit.errors import InputError, UnsupportedError
from willfit.scenario.collapse import NamedTensor, collapse, collapse_names
from willfit.scenario.model import TensorKind, TensorRow


@dataclass(frozen=True, kw_only=True)
class BuiltTable:
    """What a meta-device build says of a model."""

    model_class: str
    rows: tuple[TensorRow, ...]
    no_split: tuple[str, ...]
    composite: tuple[str, ...]
    keep_in_fp32: tuple[str, ...]
    supports_sdpa: bool
    base_model_prefix: str


def build_transformers(
    config: Mapping[str, Any], auto_class: str | None = None, *, param_dtype: str | None = None
) -> BuiltTable:
    """Table of the class that ``architectures`` declares, or of an auto class.

    ``param_dtype`` names the type of floating parameters as stored; None keeps float32. Raises
    `UnsupportedError` without torch and transformers, `InputError` on a config they refuse.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise UnsupportedError(
            "building the real class needs torch and transformers: pip install 'willfit[trace]'"
        ) from None
    if config.get("model_type") not in transformers.CONFIG_MAPPING:
        raise InputError(
            f"transformers {transformers.__version__} knows no model_type "
            f"{str(config.get('model_type', 'absent'))[:60]!r}"
        )
    facts = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        loaded = transformers.AutoConfig.for_model(**facts)
        cls = _class(transformers, config, auto_class)
        with torch.device("meta"):
            model = cls(loaded) if auto_class is None else cls.from_config(loaded)
    except Exception as error:  # whatever a strange config breaks in modelling code
        raise InputError(
            f"transformers {transformers.__version__} cannot build this config: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    return table_of(model, param_dtype=param_dtype)


def _class(transformers: Any, config: Mapping[str, Any], auto_class: str | None) -> Any:
    if auto_class is not None:
        return getattr(transformers, auto_class)
    names = config.get("architectures") or []
    known = {name.lower(): name for name in dir(transformers)}
    spelled = (known.get(str(name).lower()) for name in names)
    found = next((getattr(transformers, name) for name in spelled if name), None)
    if found is None:
        raise InputError(
            f"transformers has no class called {', '.join(map(str, names)) or '(none declared)'}"
        )
    return found


def table_of(model: Any, *, param_dtype: str | None = None) -> BuiltTable:
    """Table of a module that is already built, on whatever device."""
    no_split = set(getattr(model, "_no_split_modules", None) or ())
    modules = dict(model.named_modules())
    tensors = list(_tensors(model, param_dtype))
    owners = {tensor.name.rpartition(".")[0] for tensor in tensors}
    return BuiltTable(
        model_class=type(model).__name__,
        rows=collapse(tensors),
        no_split=collapse_names(n for n, m in modules.items() if type(m).__name__ in no_split),
        composite=collapse_names(
            name
            for name, module in modules.items()
            if name in owners and next(module.children(), None) is not None
        ),
        keep_in_fp32=tuple(
            sorted(
                {
                    *(getattr(model, "_keep_in_fp32_modules", None) or ()),
                    *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()),
                }
            )
        ),
        supports_sdpa=bool(getattr(model, "_supports_sdpa", False)),
        base_model_prefix=str(getattr(model, "base_model_prefix", "")),
    )


def _tensors(model: Any, param_dtype: str | None) -> Iterator[NamedTensor]:
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        for kind, local, tensor in _own_tensors(module):
            name = f"{path}.{local}" if path else local
            floating = tensor.dtype.is_floating_point
            stored = kind is not TensorKind.NON_PERSISTENT_BUFFER
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield NamedTensor(
                name=name,
                shape=tuple(tensor.shape),
                dtype=param_dtype if param_dtype and floating and stored else dtype,
                module=type(module).__name__,
                kind=kind,
                tied_to=seen.get(id(tensor)),
            )
            seen.setdefault(id(tensor), name)


def _own_tensors(module: Any) -> Iterator[tuple[TensorKind, str, Any]]:
    for local, tensor in module._parameters.items():
        if tensor is not None:
            yield TensorKind.PARAMETER, local, tensor
    for local, tensor in module._buffers.items():
        if tensor is not None:
            persistent = local not in module._non_persistent_buffers_set
            yield (
                TensorKind.BUFFER if persistent else TensorKind.NON_PERSISTENT_BUFFER,
                local,
                tensor,
            )
