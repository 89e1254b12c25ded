"""Settings as plain data become objects of the real libraries, and those a loaded model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from willfit.dtypes import DType
from willfit.emit.call import Call, Variable
from willfit.errors import InputError, ModelAccessError, UnsupportedError
from willfit.live.adapter import Adapter
from willfit.live.calls import Calls
from willfit.scenario import ModelSpec


def realised(value: Any) -> Any:
    """A value of a `Call` as the library takes it: torch's types, and calls made."""
    if isinstance(value, DType):
        import torch

        return getattr(torch, value.name)
    if isinstance(value, Variable):
        return realised(value.value)
    if isinstance(value, Call):
        return _callee(value)(**_arguments(value))
    if isinstance(value, dict):
        return {key: realised(item) for key, item in value.items()}
    return value


def _arguments(call: Call) -> dict[str, Any]:
    return {name: realised(value) for name, value in call.arguments.items()}


def _callee(call: Call) -> Any:
    found: Any = importlib.import_module(call.library)
    for part in call.name.split("."):
        found = getattr(found, part)
    return found


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


def load_model(source: str, call: Call) -> Any:
    """The real model; a library's refusal is told in one sentence."""
    import torch

    try:
        model = _callee(call)(source, **_arguments(call))
    except OSError as error:
        raise ModelAccessError(
            f"{source} cannot be loaded: {_first_line(error)}; give a local folder, or download "
            "it first where there is internet"
        ) from error
    except torch.OutOfMemoryError:
        raise  # its own message is what people look for
    except Exception as error:  # whatever a library, or an old one beside a new, breaks on
        raise UnsupportedError(
            f"{call.library} refuses {source} with these settings: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    model.eval()
    return model


def load_tokenizer(source: str, call: Call) -> tuple[Any, str | None]:
    """The tokenizer beside the weights; where there is none, why."""
    import transformers

    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("*.model")):
        return None, "no tokenizer lies beside the weights"
    same = ("revision", "trust_remote_code")
    extra = {name: call.arguments[name] for name in same if name in call.arguments}
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **extra), None
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        return None, f"no tokenizer: {_first_line(error)}"


def put_adapter(model: Any, adapter: Adapter, calls: Calls, *, trains: bool) -> Any:
    """PEFT's model around this one: a new adapter, or one trained before."""
    import peft

    try:
        adapted = _adapted(model, adapter, calls)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"PEFT {peft.__version__} refuses this adapter: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    adapted.train(trains)
    return adapted


def _adapted(model: Any, adapter: Adapter, calls: Calls) -> Any:
    import peft

    call, wrap = calls.adapter, peft.get_peft_model
    if call is None or hasattr(adapter.config, "peft_type"):
        return wrap(model, adapter.config)
    if adapter.folder is not None:
        return _callee(call)(model, **_arguments(call))
    adapted: Any = wrap(model, realised(call))
    if calls.trainable_dtype is not None:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(realised(calls.trainable_dtype))
    return adapted


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:240]
