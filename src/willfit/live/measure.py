"""``measure``: a scenario run for real in a fresh process; its memory and time by phase."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.training.settings import fill_training
from willfit.live.measured.infer import Asked, run_inference
from willfit.live.measured.load_model import load_model, with_lora
from willfit.live.measured.train import run_training
from willfit.live.measurement import Measurement
from willfit.live.meter import Meter
from willfit.scenario import Scenario

TIME_LIMIT: Final = 600.0
"""Seconds that a run may take."""
LIBRARIES: Final = ("torch", "transformers", "accelerate", "peft", "bitsandbytes")


def measure(
    scenario: Scenario, *, device: str | None = None, time_limit: float = TIME_LIMIT
) -> Measurement:
    """Run the scenario in a process of its own and read what it takes.

    ``device``: ``cuda`` or ``cpu``; None takes the GPU where there is one. The weights are random:
    memory and time do not depend on them. A run that fails says so in ``failure``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(scenario, device, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(time_limit):
            found: Measurement = receiver.recv()
            return found
        return Measurement(device=device or "", failure=f"not done after {time_limit:.0f} s")
    except EOFError:
        process.join()
        return Measurement(
            device=device or "", failure=f"the process ended with code {process.exitcode}"
        )
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def _child(scenario: Scenario, device: str | None, sender: Any) -> None:
    if scenario.stack.alloc_conf:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = scenario.stack.alloc_conf
    sender.send(measure_here(scenario, device=device))


def measure_here(
    scenario: Scenario,
    *,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    history: bool = False,
) -> Measurement:
    """Run the scenario in this process.

    ``config`` instead of the model's own, where a smaller one is to be tried; ``checkpoint``: a
    folder with weights; ``history``: keep what was alive at the peak of a training step.
    """
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no GPU here: leave --device out, or give cpu")
    meter = Meter(chosen)
    baseline = meter.start()
    seconds: dict[str, float] = {}
    series: list[tuple[int, int, int]] = []
    failure = ""
    try:
        series = _run(scenario, meter, seconds, config, checkpoint, history=history)
    except torch.OutOfMemoryError as error:
        failure = f"OutOfMemoryError: {str(error)[:600]}"
        meter.mark("failed")
    except (WillfitError, ValueError, RuntimeError, TypeError, ImportError, OSError) as error:
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        meter.mark("failed")
    return Measurement(
        **device_facts(chosen),
        versions=library_versions(),
        readings=tuple(meter.readings),
        seconds=seconds,
        baseline_bytes=baseline,
        series=tuple(series),
        alive=meter.alive,
        failure=failure,
    )


def _run(
    scenario: Scenario,
    meter: Meter,
    seconds: dict[str, float],
    config: Mapping[str, Any] | None,
    checkpoint: str | None,
    *,
    history: bool,
) -> list[tuple[int, int, int]]:
    """Load, then infer or train; returns the series of decoding."""
    spec, work = scenario.model, scenario.workload
    started = time.perf_counter()
    model = load_model(scenario, meter.device, config or spec.config, checkpoint)
    meter.wait()
    seconds["load"] = time.perf_counter() - started
    meter.mark("load")
    if work.training is not None:
        training = work.training
        settings = fill_training(training, spec.architecture, scenario.stack)
        model = _prepared(scenario, model)
        meter.mark("adapters")
        seconds.update(run_training(model, training, settings, meter, history=history))
        return []
    if work.inference is None:
        return []
    inference = work.inference
    dtype = work.loading.dtype or spec.stored_dtype
    filled = fill_defaults(spec.architecture, inference, dtype, scenario.stack)
    if inference.lora is not None:
        model = with_lora(model, inference.lora)
        model = model.merge_and_unload() if inference.merge_adapter else model
        meter.mark("adapters")
    asked = Asked(
        batch=filled.batch,
        prompt_len=filled.prompt_len,
        new_tokens=filled.new_tokens + (1 if filled.new_tokens == 1 else 0),
        padded=inference.padded,
        full_logits=inference.full_logits,
        cache=inference.cache,
        chunk=inference.prefill_chunk_size,
    )
    times, series = run_inference(model, inference, asked, meter)
    seconds.update(times)
    return series


def _prepared(scenario: Scenario, model: Any) -> Any:
    """The model as a script has it before the first step: prepared, with adapters or frozen."""
    training = scenario.workload.training
    assert training is not None
    if training.adapter_config is not None:
        raise UnsupportedError("measuring takes LoRA adapters: leave --peft-config out")
    if training.prepare_kbit:
        import peft

        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    if training.lora is not None:
        kind = scenario.model.model_class.endswith("ForSequenceClassification")
        model = with_lora(model, training.lora, sequence_classification=kind)
    for name, parameter in model.named_parameters():
        if any(f".{part}." in f".{name}." for part in training.freeze):
            parameter.requires_grad_(False)
    return model


def device_facts(device: str) -> dict[str, Any]:
    """Name, capacity and driver of the device."""
    if device != "cuda":
        return {"device": "cpu"}
    import torch

    facts = torch.cuda.get_device_properties(0)
    return {"device": facts.name, "capacity_bytes": int(facts.total_memory), "driver": _driver()}


def _driver() -> str:
    try:
        import pynvml  # type: ignore[import-untyped]  # it has no stubs

        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # no NVML: the driver stays unknown
        return ""
    return version.decode() if isinstance(version, bytes) else str(version)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide, those that are there."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
