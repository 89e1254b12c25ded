"""ggml's lines, which llama.cpp and ollama both print: whose they are, and what they measured."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import AMOUNT, NUMBER
from willfit.doctor.messages.numbers import Fact
from willfit.doctor.passage import Flat

_OLLAMA: Final = re.compile(
    r"(?i:\bollama)|llama runner process|llama-server process (?:has|no longer)|\[GIN\]"
    r"|/ml/backend/ggml/|source=(?:sched|server|runner|ggml|memory|device|routes|gpu|types|llama_server)\.go"
)
_LLAMA_CPP: Final = re.compile(
    r"llama_init_from_model|common_init_|common_fit|llama_params_fit|\bmain: |\bsrv +\w|\bslot +\w"
    r"|llama_new_context_with_model|llama_context|llama_kv_cache|graph_reserve|[/\\]llama\.cpp[/\\]"
    r"|llama-(?:server|cli|bench)|llama_cpp|llama_decode|koboldcpp"
)
AMBIGUOUS: Final = "ggml_ambiguous"
"""Mark of a message that nothing around it ascribes to one of the two."""

FACTS: Final = tuple(
    Fact(pattern=re.compile(pattern))
    for pattern in (
        rf"\bmodel size += +(?P<weights_bytes>{AMOUNT})",
        rf"\bfile size += +(?P<weights_bytes>{AMOUNT})",
        rf"\bKV self size += +(?P<kv_bytes>{AMOUNT})",
        rf"llama_kv_cache\w{{0,20}}: size = +(?P<kv_bytes>{AMOUNT})",
        r"\bn_ctx += (?P<context_len>\d{1,9})\b",
        r"\boffloaded (?P<layers_offloaded>\d{1,4})/(?P<layers_total>\d{1,4}) layers",
        rf"projected to use (?P<projected_bytes>{NUMBER} MiB) of device memory vs\. "
        rf"(?P<free_bytes>{NUMBER} MiB) of free device memory",
    )
)
"""Lines of a load that stand before its failure."""

TAIL: Final = (
    r"(?:(?:(?!allocating |allocation of ).){0,200}?failed to allocate "
    r"(?P<buffer>[A-Za-z]{2,12}\d{0,3}\w{0,12}) buffer of size (?P<tried_bytes_exact>\d{1,20}))?"
)
"""Pattern of the line after a refused allocation, which has the size to the byte."""

_PURPOSES: Final = (
    ("for_kv_cache", re.compile(r"buffer for kv cache|kv_cache_init\b|failed to allocate KV")),
    ("for_compute", re.compile(r"compute (?:pp |tg )?buffers?\b|graph_reserve|gallocr_reserve")),
    ("for_weights", re.compile(r"unable to allocate \w{1,20}(?: \w{1,10})? buffer|load_tensors")),
)
RETRIED: Final = re.compile(r"retrying without pipeline parallelism")
_AHEAD: Final = 500
"""Length of the lines that say what an allocation was for, in characters."""
_NEXT: Final = re.compile(r"allocating \d|allocation of size")


def writer(flat: Flat) -> str:
    """``ollama``, ``llama.cpp``, or nothing where no word around tells."""
    if "ollama" in flat.origins or _OLLAMA.search(flat.text):
        return "ollama"
    return "llama.cpp" if _LLAMA_CPP.search(flat.text) else ""


def purposes(flat: Flat, start: int, end: int) -> frozenset[str]:
    """What the lines after an allocation say it was for, and whether it was tried again."""
    following = flat.text[end : end + _AHEAD]
    another = _NEXT.search(following)
    words = flat.text[start : end + (another.start() if another else _AHEAD)]
    found = next(({mark} for mark, pattern in _PURPOSES if pattern.search(words)), set())
    return frozenset(found | ({"not_fatal"} if RETRIED.search(words) else set()))
