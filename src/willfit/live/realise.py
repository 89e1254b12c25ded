"""Settings as plain data become objects of the real libraries, and those a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from willfit.dtypes import DType
from willfit.errors import InputError, ModelAccessError, UnsupportedError
from willfit.live.adapter import Adapter
from willfit.scenario import ModelSpec


def realised(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with torch's types and transformers' configurations in place of names."""
    return {name: _value(name, value) for name, value in arguments.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, DType):
        import torch

        return getattr(torch, value.name)
    if name == "quantization_config" and isinstance(value, Mapping):
        import transformers

        make: Any = transformers.BitsAndBytesConfig
        return make(**realised(value))
    return value


def source_of(model: ModelSpec) -> str:
    """What `from_pretrained` is given: the folder, or the Hub id that a catalogue name stands for.

    Raises `InputError` where only a config or a file header was named.
    """
    if model.source != "local":
        return model.id
    path = Path(model.id).expanduser()
    folder = path if path.is_dir() else path.parent
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    if not weights or not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has no weights to load beside a config.json: name the folder of the whole "
            "checkpoint, or use willfit.estimate, which needs no weights"
        )
    return str(folder)


def load_model(auto_class: str, source: str, arguments: Mapping[str, Any]) -> Any:
    """The real model; a library's refusal is told in one sentence."""
    import transformers

    cls: Any = getattr(transformers, auto_class)
    try:
        model = cls.from_pretrained(source, **realised(arguments))
    except OSError as error:
        raise ModelAccessError(
            f"{source} cannot be loaded: {_first_line(error)}; give a local folder, or download "
            "it first where there is internet"
        ) from error
    except (ValueError, RuntimeError, ImportError, TypeError) as error:
        raise UnsupportedError(
            f"transformers {transformers.__version__} refuses {source} with these settings: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    model.eval()
    return model


def load_tokenizer(source: str, *, trust_remote_code: bool) -> tuple[Any, str | None]:
    """The tokenizer beside the weights; where there is none, why."""
    import transformers

    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("*.model")):
        return None, "no tokenizer lies beside the weights"
    extra = {"trust_remote_code": True} if trust_remote_code else {}
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **extra), None
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        return None, f"no tokenizer: {_first_line(error)}"


def put_adapter(model: Any, adapter: Adapter, fields: Mapping[str, Any], *, trains: bool) -> Any:
    """PEFT's model around this one: a new adapter, or one trained before."""
    import peft

    wrap: Any = peft.get_peft_model
    read: Any = peft.PeftModel.from_pretrained
    try:
        if adapter.folder is not None:
            adapted = read(model, str(adapter.folder), is_trainable=trains)
        else:
            adapted = wrap(model, _peft_config(adapter, fields))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"PEFT {peft.__version__} refuses this adapter: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    if not trains:
        adapted.eval()
    return adapted


def _peft_config(adapter: Adapter, fields: Mapping[str, Any]) -> Any:
    import peft

    if adapter.config is not None and not isinstance(adapter.config, Mapping):
        return adapter.config
    given = adapter.config if adapter.config is not None else fields
    config: Any = peft.LoraConfig
    return config(**{name: value for name, value in given.items() if name != "peft_type"})


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240]
