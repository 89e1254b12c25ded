"""What the simulated allocator gives back before it fails, and how it fails, worked by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.allocator.config import AllocatorConfig
from willfit.allocator.message import OutOfMemory, out_of_memory_message
from willfit.allocator.simulator import Allocator, SimulatedOutOfMemory
from willfit.units import KIB, MIB

EXPANDABLE = AllocatorConfig(expandable_segments=True)
COLLECTING = AllocatorConfig(gc_threshold=0.8, memory_fraction=0.5)
"""Of a device of 1,000 MiB: 500 MiB are allowed, above 400 MiB garbage is collected."""
OVERSIZE = AllocatorConfig(max_split_bytes=100 * MIB)


def _fill(allocator: Allocator, *sizes_mib: int, stream: int = 0) -> list[int]:
    return [allocator.malloc(size * MIB, stream) for size in sizes_mib]


def _reserved_mib(allocator: Allocator) -> float:
    return allocator.reserved_bytes / MIB


def _failure(allocator: Allocator, size_mib: int) -> OutOfMemory:
    with pytest.raises(SimulatedOutOfMemory) as caught:
        allocator.malloc(size_mib * MIB)
    assert str(caught.value) == out_of_memory_message(caught.value.state)
    return caught.value.state


# garbage_collection_threshold


def test_an_unused_segment_goes_before_the_limit_is_reached() -> None:
    allocator = Allocator(COLLECTING, capacity_bytes=1000 * MIB)
    first, *_ = _fill(allocator, 120, 140, 160)
    allocator.free(first)
    _fill(allocator, 130)  # 420 reserved > 400: the unused 120 go, then 300 + 130
    assert (_reserved_mib(allocator), allocator.num_retries) == (430, 0)


def test_without_a_limit_nothing_is_collected() -> None:
    allocator = Allocator(AllocatorConfig(gc_threshold=0.1), capacity_bytes=1000 * MIB)
    first, *_ = _fill(allocator, 120, 140, 160)
    allocator.free(first)
    _fill(allocator, 130)
    assert _reserved_mib(allocator) == 550


def test_at_the_threshold_nothing_is_collected() -> None:
    allocator = Allocator(COLLECTING, capacity_bytes=1000 * MIB)
    first, *_ = _fill(allocator, 100, 140, 160)
    allocator.free(first)
    _fill(allocator, 100)  # the cached one serves
    allocator.free(first)
    _fill(allocator, 102)  # does not fit in 100; 400 reserved are not above 400, and 502 > 500
    assert (_reserved_mib(allocator), allocator.num_retries) == (402, 1)


def test_segments_that_were_unused_for_long_go_first() -> None:
    config = AllocatorConfig(gc_threshold=0.5, memory_fraction=0.99)
    allocator = Allocator(config, capacity_bytes=1010 * MIB)  # 1,000 allowed, from 500 collected
    old, young, other = _fill(allocator, 200, 220, 240)  # searches 1, 2, 3
    allocator.free(old)
    allocator.free(other)
    assert _fill(allocator, 240) == [other]  # search 4 finds it
    allocator.free(young)
    # search 5 finds nothing: ages are 2 and 1, their mean 1.5; 660 - 500 = 160 are to go
    _fill(allocator, 250)
    assert _reserved_mib(allocator) == 660 - 200 + 250
    assert _fill(allocator, 220) == [young]


def test_rounds_go_on_until_the_excess_is_gone() -> None:
    config = AllocatorConfig(gc_threshold=0.2, memory_fraction=0.99)
    allocator = Allocator(config, capacity_bytes=1010 * MIB)  # from 200 MiB collected
    old, young, other = _fill(allocator, 200, 220, 240)
    allocator.free(old)
    _fill(allocator, 2)  # search 4: a part of the cached 200, which therefore stays
    allocator.free(young)
    allocator.free(other)
    # search 5; 460 are to go. The 240 and the 220 have the same age and go together
    _fill(allocator, 250)
    assert _reserved_mib(allocator) == 200 + 250


def test_small_segments_are_never_collected() -> None:
    allocator = Allocator(COLLECTING, capacity_bytes=1000 * MIB)
    small = [allocator.malloc(MIB) for _ in range(20)]  # ten segments of 2 MiB
    for address in small:
        allocator.free(address)
    first, *_ = _fill(allocator, 120, 280)
    allocator.free(first)
    _fill(allocator, 130)
    assert _reserved_mib(allocator) == 20 + 280 + 130


# per_process_memory_fraction, throw_on_cudamalloc_oom


def test_a_limit_fails_with_memory_left_and_says_so() -> None:
    allocator = Allocator(
        AllocatorConfig(memory_fraction=0.5), capacity_bytes=980 * MIB, total_bytes=1000 * MIB
    )
    _fill(allocator, 300, 198)
    state = _failure(allocator, 11)
    assert str(state.allowed_bytes) == str(500 * MIB)
    message = out_of_memory_message(state)
    assert message.startswith(
        "CUDA out of memory. Tried to allocate 12.00 MiB. GPU 0 has a total capacity of 1000.00 "
        "MiB of which 482.00 MiB is free. Including non-PyTorch memory, this process has 518.00 "
        "MiB memory in use. 500.00 MiB allowed; Of the allocated memory 498.00 MiB is allocated "
        "by PyTorch, and 0 bytes is reserved by PyTorch but unallocated. If reserved but"
    )


def test_a_limit_counts_whole_segments_also_where_pages_would_do() -> None:
    # torch asks for the segment's 20 MiB although one more page of 20 MiB is not needed
    config = AllocatorConfig(expandable_segments=True, memory_fraction=0.5)
    allocator = Allocator(config, capacity_bytes=100 * MIB)
    _fill(allocator, 28)  # two pages, 40 of 50 MiB
    _fill(allocator, 11)  # fits in the 12 that are left
    assert _failure(allocator, 2).tried_bytes == 20 * MIB


def test_an_early_rejection_gives_nothing_back() -> None:
    allocator = Allocator(AllocatorConfig(rejects_early=True), capacity_bytes=100 * MIB)
    (cached,) = _fill(allocator, 60)
    allocator.free(cached)
    state = _failure(allocator, 80)
    assert (state.rejected_early, state.num_retries, _reserved_mib(allocator)) == (True, 0, 60)
    assert out_of_memory_message(state) == (
        "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
        "per_process_memory_fraction limit. Requested size: 80.00 MiB"
    )


def test_an_early_rejection_counts_whole_segments_too() -> None:
    config = AllocatorConfig(expandable_segments=True, rejects_early=True)
    allocator = Allocator(config, capacity_bytes=100 * MIB)
    _fill(allocator, 75)  # four pages; 5 MiB are left, and one page
    assert _failure(allocator, 22).rejected_early  # 80 + 22 > 100, though 5 + 20 would do
    patient = Allocator(EXPANDABLE, capacity_bytes=100 * MIB)
    assert all(_fill(patient, 75, 22))


def test_below_a_fraction_the_limit_comes_first_and_gives_back() -> None:
    config = AllocatorConfig(rejects_early=True, memory_fraction=0.5)
    allocator = Allocator(config, capacity_bytes=200 * MIB)
    (cached,) = _fill(allocator, 60)
    allocator.free(cached)
    _fill(allocator, 80)
    assert (_reserved_mib(allocator), allocator.num_retries) == (80, 1)


# the order of attempts


def test_a_best_fit_is_taken_before_anything_is_given_back() -> None:
    allocator = Allocator(capacity_bytes=100 * MIB)
    large, small = _fill(allocator, 60, 30)
    allocator.free(large)
    allocator.free(small)
    assert _fill(allocator, 30) == [small]
    assert (_reserved_mib(allocator), allocator.num_retries) == (90, 0)


def test_the_oversize_block_that_fits_goes_alone() -> None:
    allocator = Allocator(OVERSIZE, capacity_bytes=600 * MIB)
    one, other = _fill(allocator, 200, 300)
    allocator.free(one)
    allocator.free(other)
    _fill(allocator, 250)  # 300 is more than 20 above it, so it is not handed out but given back
    assert (_reserved_mib(allocator), allocator.num_retries) == (200 + 250, 0)
    assert _fill(allocator, 200) == [one]


def test_oversize_blocks_go_the_largest_first_until_they_are_enough() -> None:
    allocator = Allocator(OVERSIZE, capacity_bytes=600 * MIB)
    low, middle, high = _fill(allocator, 110, 200, 220)
    for address in (low, middle, high):
        allocator.free(address)
    _fill(allocator, 350)  # 220 + 200 are enough; 110 stay
    assert (_reserved_mib(allocator), allocator.num_retries) == (110 + 350, 0)


def test_where_oversize_blocks_are_too_few_everything_cached_goes() -> None:
    allocator = Allocator(OVERSIZE, capacity_bytes=250 * MIB)
    large, medium = _fill(allocator, 120, 60)
    allocator.free(large)
    allocator.free(medium)
    _fill(allocator, 150)  # 120 are too few, and the 60 are not oversize
    assert (_reserved_mib(allocator), allocator.num_retries) == (150, 1)


def test_below_the_limit_blocks_are_split_as_ever() -> None:
    allocator = Allocator(OVERSIZE)
    (block,) = _fill(allocator, 50)
    allocator.free(block)
    assert _fill(allocator, 12, 30) == [block, block + 12 * MIB]
    assert _reserved_mib(allocator) == 50


def test_a_request_below_the_limit_also_has_an_oversize_block_given_back() -> None:
    allocator = Allocator(OVERSIZE, capacity_bytes=300 * MIB)
    large, kept = _fill(allocator, 120, 150)
    allocator.free(large)
    _fill(allocator, 50)  # must not split the 120; 270 + 50 > 300
    assert (_reserved_mib(allocator), allocator.num_retries) == (150 + 50, 0)
    assert kept in allocator.live


def test_an_oversize_block_may_be_a_little_larger_than_the_request() -> None:
    allocator = Allocator(OVERSIZE)
    (block,) = _fill(allocator, 120)
    allocator.free(block)
    assert _fill(allocator, 101) == [block]  # 120 < 101 + 20
    assert allocator.allocated_bytes == 120 * MIB  # and is not split
    allocator.free(block)
    assert _fill(allocator, 100) != [block]  # 120 = 100 + 20


def test_one_stream_s_cache_serves_no_other_but_is_given_back_for_it() -> None:
    allocator = Allocator(capacity_bytes=100 * MIB)
    (block,) = _fill(allocator, 40, stream=1)
    allocator.free(block)
    _fill(allocator, 40)
    assert (_reserved_mib(allocator), allocator.num_retries) == (80, 0)
    _fill(allocator, 60)
    assert (_reserved_mib(allocator), allocator.num_retries) == (100, 1)


def test_another_stream_s_oversize_block_only_goes_with_all() -> None:
    allocator = Allocator(OVERSIZE, capacity_bytes=300 * MIB)
    (block,) = _fill(allocator, 150, stream=1)
    allocator.free(block)
    _fill(allocator, 160)
    assert (_reserved_mib(allocator), allocator.num_retries) == (160, 1)


def test_free_pages_of_another_stream_are_unmapped_on_retry() -> None:
    allocator = Allocator(EXPANDABLE, capacity_bytes=100 * MIB)
    kept, freed = _fill(allocator, 10, 45, stream=1)  # three pages of 20 MiB
    allocator.free(freed)
    _fill(allocator, 70)  # four pages; of stream 1's three two are whole and free
    assert (_reserved_mib(allocator), allocator.num_retries) == (100, 1)
    assert kept in allocator.live
    state = _failure(allocator, 11)
    assert (state.num_retries, state.reserved_bytes) == (2, 100 * MIB)
    assert state.reserved_bytes - state.allocated_bytes == 20 * MIB  # 10 and 10, too small each


def test_of_equal_holes_in_a_segment_the_lowest_is_taken() -> None:
    allocator = Allocator(EXPANDABLE)
    low, _, high, _ = _fill(allocator, 20, 5, 20, 5)
    allocator.free(low)
    allocator.free(high)
    assert _fill(allocator, 20, 20) == [low, high]


def test_a_hole_is_preferred_to_the_end_that_could_grow() -> None:
    allocator = Allocator(EXPANDABLE)
    hole, _ = _fill(allocator, 27, 30)  # 57 of 60 MiB: 3 free ones could grow at the end
    allocator.free(hole)
    # the free 3 MiB are the smaller fit for 2, but could grow to all there is
    assert _fill(allocator, 2) == [hole]


def test_what_could_be_mapped_before_a_failure_stays_mapped_until_it_is_unmapped() -> None:
    allocator = Allocator(EXPANDABLE, capacity_bytes=60 * MIB)
    first, hole, last = _fill(allocator, 20, 20, 20)
    allocator.free(hole)
    allocator.empty_cache()
    assert _reserved_mib(allocator) == 40
    # 30 MiB: the hole is too short, so the end is mapped; 20 + 20 + 40 > 60
    assert _failure(allocator, 30).reserved_bytes == 40 * MIB
    assert {first, last} == set(allocator.live)


def test_more_memory_can_fail_where_less_did_not() -> None:
    """No law says that a larger device always suffices: what was not given back is in the way."""

    def run(capacity_mib: int) -> Allocator:
        allocator = Allocator(capacity_bytes=capacity_mib * MIB)
        (old,) = _fill(allocator, 34)
        allocator.free(old)
        one, other = _fill(allocator, 50, 60)  # with 130 the old 34 are given back for them
        allocator.free(one)
        allocator.free(other)
        _fill(allocator, 30, 12)  # with 130 both in the 50, with 150 in the 34 and in the 50
        _fill(allocator, 80)  # 50 + 80 fit in 130; 34 + 50 + 80 do not fit in 150
        return allocator

    assert run(130).reserved_bytes == 130 * MIB
    with pytest.raises(SimulatedOutOfMemory):
        run(150)
    assert run(164).num_retries == 1


# laws

CONFIGS = st.sampled_from(
    [
        AllocatorConfig(),
        EXPANDABLE,
        AllocatorConfig(max_split_bytes=20 * MIB),
        AllocatorConfig(gc_threshold=0.3, memory_fraction=0.9),
        AllocatorConfig(gc_threshold=0.01, memory_fraction=0.9, max_split_bytes=20 * MIB),
        AllocatorConfig(large_segment_bytes=64 * MIB, max_non_split_rounding_bytes=64 * MIB),
        AllocatorConfig(large_segment_bytes=64 * MIB, expandable_segments=True),
        AllocatorConfig(power2_divisions=(4,) * 16),
        AllocatorConfig(rejects_early=True),
    ]
)
SIZES = st.one_of(st.integers(1, 64 * KIB), st.integers(1, 3 * MIB), st.integers(1, 30 * MIB))
STEPS = st.lists(st.tuples(SIZES, st.integers(0, 10**6), st.integers(0, 1)), max_size=80)
Step = tuple[int, int, int]


def _run(allocator: Allocator, steps: Sequence[Step]) -> Iterator[OutOfMemory | None]:
    """Allocate or free at every step; what failed, where it did."""
    held: list[int] = []
    for size, pick, stream in steps:
        failed = None
        if pick % 3 == 0 and held:
            allocator.free(held.pop(pick % len(held)))
        else:
            try:
                held.append(allocator.malloc(size, stream))
            except SimulatedOutOfMemory as error:
                failed = error.state
        if pick % 17 == 0:
            allocator.empty_cache()
        yield failed


@given(STEPS, CONFIGS, st.sampled_from([20, 60, 200, 10**6]))
def test_every_reserved_byte_is_in_one_block_and_no_live_one_is_given_back(
    steps: list[Step], config: AllocatorConfig, capacity_mib: int
) -> None:
    allocator = Allocator(config, capacity_bytes=capacity_mib * MIB)
    for _ in _run(allocator, steps):
        free = [block for pool in allocator.pools.values() for block in pool.free_blocks()]
        blocks = sorted([*free, *allocator.live.values()], key=lambda block: block.address)
        assert all(low.address + low.size <= high.address for low, high in pairwise(blocks))
        assert sum(block.size for block in blocks) == allocator.reserved_bytes
        live = sum(block.size for block in allocator.live.values())
        assert allocator.requested_bytes <= live == allocator.allocated_bytes
        assert allocator.reserved_bytes <= capacity_mib * MIB
        assert all(not block.allocated for block in free)
    for address in list(allocator.live):
        allocator.free(address)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.allocated_bytes) == (0, 0)


@given(STEPS, CONFIGS, st.integers(1, 300))
def test_a_failure_is_one_that_the_limits_explain(
    steps: list[Step], config: AllocatorConfig, capacity_mib: int
) -> None:
    allocator = Allocator(config, capacity_bytes=capacity_mib * MIB)
    for state in filter(None, _run(allocator, steps)):
        limit = min(state.free_bytes + state.reserved_bytes, state.allowed_bytes or 10**18)
        assert state.reserved_bytes <= limit < state.reserved_bytes + state.tried_bytes + 20 * MIB
        if config.expandable_segments or state.rejected_early:
            continue
        assert state.reserved_bytes + state.tried_bytes > limit
        # what is still cached shares its segment with something alive
        assert all(b.is_split for pool in allocator.pools.values() for b in pool.free_blocks())


@given(STEPS, st.sampled_from([AllocatorConfig(), EXPANDABLE]))
def test_a_device_that_holds_the_unlimited_peak_behaves_as_one_without_end(
    steps: list[Step], config: AllocatorConfig
) -> None:
    endless = Allocator(config)
    assert not any(_run(endless, steps))
    enough = Allocator(config, capacity_bytes=endless.peak_reserved_bytes)
    assert not any(_run(enough, steps))
    assert list(enough.live) == list(endless.live) and enough.num_retries == 0
    if endless.peak_allocated_bytes:
        short = Allocator(config, capacity_bytes=endless.peak_allocated_bytes - 1)
        assert any(_run(short, steps))


@given(SIZES, st.sampled_from([1, 2, 4, 8, 16, 64]))
def test_rounding_up_to_divisions_never_shrinks_and_adds_less_than_one_division(
    size: int, divisions: int
) -> None:
    allocator = Allocator(AllocatorConfig(power2_divisions=(divisions,) * 16))
    allocator.malloc(size)
    (block,) = allocator.live.values()
    power = 1 << (size.bit_length() - 1)
    assert size <= block.size
    # a large block also keeps a rest of up to 1 MiB
    assert block.size < size + max(512, power // divisions) + (MIB + 1) * (size > MIB // 2)
