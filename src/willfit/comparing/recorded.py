"""Recorded: a peak reduced to what a gate compares, with what decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import BrokenFileError
from willfit.units import format_bytes

SCHEMA: Final = "willfit.record/1"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Components of a peak, and the settings that it was found with."""

    level: str
    """``formula``, ``trace`` or ``measured``."""
    phase: str
    peak_bytes: int
    components: Mapping[str, int]
    settings: Mapping[str, str]
    """What differs from willfit's defaults, by its place in a scenario, as text."""
    willfit: str = ""
    """Version that found it; "" where a file does not say."""

    def as_json(self) -> dict[str, Any]:
        """What lies beside a test: short, in a fixed order, integers."""
        return {
            "schema": SCHEMA,
            "willfit": self.willfit,
            "level": self.level,
            "phase": self.phase,
            "peak_bytes": self.peak_bytes,
            "components": {name: size for name, size in self.components.items() if size},
            "settings": dict(sorted(self.settings.items())),
        }


def recorded_from(content: Any, name: str) -> Recorded:
    """The record in a file; raises `BrokenFileError` naming the file where it is none."""
    try:
        if content["schema"] != SCHEMA:
            raise KeyError("schema")
        return Recorded(
            level=str(content["level"]),
            phase=str(content["phase"]),
            peak_bytes=_whole(content["peak_bytes"]),
            components={str(k): _whole(v) for k, v in content["components"].items()},
            settings={str(k): str(v) for k, v in content["settings"].items()},
            willfit=str(content["willfit"]),
        )
    except (KeyError, TypeError, AttributeError):
        raise BrokenFileError(
            f"{name} is no record of willfit's ({SCHEMA}): record it again"
        ) from None


def recorded_of(saved: Mapping[str, Any]) -> Recorded:
    """Of an object of the contract ``willfit.estimate/1``."""
    try:
        components: dict[str, int] = {}
        for part in saved["components"]:
            name = str(part["name"])
            components[name] = components.get(name, 0) + _whole(part["bytes"])
        return Recorded(
            level=str(saved["level"]),
            phase=str(saved["peak"]["phase"]),
            peak_bytes=_whole(saved["peak"]["device_bytes"]),
            components=components,
            settings=settings_of(saved),
            willfit=str(saved.get("willfit", "")),
        )
    except (KeyError, TypeError, AttributeError):
        raise BrokenFileError(
            "a saved estimate lacks its components or its peak: "
            "save it again with 'willfit estimate … --json'"
        ) from None


def settings_of(saved: Mapping[str, Any]) -> dict[str, str]:
    """What decided an estimate, by its place in the scenario; defaults that say nothing left out.

    A field that a later release adds is absent from older files and empty in new ones: no change.
    """
    scenario, model = saved["scenario"], saved["model"]
    found = {"model": str(model["id"]), "model.num_params": str(model["num_params"])}
    for name in ("workload", "stack"):
        _flatten(scenario.get(name), name, found)
    machine = scenario.get("machine")
    if machine is not None:
        cards = [
            f"{gpu['name']} ({format_bytes(gpu['capacity_bytes'])})" for gpu in machine["gpus"]
        ]
        found["machine.gpus"] = ", ".join(cards)
        amounts = {key: machine.get(key) for key in _AMOUNTS}
        _flatten({key: value for key, value in amounts.items() if _says(value)}, "machine", found)
    return found


_AMOUNTS: Final = ("in_use_bytes", "reserve_bytes", "ram_bytes", "disk_bytes")


def _says(value: Any) -> bool:
    """Whether an amount, or one of several, is more than nothing."""
    return any(value) if isinstance(value, list) else bool(value)


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    if value is None or value is False or value in ("", [], {}):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{path}.{key}", found)
        return
    found[path] = " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no count of bytes")
    return value
