"""State-space, linear-attention and convolution mixers: the formulas beside the real classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmarks.grid import case

import willfit
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Stack, Workload
from willfit.sources.resolve import resolve

MIB = 1 << 20


def work(batch: int, length: int, scheme: Any = None, **settings: Any) -> Workload:
    quantization = Quantization(scheme=scheme, compute_dtype=BFLOAT16) if scheme else None
    return Workload(
        loading=Loading(dtype=BFLOAT16, quantization=quantization),
        inference=Inference(batch_size=batch, context_len=length, **settings),
    )


@pytest.mark.parametrize(
    ("model", "batch", "length", "more"),
    [
        ("ibm-granite/granite-4.0-h-350m", 8, 65, {}),
        ("ibm-granite/granite-4.0-h-350m", 2, 2048, {"scheme": "nf4"}),
        ("ibm-granite/granite-4.0-h-350m", 8, 512, {"use_cache": False}),
        ("tiiuae/Falcon-H1-0.5B-Base", 4, 1000, {"padded": True}),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 4, 1000, {}),
        ("state-spaces/mamba-130m-hf", 2, 400, {}),
        ("LiquidAI/LFM2-350M", 4, 2048, {}),
        ("Qwen/Qwen3.5-27B", 1, 4096, {"scheme": "nf4"}),
    ],
)
def test_a_scan_by_the_librarys_own_code(
    model: str, batch: int, length: int, more: dict[str, Any]
) -> None:
    """They were up to 82 % apart while the formulas had kernels in mind that few install."""
    found = case(model, "", work(batch, length, **more), "A100")
    assert found.difference == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("model", "batch", "length", "release", "mebibytes"),
    [
        ("ibm-granite/granite-4.0-h-350m", 1, 300, "5.14.0", 4653),
        ("ibm-granite/granite-4.0-h-350m", 1, 300, "5.16.0", 3833),
        ("Qwen/Qwen3.5-27B", 2, 1000, "5.14.0", 53271),
        ("Qwen/Qwen3.5-27B", 2, 1000, "5.16.0", 53271),
        ("state-spaces/mamba-130m-hf", 2, 200, "5.14.0", 386),
    ],
)
def test_older_releases_scan_in_their_own_way(
    model: str, batch: int, length: int, release: str, mebibytes: int
) -> None:
    """Peaks that a trace gives with that release of transformers in a side directory."""
    stack = Stack(versions={**Stack().versions, "transformers": release})
    found = willfit.estimate(scenario(model, batch, length, stack=stack), search_limits=False)
    assert allocated(found) == pytest.approx(mebibytes * MIB, rel=0.01)


def test_kernels_of_an_engine_take_less_and_the_librarys_code_says_so() -> None:
    asked = scenario("Qwen/Qwen3.5-27B", 4, 2048)
    inference = asked.workload.inference
    assert inference is not None
    served = replace(
        asked, workload=replace(asked.workload, inference=replace(inference, engine="vllm"))
    )
    ours, theirs = (willfit.estimate(each, search_limits=False) for each in (asked, served))
    assert any("flash-linear-attention" in said for said in ours.assumptions)
    assert not any("flash-linear-attention" in said for said in theirs.assumptions)


def test_an_mlp_is_as_wide_as_its_tensors() -> None:
    """LFM2 states a width that its class adjusts; Nemotron-H has an MLP in some layers only."""
    for model in ("LiquidAI/LFM2-350M", "LiquidAI/LFM2-700M", "nvidia/NVIDIA-Nemotron-Nano-9B-v2"):
        spec = resolve(model)
        assert spec.architecture is not None
        sizes = {size for row in spec.tensors for size in row.shape}
        widths = [g.mlp.intermediate_size for g in spec.architecture.layers if g.mlp is not None]
        assert widths and set(widths) <= sizes
    nemotron = resolve("nvidia/NVIDIA-Nemotron-Nano-9B-v2").architecture
    assert nemotron is not None
    parts = [(bool(g.recurrent), bool(g.attention), bool(g.mlp)) for g in nemotron.layers]
    assert all(sum(part) == 1 for part in parts)


def scenario(model: str, batch: int, length: int, stack: Stack | None = None) -> Scenario:
    return Scenario(
        model=resolve(model),
        workload=work(batch, length),
        machine=Machine(gpus=parse_machine("A100").gpus),
        stack=stack or Stack(),
    )


def allocated(found: willfit.Estimate) -> int:
    return max(p.allocated_bytes for p in found.gpus[0].phases if p.name != "load")
