"""`watch`: a block, a function or a cell, and what it did to the memory of every device."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, ParamSpec, TypeVar

from willfit.errors import InputError
from willfit.live.memory.cards import Card, cards
from willfit.live.memory.census import take_census
from willfit.live.memory.counters import Counters, TorchCounters
from willfit.live.memory.holders import find_holders
from willfit.live.memory.host_meter import HostMeter
from willfit.live.memory.looking import BLOCKS
from willfit.live.memory.storages import Storage, alive, live_storages
from willfit.live.memory.watched import Watched, WatchedDevice
from willfit.live.nvml import Nvml

P = ParamSpec("P")
R = TypeVar("R")

OTHER_THREADS: Final = (
    "ops of other threads are not in the peak of host memory; what they left behind is"
)


def watch(
    label: str = "",
    *,
    quiet: bool = False,
    holders: bool = True,
    counters: Counters | None = None,
    nvml: Nvml | None = None,
) -> Watch:
    """Report what a block allocates, how high it goes and what it leaves behind, on every GPU.

        with willfit.watch("load") as watching:
            model = load()
        watching.result.devices[0].peak_bytes

        @willfit.watch()
        def infer(model, rows): ...

    In a notebook ``%load_ext willfit`` gives ``%%willfit_watch`` for a cell. On GPUs torch's
    counters and NVML are read; without CUDA the tensors of host memory are followed op by op.
    What is left behind is told with who holds it. A block that fails is reported as well, and its
    exception passes through.

    To know the block's own peak, torch's is begun anew: `WatchedDevice.overall_peak_bytes` is what
    ``max_memory_allocated`` would have said. Blocks may stand in blocks.

    ``quiet``: print nothing to stderr. ``holders``: look for them (see `release`).
    """
    if not isinstance(label, str):
        raise InputError("watch takes a label: write @willfit.watch() with the parentheses")
    return Watch(
        label, quiet=quiet, holders=holders, counters=counters or TorchCounters(), nvml=nvml
    )


class Watch:
    """A block that is watched; `result` is there when it is over."""

    def __init__(
        self, label: str, *, quiet: bool, holders: bool, counters: Counters, nvml: Nvml | None
    ) -> None:
        self._label, self._quiet, self._holders = label, quiet, holders
        self._counters, self._nvml = counters, nvml
        self._result: Watched | None = None
        self._running: list[_Running] = []

    @property
    def result(self) -> Watched:
        """Of the last block; raises `InputError` before there is one."""
        if self._result is None:
            raise InputError("nothing is watched yet: the result is there after the block")
        return self._result

    def __enter__(self) -> Watch:
        self._running.append(_Running(self._counters, self._nvml))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        running = self._running.pop()
        self._result = running.end(self._label, kind.__name__ if kind else "", self._holders)
        if not self._quiet:
            sys.stderr.write(f"{self._result.text()}\n")

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: each call is a block; ``function.watch.result`` is the last one's."""
        watching = Watch(
            self._label or function.__name__, quiet=self._quiet, holders=self._holders,
            counters=self._counters, nvml=self._nvml,
        )  # fmt: skip

        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            with watching:
                returned = function(*args, **kwargs)
                return returned  # noqa: RET504 - a local that the search for holders finds

        watched.watch = watching  # type: ignore[attr-defined]
        return watched


_lock: Final = threading.RLock()


class _Running:
    """What was read when a block began."""

    def __init__(self, counters: Counters, nvml: Nvml | None) -> None:
        self._counters, self._nvml = counters, nvml
        self._first = cards(counters, nvml)
        self._peaks: dict[int, tuple[int, int]] = {}
        self._earlier = {
            card.counted.index: card.counted.peak_allocated_bytes for card in self._first
        }
        device = "cuda" if counters.has_gpus() else "cpu"
        self._known = live_storages(take_census(), device)
        self._meter = None if counters.has_gpus() else HostMeter()
        self._threads = threading.active_count()
        with _lock:
            for around in BLOCKS:
                around.note_peak()
            BLOCKS.append(self)
        counters.begin_peak()
        if self._meter is not None:
            self._meter.__enter__()
        self._began = time.monotonic()

    def note_peak(self) -> None:
        """Keep the highest so far, since a block within this one lets the peak begin anew."""
        for one in self._counters.read():
            allocated, reserved = self._peaks.get(one.index, (0, 0))
            self._peaks[one.index] = (
                max(allocated, one.peak_allocated_bytes),
                max(reserved, one.peak_reserved_bytes),
            )

    def overlook(self, shown: Mapping[int, Storage]) -> None:
        """What a search within the block brought to light was there before."""
        self._known.update(shown)

    def end(self, label: str, error: str, look: bool) -> Watched:
        """Read again, and look for who holds what is new."""
        seconds = time.monotonic() - self._began
        meter = self._meter
        if meter is not None:
            meter.__exit__(None, None, None)
        with _lock:
            BLOCKS.remove(self)
        self.note_peak()
        last = cards(self._counters, self._nvml)
        new = self._new("cpu" if meter else "cuda")
        devices = self._gpus(last) if meter is None else (self._host(meter, new),)
        search = find_holders(new.values()) if look and new else None
        return Watched(
            label=label,
            devices=devices,
            holders=search.holders if search else (),
            left_behind_bytes=sum(one.num_bytes for one in new.values()),
            error=error,
            notes=self._notes(meter),
            seconds=seconds,
        )

    def _new(self, device: str) -> Mapping[int, Storage]:
        now = live_storages(take_census(), device)
        return alive(one for key, one in now.items() if key not in self._known)

    def _host(self, meter: HostMeter, new: Mapping[int, Storage]) -> WatchedDevice:
        """By the meter, and by the census for what other threads left."""
        unseen = sum(one.num_bytes for key, one in new.items() if key not in meter.seen)
        after = meter.live_bytes + unseen
        return WatchedDevice(
            device="cpu",
            before_bytes=meter.before_bytes,
            after_bytes=after,
            peak_bytes=max(meter.peak_bytes, after),
            allocated_bytes=meter.made_bytes + unseen,
            overall_peak_bytes=max(meter.peak_bytes, after),
        )

    def _gpus(self, last: Sequence[Card]) -> tuple[WatchedDevice, ...]:
        first = {card.counted.index: card for card in self._first}
        return tuple(self._gpu(first.get(card.counted.index), card) for card in last)

    def _gpu(self, first: Card | None, last: Card) -> WatchedDevice:
        """A GPU that came into use within the block began at nothing."""
        index = last.counted.index
        begun = first.counted if first else None
        allocated, reserved = self._peaks.get(index, (0, 0))
        ever = last.counted.ever_allocated_bytes - (begun.ever_allocated_bytes if begun else 0)
        return WatchedDevice(
            device=f"cuda:{index}",
            name=last.counted.name,
            before_bytes=begun.allocated_bytes if begun else 0,
            after_bytes=last.counted.allocated_bytes,
            peak_bytes=allocated,
            allocated_bytes=ever,
            reserved_before_bytes=begun.reserved_bytes if begun else 0,
            reserved_after_bytes=last.counted.reserved_bytes,
            reserved_peak_bytes=reserved,
            used_before_bytes=first.used_bytes if first else None,
            used_after_bytes=last.used_bytes,
            overall_peak_bytes=max(allocated, self._earlier.get(index, 0)),
        )

    def _notes(self, meter: HostMeter | None) -> tuple[str, ...]:
        if meter is None:
            return ()
        notes = ["no CUDA: the tensors of host memory were followed, op by op"]
        return (*notes, OTHER_THREADS) if self._threads > 1 else tuple(notes)
