"""The simulated caching allocator gives the addresses and reserved bytes of recorded traces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.ledger.snapshots import Recorded, recorded
from hypothesis import given
from hypothesis import strategies as st

from willfit.allocator.config import AllocatorConfig
from willfit.allocator.message import GpuProcess, OutOfMemory
from willfit.allocator.replay import Event, replay, restore
from willfit.allocator.rounding import reserved_bytes
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.units import KIB, MIB

EXPANDABLE = AllocatorConfig(expandable_segments=True)
SIZES = st.one_of(
    st.integers(1, 64 * KIB), st.integers(1, 3 * MIB), st.integers(1, 30 * MIB)
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """A recorded trace and its figures by kind."""

    recorded: Recorded
    figures: dict[str, int]


@pytest.fixture(name="traces", scope="module")
def _traces(shared: Path) -> dict[str, Trace]:
    folder = shared / "measured"
    rows = [json.loads(line) for line in (folder / "allocator_snapshots.jsonl").open()]
    return {
        row["id"]: Trace(
            recorded(folder / row["events"]), {m["kind"]: m["bytes"] for m in row["measured"]}
        )
        for row in rows
        if row.get("events")
    }


def test_recorded_traces_get_the_same_addresses_and_reserved_bytes(
    traces: dict[str, Trace],
) -> None:
    assert len(traces) == 21
    for name, trace in traces.items():
        places = iter(trace.recorded.new_segments)
        allocator = Allocator(new_address=lambda _, places=places: next(places))
        restore(allocator, trace.recorded.segments)
        assert allocator.reserved_bytes == trace.figures["reserved at trace start"], name
        same = [
            address == event.handle
            for event, address in replay(trace.recorded.events, allocator)
            if event.num_bytes
        ]
        peak = trace.figures["peak reserved during trace"]
        assert allocator.peak_reserved_bytes == peak, name
        assert allocator.reserved_bytes == trace.figures["final reserved"], name
        if name == "allocator_snapshots:8":
            # which 1 MiB rests its first blocks had is not in the recording
            assert sum(same) >= 0.88 * len(same)
            continue
        assert all(same), name
        assert allocator.allocated_bytes == trace.figures["final allocated (rounded)"], name


def test_recorded_traces_reserve_as_much_without_knowing_any_new_address(
    traces: dict[str, Trace],
) -> None:
    peaks = {}
    for name, trace in traces.items():
        allocator = Allocator()
        restore(allocator, trace.recorded.segments)
        for _ in replay(trace.recorded.events, allocator):
            pass
        peaks[name] = allocator.peak_reserved_bytes
    assert peaks == {
        name: trace.figures["peak reserved during trace"] for name, trace in traces.items()
    }
    assert peaks["allocator_snapshots:24"] == 4234 * MIB  # these two began with nothing
    assert peaks["allocator_snapshots:26"] == 3606 * MIB


@pytest.mark.parametrize(
    ("sizes", "allocated", "reserved"),
    [
        ([1], 512, 2 * MIB),
        ([MIB, MIB], 2 * MIB, 2 * MIB),
        ([MIB, MIB, 1], 2 * MIB + 512, 4 * MIB),
        ([MIB + 1], MIB + 512, 20 * MIB),
        ([6 * MIB] * 3, 18 * MIB, 20 * MIB),  # 2 MiB left over are split off
        ([9 * MIB + 512 * KIB] * 2, 20 * MIB, 20 * MIB),  # 1 MiB left over stays with the second
        ([10 * MIB], 10 * MIB, 10 * MIB),
        ([11 * MIB], 12 * MIB, 12 * MIB),  # 1 MiB left over is never split off
        ([11 * MIB - 512, 1 * MIB + 512], 12 * MIB, 12 * MIB),  # 1 MiB + 512 is
    ],
)
def test_small_cases_by_hand(sizes: list[int], allocated: int, reserved: int) -> None:
    allocator = Allocator()
    for size in sizes:
        allocator.malloc(size)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (allocated, reserved)


@given(st.lists(st.tuples(SIZES, st.integers(1, 9)), max_size=25), st.booleans())
def test_closed_form_equals_the_simulation_of_tensors_that_stay(
    sizes: list[tuple[int, int]], expandable: bool
) -> None:
    allocator = Allocator(EXPANDABLE if expandable else None)
    for size, count in sizes:
        for _ in range(count):
            allocator.malloc(size)
    assert reserved_bytes(sizes, expandable=expandable) == allocator.reserved_bytes


@given(st.integers(1, 40 * MIB), st.integers(1, 12), st.sampled_from([None, EXPANDABLE]))
def test_freed_memory_serves_equal_requests_again(
    size: int, count: int, config: AllocatorConfig | None
) -> None:
    allocator = Allocator(config)
    first = [allocator.malloc(size) for _ in range(count)]
    before = allocator.reserved_bytes
    for address in first:
        allocator.free(address)
    assert sorted(allocator.malloc(size) for _ in range(count)) == sorted(first)
    assert allocator.reserved_bytes == before


def test_growing_a_tensor_costs_less_with_expandable_segments() -> None:
    # a cache that is copied into one 1 MiB larger, 40 times: each old copy is too small again
    def peak(config: AllocatorConfig | None) -> int:
        allocator = Allocator(config)
        held = allocator.malloc(20 * MIB)
        for step in range(1, 41):
            grown = allocator.malloc((20 + step) * MIB)
            allocator.free(held)
            held = grown
        return allocator.peak_reserved_bytes

    # every copy got a segment of its own in whole 2 MiB: 20 + 2·(22 + 24 + … + 60)
    assert peak(None) == (20 + 2 * sum(range(22, 61, 2))) * MIB == 1660 * MIB
    # the last two copies, and holes that together are smaller than one more
    assert (59 + 60) * MIB < peak(EXPANDABLE) <= (59 + 60 + 61) * MIB


def test_a_full_device_first_gives_back_what_is_cached_then_refuses() -> None:
    allocator = Allocator(capacity_bytes=100 * MIB)
    allocator.free(allocator.malloc(60 * MIB))
    kept = allocator.malloc(80 * MIB)  # too large for the cached 60, which are given back
    assert (allocator.num_retries, allocator.reserved_bytes) == (1, 80 * MIB)
    with pytest.raises(SimulatedOutOfMemory, match=r"\ACUDA out of memory[.] Tried to") as caught:
        allocator.malloc(30 * MIB)
    assert caught.value.state == OutOfMemory(
        tried_bytes=30 * MIB,
        requested_bytes=30 * MIB,
        total_bytes=100 * MIB,
        free_bytes=20 * MIB,
        allocated_bytes=80 * MIB,
        reserved_bytes=80 * MIB,
        processes=(GpuProcess(pid=None, used_bytes=80 * MIB),),
        num_retries=2,
    )
    assert kept in allocator.live


def test_empty_cache_keeps_a_segment_with_one_live_block() -> None:
    allocator = Allocator()
    blocks = [allocator.malloc(2 * MIB) for _ in range(10)]
    for address in blocks[1:]:
        allocator.free(address)
    allocator.empty_cache()
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2 * MIB, 20 * MIB)


def test_empty_cache_unmaps_the_free_pages_of_an_expandable_segment() -> None:
    allocator = Allocator(EXPANDABLE)
    first, second, third = (allocator.malloc(size * MIB) for size in (30, 60, 10))
    assert allocator.reserved_bytes == 100 * MIB
    allocator.free(second)  # 30…90 MiB: whole pages of 20 MiB are 40…80
    allocator.empty_cache()
    assert allocator.reserved_bytes == 60 * MIB
    again = allocator.malloc(60 * MIB)  # lowest gap first: exactly the hole
    assert again == second and allocator.reserved_bytes == 100 * MIB
    assert first < second < third


def test_a_free_of_what_was_there_before_is_found_by_its_address() -> None:
    allocator = Allocator()
    address = allocator.malloc(5 * MIB)
    list(replay([Event(handle=address)], allocator))
    assert allocator.allocated_bytes == 0
