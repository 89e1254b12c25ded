"""`willfit.watch`: what a block allocated, how high it went, and what it left behind with whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import willfit
from willfit.errors import InputError
from willfit.live.memory.counters import Counted, FakeCounters
from willfit.live.memory.host_meter import HostMeter
from willfit.live.nvml import FakeCard, FakeNvml
from willfit.units import GIB, MIB

torch = pytest.importorskip("torch")


def test_a_block_is_told_to_the_byte() -> None:
    with willfit.watch(quiet=True) as watching:
        first = torch.zeros(1000)  # 4,000 B
        second = first + 1  # 4,000 B more
        del first
        third = second.double()  # 8,000 B: 12,000 B now, the peak
        del second
    (host,) = watching.result.devices
    assert (host.device, host.allocated_bytes) == ("cpu", 16_000)
    assert (host.rise_bytes, host.left_behind_bytes) == (12_000, 8_000)
    assert watching.result.left_behind_bytes == third.untyped_storage().nbytes() == 8_000
    (holder,) = watching.result.holders
    assert holder.kind == "local" and "local `third`" in holder.path and holder.num_bytes == 8_000


def test_views_share_a_storage_and_work_in_place_takes_none() -> None:
    base = torch.zeros(100)
    with willfit.watch(quiet=True) as watching:
        kept = [base[:50], base.view(10, 10), base.add_(1)]
    (host,) = watching.result.devices
    assert (host.allocated_bytes, host.left_behind_bytes, len(kept)) == (0, 0, 3)


def test_what_autograd_saves_is_seen_until_the_backward_pass() -> None:
    weight = torch.zeros(100, 100, requires_grad=True)  # 40,000 B
    with willfit.watch(quiet=True) as watching:
        loss = (weight @ weight).exp().sum()
    (host,) = watching.result.devices
    assert host.rise_bytes == 80_000  # the product, then its exponential beside it
    assert host.left_behind_bytes == 40_000 + 4  # the exponential, saved in C++, and the sum
    loss.backward()
    with willfit.watch(quiet=True) as watching:
        del loss
    assert watching.result.devices[0].left_behind_bytes == -4


def test_a_block_that_frees_older_tensors_left_less_than_nothing() -> None:
    older = [torch.zeros(1000)]
    with willfit.watch(quiet=True) as watching:
        older.clear()
    assert watching.result.devices[0].left_behind_bytes == -4000
    assert watching.result.left_behind_bytes == 0


def test_a_failing_block_is_reported_and_its_error_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watching = willfit.watch("load")
    kept = []

    def load() -> None:
        with watching:
            kept.append(torch.zeros(10))
            raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        load()
    assert watching.result.error == "KeyError" and len(kept) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("watched load: 0.0 s, ended by KeyError\n  cpu: allocated 40 B")


def test_blocks_in_blocks_keep_their_own_peaks() -> None:
    with willfit.watch(quiet=True) as outer:
        big = torch.zeros(10_000)
        del big
        with willfit.watch(quiet=True) as inner:
            small = torch.zeros(100)
    assert outer.result.devices[0].rise_bytes == 40_000
    assert inner.result.devices[0].rise_bytes == 400 == small.untyped_storage().nbytes()


def test_a_gradient_that_nobody_has_looked_at_is_no_news() -> None:
    """Autograd makes it in C++; Python's object for it is made when it is first asked for."""
    model = torch.nn.Linear(100, 100)
    model(torch.zeros(1, 100)).sum().backward()
    with willfit.watch(quiet=True) as watching:
        gradient = model.weight.grad
    assert gradient is not None
    assert watching.result.left_behind_bytes == 0


def test_what_a_graph_saved_before_is_no_news() -> None:
    """The look for holders at the end of the inner block makes Python's objects for it."""
    loss = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.ReLU())(torch.ones(50, 100))
    loss = loss.exp().sum()
    with willfit.watch(quiet=True) as outer, willfit.watch(quiet=True):
        small = torch.zeros(100)
    assert outer.result.devices[0].rise_bytes == small.untyped_storage().nbytes()
    assert loss.requires_grad


def test_a_function_is_watched_at_each_call() -> None:
    @willfit.watch(quiet=True)
    def make(count: int) -> Any:
        """Its own words."""
        return torch.zeros(count)

    found: Any = make
    kept = [make(10), make(20)]
    assert found.watch.result.left_behind_bytes == 80 and len(kept) == 2
    assert found.watch.result.label == make.__name__ == "make" and make.__doc__ == "Its own words."
    assert [one.path for one in found.watch.result.holders] == ["what `make` returns"]


def test_a_watch_keeps_nothing_alive() -> None:
    import weakref

    with willfit.watch(quiet=True) as watching:
        model = torch.nn.Linear(3, 3)
    gone = weakref.ref(model)
    del model
    assert gone() is None and watching.result.holders


def test_what_other_threads_left_is_found_although_their_ops_are_not() -> None:
    with ThreadPoolExecutor(1) as pool, willfit.watch(quiet=True) as watching:
        pool.submit(lambda: None).result()
        kept = pool.submit(torch.zeros, 1000).result()
    (host,) = watching.result.devices
    assert host.left_behind_bytes == 4000 == kept.untyped_storage().nbytes()


def test_parentheses_and_order_are_asked_for() -> None:
    with pytest.raises(InputError, match="with the parentheses"):
        willfit.watch(print)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="after the block"):
        _ = willfit.watch().result


Op = tuple[str, int]


@given(
    ops=st.lists(
        st.tuples(st.sampled_from(["make", "free", "double"]), st.integers(1, 50)), max_size=30
    )
)
@settings(max_examples=10, deadline=None)
def test_the_meter_is_the_sum_of_what_lives(ops: Sequence[Op]) -> None:
    """Against a count by hand: bytes made and freed, and their highest sum."""
    held: list[Any] = []
    level = highest = made = 0
    with HostMeter() as meter:
        for what, size in ops:
            if what == "free":
                level -= 4 * held.pop(size % len(held)).numel() if held else 0
                continue
            source = held[-1] if what == "double" and held else None
            held.append(torch.zeros(size) if source is None else torch.cat([source, source]))
            level += 4 * held[-1].numel()
            made += 4 * held[-1].numel()
            highest = max(highest, level)
            source = None
        assert meter.live_bytes - meter.before_bytes == level
    assert meter.peak_bytes - meter.before_bytes == highest
    assert meter.made_bytes == made


def card(index: int, allocated: int, peak: int, ever: int, reserved: int = 0) -> Counted:
    return Counted(
        index=index, name="T4", allocated_bytes=allocated, reserved_bytes=reserved or allocated,
        peak_allocated_bytes=peak, peak_reserved_bytes=max(peak, reserved),
        ever_allocated_bytes=ever,
    )  # fmt: skip


def test_every_gpu_is_told_by_its_counters_and_by_nvml() -> None:
    before = [card(0, 1 * GIB, 7 * GIB, 20 * GIB), card(1, 0, 0, 0)]
    after = [card(0, 3 * GIB, 5 * GIB, 29 * GIB), card(1, 8 * GIB, 9 * GIB, 9 * GIB, 10 * GIB)]
    counters = FakeCounters(states=[before, after])
    nvml = FakeNvml(cards=tuple(FakeCard(name="T4", total=15 * GIB, used=GIB) for _ in range(2)))
    with willfit.watch(quiet=True, counters=counters, nvml=nvml) as watching:
        assert counters.calls == ["begin_peak"]
        counters.state = 1
    first, second = watching.result.devices
    assert (first.device, first.before_bytes, first.after_bytes) == ("cuda:0", GIB, 3 * GIB)
    assert (first.peak_bytes, first.allocated_bytes) == (5 * GIB, 9 * GIB)
    assert first.overall_peak_bytes == 7 * GIB, "the user's own peak, from before the block"
    assert (second.left_behind_bytes, second.reserved_peak_bytes) == (8 * GIB, 10 * GIB)
    assert watching.result.mark == {"cuda:0": GIB, "cuda:1": GIB}
    assert not watching.result.notes
    assert "cuda:1 (T4): allocated 9.00 GiB, peak 9.00 GiB (9.00 GiB over the 0 B before)" in str(
        watching.result
    )


def test_a_block_within_lets_the_outer_peak_stand() -> None:
    """Both begin the counters anew: what the outer block had reached until then is noted."""
    states = [
        [card(0, 0, 0, 0)],
        [card(0, 1 * GIB, 6 * GIB, 6 * GIB)],  # when the inner block begins
        [card(0, 1 * GIB, 2 * GIB, 8 * GIB)],  # at its end, counted from its beginning
    ]
    counters = FakeCounters(states=states)
    nvml = FakeNvml()
    with willfit.watch(quiet=True, counters=counters, nvml=nvml) as outer:
        counters.state = 1
        with willfit.watch(quiet=True, counters=counters, nvml=nvml) as inner:
            counters.state = 2
    assert outer.result.devices[0].peak_bytes == 6 * GIB
    assert inner.result.devices[0].peak_bytes == 2 * GIB
    assert inner.result.devices[0].overall_peak_bytes == 6 * GIB


def test_a_gpu_that_comes_into_use_within_began_at_nothing() -> None:
    counters = FakeCounters(states=[[], [card(0, 5 * MIB, 6 * MIB, 7 * MIB)]])
    with willfit.watch(quiet=True, counters=counters, nvml=FakeNvml()) as watching:
        counters.state = 1
    (gpu,) = watching.result.devices
    assert (gpu.before_bytes, gpu.left_behind_bytes, gpu.allocated_bytes) == (0, 5 * MIB, 7 * MIB)
    assert gpu.used_after_bytes is None and watching.result.mark == {}


def test_naming_them_imports_no_torch() -> None:
    code = (
        "import sys, willfit; from willfit import load_ipython_extension;"
        "assert {'watch', 'release', 'FirstStepCallback'} <= set(willfit.__all__);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
