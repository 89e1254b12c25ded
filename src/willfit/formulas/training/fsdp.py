"""FSDP: units that are gathered and reduced one after the other, and what is whole when.

torch 2.13 distributed/fsdp/_fully_shard as accelerate's `fsdp2_prepare_model` sets it up: a layer
is a unit, and what lies outside of layers one more (the tail), whose weights stay whole from their
first use to the end; since accelerate 1.14 an input embedding that is not the head is apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from willfit.errors import InputError
from willfit.formulas.training.optimizers import find_optimizer
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


def is_carved(stack: Stack, *, packed: bool, tied: bool, trainer: str | None) -> bool:
    """Whether the input embedding is a unit of its own: in a loop of one's own it is not."""
    recent = stack.at_least("accelerate", CARVED_SINCE) and trainer != "loop"
    return recent and is_second(stack, packed=packed) and not tied


def refuses_shards(optimizer: str, stack: Stack, *, packed: bool) -> bool:
    """Whether version 2's shards are no tensors to this optimizer; version 1's are."""
    return is_second(stack, packed=packed) and find_optimizer(optimizer).whole_tensors


def require_stepped(optimizer: str, stack: Stack, *, packed: bool) -> None:
    """Raise `InputError` for an optimizer that stops at the shards in its first step."""
    if refuses_shards(optimizer, stack, packed=packed):
        raise InputError(
            f"{optimizer} cannot step FSDP's shards (RuntimeError: got mixed torch.Tensor and "
            "DTensor): give --optim adamw_torch_fused, or --strategy zero2 or zero3"
        )


class Unit(NamedTuple):
    """Bytes of what is gathered together."""

    gathered: int
    trained: int
    """Of its gradients, in the type of the products."""


class Whole(NamedTuple):
    """What is alive at one moment of backward beside activations and temporaries."""

    gradients: int
    communication: int
    """Gathered weights, and gradients on their way."""
    cached: int = 0
    """Free in the pools of other streams, where it was freed."""


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
    copies_out: bool
    """Whether what is gathered is copied into the weights (version 2), not gathered in place."""

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

    def at_moments(self, *, head: int, own: int, accumulated: int) -> Iterator[Whole]:
        """At the loss, the last norm, the last layer, the second one, the first, and the end.

        ``head``: bytes of the head's gradient; ``own``: of a layer's first gradient;
        ``accumulated``: of whole gradients that wait for the last micro-batch. A layer in backward
        has its weights whole, the next one's on their way, and the reduced gradients' input of the
        one before.
        """
        layer, tail, embedding = self.layer, self.tail, self.embedding
        every = self.shards(self.all_trained)
        yield self._whole(accumulated, tail.gathered, gathering=0)
        yield self._whole(max(accumulated, head), tail.gathered, gathering=0)
        rest = (self.layers - 1) * layer.trained
        following = layer.gathered
        if self.tail_stays:
            kept = max(accumulated, head)
            yield self._whole(kept + own, tail.gathered + 2 * layer.gathered, gathering=following)
            at_layer = tail.gathered + layer.trained
            shards, waiting = self.shards(rest), head + own
            communication = at_layer + 2 * layer.gathered
            yield self._whole(waiting, communication, gathering=following, shards=shards)
            yield self._whole(waiting, at_layer + layer.gathered, gathering=0, shards=shards)
            shards = self.shards(rest + layer.trained)
            yield self._whole(head, at_layer, gathering=0, shards=shards)
            return
        shards = self.shards(tail.trained)
        kept = max(accumulated - shards, 0) + own
        communication = tail.trained + 2 * layer.gathered
        yield self._whole(kept, communication, gathering=following, shards=shards)
        shards = self.shards(rest) + shards
        communication = layer.trained + 2 * layer.gathered
        yield self._whole(own, communication, gathering=following, shards=shards)
        communication = layer.trained + layer.gathered + embedding.gathered
        yield self._whole(own, communication, gathering=embedding.gathered, shards=shards)
        shards = every - self.shards(embedding.trained)
        communication = layer.trained + embedding.gathered
        yield self._whole(embedding.trained, communication, gathering=0, shards=shards)

    def _whole(
        self, gradients: int, communication: int, *, gathering: int, shards: int = 0
    ) -> Whole:
        """A moment with ``shards`` of gradients there and ``gathering`` bytes on their way.

        All-gathers have had the tail and a layer at a time, reductions all shards.
        """
        first = self.tail.gathered + self.embedding.gathered
        cached = first + self.layer.gathered - gathering
        if not self.copies_out:  # what is whole is in the pool itself
            cached = max(first + 2 * self.layer.gathered - communication, 0)
        cached += self.shards(self.all_trained) - shards
        return Whole(gradients + shards, communication, cached)
