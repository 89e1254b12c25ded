"""Reserved: what an engine is refused after it has given its part of the card away."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from willfit.doctor.causes import outside
from willfit.doctor.causes.cause import Cause, Rule, certain, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.serving import LOWER, is_served
from willfit.doctor.causes.words import TORCH, has, in_frames, is_of, marked, near
from willfit.doctor.report import Report
from willfit.units import GIB

_BUDGET: Final = re.compile(
    r"total_gpu_memory \((?P<total>\d{1,5}\.\d{1,4})GiB\) x gpu_memory_utilization "
    r"\((?P<part>[\d.]{1,8})\) = (?P<budget>\d{1,5}\.\d{1,4})GiB"
)
_UTILIZATION: Final = re.compile(r"gpu[-_]memory[-_]utilization[ =:]{1,3}[01]?\.\d{1,4}")
_GRAPHS: Final = re.compile(
    r"CUDA ?graphs? can take|ESTIMATE_CUDAGRAPHS|capture_model|Capturing|cuda_graph_runner"
    r"|capture_graph|cuda/graphs\.py|\bcuda\.graph\(",
    re.IGNORECASE,
)


def _find(report: Report) -> Cause | None:
    if not is_served(report):
        return None
    return _graphs(report, Numbers(report)) or _refused(report)


def _graphs(report: Report, numbers: Numbers) -> Cause | None:
    """Graphs are captured last, of what the budget left; older engines did not count them."""
    on, off = numbers.of("used_with_graphs_bytes"), numbers.of("used_eager_bytes")
    if on and off:
        text = worked_out(on, ("−", off, "without"))
        return certain("cuda_graphs", f"{text} are CUDA graphs, outside the engine's budget.")
    if marked(report, "graph_capture") or near(report, _GRAPHS) or in_frames(report, _GRAPHS):
        return likely(
            "cuda_graphs",
            "It failed while CUDA graphs were captured, which take 1 to 3 GiB beside the cache.",
            LOWER,
        )
    for line in (*report.context.nearby, report.quote):
        match = _BUDGET.search(line)
        if match is not None:
            left = Decimal(match["total"]) - Decimal(match["budget"])
            return likely(
                "cuda_graphs",
                f"{match['total']} − {match['budget']} = {left} GiB is all that a budget of "
                f"{match['part']} leaves: what is captured or loaded after the cache was "
                "reserved is not counted in it.",
                LOWER,
            )
    return None


def _refused(report: Report) -> Cause | None:
    """CUDA's own refusal inside an engine."""
    if has(report, "sampler_warmup") or marked(report, "sampler_warmup"):
        return likely(
            "logits_vocab",
            "It failed while the sampler was warmed up: rows × vocabulary × 12 bytes.",
            LOWER,
        )
    taken = outside.RULE.find(report)
    if taken is not None:
        return taken
    over = _over(report, Numbers(report))
    if over is not None:
        return over
    if report.context.stage == "load" or is_of(report, "vllm-cumem", "pytorch-hip"):
        return None
    if is_of(report, *TORCH, "tgi", "sglang", "vllm"):
        return likely(
            "serving_budget",
            "The engine had given its part of the card to weights and cache when this was refused.",
            LOWER,
        )
    return None


def _over(report: Report, numbers: Numbers) -> Cause | None:
    """More than its part is reserved: what is measured before the cache does not fit into it."""
    said = near(report, _UTILIZATION)
    part = Decimal(said.rpartition(said.strip("0123456789."))[2]) if said else None
    total, reserved = numbers.total, numbers.reserved
    if part is None or total is None or reserved is None or not 0 < part <= 1:
        return None
    budget = int(part * total)
    if reserved - budget <= GIB:
        return None
    text = worked_out(reserved, ("−", budget, f"of a budget of {part}"))
    return likely(
        "model_too_big",
        f"{text} over: a cache is made of what weights leave of the budget, and they left nothing.",
    )


RULE: Final = Rule(
    name="after the cache was reserved",
    mechanism="Graphs, sampler and late kernels need what the cache has left, which older engines "
    "did not count.",
    find=_find,
)
