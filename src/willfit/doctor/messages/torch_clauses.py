"""Clauses of torch's out-of-memory message: each found by itself, then put together.

A message comes cut off at either end, split into bullets, with words between; one pattern for all
of it would find nothing there. A clause's words say what its number is, so that nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import Squeezed, unspaced

_GAP: Final = 120
"""Most characters, spaces not counted, between two clauses of a message: an ellipsis, the marks of
a list, the frame of a box."""
_HINT: Final = 420
"""Length of the longest advice behind the last clause, spaces not counted."""
_TAIL: Final = re.compile(
    r"(?:isfree|memoryinuse|(?:isallocated)?byPyTorch(?:butunallocated)?|memory)?[.,)]{0,2}"
    r"(?:GPU(?=$|[^\d;h])|(?:Ifreserved|expandable_segmentsis|Pleaseuse|Thisallocation|Thecustom).{0,400}?"
    r"(?:environment-variables\)|cuda-alloc-conf\)|andPYTORCH_CUDA_ALLOC_CONF|cachedmemory\.|$))?"
)
"""What is left of a message behind its last number, its advice included."""

_CLAUSES: Final = unspaced(
    r"(?P<backend>CUDA|HIP|XPU|NPU) out of memory"
    rf"|[Tt]ried to allocate (?P<tried>{AMOUNT})"
    r"|[Tt]ried to allocate (?P<huge>more than 1EB)"
    rf"|Requested size: (?P<requested>{AMOUNT})"
    r"|GPU [\x00-\x08\ufffd]?(?P<gpu>\d{1,4})? has a total (?:capacity|capacty) of "
    rf"(?P<total>{AMOUNT})"
    rf"|\([GN]PU (?P<old_gpu>\d{{1,4}});(?: (?P<old_total>{AMOUNT}) total capacity)?"
    rf"|of which (?P<free>{AMOUNT})"
    rf"|Process (?P<pid>\d{{1,10}}) has (?P<used>{AMOUNT})(?P<used_named> memory in use)?"
    rf"|this process has (?P<this>{AMOUNT})(?P<this_named> memory in use)?"
    rf"|Of the allocated memory (?P<allocated>{AMOUNT})"
    rf"|with (?P<pools>{AMOUNT}) allocated in private pools"
    rf"|(?<!\d)(?P<led>{AMOUNT})(?:"
    r"(?P<allowed> allowed;)"
    r"|(?P<old_free> free(?![A-Za-z]))"
    r"|(?P<listed_allocated> is allocated by PyTorch)"
    r"|(?P<old_allocated> already allocated)"
    r"|(?P<unallocated> is reserved)"
    r"|(?P<reserved> reserved in total)"
    r"|(?P<cached> cached(?![A-Za-z])))"
)
"""Where the number leads, the words behind it tell which it is."""
_KEYS: Final = {
    "huge": "tried",
    "requested": "tried",
    "old_gpu": "device",
    "old_total": "total",
    "old_free": "free",
    "listed_allocated": "allocated",
    "old_allocated": "allocated",
    "cached": "unallocated",
    "used": "process",
    "used_named": "process",
    "this_named": "this",
}
"""Clauses that say the same thing in other words."""
_TELLING: Final = frozenset({"total", "allocated", "unallocated", "reserved"})
"""Clauses that only this message has; those without its first words need one."""


@dataclass
class Clauses:
    """One message: its clauses in the order of the text, squeezed."""

    found: list[tuple[str, re.Match[str]]] = field(default_factory=list)

    @property
    def start(self) -> int:
        """Offset of its first word in the squeezed text."""
        return self.found[0][1].start()

    @property
    def end(self) -> int:
        """Where the last clause ends."""
        return self.found[-1][1].end()

    @property
    def keys(self) -> frozenset[str]:
        """Which clauses it has."""
        return frozenset(key for key, _ in self.found)

    @property
    def backend(self) -> str | None:
        """Device of its first words; None where they were cut off."""
        return self.found[0][1]["backend"]

    @property
    def whole_enough(self) -> bool:
        """Whether this is torch's message at all."""
        named = self.first("used_named", "this_named")
        return self.backend is not None or bool(self.keys & _TELLING) or named is not None

    def takes(self, key: str, match: re.Match[str]) -> bool:
        """Whether the clause goes on with this message."""
        fresh = key == "process" or key not in self.keys
        return fresh and key != "backend" and match.start() - self.end <= _GAP

    def first(self, *groups: str) -> tuple[re.Match[str], str] | None:
        """The first clause of these that the message has: its match and the group of its number."""
        spoken = ((m, g) for _, m in self.found for g in groups if m[g] is not None)
        match, group = next(spoken, (None, ""))
        if match is None:
            return None
        return match, group if match["led"] is None else "led"


def torch_messages(squeezed: Squeezed) -> Iterator[tuple[Clauses, int]]:
    """Messages in the order of the text, each with where its advice ends in the squeezed text."""
    messages = [m for m in _grouped(squeezed.text) if m.whole_enough]
    starts = [*(m.start for m in messages), len(squeezed.text)]
    for message, following in zip(messages, starts[1:], strict=True):
        tail = _TAIL.match(squeezed.text, message.end, min(following, message.end + _HINT))
        yield message, tail.end() if tail else message.end


def _grouped(text: str) -> Iterator[Clauses]:
    message = Clauses()
    for match in _CLAUSES.finditer(text):
        key = _key(match)
        if message.found and not message.takes(key, match):
            yield message
            message = Clauses()
        message.found.append((key, match))
    if message.found:
        yield message


def _key(match: re.Match[str]) -> str:
    name = match.lastgroup or ""
    return _KEYS.get(name, name)
