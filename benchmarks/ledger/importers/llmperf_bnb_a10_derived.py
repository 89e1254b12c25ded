"""LLM-perf leaderboard on an A10: prefill of 256 tokens in bitsandbytes' 4 and 8 bit.

Each figure stands for runs with eager attention, SDPA and flash alike; two generations of
transformers are mixed. Figures are rounded to 10 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import EARLIER, About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.errors import WillfitError
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED
from willfit.scenario.workload import QuantScheme

_GPU: Final = find_gpu("A10")
_SCHEMES: Final[dict[str, QuantScheme]] = {"bnb-4bit": "fp4", "bnb-8bit": "int8"}
LATER: Final = Stack(versions={**TESTED, "transformers": "4.45.2", "bitsandbytes": "0.44.1"})
"""The second generation."""
SECOND_GENERATION: Final = (
    "gemma-2-", "gemma-3", "Qwen2-0.5B", "Qwen2-1.5B", "Qwen2-7B", "Qwen2.5", "Llama-3.1",
    "Llama-3.2", "Mistral-7B-v0.3", "Phi-3.5",
)  # fmt: skip
"""Names of models that came out after transformers 4.37's generation: no run of it has them."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of prefill: the older generation, and today's as the low end."""
    try:
        scenario = _scenario(row)
    except (WillfitError, KeyError) as error:
        yield from (NotExpressed(kind=m["kind"], reason=str(error)) for m in row["measured"])
        return
    late = any(name in row["model"] for name in SECOND_GENERATION)
    own = row["model"].startswith(_OWN_CODE)
    for entry in row["measured"]:
        yield Expressed(
            kind=entry["kind"],
            scenario=replace(scenario, stack=LATER if late else EARLIER),
            low_scenario=None if own else replace(scenario, stack=LATER),
            high_scenario=replace(scenario, stack=EARLIER),
            unknown_bytes=(-ROUNDING, ROUNDING),
            reading=Reading(phases=("prefill",)),
        )


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same from today's code, which alone is traced.

    What the older generation differs from it by is the formulas'.
    """
    for result in express(row):
        if isinstance(result, NotExpressed):
            yield result
        elif row["model"].startswith(_OWN_CODE):
            yield NotExpressed(kind=result.kind, reason="today's class fuses its experts")
        else:
            nominal = result.scenario
            low = result.low_scenario if nominal.stack == EARLIER else None
            yield replace(result, scenario=replace(nominal, stack=Stack()), low_scenario=low)


ROUNDING: Final = 5_120_000
"""Half of the 10.24 MB that figures are rounded to."""
_OWN_CODE: Final = ("deepseek-ai/DeepSeek-V2",)
"""Experts were single linear layers then, which bitsandbytes quantises; today they are fused."""


def _scenario(row: PublishedRow) -> Scenario:
    quantization = Quantization(scheme=_SCHEMES[row["quant"]], compute_dtype=FLOAT16)
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(
            loading=Loading(dtype=FLOAT16, quantization=quantization),
            inference=Inference(batch_size=row["batch"], context_len=row["seq"] + 1),
        ),
        machine=Machine(gpus=(_GPU,)),
    )


def _of(*names: str) -> Callable[[PublishedRow], bool]:
    return lambda row: any(name in row["model"] for name in names)


ABOUT: Final = About(
    title="LLM-perf leaderboard, bitsandbytes on an A10",
    unknowns={
        "release of transformers": "4.37 (what byte-exact rows of Gemma and Qwen1.5 fit), 4.45 for"
        " models that came out later; the range is between the two",
        "rounding": "half of 10.24 MB to either side",
    },
    misses=(
        Miss(
            why="each cluster of NeoX's in 4 bit has two values, 5 to 7 % apart: the lower is"
            " within what views of the fused projection keep (2·h bytes a token and layer), the"
            " higher is not explained: neither nested quantisation nor float32 products give it",
            where=_of("pythia", "gpt-neox", "stablelm-base-alpha", "RedPajama"),
        ),
        Miss(why="the outputs of the run before were not let go", where=_of("gpt2")),
        Miss(
            why="one more set of logits and cache than the run's own: 154 MB for 560m, as measured",
            where=_of("bloom"),
        ),
    ),
    notes=(
        "Classes before Llama (GPT-2, GPT-Neo, NeoX, OPT, BLOOM, Falcon, MPT, XGLM, StableLM) never"
        " made a float32 copy of their logits: `formulas/inference/logits.py` knows them now.",
        "Two values of a 4-bit cluster lie up to 900 MB apart (522 MB for Pythia-12B, 532 for"
        " Qwen1.5-14B) where those of 8 bit lie together: it is not transformers that changed.",
    ),
)
