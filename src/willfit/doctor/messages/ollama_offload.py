"""ollama's estimate of a load: what the model needs, what the GPUs and the host have free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from willfit.doctor.amounts import AMOUNT, read_amount
from willfit.doctor.messages.numbers import Fact, Facts, add_facts
from willfit.doctor.messages.reader import report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

OFFLOAD_NEEDLES: Final = ("memory.required.full=",)

FACTS: Final = tuple(
    Fact(pattern=re.compile(pattern))
    for pattern in (
        rf'memory\.required\.full="(?P<required_full_bytes>{AMOUNT})"',
        rf'memory\.required\.kv="(?P<kv_bytes>{AMOUNT})"',
        rf'memory\.available="\[?(?P<gpu_available_bytes>{AMOUNT})\]?"',
        rf'memory\.weights\.total="(?P<weights_bytes>{AMOUNT})"',
        rf'msg="system memory" total="(?P<host_total_bytes>{AMOUNT})" '
        rf'free="(?P<host_free_bytes>{AMOUNT})"',
        rf'msg="total memory" size="(?P<required_full_bytes>{AMOUNT})"',
        rf'msg="gpu memory" .{{0,200}}?available="(?P<gpu_available_bytes>{AMOUNT})"',
        rf'msg="kv cache" device=(?!CPU)\S{{1,40}} size="(?P<kv_bytes>{AMOUNT})"',
        r"\blayers\.model=(?P<layers_total>\d{1,4})\b",
        r"\blayers\.offload=(?P<layers_offloaded>\d{1,4})\b",
    )
)
"""The two forms of its log: one line of dotted keys up to 0.11, one line a device since."""

_OFFLOAD: Final = re.compile(
    rf'memory\.available="\[(?P<available>{AMOUNT}(?: {AMOUNT}){{0,15}})\]".{{0,200}}?'
    rf'memory\.required\.full="(?P<full>{AMOUNT})"'
    rf'(?: memory\.required\.partial="(?P<partial>{AMOUNT})")?'
)
_EACH: Final = re.compile(AMOUNT)
_CROWDED: Final = 0.9
"""Share of the host's free memory that a load may plan with: accelerate 1.15, `get_max_memory`,
leaves a tenth of it to what no plan knows of."""


def read_offload(flat: Flat) -> Iterator[Report]:
    """A report where the model is larger than the GPUs and what spills over crowds the host.

    A part of the layers on the host is how ollama works when a model is too large; with room there
    it is no failure.
    """
    matches = list(_OFFLOAD.finditer(flat.text))
    facts = Facts(flat, FACTS if matches else ())
    for match in matches:
        near = facts.near(match.start(), match.end())
        if _crowded(match, near.get("host_free_bytes")):
            marks = frozenset({"partial_offload", "no_error_line"})
            told = report(flat, match, family="ollama", weight="aftermath", marks=marks)
            yield add_facts(told, near)


def _crowded(match: re.Match[str], host_free: str | None) -> bool:
    available = sum(_bytes(text) for text in _EACH.findall(match["available"]))
    if _bytes(match["full"]) <= available:
        return False
    if host_free is None:
        return True
    spilt = _bytes(match["full"]) - _bytes(match["partial"] or "0 B")
    return spilt >= _CROWDED * _bytes(host_free)


def _bytes(text: str) -> int:
    return read_amount(text).num_bytes
