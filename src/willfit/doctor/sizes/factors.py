"""Factors: a size as a product of the model's and the workload's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from willfit.doctor.sizes.asked import Asked
from willfit.doctor.sizes.work import Work, work_of
from willfit.scenario import ModelSpec, Scenario
from willfit.scenario.model import Architecture
from willfit.units import ceil_div

Kind = Literal["weight", "whole_model", "shard", "logits", "attention", "kv_cache", "activation"]

WIDTHS: Final = ((4, "float32"), (2, "16 bit"), (1, "8 bit"))
"""Bytes of an element, and what a reader calls it."""
ROUND: Final = 256
"""Numbers of tokens that are tried where the workload's own do not match: this, times a power of
two, times 1, 3 or 5, as people choose batches and lengths."""
MOST_TOKENS: Final = 2**20
RANKS: Final = (2, 4, 8, 16, 32)
"""GPUs over which a copy of the model may be shared out."""
SHOWN: Final = 6


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One product that comes to the size."""

    kind: Kind
    text: str
    """``4,096 × 14,336 × 4 B: a weight of mlp.down_proj in float32``."""
    own: bool
    """Whether it is made of this scenario's own batch and length, or of a round number."""
    tokens: int | None = None
    """Tokens of the product, where it has some."""


def factors_of(asked: Asked, scenario: Scenario) -> tuple[Factor, ...]:
    """Products that the refused tensor can have been; the scenario's own first.

    None where the size is that of a class of small tensors. They are candidates, not proof: a size
    of 224 MiB is one MLP weight of Llama-3-8B in float32, and its inner activations of 8,192
    tokens in 16 bit.
    """
    if not asked.tells:
        return ()
    work = work_of(scenario)
    found = [*_weights(asked, scenario.model), *_copies(asked, scenario.model)]
    architecture = scenario.model.architecture
    if architecture is not None:
        found += _by_tokens(asked, architecture, work)
        found += _scores(asked, architecture, work)
    unique = {factor.text: factor for factor in found}.values()
    return tuple(islice(sorted(unique, key=lambda factor: not factor.own), SHOWN))


def _weights(asked: Asked, model: ModelSpec) -> Iterator[Factor]:
    """A parameter of the table, one name for all of its shape or the transposed one."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for row in model.tensors:
        if row.is_parameter and len(row.shape) > 1:
            name = row.owner.rpartition(".")[2] or row.name
            names = shapes.setdefault(tuple(sorted(row.shape)), [])
            if name not in names:
                names.append(name)
    for shape, names in shapes.items():
        size = 1
        for extent in shape:
            size *= extent
        for width, dtype in WIDTHS:
            if asked.is_of(size * width):
                product = " × ".join(f"{extent:,}" for extent in shape)
                yield Factor(
                    kind="weight",
                    text=f"{product} × {width} B: a weight of {_listed(names)} in {dtype}",
                    own=True,
                )


def _copies(asked: Asked, model: ModelSpec) -> Iterator[Factor]:
    """All parameters in one piece, or a rank's share of them."""
    total = model.num_params
    for width, dtype in WIDTHS[:2]:
        if asked.is_of(total * width):
            text = f"{total:,} × {width} B: all parameters in one piece, {dtype}"
            yield Factor(kind="whole_model", text=text, own=True)
            return
    for width, dtype in WIDTHS[:2]:
        for ranks in RANKS:
            if asked.is_of(ceil_div(total, ranks) * width):
                text = f"{total:,} / {ranks} × {width} B: a share of all parameters, {dtype}"
                yield Factor(kind="shard", text=text, own=False)


def _by_tokens(asked: Asked, architecture: Architecture, work: Work | None) -> Iterator[Factor]:
    """So many tokens times a width of the model."""
    for extent, kind, name in _extents(architecture):
        for width, dtype in WIDTHS[:2]:
            if work is not None and asked.is_of(work.tokens * extent * width):
                yield Factor(
                    kind=kind,
                    text=f"{work.words} × {extent:,} × {width} B: {name} in {dtype}",
                    own=True,
                    tokens=work.tokens,
                )
            tokens = asked.num_bytes // (extent * width)
            known = work is not None and tokens == work.tokens
            if _is_round(tokens) and not known and asked.is_of(tokens * extent * width):
                yield Factor(
                    kind=kind,
                    text=f"{tokens:,} tokens × {extent:,} × {width} B: {name} in {dtype}",
                    own=False,
                    tokens=tokens,
                )


def _is_round(tokens: int) -> bool:
    multiple, rest = divmod(tokens, ROUND)
    if rest or not 0 < tokens <= MOST_TOKENS:
        return False
    return multiple // (multiple & -multiple) in (1, 3, 5)


def _extents(architecture: Architecture) -> Iterator[tuple[int, Kind, str]]:
    if architecture.vocab_size:
        yield architecture.vocab_size, "logits", "logits over the vocabulary"
    widths = {
        group.mlp.intermediate_size
        for group in (*architecture.layers, *architecture.encoder_layers)
        if group.mlp is not None
    }
    for width in sorted(widths, reverse=True):
        yield width, "activation", "inner activations of an MLP"
    yield architecture.hidden_size, "activation", "hidden states"


def _scores(asked: Asked, architecture: Architecture, work: Work | None) -> Iterator[Factor]:
    """Attention scores: every token against every other."""
    groups = (*architecture.layers, *architecture.encoder_layers)
    heads = {group.attention.num_heads for group in groups if group.attention is not None}
    if work is None:
        return
    for num_heads in sorted(heads):
        for width, dtype in WIDTHS[:2]:
            if asked.is_of(work.batch * num_heads * work.seq_len**2 * width):
                yield Factor(
                    kind="attention",
                    text=(
                        f"{work.batch:,} × {num_heads} heads × {work.seq_len:,}² × {width} B: "
                        f"attention scores in {dtype}"
                    ),
                    own=True,
                )


def _listed(names: list[str]) -> str:
    return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
