"""A measurement as a row of the ledger: what ran, on what, and every amount by what it counts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from willfit.live.beside import Line, beside
from willfit.live.measurement import Measurement
from willfit.report.contract import settings_json
from willfit.scenario import Scenario, Workload

SOURCE: Final = "measured"
"""Of these rows; the beginning of their ids."""
_TIER: Final[Mapping[str, str]] = {"torch": "A", "tensors": "C"}
"""Torch's counters and known shapes are the ledger's best; a host's sum is a check of our own."""


def ledger_row(
    measurement: Measurement, scenario: Scenario, *, command: str, layers: int | None = None
) -> dict[str, Any]:
    """The row, with which the scenario can be made again; no path of this machine is in it.

    ``layers``: of a model that was shortened.
    """
    work, spec = scenario.workload, scenario.model
    named = replace(spec, id=spec.id.rpartition("/")[2]) if spec.source == "local" else spec
    row: dict[str, Any] = {
        "tier": _TIER[measurement.counted],
        "source": SOURCE,
        "repo_path": "",
        "task": "train" if work.training else work.task,
        "model": named.id,
        "config": dict(spec.config) if spec.source == "local" else None,
        "layers": layers,
        "gpu": measurement.device,
        "n_gpu": len(measurement.gpus),
        "parallelism": "device_map" if len(measurement.gpus) > 1 else "none",
        **_settings(work),
        "measured": [_entry(line) for line in beside(measurement, ())],
        "seconds": dict(measurement.seconds),
        "oom": measurement.failure_kind == "out_of_memory",
        "failure": measurement.failure,
        "notes": "; ".join(measurement.notes),
        "counted": measurement.counted,
        "device": measurement.device,
        "driver": measurement.driver,
        "versions": dict(measurement.versions),
        "capacity_bytes": measurement.capacity_bytes,
        "command": command,
        "scenario": settings_json(replace(scenario, model=named)),
        "measurement": measurement.as_dict(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return {"id": f"{SOURCE}:{_digest(row)}", **row}


def _digest(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _settings(work: Workload) -> dict[str, Any]:
    """Settings by the ledger's names."""
    loading, training, inference = work.loading, work.training, work.inference
    task = training or inference
    return {
        "dtype": loading.dtype.name if loading.dtype is not None else None,
        "quant": _quant(work),
        "attn": task.attn if task is not None else None,
        "batch": training.micro_batch_size if training else inference and inference.batch_size,
        "seq": training.max_length if training else inference and inference.context_len,
        "grad_accum": training.gradient_accumulation_steps if training else None,
        "optimizer": training.optimizer if training else None,
        "peft": _peft(work),
        "grad_ckpt": training.gradient_checkpointing if training else None,
    }


def _quant(work: Workload) -> str | None:
    found = work.loading.quantization
    if found is None:
        return None
    return f"bnb {found.scheme}{' double quant' if found.double_quant else ''}"


def _peft(work: Workload) -> str | None:
    training = work.training
    if training is None or training.method == "full":
        return None
    if training.adapter_config is not None:
        return str(training.adapter_config.get("peft_type"))
    lora = training.lora_config
    return f"LoRA r{lora.r}" if lora is not None else "LoRA"


def _entry(line: Line) -> dict[str, Any]:
    return {"kind": kind_of(line), "bytes": line.measured_bytes}


def kind_of(line: Line) -> str:
    """In words that `key_of` reads back: ``allocated, backward, GPU 0``."""
    return f"{line.kind}, {line.phase}, GPU {line.gpu_index}"


def key_of(kind: str) -> tuple[int, str, str]:
    """GPU, phase and counter of a kind; raises ValueError on other words."""
    counter, phase, gpu = kind.split(", ")
    return int(gpu.removeprefix("GPU ")), phase, counter


def kinds(row: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Kinds and bytes of a row."""
    for entry in row["measured"]:
        yield str(entry["kind"]), int(entry["bytes"])
