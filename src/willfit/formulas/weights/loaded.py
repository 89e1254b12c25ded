"""Weights as they are on a device: LoadedRow, LoadedWeights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from willfit.allocator.rounding import round_block
from willfit.dtypes import FLOAT32, DType
from willfit.scenario.collapse import split_row
from willfit.scenario.model import TensorRow, pattern_count
from willfit.scenario.workload import Quantization


@dataclass(frozen=True, kw_only=True)
class LoadedRow:
    """A row of the tensor table as it is on the device."""

    row: TensorRow
    weight_bytes: int
    """Bytes of one tensor of the row, 0 where it shares another's storage."""
    state_sizes: tuple[int, ...] = ()
    """Bytes of each tensor of its quantisation state."""
    dtype: DType
    """Type it is loaded in (of the packed storage where quantised)."""
    quantized: bool = False
    """Whether bitsandbytes quantises it while loading, or its checkpoint has it quantised."""
    merged: bool = False
    """Whether loading makes it out of one checkpoint tensor per expert."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors of the row with their states, before rounding."""
        return self.row.count * (self.weight_bytes + sum(self.state_sizes))

    def counted_bytes(self, working: DType) -> int:
        """Bytes of one tensor as transformers counts them before it loads anything.

        The module tree is built in the working type; what ``_keep_in_fp32_modules`` then keeps in
        float32 (T5's ``wo``) still counts as that (modeling_utils.py 5.23 `from_pretrained`).
        """
        kept = self.dtype is FLOAT32 and self.row.is_parameter and not self.quantized
        if kept and self.weight_bytes and working.block_bytes < FLOAT32.block_bytes:
            return working.num_bytes(self.row.num_elements)
        return self.weight_bytes

    @property
    def allocated_bytes(self) -> int:
        """The same after the allocator's rounding to 512 bytes."""
        pieces = (self.weight_bytes, *self.state_sizes)
        return self.row.count * sum(map(round_block, pieces))


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """All weights and buffers on one device."""

    rows: tuple[LoadedRow, ...]
    dtype: DType
    """Type of the weights that are not quantised: the model's working type."""
    quantization: Quantization | None = None
    assumptions: tuple[str, ...] = ()
    stored_quantization: Quantization | None = None
    """What bitsandbytes quantised before the checkpoint was saved."""

    @property
    def arithmetic(self) -> Quantization | None:
        """How products of quantised weights are computed, whenever they were quantised."""
        return self.quantization or self.stored_quantization

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers, packed ones included, states excluded."""
        return sum(row.row.count * row.weight_bytes for row in self.rows)

    @cached_property
    def quantization_state_bytes(self) -> int:
        """Bytes of absmax, scales and code books."""
        return sum(row.row.count * sum(row.state_sizes) for row in self.rows)

    @cached_property
    def allocated_bytes(self) -> int:
        """What all of it takes after the allocator's rounding."""
        return sum(row.allocated_bytes for row in self.rows)

    @cached_property
    def state_allocated_bytes(self) -> int:
        """The states' part of `allocated_bytes`."""
        return sum(r.row.count * sum(map(round_block, r.state_sizes)) for r in self.rows)

    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of the weights by the type they are held in, the largest first."""
        totals: dict[str, int] = {}
        for loaded in self.rows:
            mine = self.quantization is not None and loaded.quantized
            name = self.quantization.scheme if mine and self.quantization else loaded.dtype.name
            totals[name] = totals.get(name, 0) + loaded.row.count * loaded.weight_bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def sizes(self) -> Iterator[tuple[int, int]]:
        """(bytes, count) of every allocation in the model's order: layer after layer."""
        for prefix, group in groupby(self.rows, key=_up_to_layer):
            pieces = list(_pieces(group))
            layers = pattern_count(prefix)
            for _ in range(layers):
                for size, count in pieces:
                    yield size, count // layers

    @property
    def largest_quantized_elements(self) -> int:
        """Weights in the largest quantised tensor; a stored 4-bit one has two in a byte."""
        sizes = (
            loaded.row.num_elements * (2 if self._packs_two(loaded) else 1)
            for loaded in self.rows
            if loaded.quantized
        )
        return max(sizes, default=0)

    def _packs_two(self, loaded: LoadedRow) -> bool:
        stored = self.stored_quantization
        return stored is not None and stored.scheme != "int8" and loaded.row.dtype.name == "uint8"

    @property
    def largest_quantized(self) -> TensorRow | None:
        """The largest weight that is quantised; None where none is."""
        quantized = [loaded.row for loaded in self.rows if loaded.quantized]
        return max(quantized, key=lambda row: row.num_elements, default=None)

    def restricted(self, chosen: Callable[[str], bool]) -> LoadedWeights:
        """The weights whose tensor name is chosen: one GPU's share of a placement."""
        rows = [
            replace(loaded, row=part)
            for loaded in self.rows
            for part, kept in split_row(loaded.row, chosen, by_layer=True)
            if kept
        ]
        return replace(self, rows=tuple(rows))

    def scaled(self, degree: int) -> LoadedWeights:
        """Weights split evenly over ``degree`` GPUs (⌈bytes/degree⌉ of each tensor)."""
        rows = [
            replace(
                loaded,
                weight_bytes=-(-loaded.weight_bytes // degree),
                state_sizes=tuple(-(-size // degree) for size in loaded.state_sizes),
            )
            for loaded in self.rows
        ]
        return replace(self, rows=tuple(rows))


def _up_to_layer(loaded: LoadedRow) -> str:
    """The name up to its first number: rows that share it belong to the same repeated layers."""
    head, brace, _ = loaded.row.name.partition("}")
    return head + brace if brace else ""


def _pieces(group: Iterable[LoadedRow]) -> Iterator[tuple[int, int]]:
    for loaded in group:
        for size in (loaded.weight_bytes, *loaded.state_sizes):
            if size:
                yield size, loaded.row.count
