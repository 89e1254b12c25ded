"""Scans of state-space and linear-attention layers by transformers' own code.

Without mamba-ssm, flash-linear-attention or kernels from the Hub, which few install, a prompt goes
through PyTorch operations in float32. Counted here is what the scan has alive at its largest
moment, in elements of that type a token. D are the values of all heads, K their keys (H·N), C their
scores within a chunk (H·L); H heads, N rows of a state, L tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from willfit.scenario.model import LayerGroup, Scan
from willfit.scenario.stack import Stack

EINSUM_SINCE: Final = "5.18"
"""transformers that contracts Mamba-2's chunks by einsum; before, products were made and summed."""
SUMMED_AT_ONCE_SINCE: Final = "5.15"
"""transformers that gives those products no name, so that each is freed once it is summed."""
SOLVE_SINCE: Final = "5.17"
"""transformers whose gated delta rule solves a triangular system; before, it went row by row."""


@dataclass(frozen=True, kw_only=True)
class OwnScan:
    """How a release of transformers scans."""

    einsum: bool = True
    summed_at_once: bool = True
    solves: bool = True

    @classmethod
    def of(cls, stack: Stack) -> OwnScan:
        """That of a stack."""
        return cls(
            einsum=stack.at_least("transformers", EINSUM_SINCE),
            summed_at_once=stack.at_least("transformers", SUMMED_AT_ONCE_SINCE),
            solves=stack.at_least("transformers", SOLVE_SINCE),
        )

    def elements(self, scan: Scan) -> int:
        """float32 elements a token at the largest moment of a prompt's scan."""
        if scan.kind == "selective":
            return _selective(scan)
        if scan.kind == "chunked":
            return _einsum(scan) if self.einsum else _products(scan, named=not self.summed_at_once)
        return _solved(scan) if self.solves else _row_by_row(scan)

    def repeated(self, scan: Scan) -> int:
        """Elements a token, in the working type, of queries and keys that the mixer repeats itself.

        The gated delta rule does it since it solves.
        """
        ours = scan.kind == "delta" and scan.shares_keys and not self.solves
        return 2 * scan.num_heads * scan.key_dim if ours else 0

    def step_elements(self, scan: Scan) -> int:
        """float32 elements a sequence of a decoding step: the state, its decay and its update.

        `mamba2_selective_state_update`, `torch_recurrent_gated_delta_rule`.
        """
        return 4 * scan.num_heads * scan.key_dim * scan.value_dim


def _sizes(scan: Scan) -> tuple[int, int, int]:
    """D, K and C."""
    heads = scan.num_heads
    return heads * scan.value_dim, heads * scan.key_dim, heads * scan.chunk_len


def _selective(scan: Scan) -> int:
    """modeling_mamba.py `mamba_selective_scan`: exp(A·Δ), Δ·B and its product with the input.

    All three have a state for every token. The sum with D times the input comes last, beside both.
    """
    values, keys, _ = _sizes(scan)
    return 3 * keys + 2 * values


def _einsum(scan: Scan) -> int:
    """modeling_mamba2.py `mamba2_chunk_scan`: the chunks' outputs from the states before them.

    Alive are the inputs times Δ, those times D, B and C of every head; the decays, the scores and
    their product (`L`, `G`, `M`); the outputs within the chunk, the decayed B; a copy of C and two
    of the states for the product, and its result. Einsum lays its operands out anew.
    """
    values, keys, scores = _sizes(scan)
    states = values * scan.key_dim // scan.chunk_len
    return 4 * values + 4 * keys + 3 * scores + 2 * states


def _products(scan: Scan, *, named: bool) -> int:
    """The same of older releases: C·B of every pair of tokens, with the states' axis not summed.

    ``named``: that product, and the scores', live on beside the outputs' own.
    """
    values, keys, scores = _sizes(scan)
    kept = 2 * values + 2 * keys + 2 * scores + scores * scan.key_dim
    return kept + (scores + scores * scan.value_dim if named else 0)


def _solved(scan: Scan) -> int:
    """modeling_qwen3_next.py `torch_chunk_gated_delta_rule`, at the decay of keys before the loop.

    Queries, keys, those times β, those decayed, the solved ones and a new copy of one, 6·K; values,
    those times β, the solved ones and the output, 4·D; decays, the system and the scores, 3·C.
    """
    values, keys, scores = _sizes(scan)
    return max(6 * keys + 4 * values + 3 * scores, 2 * (2 * keys + values))


def _row_by_row(scan: Scan) -> int:
    """The same of older releases: the solved keys, or the outputs laid out anew and cast to 16 bit.

    Queries, keys, those times β and the solved ones, 4·K; values, those times β, the outputs twice
    and half, 4.5·D; decays and scores, 2·C.
    """
    values, keys, scores = _sizes(scan)
    return max(
        5 * keys + 2 * values + 2 * scores,
        4 * keys + 4 * values + values // 2 + 2 * scores,
    )


_KERNELS: Final = {
    "selective": "state-space layers by transformers' own code: mamba-ssm's kernels take less",
    "chunked": "state-space layers by transformers' own code: mamba-ssm's kernels take less",
    "delta": "linear attention by transformers' own code: flash-linear-attention's kernels take "
    "less",
}


def scan_notes(layers: Iterable[LayerGroup]) -> tuple[str, ...]:
    """What is assumed of the kernels."""
    scans = (group.recurrent.scan for group in layers if group.recurrent is not None)
    return tuple(dict.fromkeys(_KERNELS[scan.kind] for scan in scans if scan is not None))
