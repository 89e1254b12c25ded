"""The adapter that `load` is given: as facts for the estimate, and as PEFT applies it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from willfit.errors import InputError, ModelNotFoundError
from willfit.scenario import Lora


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One adapter: new, or trained before."""

    lora: Lora | None
    """What the formulas know of it; None for another method than LoRA."""
    config: Any = None
    """The user's own PEFT configuration, used as it is; None makes one of ``lora``."""
    folder: Path | None = None
    """Where a trained one lies; None makes a new one."""


def read_adapter(given: Any) -> Adapter | None:
    """The adapter of ``"lora"``, fields or an object of ``LoraConfig``, or a trained one's folder.

    Raises `InputError` on anything else.
    """
    if given is None:
        return None
    if isinstance(given, Lora):
        return Adapter(lora=given)
    if isinstance(given, str) and given.lower() == "lora":
        return Adapter(lora=Lora())
    if isinstance(given, (str, Path)):
        return _trained(Path(given))
    if isinstance(given, Mapping):
        return Adapter(lora=_lora({"peft_type": "LORA", **given}), config=dict(given))
    if hasattr(given, "peft_type") and hasattr(given, "to_dict"):
        return Adapter(lora=_lora(given.to_dict()), config=given)
    raise InputError(
        f"adapter is a {type(given).__name__}: expected 'lora', a LoraConfig or its fields, or "
        "the folder of a trained adapter"
    )


def _trained(folder: Path) -> Adapter:
    from willfit.settings.files import read_mapping

    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ModelNotFoundError(
            f"there is no {file}: expected the folder of a trained PEFT adapter, or 'lora'"
        )
    return Adapter(lora=_lora(read_mapping(file)), folder=folder)


def _lora(content: Mapping[str, Any]) -> Lora | None:
    """What the formulas need of an ``adapter_config.json``; None for another method."""
    from willfit.settings.adapter_config import read

    kind = content.get("peft_type")
    plain = {**content, "peft_type": str(getattr(kind, "value", kind))}
    targets = plain.get("target_modules")
    if isinstance(targets, (set, frozenset, tuple)):
        plain["target_modules"] = sorted(targets)
    flags = read(plain).flags
    if "lora_r" not in flags:
        return None
    names = flags.get("lora_target_modules")
    return Lora(
        r=flags["lora_r"],
        target_modules=tuple(names) if names else None,
        dropout=flags["lora_dropout"],
        modules_to_save=tuple(flags.get("modules_to_save", ())),
        use_dora=bool(flags.get("use_dora")),
    )
