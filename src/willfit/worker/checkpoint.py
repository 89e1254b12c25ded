"""What the files of a model or an adapter say, without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from willfit.errors import InputError
from willfit.runner.protocol import Job


def config_of(job: Job) -> dict[str, Any]:
    """The model's ``config.json``."""
    return read_json_file(Path(job.stage["model"]) / "config.json")


def adapter_config_of(job: Job) -> dict[str, Any]:
    """The adapter's ``adapter_config.json``; empty without an adapter."""
    adapter = job.stage.get("adapter")
    return {} if adapter is None else read_json_file(Path(adapter) / "adapter_config.json")


def read_json_file(path: Path) -> dict[str, Any]:
    """A mapping from a file; empty where there is none, which its own reader then tells."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def trained_parts(job: Job) -> frozenset[str] | None:
    """Names of the modules that the model's files or the adapter's hold whole weights of.

    None where they cannot be told: files of other forms than safetensors, without an index.
    """
    stored = _tensor_names(Path(job.stage["model"]))
    adapter = job.stage.get("adapter")
    adapted = frozenset[str]() if adapter is None else _tensor_names(Path(adapter))
    if stored is None or adapted is None:
        return None
    whole = (name for name in adapted if ".lora_" not in name)
    return frozenset(part for name in (*stored, *whole) for part in name.split("."))


def _tensor_names(folder: Path) -> frozenset[str] | None:
    indices = list(folder.glob("*.index.json"))
    if indices:
        return frozenset().union(*(read_json_file(i).get("weight_map", {}) for i in indices))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    from safetensors import safe_open

    names: set[str] = set()
    for file in files:
        with safe_open(str(file), "pt") as opened:
            names |= set(opened.keys())
    return frozenset(names)


def require_head(job: Job, missing: list[str]) -> None:
    """Raise `InputError` where parts of a head are in no file: they would be random."""
    if missing:
        raise InputError(
            f"stage {job.name}: {', '.join(missing)} of the head is neither in the model's files "
            "nor in an adapter, so it would be random: name a model that was trained to classify, "
            "or an adapter whose modules_to_save has it"
        )


def require_labels(job: Job) -> None:
    """As many labels as a classifier has; an adapter may bring others, and PEFT compares those."""
    labels, config = job.stage.get("labels"), config_of(job)
    classes = config.get("architectures") or []
    classifies = any(str(name).endswith("ForSequenceClassification") for name in classes)
    if labels is None or job.stage.get("adapter") or not classifies:
        return
    known = config.get("num_labels") or len(config.get("id2label") or ()) or 2
    if labels != known:
        raise InputError(
            f"stage {job.name} has labels: {labels} and {job.stage['model']} was trained with "
            f"{known}: write labels: {known}"
        )
