"""FSDP: units that are gathered and reduced one after the other, and what is whole when.

torch 2.13 distributed/fsdp/_fully_shard as accelerate's `fsdp2_prepare_model` sets it up: a layer
is a unit, and what lies outside of layers one more (the tail), whose weights stay whole from their
first use to the end; since accelerate 1.14 an input embedding that is not the head is apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from willfit.scenario.stack import Stack
from willfit.units import ceil_div

FSDP2_SINCE: Final = "1.6"
"""accelerate release with ``fsdp_version`` 2, which `emit` asks for (utils/dataclasses.py)."""
UPCAST_SINCE: Final = "1.13"
"""accelerate release whose version 2 keeps what trains in float32 under mixed precision."""
CARVED_SINCE: Final = "1.14"
"""accelerate release that gathers the input embedding apart from the last norm and the head."""


def is_second(stack: Stack, *, packed: bool) -> bool:
    """Whether `emit` asks for version 2; packed weights take version 1."""
    return stack.at_least("accelerate", FSDP2_SINCE) and not packed


def upcasts(stack: Stack, *, packed: bool) -> bool:
    """Whether what trains is kept in float32 under mixed precision; version 1 always does so."""
    return stack.at_least("accelerate", UPCAST_SINCE) or not is_second(stack, packed=packed)


def is_carved(stack: Stack, *, packed: bool, tied: bool) -> bool:
    """Whether the input embedding is a unit of its own."""
    recent = stack.at_least("accelerate", CARVED_SINCE)
    return recent and is_second(stack, packed=packed) and not tied


class Unit(NamedTuple):
    """Bytes of what is gathered together."""

    gathered: int
    trained: int
    """Of its gradients, in the type of the products."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The units of a model on one of several ranks."""

    degree: int
    layers: int
    layer: Unit
    tail: Unit
    embedding: Unit
    """Nothing where it is a part of the tail."""
    shard_growth: float
    """Bytes of a shard of a gradient for a byte of the gradient as it was computed."""

    def shards(self, num_bytes: int) -> int:
        """What this rank keeps of gradients of so many bytes."""
        return ceil_div(round(num_bytes * self.shard_growth), self.degree)

    @property
    def tail_stays(self) -> bool:
        """Whether the tail is reduced at the very end: it has the input embedding in it."""
        return not self.embedding.gathered

    @property
    def all_trained(self) -> int:
        """Bytes of all gradients as they are computed."""
        return self.layers * self.layer.trained + self.tail.trained + self.embedding.trained


class Whole(NamedTuple):
    """What is alive at one moment of backward beside activations and temporaries."""

    gradients: int
    communication: int
    """Gathered weights, and gradients on their way."""


def whole_at_moments(units: Gathered, *, head: int, own: int, accumulated: int) -> Iterator[Whole]:
    """At the loss, the last norm, the last layer, the second one, the first, and the end.

    ``head``: bytes of the head's gradient; ``own``: of a layer's first gradient; ``accumulated``:
    of whole gradients that wait for the last micro-batch. A layer in backward has its weights
    whole, the next one's on their way, and the reduced gradients' input of the one before.
    """
    layer, tail, embedding = units.layer, units.tail, units.embedding
    yield Whole(accumulated, tail.gathered)
    yield Whole(max(accumulated, head), tail.gathered)
    rest = (units.layers - 1) * layer.trained
    if units.tail_stays:
        kept = max(accumulated, head)
        yield Whole(kept + own, tail.gathered + 2 * layer.gathered)
        at_layer = tail.gathered + layer.trained
        yield Whole(units.shards(rest) + head + own, at_layer + 2 * layer.gathered)
        yield Whole(units.shards(rest) + head + own, at_layer + layer.gathered)
        every = units.shards(rest + layer.trained) + head
        yield Whole(every, tail.gathered + layer.trained)
        return
    reduced = units.shards(tail.trained)
    yield Whole(max(accumulated, reduced) + own, tail.trained + 2 * layer.gathered)
    every = units.shards(rest) + reduced + own
    yield Whole(every, layer.trained + 2 * layer.gathered)
    yield Whole(every, layer.trained + layer.gathered + embedding.gathered)
    every = units.shards(rest + layer.trained) + reduced + embedding.trained
    yield Whole(every, layer.trained + embedding.gathered)
