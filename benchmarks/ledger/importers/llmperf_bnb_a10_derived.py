"""LLM-perf leaderboard on an A10: prefill of 256 tokens in bitsandbytes' 4 and 8 bit.

Each figure stands for runs with eager attention, SDPA and flash alike; two generations of
transformers are mixed: today's and 4.37 are the two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import EARLIER, About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Workload
from willfit.scenario.workload import QuantScheme
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="LLM-perf leaderboard, bitsandbytes on an A10")
_GPU: Final = find_gpu("A10")
_SCHEMES: Final[dict[str, QuantScheme]] = {"bnb-4bit": "fp4", "bnb-8bit": "int8"}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of prefill."""
    scenario = _scenario(row)
    for entry in row["measured"]:
        yield Expressed(
            kind=entry["kind"],
            scenario=scenario,
            high_scenario=replace(scenario, stack=EARLIER),
            reading=Reading(phases=("prefill",)),
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
