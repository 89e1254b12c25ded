"""LLM-perf leaderboard on an A10: prefill of 256 tokens in bitsandbytes' 4 and 8 bit.

Each figure stands for runs with eager attention, SDPA and flash alike; two generations of
transformers are mixed, of which the older made float32 logits of the whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.row import Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.results import Estimate
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Workload
from willfit.scenario.workload import QuantScheme
from willfit.sources.resolve import resolve

_GPU: Final = find_gpu("A10")
_SCHEMES: Final[dict[str, QuantScheme]] = {"bnb-4bit": "fp4", "bnb-8bit": "int8"}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of prefill, from the last position's logits to everybody's in float32."""
    scenario = _scenario(row)
    for entry in row["measured"]:
        yield Expressed(
            kind=entry["kind"],
            scenario=scenario,
            high_scenario=_with_all_logits(scenario),
            reading=_prefill,
            unknown_bytes=(0, _float32_logits(row, scenario)),
        )


def _scenario(row: PublishedRow) -> Scenario:
    quantization = Quantization(scheme=_SCHEMES[row["quant"]], compute_dtype=FLOAT16)
    return Scenario(
        model=resolve(row["model"]),
        workload=Workload(
            loading=Loading(dtype=FLOAT16, quantization=quantization),
            inference=Inference(batch_size=row["batch"], context_len=row["seq"] + 1),
        ),
        machine=Machine(gpus=(_GPU,)),
    )


def _with_all_logits(scenario: Scenario) -> Scenario:
    inference = scenario.workload.inference
    assert inference is not None
    return replace(
        scenario,
        workload=replace(scenario.workload, inference=replace(inference, full_logits=True)),
    )


def _float32_logits(row: PublishedRow, scenario: Scenario) -> int:
    """``logits.float()`` of transformers before 4.45: 4·B·S·V."""
    architecture = scenario.model.architecture
    vocab = architecture.vocab_size if architecture is not None else 0
    return 4 * int(row["batch"]) * int(row["seq"]) * vocab


def _prefill(estimate: Estimate) -> int:
    return max(p.allocated_bytes for p in estimate.binding.phases if p.name == "prefill")
