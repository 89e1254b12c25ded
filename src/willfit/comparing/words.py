"""Settings as people write them: the flag's name for a field, a value in a word or two."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

from willfit.dtypes import DType
from willfit.scenario import Gpu, Inference, Lora, Machine, ModelSpec, Quantization, Training
from willfit.units import format_bytes

_TITLES: Final[dict[tuple[str, ...], str]] = {
    ("model",): "the model",
    ("machine",): "--gpu",
    ("stack", "alloc_conf"): "--alloc-conf",
    ("workload", "inference"): "the task",
    ("workload", "loading", "quantization"): "--quantize",
    ("workload", "inference", "context_len"): "--context",
    ("workload", "inference", "lora"): "--adapter",
    ("workload", "training", "adapter_config"): "--peft-config",
    ("workload", "training", "lora", "dropout"): "--lora-dropout",
    ("workload", "training", "lora", "r"): "--lora-r",
    ("workload", "training", "lora", "target_modules"): "--lora-target-modules",
    ("workload", "training", "method"): "--train",
    ("workload", "training", "micro_batch_size"): "--batch-size",
    ("workload", "training", "offload_activations"): "--activation-offloading",
    ("workload", "training", "optimizer"): "--optim",
}
"""Fields whose flag is not their own name."""
_BYTES: Final = ("machine",)
"""Where a whole number is an amount of memory."""


def title(path: tuple[str, ...]) -> str:
    """What a user calls the setting at this place of a scenario."""
    if path[:2] == ("stack", "versions"):
        return path[-1]
    plain = path[-1].removesuffix("_bytes") if path[0] in _BYTES else path[-1]
    return _TITLES.get(path, "--" + plain.replace("_", "-"))


def spoken(path: tuple[str, ...], value: Any) -> str:
    """A value in a word or two."""
    if value is None or value == () or value == "":
        return "default" if path[-1] not in ("quantization", "machine") else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_bytes(value) if path[0] in _BYTES else f"{value:,}"
    if isinstance(value, tuple):
        return " ".join(spoken(path, part) for part in value)
    return _object(value)


def _object(value: Any) -> str:
    match value:
        case DType():
            return value.name
        case ModelSpec():
            return value.id
        case Quantization():
            return quantization_words(value)
        case Machine():
            return gpu_words(value.gpus)
        case Lora():
            return f"LoRA r {value.r}"
        case Inference():
            return "inference"
        case Training():
            return f"training ({value.method})"
        case Mapping():
            return ", ".join(f"{key}: {item}" for key, item in value.items())[:60]
        case _:
            return str(value)


def quantization_words(value: Quantization) -> str:
    """``nf4-double, compute float16``."""
    words = value.scheme + ("-double" if value.double_quant else "")
    if value.compute_dtype is not None:
        words += f", compute {value.compute_dtype.name}"
    if value.skip_modules is not None:
        words += f", skipping {' '.join(value.skip_modules) or 'nothing'}"
    return words


def gpu_words(gpus: tuple[Gpu, ...]) -> str:
    """``2 × NVIDIA T4``."""
    counted = [(name, len(list(same))) for name, same in groupby(gpu.name for gpu in gpus)]
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counted)


def signed(num_bytes: int) -> str:
    """``+1.47 GiB``."""
    return f"{'+' if num_bytes > 0 else ''}{format_bytes(num_bytes)}"
