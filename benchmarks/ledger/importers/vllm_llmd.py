"""llm-d's measurements of vLLM 0.11 on H100s: weights alone are willfit's to say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.scenario import Inference, Loading, Machine, Scenario, Workload

ABOUT: Final = About(
    title="llm-d, vLLM's own accounts",
    stack="other",
    notes=(
        "Peak activations of a profile run, CUDA graphs and what is left for the cache are vLLM's "
        "own decisions; the weights are each GPU's share of the checkpoint.",
    ),
)
_SAME_SHAPES: Final = {
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": "mistralai/Mistral-Small-3.1-24B-Instruct-2503"
}
_WEIGHTS: Final = ("weights", "quantization_state")


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The weights of one GPU under tensor parallelism."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        if kind != "model weights":
            yield NotExpressed(kind=kind, reason="what vLLM decides by itself")
            continue
        num_gpus = int(row["n_gpu"])
        yield Expressed(
            kind=kind,
            scenario=Scenario(
                model=published_model(_SAME_SHAPES.get(str(row["model"]), str(row["model"]))),
                workload=Workload(
                    loading=Loading(strategy="tp" if num_gpus > 1 else None),
                    inference=Inference(context_len=2048, engine="vllm"),
                ),
                machine=Machine(gpus=(find_gpu("H100-SXM5-80GB"),) * num_gpus),
            ),
            reading=Reading(phases=("prefill",), components=_WEIGHTS),
            card_known=False,
        )
