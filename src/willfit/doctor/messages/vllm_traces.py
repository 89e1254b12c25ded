"""vLLM's traces of a failure whose own line is missing: cut off, bare, or or compared by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final

from willfit.doctor.amounts import NUMBER
from willfit.doctor.messages.numbers import Facts, add_facts
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import report
from willfit.doctor.messages.vllm_facts import FACTS
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

TRACE_NEEDLES: Final = (
    "CUDA out of memory.",
    "compile_or_warm_up_model",
    "CUDA graphs can take additional",
    "enforce-eager",
    "enforce_eager",
)

_BARE: Final = re.compile(r"(?:CUDA|HIP) out of memory\.(?! ?(?:Tried|GPU|Alloc))")
_BUDGET: Final = re.compile(
    r"total_gpu_memory \(|model weights take|# (?:GPU|CUDA|cuda) blocks|Available KV cache memory|"
    r"[Ll]oading (?:model )?(?:weights )?took \d"
)
"""Lines of which one must stand before a bare message for it to be vLLM's."""
_WARM_UP: Final = re.compile(
    r"\bin compile_or_warm_up_model\b.{0,400}?\b_dummy_(?:sampler|pooler)_run\("
)
_ERROR: Final = re.compile(r"\b\w{0,60}(?:Error|Exception)\b: ")
_GRAPHS: Final = re.compile(
    r"CUDA graphs can take additional \d~\d GiB memory per GPU"
    r"(?:\. If you are running out of memory, consider)?"
)
_GOES_ON: Final = re.compile(
    r"Graph capturing finished|Started server process|Uvicorn running|throughput: "
    r"|Capturing CUDA graph shapes: 100%|Error|out of memory"
)
"""What the log of a capture that succeeded says next, or of one that says how it failed."""
_USED: Final = re.compile(
    rf"(?P<used>{NUMBER} ?MiB) ?/ ?(?P<total>{NUMBER} ?MiB)(?=(?P<words>[^/]{{0,120}}))"
)
_WITH: Final = re.compile(r"\bgraphs? (?:on|enabled)|\bwith (?:cuda )?graphs?\b", re.IGNORECASE)
_EAGER: Final = re.compile(r"enforce[-_ ]eager|\bgraphs? (?:off|disabled)", re.IGNORECASE)


def read_traces(flat: Flat) -> Iterator[Report]:
    """Reports of what is left of a failure."""
    yield from _bare(flat)
    yield from _without_error(flat)
    yield from _compared(flat)


def _bare(flat: Flat) -> Iterator[Report]:
    """A message of torch without numbers, where vLLM's lines before it have them."""
    budget = _BUDGET.search(flat.text)
    facts = Facts(flat, FACTS) if budget else None
    for match in _BARE.finditer(flat.text) if budget else ():
        said = is_said(flat, match.start(), match.end(), words_only=True)
        if facts and budget and budget.start() < match.start() and said:
            told = report(flat, match, family="vllm")
            yield add_facts(told, facts.near(match.start(), match.end()))


def _without_error(flat: Flat) -> Iterator[Report]:
    """A traceback or a log that ends where memory is asked for."""
    warm_up = _WARM_UP.search(flat.text)
    if warm_up and not _ERROR.search(flat.text, warm_up.end()):
        yield _trace(flat, warm_up, "sampler_warmup")
    captures = list(_GRAPHS.finditer(flat.text))
    if captures and not _GOES_ON.search(flat.text, captures[-1].end()):
        facts = Facts(flat, FACTS).near(captures[-1].start(), captures[-1].end())
        yield add_facts(_trace(flat, captures[-1], "graph_capture"), facts)


def _trace(flat: Flat, match: re.Match[str], mark: str) -> Report:
    marks = frozenset({"no_error_line", mark})
    return report(flat, match, family="vllm", weight="aftermath", marks=marks)


def _compared(flat: Flat) -> Iterator[Report]:
    """Two readings of nvidia-smi that people set side by side: with CUDA graphs, and eager."""
    lines = list(_USED.finditer(flat.text))
    for first, second in pairwise(lines):
        eager = [m for m in (first, second) if _EAGER.search(m["words"])]
        graphs = [m for m in (first, second) if m not in eager and _WITH.search(m["words"])]
        if eager and graphs:
            told = report(
                flat,
                first,
                family="vllm",
                amounts={
                    "used_with_graphs_bytes": graphs[0]["used"],
                    "used_eager_bytes": eager[0]["used"],
                    "total_bytes": first["total"],
                },
                marks=frozenset({"no_error_line", "graph_capture"}),
            )
            yield replace(told, last_line=flat.line_at(second.end() - 1).number)
