"""What a gate finds: of an estimate, and of a block that runs for real."""

from __future__ import annotations

import gc
from typing import Any

from willfit._version import __version__
from willfit.comparing.recorded import Recorded, recorded_of
from willfit.installed import installed_versions
from willfit.results import Estimate


def recorded_estimate(estimate: Estimate) -> Recorded:
    """The estimate's peak; a trace depends on the libraries that ran, so they are in it."""
    from dataclasses import replace

    from willfit.report.contract import estimate_json

    found = recorded_of(estimate_json(estimate))
    if estimate.level != "trace":
        return found
    return replace(
        found, settings={**found.settings, **installed_versions(("torch", "transformers", "peft"))}
    )


class Watching:
    """A block that `willfit.watch` counts."""

    def __enter__(self) -> Watching:
        from willfit.live.memory.watch import watch

        gc.collect()  # garbage of earlier tests would be freed within the block
        self._watch = watch(quiet=True, holders=False)
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        gc.collect()
        self._watch.__exit__(*error)

    @property
    def result(self) -> Any:
        """The `Watched` of the block, after it."""
        return self._watch.result


def recorded_block(watching: Watching) -> Recorded:
    """Bytes over the beginning: of the peak, and of what is left behind; a device each."""
    devices = watching.result.devices
    several = len(devices) > 1
    components: dict[str, int] = {}
    for device in devices:
        mark = f" on {device.device}" if several else ""
        components[f"rise{mark}"] = max(0, device.rise_bytes)
        components[f"left_behind{mark}"] = max(0, device.left_behind_bytes)
    return Recorded(
        level="measured",
        phase="block",
        peak_bytes=max(max(0, device.rise_bytes) for device in devices),
        components=components,
        settings={
            "device": ", ".join(d.name or d.device for d in devices),
            **installed_versions(("torch",)),
        },
        willfit=__version__,
    )
