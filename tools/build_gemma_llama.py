"""Writes docs/stories/gemma-llama-int8.md: two models in 8 bit, one after the other, on two T4.

``python -m tools.build_gemma_llama``
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import willfit
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.results import Estimate, GpuEstimate
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Workload
from willfit.sources.heads import with_auto_class
from willfit.units import format_bytes, parse_bytes

TARGET: Final = Path(__file__).parents[1] / "docs" / "stories" / "gemma-llama-int8.md"
MODELS: Final = ("google/gemma-2-9b", "meta-llama/Meta-Llama-3-8B")
DTYPES: Final = {MODELS[0]: BFLOAT16, MODELS[1]: FLOAT16}
"""Gemma-2's activations leave float16's range."""
Spread = Literal["replicas", "device_map"]
SPREADS: Final[tuple[Spread, ...]] = ("replicas", "device_map")
WORDS: Final = {"replicas": "one replica on each card", "device_map": "split over both cards"}
LEFT_BEHIND: Final = "8.9GB"
"""What the report of the thread found on GPU 1 after the first model was deleted."""
BY_TRACE: Final = "## By trace"


def scenario(model: str, spread: Spread, in_use: str | None = None) -> Scenario:
    """A classifier with three labels: batches of 4, padded to 1,024 tokens."""
    gpus = willfit.parse_machine("T4x2").gpus
    return Scenario(
        model=with_auto_class(willfit.find_model(model), None, 3),
        machine=Machine(
            gpus=gpus, in_use_bytes=(0, parse_bytes(in_use)) if in_use is not None else ()
        ),
        workload=Workload(
            loading=Loading(
                dtype=DTYPES[model], quantization=Quantization(scheme="int8"), num_labels=3,
                strategy=spread,
            ),
            inference=Inference(batch_size=4, context_len=1024, padded=True),
        ),
    )  # fmt: skip


def command(model: str, spread: Spread) -> str:
    """The same as a command."""
    return (
        f"willfit estimate {model} --gpu T4x2 --quantize int8 --num-labels 3 "
        f"--dtype {DTYPES[model].name} --batch-size 4 --context 1024 --padded --strategy {spread}"
    )


def row(estimate: Estimate, spread: Spread) -> str:
    """Both cards at their peaks, and the largest that fits where that was looked for."""
    cards = " | ".join(_card(gpu) for gpu in estimate.gpus)
    limits = estimate.limits
    cells = [estimate.scenario.model.id, WORDS[spread], cards, str(estimate.verdict)]
    if limits.batch_size is not None:
        cells.append(f"batch {limits.batch_size} or context {limits.context_len:,}")
    return f"| {' | '.join(cells)} |"


def _card(gpu: GpuEstimate) -> str:
    weights = next(part for part in gpu.peak.components if part.name == "weights")
    layers = f", {gpu.layers}" if gpu.layers else ""
    total = format_bytes(gpu.peak.device_bytes)
    return f"{total} ({format_bytes(weights.num_bytes)} weights{layers})"


def by_formula() -> Iterator[str]:
    """The table that closed formulas give."""
    yield "| model | how | GPU 0 | GPU 1 | verdict | largest that fits |"
    yield "|---|---|---|---|---|---|"
    for spread in SPREADS:
        for model in MODELS:
            yield row(willfit.estimate(scenario(model, spread)), spread)


def by_trace(model: str, spread: Spread) -> Estimate:
    """What the real code on fake tensors gives."""
    return willfit.estimate(scenario(model, spread), trace=True)


Traces = Mapping[tuple[Spread, str], Estimate]


def furthest(traces: Traces) -> int:
    """Allocated bytes by which formula and trace differ most at the peak of a card."""
    return max(
        abs(gpu.peak.allocated_bytes - other.peak.allocated_bytes)
        for (spread, model), traced in traces.items()
        for gpu, other in zip(
            traced.gpus,
            willfit.estimate(scenario(model, spread), search_limits=False).gpus,
            strict=True,
        )
    )


def in_pieces(traces: Traces) -> int:
    """The most that the allocator keeps of a card without a tensor in it."""
    return max(
        gpu.peak.reserved_bytes - gpu.peak.allocated_bytes
        for traced in traces.values()
        for gpu in traced.gpus
    )


def left_behind() -> str:
    """What becomes of the second model where the first one's memory was not given back."""
    second = scenario(MODELS[1], "replicas", LEFT_BEHIND)
    estimate = willfit.estimate(second, search_limits=False)
    short = -(estimate.gpus[1].headroom_bytes or 0)
    free = scenario(MODELS[1], "replicas")
    needs = willfit.estimate(free, search_limits=False).gpus[1].peak.device_bytes
    assert estimate.gpus[0].fits
    assert not estimate.gpus[1].fits
    return (
        f"With {LEFT_BEHIND} still held on GPU 1, a replica of Llama-3-8B there needs "
        f"{format_bytes(needs)} of the {format_bytes(estimate.gpus[1].budget_bytes or 0)} left: "
        f"{format_bytes(short)} too much, at whatever batch size people try, since "
        f"{format_bytes(_weights(estimate))} of it are weights."
    )


def _weights(estimate: Estimate) -> int:
    parts = estimate.gpus[1].peak.components
    return next(part for part in parts if part.name == "weights").num_bytes


def alone() -> str:
    """The second model's loading alone, where nothing of it has run yet."""
    loading = replace(scenario(MODELS[1], "replicas", LEFT_BEHIND).workload, inference=None)
    only = replace(scenario(MODELS[1], "replicas", LEFT_BEHIND), workload=loading)
    estimate = willfit.estimate(only, search_limits=False)
    peak = estimate.gpus[1].peak.device_bytes
    return f"Even loading it peaks at {format_bytes(peak)}: that is where such a run dies."


def before_trace() -> str:
    """The page up to the traced table."""
    commands = "\n".join(command(model, spread) for spread in SPREADS for model in MODELS)
    formula = "\n".join(by_formula())
    return f"""\
# Gemma-2-9b, then Llama-3-8B, in 8 bit on two T4

Two classifiers with three labels are to be ensembled on Kaggle's two T4: first Gemma-2-9b, then
Llama-3-8B, both by LLM.int8, batches of 4 rows padded to 1,024 tokens. Does each fit, once a card
or split over both? And why does the second one fail after the first was deleted? Llama-3 is loaded
in float16, the 16-bit type that a T4 computes in; Gemma-2's activations leave its range, so Gemma
stays in bfloat16, which a T4 emulates.

```bash
{commands}
```

{formula}

Each figure is the peak on that card, with its CUDA context, of the 14.56 GiB that a T4 has with
recent drivers. All four fit with room. Replicas need no traffic between the cards and halve the
time, each with its half of the rows; the split leaves room for batches that the time limit does
not need. Gemma takes more than a byte for each of its 9.24 billion parameters: its table of 256,000
words stays in 16 bit, its attention runs eager, as the class has no SDPA path, and it fills a cache
of keys and values of 1.31 GiB that a classifier never reads again.

## Why the second model fails

{textwrap.fill(f"{left_behind()} {alone()}", 100, break_on_hyphens=False)}
Nothing that is done to the second model helps: what has to go is the first one. A process that
ends gives everything back, so each model gets a process of its own, writes its probabilities to a
file, and the ensemble reads the files.

## The same as code

```python
import willfit

models = {{"google/gemma-2-9b": "bfloat16", "meta-llama/Meta-Llama-3-8B": "float16"}}
for card in ("T4", "T4x2"):
    for model, dtype in models.items():
        loaded = willfit.load(
            model,
            gpu=card,
            task="text-classification",
            num_labels=3,
            quantize="int8",
            dtype=dtype,
            batch_size=4,
            context=1024,
            padded=True,
            dry_run=True,
        )
        print(loaded)
```

Without `dry_run=True` and on a machine with these cards the model itself comes back, with
`loaded.model` and `loaded.tokenizer`; `gpu="T4"` is what each replica's process plans for.

"""


def document() -> str:
    """The whole page; the traces take some ten seconds."""
    traces = {(spread, model): by_trace(model, spread) for spread in SPREADS for model in MODELS}
    rows = "\n".join(row(traced, spread) for (spread, _), traced in traces.items())
    return f"""\
{before_trace()}{BY_TRACE}

The same four with `--trace`: the real modelling code on fake tensors, its allocations replayed
through PyTorch's allocator. What is allocated at a card's peak differs from the formulas by at most
{format_bytes(furthest(traces))}. What the allocator keeps in pieces that no tensor fits comes on
top, and only the trace sees it: up to {format_bytes(in_pieces(traces))}, with Gemma's eager
attention.

| model | how | GPU 0 | GPU 1 | verdict |
|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(document(), encoding="utf-8")
