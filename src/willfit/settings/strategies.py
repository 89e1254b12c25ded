"""How a settings file shards a model: DeepSpeed's ZeRO stages and FSDP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from willfit.settings.files import read_mapping
from willfit.settings.settings import Unused

_STAGE_IN_NAME = re.compile(r"(?:zero|stage|z)[_-]?([123])(?!\d)", re.IGNORECASE)


def deepspeed(value: Any) -> Mapping[str, Any]:
    """The ZeRO stage of an inlined config, of a file, or, where that is not here, of its name.

    Raises `Unused` with the reason where none of them tells.
    """
    if isinstance(value, str) and Path(value).is_file():
        value = read_mapping(Path(value))
    return stage_named(value)


def stage_named(value: Any) -> Mapping[str, Any]:
    """The same for a value of a stranger's text, which names no file of this machine."""
    if isinstance(value, Mapping):
        section = value.get("zero_optimization")
        stage = section.get("stage") if isinstance(section, Mapping) else None
        if stage in (1, 2, 3):
            return {"strategy": f"zero{stage}"}
        raise Unused("the config names no ZeRO stage of 1 to 3, so plain data parallel is assumed")
    named = _STAGE_IN_NAME.search(str(value))
    if named is None:
        raise Unused(
            f"{str(value)[:60]!r} is not here and its name tells no ZeRO stage: add --strategy"
        )
    return {"strategy": f"zero{named[1]}"}


def fsdp(value: Any) -> Mapping[str, Any]:
    """``full_shard auto_wrap`` and its kin; "" and false switch it off."""
    words = str(" ".join(value) if isinstance(value, list) else value).lower().split()
    if not words or words[0] in ("false", "none"):
        return {}
    if "shard_grad_op" in words:
        return {"strategy": "zero2"}
    if "no_shard" in words:
        return {"strategy": "ddp"}
    return {"strategy": "fsdp"}
