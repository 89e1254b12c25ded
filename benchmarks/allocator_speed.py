"""Time that the simulated allocator takes for an event, beside what a bare loop over them takes.

``python -m benchmarks.allocator_speed``: a decoding and a training stream under every kind of
configuration, interleaved in one process; the figures are the best of several runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.simulator import Allocator
from willfit.units import MIB

LAYERS: Final = 32
_CONFIGS: Final = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:128",
    "roundup_power2_divisions:[64:8,256:4,>:1]",
    "garbage_collection_threshold:0.8,per_process_memory_fraction:0.99",
)
Events = list[tuple[int, int]]
"""(handle, bytes), 0 bytes for a free."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print microseconds an event, and how many times the bare loop's they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocator_speed")
    parser.add_argument("--steps", type=int, default=220, help="decoding steps")
    parser.add_argument("--runs", type=int, default=5, help="runs, of which the best counts")
    arguments = parser.parse_args(argv)
    for name, events in (
        (f"decode, {arguments.steps} steps", list(_decode(arguments.steps))),
        ("train, 40 steps", list(_train(40))),
    ):
        _compare(name, events, arguments.runs)
    return 0


def _compare(name: str, events: Events, runs: int) -> None:
    endless = Allocator()
    _replay(events, endless)
    # a little more than what is needed: the limits are looked at, and seldom reached
    room = round(1.02 * endless.peak_reserved_bytes)
    best: dict[str, float] = {}
    for _ in range(runs):
        _keep(best, "a bare loop", partial(_bare, events))
        for conf in _CONFIGS:
            allocator = Allocator(parse_alloc_conf(conf), capacity_bytes=room)
            _keep(best, conf or "default", partial(_replay, events, allocator))
    bare = best["a bare loop"]
    print(f"{name}: {len(events):,} events")
    for kind, seconds in best.items():
        print(f"{seconds / len(events) * 1e6:8.2f} µs an event {seconds / bare:6.1f} ×  {kind}")


def _keep(best: dict[str, float], name: str, call: Callable[[], None]) -> None:
    # the time of this process alone: others may share the processor
    started = time.process_time()
    call()
    best[name] = min(best.get(name, float("inf")), time.process_time() - started)


def _replay(events: Events, allocator: Allocator) -> None:
    addresses: dict[int, int] = {}
    for handle, num_bytes in events:
        if num_bytes:
            addresses[handle] = allocator.malloc(num_bytes)
        else:
            allocator.free(addresses.pop(handle))


def _bare(events: Events) -> None:
    addresses: dict[int, int] = {}
    for handle, num_bytes in events:
        if num_bytes:
            addresses[handle] = num_bytes
        else:
            addresses.pop(handle)


class _Stream:
    """Numbers the tensors of a stream."""

    def __init__(self) -> None:
        self.handle = 0

    def make(self, num_bytes: int) -> tuple[int, int]:
        self.handle += 1
        return self.handle, num_bytes


def _decode(steps: int) -> Iterator[tuple[int, int]]:
    """An 8B model's batch of eight, whose cache is copied into a longer one at every step."""
    stream = _Stream()
    caches: dict[tuple[int, int], int] = {}
    for _ in range(LAYERS):
        yield from (stream.make(size * MIB) for size in (32, 8, 8, 32, 112, 112, 112))
    for step in range(steps):
        length = 200 + step
        for layer in range(LAYERS):
            passing = [stream.make(8 * size) for size in (8192, 8192, 2048, 2048, 128 * length)]
            yield from passing
            for part in range(2):
                longer = stream.make(8 * 2048 * length)
                yield longer
                if (layer, part) in caches:
                    yield caches[layer, part], 0
                caches[layer, part] = longer[0]
            for size in (28672, 28672, 28672, 8192):
                passing.append(stream.make(8 * size))
                yield passing[-1]
            yield from ((handle, 0) for handle, _ in passing)


def _train(steps: int) -> Iterator[tuple[int, int]]:
    """Activations that pile up in every layer and go again, with texts of two lengths."""
    stream = _Stream()
    for step in range(steps):
        tokens = 1024 + 320 * (step % 2)
        kept: list[list[int]] = []
        for _ in range(LAYERS):
            saved = [stream.make(tokens * size) for size in (8192, 8192, 16384, 28672, 28672, 32)]
            passing = stream.make(tokens * 4096 * 4)
            yield from (*saved, passing)
            yield passing[0], 0
            kept.append([handle for handle, _ in saved])
        for handles in reversed(kept):
            gradients = [stream.make(size * MIB) for size in (32, 8, 112)]
            yield from gradients
            yield from ((handle, 0) for handle in handles)
            yield from ((handle, 0) for handle, _ in gradients)


if __name__ == "__main__":
    sys.exit(main())
