"""Adapters that a script trains, and gradient checkpointing as the model is told of it."""

from __future__ import annotations

from typing import Any, Final

from willfit.errors import InputError
from willfit.settings import adapter_config
from willfit.settings.code.around import around, first
from willfit.settings.code.gathered import MISSING, Gathered, plain
from willfit.settings.code.reading import Load, Reading, Use
from willfit.settings.code.values import Given, Site, Unknown


def read_adapter(reading: Reading, load: Load, gathered: Gathered) -> None:
    """The adapter and, with how the weights are stored, the method; LoRA where none is seen."""
    flags = gathered.flags
    quantized = str(flags.get("quantize", ""))
    use = adapter_of(reading, load)
    site = use.site if use is not None else None
    if site is not None:
        _lora(site, gathered)
    adapted = site is not None or bool(load.used("adapter_path"))
    if not adapted and quantized:
        gathered.assume("no adapter is in the text, and quantised weights train through one: LoRA")
        adapted = True
    four = quantized.startswith(("nf4", "fp4")) or bool(flags.pop("stored_4bit", False))
    flags["train"] = "full" if not adapted else "qlora" if four else "lora"
    if around(reading, load, "prepare"):
        flags["prepare_kbit"] = True


def adapter_of(reading: Reading, load: Load) -> Use | None:
    """What adds the adapter that is trained."""
    return first(around(reading, load, "peft"))


_METHODS: Final = {
    "LoraConfig": "LORA", "AdaLoraConfig": "ADALORA", "IA3Config": "IA3", "LoHaConfig": "LOHA",
    "LoKrConfig": "LOKR", "OFTConfig": "OFT", "VeraConfig": "VERA",
    "PromptTuningConfig": "PROMPT_TUNING", "PrefixTuningConfig": "PREFIX_TUNING",
    "PromptEncoderConfig": "P_TUNING",
}  # fmt: skip


def _lora(site: Site, gathered: Gathered) -> None:
    kind = _METHODS.get(site.last, "LORA")
    content: dict[str, Any] = {"peft_type": kind}
    for name, item in site.given.items():
        value = plain(item.value)
        if value is not MISSING:
            content[name] = value
        elif name in ("r", "target_modules", "modules_to_save", "lora_dropout"):
            _guess(name, item, content, gathered)
    for name in ("model", "use_gradient_checkpointing", "random_state", "max_seq_length"):
        content.pop(name, None)
    try:
        read = adapter_config.read(content)
    except InputError as error:
        gathered.ignore(str(error))
        return
    gathered.flags.update(read.flags)
    for sentence in read.ignored:
        gathered.ignore(sentence)


def _guess(name: str, item: Given, content: dict[str, Any], gathered: Gathered) -> None:
    """A helper that finds all linear layers says so in its name."""
    text = item.value.text if isinstance(item.value, Unknown) else ""
    if name == "target_modules" and "linear" in text:
        content[name] = ["all-linear"]
        gathered.assume(f"target_modules is {text!r}: all linear layers")
    else:
        gathered.assume(f"{name} of the adapter is not in the text: its default")


def read_checkpointing(reading: Reading, load: Load, gathered: Gathered) -> None:
    """The Trainer's argument, or what the model itself was told; either switches it on."""
    flags = gathered.flags
    for use in around(reading, load, "prepare"):
        wanted = use.site.value("use_gradient_checkpointing", True) if use.site else True
        if wanted is not False and "quantize" in flags:
            flags["gradient_checkpointing"] = True
            gathered.assume("prepare_model_for_kbit_training switches gradient checkpointing on")
            _reentrant(use.site, gathered)
        elif wanted is False:
            flags.setdefault("gradient_checkpointing", False)
    peft = adapter_of(reading, load)
    asked = peft.site.value("use_gradient_checkpointing") if peft and peft.site else None
    if asked in (True, "unsloth"):
        flags["gradient_checkpointing"] = True
    for use in load.used("gradient_checkpointing_enable") or (
        around(reading, load, "gradient_checkpointing_enable")
    ):
        flags["gradient_checkpointing"] = True
        _reentrant(use.site, gathered)
    if load.used("gradient_checkpointing_disable"):
        flags["gradient_checkpointing"] = False


def _reentrant(site: Site | None, gathered: Gathered) -> None:
    asked = plain(site.value("gradient_checkpointing_kwargs")) if site is not None else None
    if isinstance(asked, dict) and isinstance(asked.get("use_reentrant"), bool):
        gathered.flags["use_reentrant"] = asked["use_reentrant"]
