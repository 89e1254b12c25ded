"""LLM-perf leaderboard on an A10: prefill of 256 tokens in bitsandbytes' 4 and 8 bit.

Each figure stands for runs with eager attention, SDPA and flash alike, rounded to 10 MB. The
published file joins runs of different months, and a row's place in it tells which: places 141 to
455 are the first runs', the others later ones. What ran (huggingface/optimum-benchmark eee61510,
``llm_perf``): ``load_in_4bit`` or ``load_in_8bit`` alone, so products are in float32; a checkpoint
without weights (``no_weights``), so accelerate puts every weight in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.older_kernels import older_bytes, todays_kernels
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.errors import WillfitError
from willfit.estimator.outcome import load
from willfit.formulas.loading import simulate_loading
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED
from willfit.scenario.workload import QuantScheme

_GPU: Final = find_gpu("A10")
_SCHEMES: Final[dict[str, QuantScheme]] = {"bnb-4bit": "fp4", "bnb-8bit": "int8"}


def _stack(transformers: str, bitsandbytes: str) -> Stack:
    return Stack(versions={**TESTED, "transformers": transformers, "bitsandbytes": bitsandbytes})


FIRST: Final = _stack("4.40.2", "0.43.1")
"""May 2024, when the script was merged: it installs what is newest."""
SECOND: Final = _stack("4.44.2", "0.43.3")
"""August 2024."""
THIRD: Final = _stack("4.45.2", "0.44.1")
"""October 2024, the script's last: the first that makes one position's logits."""
SECOND_RUNS: Final[Mapping[str, tuple[float, ...]]] = {
    "01-ai/Yi-6B": (4.43, 6.66),
    "EleutherAI/gpt-neo-1.3B": (1.15, 1.58, 1.59),
    "EleutherAI/gpt-neo-2.7B": (2.05, 3.06, 3.07),
    "EleutherAI/gpt-neox-20b": (13.98, 21.78, 21.79),
    "EleutherAI/pythia-12b": (8.55, 12.94),
    "EleutherAI/pythia-2.7b": (2.42, 3.44, 3.45),
    "Qwen/Qwen1.5-1.8B": (2.58,),
    "Qwen/Qwen1.5-14B": (11.35,),
    "Qwen/Qwen1.5-4B": (4.28,),
    "Qwen/Qwen1.5-7B": (6.99,),
    "openai-community/gpt2": (0.21, 0.25),
}
"""Figures at places outside the first runs', as they are in the file."""
IN_BOTH: Final[Mapping[str, tuple[float, ...]]] = {
    "EleutherAI/gpt-neo-125m": (0.22, 0.26),
    "EleutherAI/pythia-160m": (0.31, 0.35),
    "Qwen/Qwen1.5-1.8B": (3.08,),
    "Qwen/Qwen1.5-14B": (16.63,),
    "Qwen/Qwen1.5-4B": (5.62,),
    "Qwen/Qwen1.5-7B": (9.76,),
}
"""Figures that both runs have."""
THIRD_RUNS: Final = ("gemma-2-", "Qwen2-0.5B", "Meta-Llama-3-8B-Instruct")
"""Models that the first runs lack, beside Llama-3.1 in the file."""
ROUNDING: Final = 5_120_000
"""Half of the 10.24 MB that figures are rounded to."""
_OWN_CODE: Final = ("deepseek-ai/DeepSeek-V2", "internlm/internlm2")
"""Classes that came with the checkpoint. DeepSeek's, of a later run, makes all logits, and its
experts are single linear layers, which bitsandbytes quantises; transformers' are fused."""
_READING: Final = Reading(phases=("prefill",))
_VIEWS: Final = {"gpt_neox": 6, "gpt2": 2, "falcon": 2}
"""Bytes a token, layer and unit of width that these classes' caches held until 4.45 beside K and V
in float16: the queries of the fused product, and in GPT-NeoX, which turns by tables of float32,
another tensor's worth of keys and K's own place in the product."""
_MAYBE_PLAIN: Final = ("google/gemma-2b", "google/gemma-7b", "google/recurrentgemma")
"""First runs that decode as fast a layer as what is not nested does: run again with a later
accelerate, or not."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of prefill, by the releases of the row's run."""
    tokens = row["batch"] * row["seq"]
    for entry in row["measured"]:
        scheme = _scheme(row, entry["bytes"])
        try:
            first, *others = [
                _scenario(row, scheme, stack) for stack in _stacks(row, entry["bytes"])
            ]
        except (WillfitError, KeyError) as error:
            yield NotExpressed(kind=entry["kind"], reason=str(error))
            continue
        if row["model"].startswith(_MAYBE_PLAIN) and scheme != "int8":
            others.append(_plain(first))
        yield Expressed(
            kind=entry["kind"],
            scenario=first,
            low_scenario=others[0] if others else None,
            unknown_bytes=(-ROUNDING, ROUNDING),
            reading=replace(_READING, plus_bytes=_rests(first) + _views(first, tokens)),
        )


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same; what an older bitsandbytes holds besides is the formulas' difference.

    What is traced is today's (`older_kernels`).
    """
    for result in express(row):
        if isinstance(result, NotExpressed):
            yield result
        elif "DeepSeek" in row["model"]:
            yield NotExpressed(kind=result.kind, reason="today's class fuses its experts")
        else:
            older = older_bytes(result.scenario, _READING)
            yield replace(
                result,
                scenario=todays_kernels(result.scenario),
                low_scenario=result.low_scenario and todays_kernels(result.low_scenario),
                reading=replace(_READING, plus_bytes=older),
            )


def _rests(scenario: Scenario) -> int:
    """What the weights' blocks keep behind them, up to 1 MiB each, where no warm-up came first."""
    weights = load(scenario).weights
    loaded = simulate_loading(weights, _GPU, scenario.stack)
    return max(loaded.allocated_bytes - weights.allocated_bytes, 0)


def _views(scenario: Scenario, tokens: int) -> int:
    """Of a cache whose values are views of the fused product, all of that; and float32 keys."""
    model = scenario.model
    architecture = model.architecture
    assert architecture is not None
    wider = _VIEWS.get(str(model.config.get("model_type")), 0)
    return wider * tokens * architecture.hidden_size * architecture.num_layers


def _stacks(row: PublishedRow, published_bytes: int) -> list[Stack]:
    """The releases of the row's run; two where either may have run."""
    model, figure = row["model"], round(published_bytes / 1.024e9, 2)
    if any(name in model for name in THIRD_RUNS):
        return [THIRD]
    if model.startswith(_OWN_CODE):
        return [SECOND] if "DeepSeek" in model else [FIRST, THIRD]  # InternLM: tables in one class
    if figure in IN_BOTH.get(model, ()):
        return [FIRST, SECOND]
    return [SECOND] if figure in SECOND_RUNS.get(model, ()) else [FIRST]


def _scheme(row: PublishedRow, published_bytes: int) -> QuantScheme:
    """As the source's notes infer it, less one figure that decodes at the speed of 4 bit."""
    is_4bit = row["model"] == "openai-community/gpt2" and published_bytes == _MISREAD
    return "fp4" if is_4bit else _SCHEMES[row["quant"]]


_MISREAD: Final = 215_040_000
"""66 to 71 tokens a second, where GPT-2's other figures of 8 bit are at 36 to 40."""


def _scenario(row: PublishedRow, scheme: QuantScheme, stack: Stack) -> Scenario:
    """Nested in the first runs.

    accelerate before 0.33 (July 2024) lost the settings of a ``Params4bit`` that it put in its
    place, and that is the class's own default (utils/modeling.py `set_module_tensor_to_device`).
    """
    first = stack == FIRST or "internlm2" in row["model"]
    quantization = Quantization(scheme=scheme, double_quant=scheme != "int8" and first)
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(
            loading=Loading(dtype=FLOAT16, quantization=quantization),
            inference=Inference(batch_size=row["batch"], context_len=row["seq"] + 1, attn="eager"),
        ),
        machine=Machine(gpus=(_GPU,)),
        stack=stack,
    )


def _plain(scenario: Scenario) -> Scenario:
    work = scenario.workload
    assert work.loading.quantization is not None
    quantization = replace(work.loading.quantization, double_quant=False)
    loading = replace(work.loading, quantization=quantization)
    return replace(scenario, workload=replace(work, loading=loading))


ABOUT: Final = About(
    title="LLM-perf leaderboard, bitsandbytes on an A10",
    unknowns={
        "releases": "by a row's place in the published file: transformers 4.40, 4.44 or 4.45, to a"
        " few MB what the rows of seven classes hold; both where a figure is in two places",
        "nested absmax of Gemma's 4 bit": "nested as all first runs, to plain",
        "rounding": "half of 10.24 MB to either side",
    },
    misses=(
        Miss(
            why="one more set of logits and cache than the run's own: 154 MB for 560m, as measured",
            where=lambda row: "bloom" in row["model"],
        ),
        Miss(
            why="GPT-2's later runs hold another set of half-precision logits, 26 MB",
            ids=("llmperf_bnb_a10_derived:1", "llmperf_bnb_a10_derived:3"),
        ),
    ),
    notes=(
        "Two figures of a 4-bit model, up to 900 MB apart where those of 8 bit lie together, are"
        " of two runs. accelerate before 0.33 dropped a `Params4bit`'s settings when it put a"
        " weight that no checkpoint has in its place, so the first runs' absmax is nested (0.047"
        " bytes a weight less); they decode 15 to 30 % slower for it.",
        "`load_in_4bit` alone computes in float32. Before bitsandbytes 0.50 a weight was made in"
        " float16 and copied: 6 bytes for each of the largest weight's.",
        "torch counts the rest of up to 1 MiB that a block keeps. A weight of 43 MiB takes 44:"
        " Llama-7B in 8 bit holds 101 MB of rests, in 4 bit 50; from 4.50 on a warm-up block leaves"
        " none. Traces under the row's own release have them; here the formulas are given them:"
        " DeepSeek's 4,992 experts of 2.75 MiB fill segments of 20 MiB by sevens, 0.56 GB in all.",
        "Until 4.45 GPT-NeoX's cache held the whole fused product, through its values, and keys in"
        " float32: 10·h bytes a token and layer where K and V of float16 are 4·h.",
        "Traced under the row's own release Llama-7B, Yi-6B, Mistral-7B and Pythia-12B are within"
        " 0.3 %. 1 % low in 8 bit are widths of 5,120 (25 MiB a square weight): the old kernel made"
        " its own layout of each weight in the first pass, another 1 MiB.",
    ),
)
