"""DerekLiu35's optimum-benchmark runs of Llama-3.1-8B: load, prefill and decode on one GPU.

Batch 1, 64 prompt tokens, 64 new; caches emptied and peaks reset before each phase; no release of
transformers recorded. ``max_global_vram`` counts other people's jobs on the same GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import parse_dtype
from willfit.scenario import Inference, Loading, Machine, Scenario, Workload
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="optimum-benchmark runs of DerekLiu35")
_PHASES: Final = {"load_model": "load", "prefill": "prefill", "decode": "decode"}
_AMOUNTS: Final[dict[str, Amount]] = {
    "max_allocated": "allocated",
    "max_reserved": "reserved",
    "max_process_vram": "device",
}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per phase and counter."""
    for entry in row["measured"]:
        kind = entry["kind"]
        phase, _, counter = kind.partition(":")
        obstacle = _obstacle(row, counter)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        yield Expressed(kind=kind, scenario=_scenario(row), reading=_reading(phase, counter))


def _obstacle(row: PublishedRow, counter: str) -> str | None:
    scheme = (row["quant"] or {}).get("scheme")
    if counter not in _AMOUNTS:
        return "device-wide counter of a GPU that others use too"
    if row["n_gpu"] > 1:
        return "several GPUs were visible; which of them held what is not recorded"
    if scheme not in (None, "awq"):
        return f"{scheme} while loading is not a scheme of the formulas or of the trace"
    return None


def _scenario(row: PublishedRow) -> Scenario:
    gpus = row["gpu"] if isinstance(row["gpu"], list) else [row["gpu"]]
    inference = Inference(
        batch_size=row["batch"],
        context_len=row["seq"] + row["new_tokens"],
        max_new_tokens=row["new_tokens"],
    )
    return Scenario(
        model=resolve(row["model"]),
        workload=Workload(
            loading=Loading(dtype=parse_dtype(row["dtype"]) if row["dtype"] else None),
            inference=inference,
        ),
        machine=Machine(gpus=(find_gpu(gpus[0]),)),
    )


def _reading(phase: str, counter: str) -> Reading:
    return Reading(amount=_AMOUNTS[counter], phases=(_PHASES[phase],))
