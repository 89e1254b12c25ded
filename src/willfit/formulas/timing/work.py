"""Work: FLOPs, bytes and operators of a pass, and the seconds they take at some efficiency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from willfit.formulas.timing.efficiency import LEVELS, Efficiency, Kind
from willfit.formulas.timing.rates import Rates

DISK_BYTES_PER_S: Final = 2e9
"""A PCIe 3 NVMe drive reads 2 to 3.5 GB/s in sequence (vendor datasheets); SATA 0.5."""


class Piece(NamedTuple):
    """Kernels of one kind, limited by what they compute or by what they move."""

    kind: Kind
    flops: float
    rate: float
    """Best FLOP/s of their type; 0 for pieces that only move bytes."""
    num_bytes: float

    def times(self, flops: float, num_bytes: float) -> Piece:
        """The piece with its amounts multiplied."""
        return Piece(self.kind, self.flops * flops, self.rate, self.num_bytes * num_bytes)


class Work(NamedTuple):
    """What one pass does on one GPU (a tuple, as thousands are made a second)."""

    pieces: tuple[Piece, ...] = ()
    operators: float = 0.0
    """Operators called from Python."""
    backward_operators: float = 0.0
    """Operators called by autograd."""
    host_bytes: float = 0.0
    """Bytes copied between host and GPU that kernels wait for."""
    hidden_bytes: float = 0.0
    """Bytes copied between host and GPU on a stream of their own, beside the kernels."""
    paged_bytes: float = 0.0
    """Bytes of managed memory that come over PCIe if the GPU is full."""
    disk_bytes: float = 0.0
    """Bytes read from disk that kernels wait for."""
    link_bytes: float = 0.0
    """Bytes sent to other GPUs that kernels wait for."""

    @property
    def flops(self) -> float:
        """FLOPs of all pieces."""
        return sum(piece.flops for piece in self.pieces)


def total(works: Iterable[Work]) -> Work:
    """All of them, one after the other on the same GPU (in one loop: it is on the hot path)."""
    pieces: list[Piece] = []
    operators = backward = host = hidden = paged = disk = link = 0.0
    for work in works:
        pieces += work.pieces
        operators += work.operators
        backward += work.backward_operators
        host += work.host_bytes
        hidden += work.hidden_bytes
        paged += work.paged_bytes
        disk += work.disk_bytes
        link += work.link_bytes
    return Work(
        pieces=tuple(pieces),
        operators=operators,
        backward_operators=backward,
        host_bytes=host,
        hidden_bytes=hidden,
        paged_bytes=paged,
        disk_bytes=disk,
        link_bytes=link,
    )


class Cost(NamedTuple):
    """Seconds of one pass by what takes them, at one efficiency."""

    compute: float
    bandwidth: float
    launch: float
    pcie: float
    disk: float
    link: float

    @property
    def seconds(self) -> float:
        """The host runs ahead of the GPU, so the longer of both counts; copies are waited for."""
        kernels = self.compute + self.bandwidth
        return max(kernels, self.launch) + self.pcie + self.disk + self.link

    def plus(self, other: Cost, times: float = 1.0) -> Cost:
        """Both, the first ``times`` over."""
        return Cost(*(times * mine + its for mine, its in zip(self, other, strict=True)))


Costs = tuple[Cost, Cost, Cost]
"""At the fast, the nominal and the slow efficiency."""


def costs(work: Work, rates: Rates) -> Costs:
    """max(FLOPs / rate, bytes / bandwidth) of every piece, and the host's time beside it."""
    kernels = _kernels(work.pieces, rates)
    low, nominal, high = (
        _cost(work, rates, level, *seconds) for level, seconds in zip(LEVELS, kernels, strict=True)
    )
    return low, nominal, high


Seconds = tuple[float, float]
"""(computing, moving)."""


def _kernels(pieces: Iterable[Piece], rates: Rates) -> tuple[Seconds, Seconds, Seconds]:
    """Seconds of the kernels at the three efficiencies, unrolled: it is the hot path."""
    c0 = c1 = c2 = m0 = m1 = m2 = 0.0
    slowness = rates.slowness
    for kind, flops, rate, num_bytes in pieces:
        by_byte, by_flop = slowness[kind]
        work = flops / rate if rate else 0.0
        moved, computed = num_bytes * by_byte[0], work * by_flop[0]
        if computed >= moved:
            c0 += computed
        else:
            m0 += moved
        moved, computed = num_bytes * by_byte[1], work * by_flop[1]
        if computed >= moved:
            c1 += computed
        else:
            m1 += moved
        moved, computed = num_bytes * by_byte[2], work * by_flop[2]
        if computed >= moved:
            c2 += computed
        else:
            m2 += moved
    return (c0, m0), (c1, m1), (c2, m2)


def _cost(
    work: Work, rates: Rates, efficiency: Efficiency, compute: float, bandwidth: float
) -> Cost:
    launch = work.operators * efficiency.operator_seconds
    launch += work.backward_operators * efficiency.backward_operator_seconds
    waited = work.host_bytes + (1.0 - efficiency.overlap) * work.hidden_bytes
    waited += efficiency.paged * work.paged_bytes
    return Cost(
        compute,
        bandwidth,
        launch * rates.host,
        waited / (rates.pcie * efficiency.link) if waited else 0.0,
        work.disk_bytes / DISK_BYTES_PER_S,
        work.link_bytes / (rates.link * efficiency.link) if work.link_bytes else 0.0,
    )
