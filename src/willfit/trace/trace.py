"""The door: a scenario's real code, run on fake tensors; its recording, and what it showed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from willfit.errors import InputError, UnsupportedError
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.loading import warmup_bytes
from willfit.formulas.placement import Device
from willfit.formulas.training.settings import fill_training
from willfit.formulas.weights import LoadedWeights
from willfit.scenario import Lora, Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import TESTED, release
from willfit.trace.build import build, filled_config
from willfit.trace.caches import cache_notes
from willfit.trace.decode import extended
from willfit.trace.dispatch import Dispatch
from willfit.trace.generation import Decoding
from willfit.trace.inference import run_inference
from willfit.trace.inputs import input_notes
from willfit.trace.inputs.model import face
from willfit.trace.quantized import fused
from willfit.trace.quiet import quiet
from willfit.trace.recording import Recording
from willfit.trace.repeat import NotRepeating, Shortened, repeated
from willfit.trace.session import Session
from willfit.trace.shorten import Shortening, shorten
from willfit.trace.training import run_training


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A recording of the whole model, and what was found on the way."""

    recording: Recording
    num_trainable_params: int
    assumptions: tuple[str, ...]


def trace(
    scenario: Scenario,
    weights: LoadedWeights,
    gpus: Sequence[Gpu | None],
    *,
    loads_to_gpu: bool,
    placement: Mapping[str, Device] | None = None,
) -> Traced:
    """The scenario's work in one process, from loading to the second step's end or the last token.

    ``gpus``: the one that the process uses, or those that ``placement`` spreads the modules over.
    ``loads_to_gpu``: with a ``device_map``, not by way of the host. Layers that repeat are run once
    and their events repeated, unless the run shows that they do not. Raises `UnsupportedError`
    naming the operator and the module where the code cannot run on fake tensors.
    """
    _check_stack(scenario)
    weights = fused(weights)
    with quiet():
        job = _Job(
            scenario=scenario,
            weights=weights,
            gpus=gpus,
            loads_to_gpu=loads_to_gpu,
            placement=placement or {},
        )
        short = shorten(job.config, weights, placement)
        if short is not None:
            try:
                return job.run(short)
            except (NotRepeating, InputError):  # a config may tell of a length in its own way
                pass
        return job.run(None)


class _Job:
    """A scenario to be traced, with its defaults filled in."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        weights: LoadedWeights,
        gpus: Sequence[Gpu | None],
        loads_to_gpu: bool,
        placement: Mapping[str, Device],
    ) -> None:
        self.config = filled_config(scenario.model)
        self._scenario = scenario
        self._weights = weights
        self._gpus = gpus
        self._loads_to_gpu = loads_to_gpu
        self._placement = placement
        model, work = scenario.model, scenario.workload
        self._training = self._inference = None
        if work.training is not None:
            self._training = fill_training(work.training, model.architecture, scenario.stack)
        elif work.inference is not None:
            self._inference = fill_defaults(
                model.architecture, work.inference, weights.dtype, scenario.stack
            )

    def run(self, short: Shortening | None) -> Traced:
        """Trace the whole model, or a short one whose events are then repeated."""
        scenario, weights = self._scenario, self._weights
        training = scenario.workload.training
        settings = self._training or self._inference
        placement = self._placement if short is None else short.device_map(self._placement)
        dispatch = Dispatch(device_map=placement)
        built = build(
            scenario.model,
            weights,
            config=self.config if short is None else short.config,
            dispatch=dispatch,
            attention=self._attention(),
            lora=self._lora(),
            adapter_config=training.adapter_config if training is not None else None,
            prepare_kbit=bool(training is not None and training.prepare_kbit),
            keeps_on_host=training is not None and training.trainer == "loop",
            num_labels=scenario.workload.loading.num_labels,
            gpu=self._gpus[0],
            training=training is not None,
            freeze=training.freeze if training is not None else (),
        )
        session = Session(
            built,
            weights if short is None else short.weights(weights),
            self._gpus,
            scenario.stack,
            dispatch=dispatch,
            device_map=self._loads_to_gpu,
            warmups=self._warmups() if self._loads_to_gpu else (),
        )
        recording, notes = self._recorded(session)
        trainable = _trainable(session.model)
        for stack in short.stacks if short is not None else ():
            recording = repeated(recording, stack)
            trainable += stack.left_out * _trainable(session.model, _middle(stack))
        return Traced(
            recording=recording,
            num_trainable_params=trainable if training is not None else 0,
            assumptions=(
                *(settings.assumptions if settings is not None else ()),
                *notes,
                *input_notes(session.model),
                *self._cache_notes(session),
                *recording.assumptions,
                *session.assumptions(),
                *built.assumptions,
                *_untested(),
            ),
        )

    def _lora(self) -> Lora | None:
        """The adapter that is trained or run; one that is merged is in the weights."""
        work = self._scenario.workload
        if work.training is not None:
            return work.training.lora_config
        inference = work.inference
        return inference.lora if inference is not None and not inference.merge_adapter else None

    def _warmups(self) -> list[int]:
        """The block that the loader takes first on each GPU, for what the whole model has there."""
        dispatch = Dispatch(device_map=self._placement)
        return [
            warmup_bytes(
                self._weights.restricted(lambda name, index=index: dispatch.device(name) == index),  # type: ignore[misc]
                gpu,
                self._scenario.stack,
            )
            for index, gpu in enumerate(self._gpus)
        ]

    def _attention(self) -> str | None:
        """What is asked for or known to be taken; None leaves it to a class not known here."""
        work, settings = self._scenario.workload, self._training or self._inference
        asked = work.training or work.inference
        known = self._scenario.model.architecture is not None or (asked and asked.attn)
        return settings.implementation if settings is not None and known else None

    def _cache_notes(self, session: Session) -> tuple[str, ...]:
        inference = self._scenario.workload.inference
        if inference is None or self._inference is None or not face(session.model).generates:
            return ()
        return cache_notes(inference, self._inference)

    def _recorded(self, session: Session) -> tuple[Recording, tuple[str, ...]]:
        workload = self._scenario.workload
        decoding: Decoding | None = None
        try:
            if workload.training is not None and self._training is not None:
                shards = workload.loading.strategy == "fsdp" and self._scenario.num_gpus > 1
                run_training(session, workload.training, self._training, scales=not shards)
            elif workload.inference is not None and self._inference is not None:
                decoding = run_inference(session, workload.inference, self._inference)
        except (InputError, UnsupportedError):
            raise
        except Exception as error:  # whatever modelling code does on fake tensors
            raise UnsupportedError(_failure(error, session)) from error
        recording, notes = _decoded(session.recording, decoding)
        return recording.ordered(), notes


def _decoded(recording: Recording, decoding: Decoding | None) -> tuple[Recording, tuple[str, ...]]:
    """The recording with the new tokens that were not run, and what it lacks of them."""
    if decoding is None:
        return recording, ()
    recording = recording.with_events(recording.events[: decoding.starts[-1]])
    ran = len(decoding.starts) - 1
    if decoding.steps <= ran:
        return recording, ()
    try:
        recording, complete = extended(recording, decoding.starts, decoding.steps)
    except NotRepeating as reason:
        return recording, (f"only the first {ran} steps of decoding followed: {reason}",)
    note = "fragmentation by the growing cache followed for a part of the new tokens"
    return recording, () if complete else (note,)


def _middle(stack: Shortened) -> re.Pattern[str]:
    """Names of the parameters of the second unit."""
    first = stack.head + stack.unit
    numbers = "|".join(str(index) for index in range(first, first + stack.unit))
    return re.compile(rf"(^|\.){re.escape(stack.stack)}\.({numbers})\.")


def _trainable(model: torch.nn.Module, where: re.Pattern[str] | None = None) -> int:
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (where is None or where.search(name))
    )


def _failure(error: Exception, session: Session) -> str:
    place = session.recording.events[-1].place
    where = f" in {place.module}" if place.module else ""
    text = " ".join(str(error).split())
    return (
        f"the trace cannot run this model: {type(error).__name__} after {place.op}{where}: "
        f"{text[:200]}; leave --trace out for the formulas' estimate"
    )


def _check_stack(scenario: Scenario) -> None:
    """The trace runs what is installed; it cannot stand for another version that was asked for."""
    for name, asked in scenario.stack.versions.items():
        there = importlib.util.find_spec(name) is not None
        installed = importlib.metadata.version(name) if there else None
        ours = release(TESTED[name])[:2]
        if installed is not None and release(asked)[:2] not in (release(installed)[:2], ours):
            raise UnsupportedError(
                f"the trace runs {name} {installed}, which is installed, not {asked}: install that "
                "version, or leave --trace out for the formulas' estimate"
            )


def _untested() -> tuple[str, ...]:
    """Versions that the trace was not tested with."""
    import transformers

    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    other = [
        f"{name} {version}"
        for name, version in found.items()
        if release(version)[:2] != release(TESTED[name])[:2]
    ]
    return (f"untested stack: {', '.join(other)}",) if other else ()
