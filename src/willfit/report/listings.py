"""Lists of what is known: GPUs, models, and the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from willfit.report.text import table
from willfit.scenario.machine import Gpu
from willfit.units import GIB, format_bytes

if TYPE_CHECKING:
    from willfit.live.nvml import LiveGpu
    from willfit.sources.catalogue import Entry


def gpus_json(gpus: Sequence[Gpu]) -> dict[str, Any]:
    """``willfit.gpus/1``: every figure with its source."""
    return {
        "schema": "willfit.gpus/1",
        "gpus": [
            {
                "name": gpu.name,
                "capacity_bytes": gpu.capacity_bytes,
                "compute_capability": list(gpu.compute_capability),
                "bandwidth_bytes_per_s": gpu.bandwidth_bytes_per_s,
                "flops": dict(gpu.flops),
                "context_bytes": gpu.context_bytes,
                "vendor": gpu.vendor,
                "unified_memory": gpu.unified_memory,
                "sources": dict(gpu.sources),
            }
            for gpu in gpus
        ],
    }


def render_gpus(gpus: Sequence[Gpu], wanted: str) -> str:
    """The GPU catalogue as a table."""
    if not gpus:
        return f"no known GPU has {wanted!r} in its name: 'willfit gpus' lists all\n"
    rows = [
        (
            gpu.name,
            f"{gpu.capacity_bytes / GIB:.2f} GiB",
            f"sm_{gpu.sm}" if gpu.vendor == "nvidia" else gpu.vendor,
            f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f} GB/s" if gpu.bandwidth_bytes_per_s else "",
            _half_precision(gpu),
        )
        for gpu in gpus
    ]
    header = ("GPU", "capacity", "compute", "bandwidth", "16-bit TFLOP/s")
    return "\n".join(table(header, rows, indent="")) + "\n"


def _half_precision(gpu: Gpu) -> str:
    """Dense float16 or bfloat16 products, in TFLOP/s."""
    rates = [rate for name, rate in gpu.flops.items() if name in ("float16", "bfloat16")]
    return f"{max(rates) / 1e12:,.0f}" if rates else ""


def models_json(entries: Sequence[Entry]) -> dict[str, Any]:
    """``willfit.models/1``."""
    return {
        "schema": "willfit.models/1",
        "models": [
            {
                "id": entry.id,
                "library": entry.library,
                "num_params": entry.num_params,
                "standing": entry.standing,
            }
            for entry in entries
        ],
    }


def render_models(entries: Sequence[Entry], wanted: str) -> str:
    """The model catalogue as a table."""
    if not entries:
        return f"no known model has {wanted!r} in its name: any Hub id, folder or file works too\n"
    rows = [(entry.id, _billions(entry.num_params)) for entry in entries]
    lines = table(("model", "parameters"), rows, indent="")
    return "\n".join([*lines, f"{len(rows)} models; any Hub id, folder or file works too"]) + "\n"


def live_json(gpus: Sequence[LiveGpu]) -> dict[str, Any]:
    """``willfit.live/1``: what NVML says now."""
    return {
        "schema": "willfit.live/1",
        "gpus": [
            {
                "index": index,
                "name": live.name,
                "total_bytes": live.total_bytes,
                "used_bytes": live.used_bytes,
                "free_bytes": live.free_bytes,
                "processes": [
                    {"pid": process.pid, "name": process.name, "bytes": process.used_bytes}
                    for process in live.processes
                ],
            }
            for index, live in enumerate(gpus)
        ],
    }


def render_live(gpus: Sequence[LiveGpu]) -> str:
    """Each GPU with free memory and who holds the rest."""
    lines: list[str] = []
    for index, live in enumerate(gpus):
        lines.append(
            f"GPU {index} {live.name}: {format_bytes(live.free_bytes)} free of "
            f"{format_bytes(live.total_bytes)}"
        )
        for process in live.processes:
            held = "unknown" if process.used_bytes is None else format_bytes(process.used_bytes)
            lines.append(f"  {held:>12}  pid {process.pid}  {process.name}")
        if not live.processes:
            lines.append("  no process holds memory")
    return "\n".join(lines) + "\n"


def _billions(count: int) -> str:
    return f"{count / 1e9:,.2f} B" if count >= 10**9 else f"{count / 1e6:,.1f} M"
