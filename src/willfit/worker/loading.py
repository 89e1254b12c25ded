"""A stage's model through `willfit.load`, and refusals of what would give random results."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from willfit.errors import InputError, UnsupportedError
from willfit.live import realise
from willfit.live.asked import Asked
from willfit.live.calls import calls_of, on_cpu
from willfit.live.here import look
from willfit.live.load import load
from willfit.live.wanted import wanted
from willfit.runner.protocol import Job
from willfit.worker.checkpoint import (
    adapter_config_of,
    require_head,
    require_labels,
    trained_parts,
)
from willfit.worker.oom import is_out_of_memory

ADAPTER_TASKS: Final = {
    "text-classification": "SEQ_CLS",
    "text-generation": "CAUSAL_LM",
    "feature-extraction": "FEATURE_EXTRACTION",
}
"""PEFT's name of each task: an adapter that names another was put on another class."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model of transformers, or of PEFT around one, and what to know of it."""

    model: Any
    notes: tuple[str, ...]


def load_model(job: Job, auto_task: str) -> Found:
    """The model on this worker's GPUs; raises `InputError` where it is not what was trained.

    PEFT only warns of weights that an adapter's file lacks, and transformers of a head that it
    makes up: both would give numbers that look like results.
    """
    _require_gpus(job)
    _require_adapter_task(job, auto_task)
    classifies = auto_task == "text-classification"
    if classifies:
        require_labels(job)
    with _heard() as warned:
        found = _found(job, auto_task)
    _require_adapter_weights(job, found.model, warned)
    _require_on_gpus(job, found.model)
    if classifies:
        _require_head(job, found.model)
    return found


def _of_the_model(notes: Sequence[str]) -> tuple[str, ...]:
    """What `load` says, less what it says of the machine: the driver knows that and says it."""
    return tuple(n for n in notes if not n.startswith(("GPUs and memory in use", "process ")))


def base_of(model: Any) -> Any:
    """The model of transformers within PEFT's."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _found(job: Job, auto_task: str) -> Found:
    stage = job.stage
    settings: dict[str, Any] = {
        "task": auto_task,
        "adapter": stage.get("adapter"),
        "dtype": None if stage.get("dtype") == "auto" else stage.get("dtype"),
        "quantize": stage.get("quantize"),
        "attn": stage.get("attn"),
        "num_labels": stage.get("labels") if auto_task == "text-classification" else None,
        "context": job.context,
        "revision": stage.get("revision"),
        "trust_remote_code": bool(stage.get("trust_remote_code")),
    }
    try:
        loaded = load(stage["model"], as_given=True, **settings)
        return Found(model=loaded.model, notes=_of_the_model(loaded.notes))
    except UnsupportedError as error:
        if error.__cause__ is not None:  # a library refused it
            raise
        return _without_estimate(Asked(model=stage["model"], **settings), error)
    except AttributeError as error:  # PEFT, of a class that lacks what its task needs
        if stage.get("adapter") is None or is_out_of_memory(error):
            raise
        raise InputError(
            f"stage {job.name}: PEFT cannot put this adapter on a model for {auto_task} "
            f"({str(error)[:120]}): use an adapter that was trained for this task"
        ) from error


def _without_estimate(asked: Asked, why: UnsupportedError) -> Found:
    """The same calls, for what has no formula, such as DoRA: it runs all the same."""
    here = look()
    want = wanted(asked, here)
    calls = calls_of(want.scenario, want.adapter, asked.revision)
    calls = calls if here.gpus else on_cpu(calls)
    model = realise.load_model(realise.source_of(want.scenario.model), calls.load)
    if want.adapter is not None:
        model = realise.put_adapter(model, want.adapter, calls, trains=False)
    return Found(model=model, notes=(f"its memory is not estimated: {why}",))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Warnings as texts, which also reach the log."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield heard
        finally:
            heard += [str(found.message) for found in caught]
            sys.stderr.write("".join(f"{text}\n" for text in heard))


def _require_gpus(job: Job) -> None:
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < job.gpus:
        raise InputError(
            f"stage {job.name} has {job.gpus} GPU(s) and torch {torch.__version__} finds {found} "
            "here: install a CUDA build of torch, or set device: cpu"
        )


def _require_adapter_task(job: Job, auto_task: str) -> None:
    named, wanted = adapter_config_of(job).get("task_type"), ADAPTER_TASKS[auto_task]
    if named not in (None, wanted):
        raise InputError(
            f"stage {job.name} has task {job.stage['task']} and its adapter was trained as "
            f"{named}: use an adapter with task_type {wanted}, or without one"
        )


def _require_adapter_weights(job: Job, model: Any, warned: list[str]) -> None:
    """PEFT leaves such an adapter without effect; its warning, it says, is never false."""
    lacking = next((text for text in warned if "missing adapter keys" in text), None)
    if lacking is not None:
        raise InputError(
            f"stage {job.name}: the adapter was trained on another class of model than "
            f"{type(base_of(model)).__name__}, which does not find its weights "
            f"({lacking[:120]}…): use an adapter that was trained for this task"
        )


def _require_on_gpus(job: Job, model: Any) -> None:
    """What accelerate leaves in host memory would run, many times slower, without a word."""
    placed = getattr(base_of(model), "hf_device_map", None) or {}
    outside = [name for name, place in placed.items() if place in ("cpu", "disk")]
    if job.gpus and outside:
        raise InputError(
            f"stage {job.name}: {len(outside)} parts of the model, such as {outside[0]}, do not "
            "fit on its GPUs: quantize it, or raise gpus_per_replica"
        )


def _require_head(job: Job, model: Any) -> None:
    """Every part of the head comes from the checkpoint or from the adapter."""
    base, trained = base_of(model), trained_parts(job)
    if trained is None:
        return
    head = [
        name
        for name, child in base.named_children()
        if name != base.base_model_prefix and any(True for _ in child.parameters())
    ]
    require_head(job, [name for name in head if name not in trained])
