"""A scenario run for real in this process: load, then infer or train, each phase read."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from willfit.errors import InputError, WillfitError
from willfit.live.measured.facts import driver_version, library_versions, on_these
from willfit.live.measured.rank import NOTE, as_rank, num_ranks, require_rank
from willfit.live.measured.refuse import refuse, require_libraries
from willfit.live.measurement import FailureKind, Measurement, error_text, one_line, tells_of_memory
from willfit.live.meter import Meter
from willfit.scenario import Scenario


def measure_here(
    scenario: Scenario,
    *,
    device: str | None = None,
    checkpoint: str | None = None,
    history: bool = False,
) -> Measurement:
    """Run the scenario in this process.

    ``checkpoint``: a folder with weights; ``history``: keep what was alive at the peak of a
    training step. Raises `InputError` on a device that is not there.
    """
    chosen = chosen_device(device)
    meter = Meter(chosen)
    try:
        baseline = meter.start()
        return _measured(scenario, meter, baseline, checkpoint, history=history)
    finally:
        meter.stop()


def chosen_device(device: str | None) -> str:
    """``cuda`` or ``cpu``; raises where the one that was asked for is not there."""
    require_libraries()
    import torch

    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise InputError(
            "torch finds no GPU here: --device cpu, or none, measures a small model on the host"
        )
    return device or ("cuda" if found else "cpu")


def _measured(
    scenario: Scenario, meter: Meter, baseline: int, checkpoint: str | None, *, history: bool
) -> Measurement:
    gpus, versions = meter.gpus(), library_versions()
    run = _Run(on_these(scenario, gpus, versions), meter, checkpoint, history=history)
    failure, kind = run.tried()
    if failure:
        with suppress(Exception):  # after an error of CUDA's nothing can be read
            meter.mark("failed")
    return Measurement(
        device=gpus[0].name if gpus else "cpu",
        capacity_bytes=gpus[0].capacity_bytes if gpus else None,
        gpus=gpus,
        driver=driver_version() if gpus else "",
        versions=versions,
        readings=tuple(meter.readings),
        seconds=run.seconds,
        baseline_bytes=baseline,
        series=tuple(run.series),
        alive=tuple(meter.alive),
        counted="torch" if gpus else "tensors",
        notes=tuple(run.notes),
        failure=failure,
        failure_kind=kind,
    )


class _Run:
    def __init__(
        self, scenario: Scenario, meter: Meter, checkpoint: str | None, *, history: bool
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.series: list[tuple[int, int, int]] = []
        self.notes: list[str] = [] if checkpoint else ["random weights: no memory depends on them"]
        if num_ranks(scenario) > 1:
            self.notes.append(NOTE.format(num_ranks(scenario)))
        self._scenario, self._meter = scenario, meter
        self._checkpoint, self._history = checkpoint, history

    def tried(self) -> tuple[str, FailureKind]:
        """Run; returns why it ended early, and the kind of that."""
        import torch

        try:
            require_rank(self._scenario, self._meter.device)
            with as_rank(self._scenario):
                self._run()
        except Exception as error:  # whatever a library breaks on is the result
            no_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
            kind: FailureKind = "refused"
            if no_memory or tells_of_memory(str(error)):
                kind = "out_of_memory"
            said = one_line(error) if isinstance(error, WillfitError) else error_text(error)
            return said, kind
        return "", ""

    def _run(self) -> None:
        from willfit.live.measured.infer import run_inference
        from willfit.live.measured.load_model import load_model

        meter, work = self._meter, self._scenario.workload
        refuse(self._scenario, self._checkpoint)
        started = time.perf_counter()
        model = load_model(self._scenario, meter.device, self._checkpoint)
        meter.wait()
        self.seconds["load"] = time.perf_counter() - started
        meter.mark("load")
        if work.training is not None:
            self._train(model)
        elif work.inference is not None:
            times, self.series = run_inference(self._scenario, self._adapted(model), meter)
            self.seconds.update(times)

    def _train(self, model: Any) -> None:
        from willfit.live.measured.adapters import prepared
        from willfit.live.measured.train import run_training

        model = prepared(self._scenario, model)
        self._meter.mark("adapters")
        self.seconds.update(
            run_training(self._scenario, model, self._meter, self.notes, history=self._history)
        )

    def _adapted(self, model: Any) -> Any:
        """The model with the adapter that runs, merged into its weights where that was asked."""
        from willfit.live.measured.adapters import adapted

        inference = self._scenario.workload.inference
        if inference is None or inference.lora is None:
            return model
        model = adapted(self._scenario, model)
        model = model.merge_and_unload() if inference.merge_adapter else model
        self._meter.mark("adapters")
        return model
