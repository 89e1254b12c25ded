"""The rendered out-of-memory messages are, byte for byte, those that torch printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.allocator.message import GpuProcess, OutOfMemory, format_size, out_of_memory_message
from willfit.units import GIB, KIB, MIB

BROKEN = {"wrapped", "split_into_bullets"}
"""Ways in which a report changed the line itself."""


def _release(guess: str) -> tuple[int, ...]:
    numbers = re.search(r"(\d+)\.(\d+)", guess)
    assert numbers is not None, guess
    return int(numbers[1]), int(numbers[2])


def _processes(fields: dict[str, Any], text: str) -> tuple[GpuProcess, ...]:
    """In the order of the text."""
    found = {
        text.index(f"Process {process['pid']} has"): GpuProcess(
            pid=process["pid"], used_bytes=process["bytes"]
        )
        for process in fields.get("processes", [])
    }
    if "this_process_bytes" in fields:
        place = text.index("this process has")
        found[place] = GpuProcess(pid=None, used_bytes=fields["this_process_bytes"])
    return tuple(process for _, process in sorted(found.items()))


def _state(fields: dict[str, Any], text: str) -> OutOfMemory:
    allocated, pools = fields["allocated_bytes"], fields.get("private_pools_bytes", 0)
    cached = fields.get("reserved_unallocated_bytes", 0)
    return OutOfMemory(
        tried_bytes=fields["tried_bytes"],
        total_bytes=fields["total_bytes"],
        free_bytes=fields["free_bytes"],
        allocated_bytes=allocated - pools,
        reserved_bytes=fields.get("reserved_bytes", allocated + cached),
        allowed_bytes=fields.get("allowed_bytes"),
        private_pool_bytes=pools,
        gpu=fields["gpu"],
        processes=_processes(fields, text),
    )


def _complete(row: dict[str, Any]) -> bool:
    fields = row["fields"]
    wanted = {"gpu", "tried_bytes", "total_bytes", "free_bytes", "allocated_bytes"}
    reserved = {"reserved_bytes", "reserved_unallocated_bytes"}
    whole = fields.get("backend") == "CUDA" and wanted <= set(fields) and reserved & set(fields)
    return bool(whole) and not BROKEN & set(row["noise"])


def test_real_messages_come_out_byte_for_byte(shared: Path) -> None:
    corpus = shared / "oom_corpus"
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").open()]
    checked: dict[tuple[int, ...], int] = {}
    for row in filter(_complete, rows):
        if not row["version_guess"].startswith("torch"):
            continue
        text = (corpus / "raw" / row["file"]).read_text()
        printed = re.search(r"CUDA out of memory\. Tried.*?(?=$|</span>)", text, re.MULTILINE)
        assert printed is not None, row["file"]
        release = _release(row["version_guess"])
        message = out_of_memory_message(_state(row["fields"], text), release)
        assert message == printed[0], row["file"]
        checked[release] = checked.get(release, 0) + 1
    assert sum(checked.values()) >= 35 and len(checked) >= 8, checked


def test_messages_of_torch_2_11_and_later_as_published() -> None:
    # two reports of a per-process limit, 0.85 and 0.55 of the card, the second on Windows' WSL
    hint = (
        "If reserved but unallocated memory is large try setting "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  "
        "See documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/"
        "cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
    )
    total = round(139.79 * GIB)
    state = OutOfMemory(
        tried_bytes=512 * MIB,
        total_bytes=total,
        free_bytes=round(20.59 * GIB),
        processes=(GpuProcess(pid=None, used_bytes=round(119.2 * GIB)),),
        allowed_bytes=round(0.85 * total),
        allocated_bytes=round(117.83 * GIB),
        reserved_bytes=round(117.83 * GIB) + round(640.95 * MIB),
    )
    expected = (
        "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 139.79 "
        "GiB of which 20.59 GiB is free. Including non-PyTorch memory, this process has 119.20 "
        "GiB memory in use. 118.82 GiB allowed; Of the allocated memory 117.83 GiB is allocated "
        "by PyTorch, and 640.95 MiB is reserved by PyTorch but unallocated. "
    )
    assert out_of_memory_message(state, (2, 13)) == expected + hint
    wsl = OutOfMemory(
        tried_bytes=round(3.98 * GIB),
        total_bytes=round(31.84 * GIB),
        free_bytes=round(16.3 * GIB),
        processes=(GpuProcess(pid=None, used_bytes=2**64 - 1),),
        allowed_bytes=round(0.55 * 31.84 * GIB),
        allocated_bytes=round(6.74 * GIB),
        reserved_bytes=round(6.74 * GIB) + round(7.02 * GIB),
    )
    assert out_of_memory_message(wsl) == (
        "CUDA out of memory. Tried to allocate 3.98 GiB. GPU 0 has a total capacity of 31.84 GiB "
        "of which 16.30 GiB is free. Including non-PyTorch memory, this process has "
        "17179869184.00 GiB memory in use. 17.51 GiB allowed; Of the allocated memory 6.74 GiB is "
        f"allocated by PyTorch, and 7.02 GiB is reserved by PyTorch but unallocated. {hint}"
    )


@pytest.mark.parametrize(
    ("release", "part"),
    [
        (
            (1, 3),
            "4.00 GiB allowed; 3.00 GiB already allocated; 512.00 MiB free; 1024.00 MiB cached)",
        ),
        ((1, 9), "512.00 MiB free; 4.00 GiB reserved in total by PyTorch)"),
        ((2, 0), "by PyTorch) If reserved memory is >> allocated memory try setting max_split"),
        ((2, 1), "has a total capacty of 8.00 GiB of which 512.00 MiB is free. Of the allocated"),
        ((2, 2), "has a total capacity of 8.00 GiB of which 512.00 MiB is free. 4.00 GiB allowed"),
        ((2, 9), "and 1024.00 MiB is reserved by PyTorch but unallocated."),
        ((2, 10), " PYTORCH_ALLOC_CONF=expandable_segments:True"),
        ((2, 11), " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"),
    ],
)
def test_what_each_release_changed(release: tuple[int, int], part: str) -> None:
    state = OutOfMemory(
        tried_bytes=2 * GIB,
        total_bytes=8 * GIB,
        free_bytes=512 * MIB,
        allocated_bytes=3 * GIB,
        reserved_bytes=4 * GIB,
        allowed_bytes=4 * GIB,
    )
    assert part in out_of_memory_message(state, release)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1024, "1024 bytes"),
        (1025, "1.00 KiB"),
        (MIB, "1024.00 KiB"),
        (MIB + 1, "1.00 MiB"),
        (GIB, "1024.00 MiB"),
        (GIB + 1, "1.00 GiB"),
        (2**64 - 1, "17179869184.00 GiB"),
    ],
)
def test_a_unit_lasts_until_1024_of_it(num_bytes: int, text: str) -> None:
    assert format_size(num_bytes) == text


@given(st.integers(0, 2**44))
def test_a_printed_size_is_within_half_of_its_last_digit(num_bytes: int) -> None:
    number, unit = format_size(num_bytes).split()
    scale = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[unit]
    assert abs(float(number) * scale - num_bytes) <= 0.005 * scale * 1.0001
