"""GPUs as people write them: ``T4``, ``T4x2``, ``2xT4``, ``T4:14.75GiB``, ``24GiB:sm_86``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.devices.catalogue import find_gpu
from willfit.errors import InputError
from willfit.scenario.machine import Gpu
from willfit.units import format_bytes, format_exact, parse_bytes

MAX_GPUS: Final = 1024
"""Bound on the number of GPUs in one machine."""

PLACES: Final = {"kaggle": "T4x2", "colab": "T4"}
"""Places by the GPUs that their free tier gives."""

_COUNT_BEHIND: Final = re.compile(r"(?P<name>.*?\S)\s*[x×*]\s*(?P<count>\d{1,5})", re.IGNORECASE)
_COUNT_BEFORE: Final = re.compile(r"(?P<count>\d{1,3})\s*[x×*]\s*(?P<name>\S.*)", re.IGNORECASE)
_AMOUNT: Final = re.compile(r"\s*[\d.]+\s*[KMGT]i?B\s*", re.IGNORECASE)
LATEST_SM: Final = 129
"""Room above the newest that torch 2.13 is built for (sm_120)."""
_SM: Final = re.compile(r"sm_?(\d{2,3})[a-z]?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ParsedMachine:
    """GPUs as given, and what had to be assumed about them."""

    gpus: tuple[Gpu, ...]
    assumptions: tuple[str, ...] = ()


def parse_machine(text: str) -> ParsedMachine:
    """The GPUs of a list such as ``T4x2`` or ``T4,L4``; raises `InputError` on what is unknown."""
    text = PLACES.get(text.strip().lower(), text)
    gpus: list[Gpu] = []
    assumptions: list[str] = []
    for part in text.split(","):
        name, count = _counted(part.strip())
        if not 1 <= count <= MAX_GPUS - len(gpus):
            raise InputError(f"{text[:60]!r} is {count} GPUs: expected 1 to {MAX_GPUS}")
        gpu, notes = _one(name)
        gpus += [gpu] * count
        assumptions += [note for note in notes if note not in assumptions]
    return ParsedMachine(gpus=tuple(gpus), assumptions=tuple(assumptions))


def format_machine(gpus: Sequence[Gpu]) -> str:
    """Text that `parse_machine` reads back to the same GPUs (exact bytes and capability)."""
    return ",".join(_format(gpu) for gpu in gpus)


def _format(gpu: Gpu) -> str:
    if gpu.name == _described_name(gpu.capacity_bytes):
        return f"{format_exact(gpu.capacity_bytes)}:sm_{gpu.sm}"
    own = find_gpu(gpu.name)
    return gpu.name + ("" if own == gpu else f":{format_exact(gpu.capacity_bytes)}")


def _counted(part: str) -> tuple[str, int]:
    """Name and number: ``T4x2``, ``2xT4``, ``T4:14GiBx2``, ``T4x2:14GiB``."""
    if not part:
        raise InputError("no GPU given: name one, such as T4, T4x2 or 24GiB:sm_86")
    head, colon, tail = part.partition(":")
    for pattern in (_COUNT_BEFORE, _COUNT_BEHIND):
        for text in (part, head):
            match = pattern.fullmatch(text)
            if match and not _is_name(text):
                rest = "" if text is part else colon + tail
                return match["name"].strip() + rest, int(match["count"])
    return part, 1


def _is_name(text: str) -> bool:
    try:
        find_gpu(text)
    except InputError:
        return False
    return True


def _one(name: str) -> tuple[Gpu, list[str]]:
    head, _, tail = name.partition(":")
    if re.fullmatch(_AMOUNT.pattern + r"|\d+B", head, re.IGNORECASE):
        return _described(head, tail)
    gpu = find_gpu(head)
    notes: list[str] = []
    if tail:
        capacity = parse_bytes(tail)
        if not 0 < capacity <= 2**50:
            raise InputError(f"{name[:60]!r} has no usable capacity: write T4:14.75GiB")
        return replace(gpu, capacity_bytes=capacity, capacity_is_nominal=False), notes
    if gpu.capacity_is_nominal:
        notes.append(
            f"capacity of {gpu.name} is the datasheet's {format_bytes(gpu.capacity_bytes)}: "
            "torch sees a little less; give what it prints as NAME:23.5GiB"
        )
    if gpu.note:
        notes.append(f"{gpu.name}: {gpu.note}")
    if _ambiguous_a100(head):
        notes.append("A100 is read as the one with 40 GB: write A100-80GB for the other")
    return gpu, notes


def _ambiguous_a100(head: str) -> bool:
    return head.strip().lower().removeprefix("nvidia").strip() == "a100"


def _described(amount: str, capability: str) -> tuple[Gpu, list[str]]:
    capacity = parse_bytes(amount)
    if not 0 < capacity <= 2**50:
        raise InputError(f"{amount[:40]!r} is no capacity of a GPU: write for example 24GiB:sm_86")
    notes: list[str] = []
    if not capability:
        capability = "sm_80"
        notes.append("compute capability sm_80: none given; write 24GiB:sm_75 for an older card")
    match = _SM.fullmatch(capability.strip())
    if match is None:
        raise InputError(f"cannot read {capability[:20]!r}: expected sm_75, sm_86, sm_90 or so")
    number = int(match[1])
    if not 30 <= number <= LATEST_SM:
        raise InputError(f"no GPU has compute capability sm_{number}: expected sm_75, sm_86 or so")
    gpu = Gpu(
        name=_described_name(capacity),
        capacity_bytes=capacity,
        compute_capability=(number // 10, number % 10),
        sources={"capacity_bytes": "given"},
    )
    return gpu, notes


def _described_name(capacity_bytes: int) -> str:
    return f"GPU with {format_bytes(capacity_bytes)}"
