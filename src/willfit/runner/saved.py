"""A run's report as it was saved, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError
from willfit.runner.atomic import read_json
from willfit.runner.release import GpuRelease, Release
from willfit.runner.result import SCHEMA, Forecast, RunReport, StageReport

_SAME: Final = (
    "seconds",
    "start_seconds",
    "tokens",
    "padded_tokens",
    "in_order_padded_tokens",
    "host_bytes",
)
"""Numbers of a stage that JSON calls by the same name."""
_OTHER: Final = {
    "rows": "num_rows", "computed": "num_computed", "failed": "num_failed",
    "missing": "num_missing", "retries": "num_retries", "out_of_memory": "num_ooms",
    "workers_started": "num_starts",
}  # fmt: skip
"""Those of another name, by the name in JSON."""


def read_report(path: Path) -> RunReport:
    """The report in ``report.json``; raises `InputError` where there is none yet."""
    content = read_json(path)
    if content is None:
        raise InputError(f"{path} is not there: the run has not come to its end yet")
    return report_from(content, path.name)


def report_from(content: Mapping[str, Any], name: str = "the report") -> RunReport:
    """The report of which `RunReport.json` is ``content``; raises `BrokenFileError` on others."""
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(content["schema"])
        return RunReport(
            folder=str(content["folder"]),
            stages=tuple(map(_stage, content["stages"])),
            seconds=float(content["seconds"]),
            output=None if content["output"] is None else str(content["output"]),
            output_rows=int(content["output_rows"]),
            output_sha256=str(content["output_sha256"]),
            complete=bool(content["complete"]),
            remarks=tuple(map(str, content["remarks"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BrokenFileError(f"{name} is no report of a run: run the pipeline again") from None


def _stage(saved: Mapping[str, Any]) -> StageReport:
    numbers = {name: _amount(saved[name]) for name in _SAME}
    numbers |= {field: _amount(saved[name]) for name, field in _OTHER.items()}
    return StageReport(
        name=str(saved["name"]),
        fingerprint=str(saved["fingerprint"]),
        failures={str(row): str(why) for row, why in saved["failures"].items()},
        reasons=tuple(map(str, saved["reasons"])),
        reserved_bytes=tuple(map(int, saved["reserved_bytes"])),
        forecast=_forecast(saved["estimate"]),
        release=None if saved["release"] is None else _release(saved["release"]),
        remarks=tuple(map(str, saved["remarks"])),
        **numbers,
    )


def _forecast(saved: Mapping[str, Any]) -> Forecast:
    tokens = saved["batch_tokens"]
    return Forecast(
        device_bytes=tuple(map(int, saved["device_bytes"])),
        batch_tokens=None if tokens is None else int(tokens),
    )


def _release(saved: Mapping[str, Any]) -> Release:
    return Release(seconds=float(saved["seconds"]), gpus=tuple(map(_gpu, saved["gpus"])))


def _gpu(saved: Mapping[str, Any]) -> GpuRelease:
    return GpuRelease(
        index=int(saved["index"]),
        name=str(saved["name"]),
        before_bytes=int(saved["before_bytes"]),
        peak_bytes=int(saved["peak_bytes"]),
        after_bytes=int(saved["after_bytes"]),
        holders=tuple(map(str, saved["holders"])),
    )


def _amount(value: Any) -> Any:
    """A number of JSON that is finite and not negative; raises ValueError on anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise ValueError(value)
    return value
