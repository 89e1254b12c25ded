"""Loading, allocation by allocation, and what the caching allocator has reserved after it.

Order: core_model_loading.py 5.23 (`dot_natural_key`), one tensor after the other. With threads,
tensors may arrive a little earlier; that moves which block a tensor gets, not how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from willfit.allocator.config import parse_alloc_conf
from willfit.allocator.replay import Event, replay
from willfit.allocator.simulator import Allocator
from willfit.dtypes import FLOAT32
from willfit.formulas.loading.peak import natural_key
from willfit.formulas.loading.warmup import warmup_bytes
from willfit.formulas.quantization import BLOCK
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.identity import by_identity
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class LoadingMemory:
    """What the simulated allocator says of loading."""

    allocated_bytes: int
    """Alive after loading; larger than the tensors where a block keeps a rest of up to 1 MiB."""
    peak_allocated_bytes: int
    reserved_bytes: int
    """Taken from the device and kept after loading (nothing is given back before it is needed)."""


def simulate_loading(weights: LoadedWeights, gpu: Gpu | None, stack: Stack) -> LoadingMemory:
    """Load with a device_map through the simulated allocator; milliseconds.

    The warm-up block may end in pieces too small for what comes last: bloom-3b in nf4 reserves a
    second gigabyte for its embedding, which is read after the layers.
    """
    return _simulated(weights, warmup_bytes(weights, gpu, stack), stack.alloc_conf)


@by_identity(64)
def _simulated(weights: LoadedWeights, warmup: int, alloc_conf: str) -> LoadingMemory:
    """Loading after a warm-up block of so many bytes, once for all GPUs on which it is that."""
    allocator = Allocator(parse_alloc_conf(alloc_conf))
    allocator.free(allocator.malloc(warmup))
    allocator.reset_peaks()
    for _ in replay(loading_events(weights), allocator):
        pass
    return LoadingMemory(
        allocated_bytes=allocator.allocated_bytes,
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        reserved_bytes=allocator.reserved_bytes,
    )


def loading_events(weights: LoadedWeights) -> Iterator[Event]:
    """Every allocation and free of loading straight to a device, in order."""
    for _, events in loading_script(weights):
        yield from events


def loading_script(weights: LoadedWeights) -> Iterator[tuple[str, list[Event]]]:
    """The same by tensor name; what its events leave is the tensor and then its states."""
    named = [(name, loaded) for loaded in weights.rows for name in loaded.row.names()]
    script = _Script()
    for name, loaded in sorted(named, key=lambda pair: natural_key(pair[0])):
        if loaded.merged:
            yield name, list(script.merge(loaded))
        elif weights.quantization is not None and loaded.quantized:
            yield name, list(script.quantize(loaded, weights))
        else:
            yield name, list(script.keep(loaded.weight_bytes, *loaded.state_sizes))


def moving_script(weights: LoadedWeights) -> Iterator[tuple[str, list[Event]]]:
    """A model that was loaded to the host and is moved: every tensor once, layer after layer."""
    named = [(name, loaded) for loaded in weights.rows for name in loaded.row.names()]
    script = _Script()
    for name, loaded in sorted(named, key=lambda pair: natural_key(pair[0])):
        yield name, list(script.keep(loaded.weight_bytes, *loaded.state_sizes))


class _Script:
    """Numbers the storages of the stream."""

    def __init__(self) -> None:
        self._handles = count(1)

    def keep(self, *sizes: int) -> Iterator[Event]:
        """Tensors that stay."""
        for size in sizes:
            if size:
                yield Event(handle=next(self._handles), num_bytes=size)

    def borrow(self, *sizes: int) -> list[Event]:
        """Tensors that `give_back` ends."""
        return list(self.keep(*sizes))

    def quantize(self, loaded: LoadedRow, weights: LoadedWeights) -> Iterator[Event]:
        """The weight as it arrives, what packing it needs, and what is left (bitsandbytes)."""
        assert weights.quantization is not None
        elements = loaded.row.num_elements
        arrived = weights.dtype.num_bytes(elements)
        int8 = weights.quantization.scheme == "int8"
        again = 2 * elements if int8 else arrived if loaded.row.module == "Conv1D" else 0
        borrowed = self.borrow(arrived, again)
        yield from borrowed
        yield from self.keep(loaded.weight_bytes)
        if weights.quantization.double_quant and not int8:
            absmax = FLOAT32.num_bytes(ceil_div(elements, BLOCK))
            nested = self.borrow(absmax, absmax)
            yield from nested
            borrowed += nested
        yield from self.keep(*loaded.state_sizes)
        yield from give_back(borrowed)

    def merge(self, loaded: LoadedRow) -> Iterator[Event]:
        """Experts one by one, stacked part by part, and the parts joined (`MergeModulelist`)."""
        experts = loaded.row.shape[0]
        parts = 2 if "gate_up" in loaded.row.name else 1
        single = loaded.weight_bytes // experts // parts
        singles = [self.borrow(*[single] * experts) for _ in range(parts)]
        for part in singles:
            yield from part
        stacks: list[Event] = []
        for part in singles:
            stacks += self.borrow(loaded.weight_bytes // parts)
            yield stacks[-1]
            yield from give_back(part)
        if parts > 1:
            yield from self.keep(loaded.weight_bytes)
            yield from give_back(stacks)


def give_back(borrowed: list[Event]) -> Iterator[Event]:
    """Frees of these allocations, the last first."""
    return (Event(handle=event.handle) for event in reversed(borrowed))
