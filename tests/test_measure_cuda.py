"""Measuring on a GPU, with torch's and NVML's lowest functions over the tensors of this process."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from support.cuda_stand_in import CAPACITY, CONTEXT, IDLE, Tells, stand_in

from willfit.cli.suite import scenario_of
from willfit.live.beside import beside
from willfit.live.measured.here import measure_here
from willfit.live.measurement import Measurement, measurement_from
from willfit.live.memory.counters import FakeCounters
from willfit.live.nvml import FakeNvml
from willfit.live.suite.case import Case
from willfit.report.ledger import ledger_row
from willfit.scenario import Scenario

INFER = "llama-3.2-1b --dtype bfloat16 --batch-size 2 --context 64 --max-new-tokens 4"
LOOP = "llama-3.2-1b --train full --trainer loop --max-length 64 --dtype float32"


def scenario(arguments: str) -> Scenario:
    return scenario_of(Case(name="", arguments=arguments, tiny=True))


def on_gpu(arguments: str, tells: Tells = "all") -> Measurement:
    with stand_in(tells) as device:
        found = measure_here(scenario(arguments), device="cuda")
        assert device.context
    assert (found.failure, found.device, found.counted) == ("", "Tesla T4", "torch")
    return measurement_from(found.as_dict())


@pytest.mark.parametrize("arguments", [INFER, LOOP])
def test_the_gpu_s_numbers_are_the_host_s_of_the_same_tensors(arguments: str) -> None:
    """Two ways through the meter, of one and the same run: allocated, phase by phase."""
    measure_here(scenario(arguments), device="cpu")  # what a library keeps from its first run on
    gpu, host = on_gpu(arguments), measure_here(scenario(arguments), device="cpu")
    phases = [(one.phase, one.step) for one in host.readings]
    assert [(one.phase, one.step) for one in gpu.readings] == phases
    for counted, seen in zip(gpu.readings, host.readings, strict=True):
        assert counted.held_bytes == pytest.approx(seen.held_bytes, abs=4096), counted.phase
        if counted.phase != "load":
            assert counted.allocated_bytes == pytest.approx(seen.allocated_bytes, abs=4096)


@pytest.mark.parametrize("arguments", [INFER, LOOP])
def test_every_number_of_a_gpu(arguments: str) -> None:
    found = on_gpu(arguments)
    (gpu,) = found.gpus
    assert (gpu.capacity_bytes, gpu.compute_capability) == (CAPACITY, (7, 5))
    assert gpu.idle_bytes == IDLE, "read before this process has its context there"
    assert found.driver == "580.1"
    for one in found.readings:
        assert one.held_bytes <= one.allocated_bytes <= one.reserved_bytes
        assert one.context_bytes == CONTEXT
        assert one.device_bytes == IDLE + CONTEXT + one.held_reserved_bytes
    device = {
        line.phase: line.measured_bytes for line in beside(found, ()) if line.kind == "device"
    }
    assert device["load"] == CONTEXT + found.readings[0].held_reserved_bytes
    row = ledger_row(found, scenario(arguments), command="willfit measure")
    assert (row["tier"], row["gpu"], row["n_gpu"]) == ("A", "Tesla T4", 1)


@pytest.mark.parametrize("tells", ["no processes", "no amounts", "nothing"])
def test_where_nvml_hides_processes_the_device_is_read_as_a_difference(tells: Tells) -> None:
    found = on_gpu(INFER, tells)
    assert {one.process_bytes for one in found.readings} == {None}
    device = {
        line.phase: line.measured_bytes for line in beside(found, ()) if line.kind == "device"
    }
    assert device["load"] == CONTEXT + found.readings[0].held_reserved_bytes


def test_a_container_has_the_ids_of_its_host() -> None:
    found = on_gpu(INFER, "the host's ids")
    assert {one.context_bytes for one in found.readings} == {CONTEXT}


def test_a_process_that_was_there_before_does_not_take_itself_off() -> None:
    with stand_in("no processes", context=True):
        found = measure_here(scenario(INFER), device="cuda")
    assert found.gpus[0].idle_bytes is None
    assert {line.kind for line in beside(found, ())} == {"allocated", "reserved"}


def test_what_was_alive_at_the_peak_of_the_second_step() -> None:
    """What came since the step began, of which the first step's outputs may go again."""
    with stand_in() as device:
        found = measure_here(scenario(LOOP), device="cuda", history=True)
    assert not device.recording
    peak = max(one.allocated_bytes for one in found.readings if one.step == 2)
    alive = sum(one.num_bytes * one.count for one in found.alive)
    assert peak - device.when_recording <= alive < peak


def test_the_prompt_s_pieces_all_belong_to_prefill() -> None:
    """64 tokens in pieces of 24: three calls; the prefill's cache is that of the prompt whole."""
    whole, pieces = on_gpu(INFER), on_gpu(f"{INFER} --prefill-chunk-size 24")
    held = [
        [one.held_bytes for one in run.readings if one.phase == "prefill"]
        for run in (whole, pieces)
    ]
    assert held[1] == pytest.approx(held[0], abs=4096)


def test_what_is_read_of_compiled_decoding_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where ``generate`` compiles the model with a static cache: once, not twice."""
    import transformers
    from transformers.generation.utils import GenerationMixin

    from willfit.live.measured import infer, load_model
    from willfit.live.meter import Meter

    graphs: list[Any] = []

    def kept(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    made: list[Any] = []

    def compiled(model: Any, _: Any = None) -> Any:
        if not made:
            made.append(torch.compile(model.__call__, backend=kept))
        return made[0]

    monkeypatch.setattr(GenerationMixin, "_valid_auto_compile_criteria", lambda *_, **__: True)
    monkeypatch.setattr(transformers.PreTrainedModel, "get_compiled_call", compiled)
    asked = scenario(f"{INFER} --cache static")
    meter = Meter("cuda", counters=FakeCounters(states=[[]]), nvml=FakeNvml(failure="none"))
    infer.run_inference(asked, load_model.load_model(asked, "cpu"), meter)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA error: out of memory", "out_of_memory"),  # pinned memory, paged optimizers
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "out_of_memory"),
        (
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
            "out_of_memory",
        ),
        ("CUDA error: an illegal memory access was encountered", "refused"),
    ],
)
def test_memory_that_is_not_there_has_many_words(
    text: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only torch's caching allocator has a class of errors for it."""
    from willfit.live.measured import load_model

    def fail(*_: object) -> None:
        raise RuntimeError(text)

    with stand_in():
        monkeypatch.setattr(load_model, "load_model", fail)
        found = measure_here(scenario(INFER), device="cuda")
    assert (found.failure_kind, found.failure) == (kind, f"RuntimeError: {text}")
    assert [one.phase for one in found.readings] == ["failed"]
