"""Work: FLOPs, bytes and operators of a pass, and the seconds they take at some efficiency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from willfit.formulas.timing.efficiency import Efficiency, Kind
from willfit.formulas.timing.rates import Rates


@dataclass(frozen=True, slots=True)
class Piece:
    """Kernels of one kind, limited by what they compute or by what they move."""

    kind: Kind
    flops: float
    rate: float
    """Peak FLOP/s of their type; 0 for pieces that only move bytes."""
    num_bytes: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one pass does on one GPU."""

    pieces: tuple[Piece, ...] = ()
    operators: float = 0.0
    """Operators called from Python."""
    backward_operators: float = 0.0
    """Operators called by autograd."""
    host_bytes: float = 0.0
    """Bytes copied between host and GPU that kernels wait for."""
    disk_bytes: float = 0.0
    """Bytes read from disk that kernels wait for."""

    def __add__(self, other: Work) -> Work:
        """Both, one after the other on the same GPU."""
        return Work(
            pieces=self.pieces + other.pieces,
            operators=self.operators + other.operators,
            backward_operators=self.backward_operators + other.backward_operators,
            host_bytes=self.host_bytes + other.host_bytes,
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )

    @property
    def flops(self) -> float:
        """FLOPs of all pieces."""
        return sum(piece.flops for piece in self.pieces)


DISK_BYTES_PER_S = 2e9
"""A PCIe 3 NVMe drive reads 2 to 3.5 GB/s in sequence (vendor datasheets); SATA 0.5."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one pass by what takes them, at one efficiency."""

    compute: float
    bandwidth: float
    launch: float
    pcie: float
    disk: float

    @property
    def seconds(self) -> float:
        """The host runs ahead of the GPU, so the longer of both counts; copies are waited for."""
        return max(self.compute + self.bandwidth, self.launch) + self.pcie + self.disk


def cost(work: Work, rates: Rates, efficiency: Efficiency) -> Cost:
    """max(FLOPs / rate, bytes / bandwidth) of every piece, and the host's time beside it."""
    compute = bandwidth = 0.0
    memory, peak = efficiency.memory, rates.bandwidth
    for piece in work.pieces:
        moving = piece.num_bytes / (peak * memory[piece.kind])
        if piece.rate and piece.flops:
            computing = piece.flops / (piece.rate * efficiency.compute[piece.kind])
            if computing >= moving:
                compute += computing
                continue
        bandwidth += moving
    launch = work.operators * efficiency.operator_seconds
    launch += work.backward_operators * efficiency.backward_operator_seconds
    return Cost(
        compute=compute,
        bandwidth=bandwidth,
        launch=launch,
        pcie=work.host_bytes / (rates.pcie * efficiency.link),
        disk=work.disk_bytes / DISK_BYTES_PER_S,
    )


def total(works: Iterable[Work]) -> Work:
    """All of them, one after the other."""
    whole = Work()
    for work in works:
        whole = whole + work
    return whole
