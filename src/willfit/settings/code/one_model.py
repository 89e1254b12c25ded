"""One model of a script: its flags, and the calls that decide them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.settings.code.adapters import adapter_of
from willfit.settings.code.around import around, trains
from willfit.settings.code.gathered import Gathered
from willfit.settings.code.inference import read_inference, read_kernel
from willfit.settings.code.loading import model_of, read_loading
from willfit.settings.code.loops import loader_of
from willfit.settings.code.reading import Load, Reading, Use
from willfit.settings.code.surroundings import read_surroundings
from willfit.settings.code.training import read_training
from willfit.settings.code.values import Made, Site
from willfit.settings.settings import Settings


def uses_flags(reading: Reading, load: Load) -> Settings:
    """Settings of what the script does with one of its models."""
    gathered = Gathered()
    model = model_of(load, gathered)
    if load.kind not in ("vllm", "llama.cpp"):
        read_loading(load, gathered)
    _stored(model, load, gathered)
    if trains(reading, load):
        read_training(reading, load, gathered)
        gathered.default("sdpa_kernel", read_kernel(reading, load))
    else:
        gathered.flags.pop("stored_4bit", None)
        read_inference(reading, load, gathered)
    read_surroundings(reading, gathered)
    return Settings(
        flags=gathered.flags,
        model=model,
        ignored=tuple(gathered.ignored),
        assumptions=tuple(gathered.assumptions),
    )


_STORED: Final = ("bnb-4bit", "gptq", "awq", "-fp8", "nvfp4", "gguf", "int4", "int8")


def _stored(model: str | None, load: Load, gathered: Gathered) -> None:
    """A checkpoint that is quantised already is loaded as it is stored."""
    name = (model or str(load.name)).lower()
    if not any(mark in name for mark in _STORED):
        return
    if gathered.flags.pop("quantize", None) is not None:
        gathered.flags.pop("bnb_4bit_compute_dtype", None)
        gathered.flags.pop("llm_int8_skip_modules", None)
        gathered.assume(f"{model or 'the checkpoint'} is stored quantised and loaded as it is")
    if "bnb-4bit" in name:
        gathered.flags["stored_4bit"] = True


def sites_of(reading: Reading, load: Load) -> dict[str, Site]:
    """The calls that decide, by what they do."""
    found: dict[str, Site] = {"load": load.site}
    config = load.site.value("quantization_config")
    if isinstance(config, Made):
        found["quantization"] = config.site
    trained = trains(reading, load)
    adapter = adapter_of(reading, load)
    if adapter is not None and adapter.site is not None:
        found["adapter"] = adapter.site
        if isinstance(adapter.value, Site):
            found["adapted"] = adapter.value
    for role in _ROLES:
        uses = around(reading, load, role)
        if uses and uses[0].site is not None:
            found[role] = uses[0].site
    args = found["trainer"].value("args") if "trainer" in found else None
    if isinstance(args, Made):
        found["arguments"] = args.site
    loader = loader_of(reading, load) if trained else _last(around(reading, load, "loader"))
    if loader is not None and loader.site is not None:
        found["loader"] = loader.site
    strides = _last(around(reading, load, "strides"))
    if strides is not None and strides.site is not None:
        found["strides"] = strides.site
    return found


_ROLES: Final = (
    "trainer", "prepare", "optimizer", "tokens", "generate", "forward", "pipeline", "train",
    "gradient_checkpointing_enable", "autocast", "accelerator", "kernel",
)  # fmt: skip


def _last(uses: list[Use]) -> Use | None:
    return uses[-1] if uses else None


def spans_of(load: Load) -> Iterator[tuple[int | None, int, int]]:
    """(cell, first line, last line) of every statement that has to do with the model."""
    node = load.site.node
    yield load.site.cell, node.lineno, node.end_lineno or node.lineno
    for use in load.uses:
        yield use.cell, use.line, max(use.line, use.last_line)
