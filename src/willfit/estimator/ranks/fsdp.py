"""A rank of FSDP: one GPU's recording with weights that come and go, unit by unit.

What is gathered, kept and reduced, when and on which stream is torch 2.13
distributed/fsdp/_fully_shard (`foreach_all_gather`, `foreach_reduce`, `FSDPParamGroup`) as
accelerate's `fsdp2_prepare_model` sets it up; FullyShardedDataParallel, which gathers into what the
layers then read, goes by the same steps. Memory that one stream freed is not there for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from willfit.dtypes import FLOAT32
from willfit.estimator.alone import alone_of
from willfit.estimator.outcome import packs_on_gpu
from willfit.estimator.ranks.rank import GATHER, REDUCE, Ranks, Walk, WalkedRank
from willfit.formulas.training.fsdp import is_carved, is_second, require_stepped, upcasts
from willfit.formulas.training.optimizers import find_optimizer
from willfit.formulas.training.settings import autocast_of, optimizer_of
from willfit.formulas.weights import loading_dtype
from willfit.scenario import Scenario
from willfit.trace.recording import Event, Handle, Layer, Recording
from willfit.units import ceil_div

EMBEDDINGS: Final = ("embed", "wte", "wpe")
"""Parts of the names of input embeddings."""
Unit = Layer | str
"""What is gathered together: a layer, the embedding, or the tail."""


@dataclass(frozen=True, kw_only=True)
class Fsdp(WalkedRank):
    """How one rank's weights are shared out."""

    degree: int
    stored: float = 1.0
    """Bytes that a shard of what trains has for a byte of what is gathered."""
    frozen: float = 1.0
    """The same of what does not train."""
    copies_out: bool = True
    """Whether gathered bytes are copied into the weights (FSDP2), not gathered in place."""
    carved: bool = True
    """Whether the embedding is a unit of its own: it is not the head, and accelerate does so."""
    fixed_states: bool = False
    """Whether the optimizer's states are of one size whatever the type of what trains."""
    loads_whole: bool = False
    """Whether the GPU loads all of the model and gives away what is not its own."""

    def walk(self, alone: Recording) -> Walk:
        """Unit by unit."""
        return _Walk(self, alone)


def fsdp_ranks(scenario: Scenario, degree: int) -> Ranks:
    """Ranks that are all alike."""
    return Ranks(
        ranks=[fsdp_of(scenario, degree)] * degree,
        note=f"FSDP's gathering and reducing on {degree} GPUs is replayed around one GPU's trace",
        notes={"communication": "gathered weights, and gradients on their way"},
        alone=alone_of(scenario),
    )


def fsdp_of(scenario: Scenario, degree: int) -> Fsdp:
    """As accelerate would set it up, at the scenario's releases.

    Raises `InputError` for an optimizer that takes no shards.
    """
    stack, packed, training = scenario.stack, scenario.quantized, scenario.workload.training
    assert training is not None
    optimizer = optimizer_of(training, stack)
    require_stepped(optimizer, stack, packed=packed)
    own, _ = loading_dtype(scenario.model, scenario.workload.loading, stack)
    autocast = autocast_of(training)
    gathered, kept = autocast or own, own
    if autocast is not None and training.trainer != "loop" and upcasts(stack, packed=packed):
        kept = FLOAT32
    return Fsdp(
        degree=degree,
        stored=1.0 if packed else kept.block_bytes / gathered.block_bytes,
        frozen=1.0 if packed else own.block_bytes / gathered.block_bytes,
        copies_out=is_second(stack, packed=packed),
        carved=is_carved(stack, packed=packed, tied=scenario.model.tied, trainer=training.trainer),
        fixed_states=find_optimizer(optimizer).state_bytes is not None,
        loads_whole=packs_on_gpu(scenario),
    )


@dataclass
class _Held:
    """What a unit has at some moment."""

    weights: dict[Handle, int] = field(default_factory=dict)
    """Bytes of its weights as gathered, by the handle that a single GPU has them under."""
    trained: int = 0
    """Those of what trains."""
    gathering: bool = False
    gathered: bool = False
    gradients: list[Handle] = field(default_factory=list)
    reduced: Handle | None = None

    @property
    def num_bytes(self) -> int:
        return sum(self.weights.values())


class _Walk(Walk):
    def __init__(self, fsdp: Fsdp, alone: Recording) -> None:
        super().__init__(alone)
        self._fsdp = fsdp
        self._units: dict[Unit, _Held] = {}
        self._last_gathered: Unit | None = None
        """The unit whose gathered bytes wait to be freed behind the next one's copy."""
        self._last_reduced: Handle | None = None
        self._number = 0
        self._reduces = True
        """Whether this backward pass ends with reduced gradients: the last one of a step does.

        accelerate's `no_sync` keeps whole ones until then.
        """
        self._dropped: set[Handle] = set()
        self._owner: dict[Handle, Unit] = {}

    def events(self) -> Iterator[Event]:
        for number, events in enumerate(self.runs):
            phase = events[0].phase
            if phase == "load":
                yield from self._loaded(events)
            elif phase == "forward":
                yield from self._forward(events)
            elif phase == "backward":
                following = self.runs[number + 1 : number + 2]
                self._reduces = not following or following[0][0].phase != "forward"
                yield from self._backward(events)
            else:
                yield from self._step(events)

    # loading

    def _loaded(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            if not self.stays(event):
                yield event
                continue
            unit = self._unit_of(event)
            held = self._units.setdefault(unit, _Held())
            held.weights[event.handle] = event.num_bytes
            trains = self.trains(event)
            held.trained += event.num_bytes if trains else 0
            if self._fsdp.loads_whole:
                yield event
            else:
                yield from self._scattered(event, trains)
        self.at = events[-1]
        if self._fsdp.loads_whole:
            yield from self._given_away()

    def _scattered(self, event: Event, trains: bool) -> Iterator[Event]:
        """The first rank sends each weight whole (accelerate `fsdp2_load_full_state_dict`)."""
        self.at = event
        whole = self._kept(event.num_bytes, trains)
        yield self.make(("loaded", event.handle), whole, "temporaries")
        yield event._replace(num_bytes=self._shard(event.num_bytes, trains))
        yield self.free(("loaded", event.handle))

    def _given_away(self) -> Iterator[Event]:
        for unit, held in sorted(self._units.items(), key=lambda each: each[0] == "tail"):
            shard = sum(self._shard(size, False) for size in held.weights.values())
            yield self.make(("shard", unit), shard, "weights")
            for handle in held.weights:
                yield self.free(handle)

    def _unit_of(self, event: Event) -> Unit:
        if event.layer is not None:
            return event.layer
        name = event.place.module
        if self._fsdp.carved and any(part in name for part in EMBEDDINGS):
            return "embedding"
        return "tail"

    def _shard(self, num_bytes: int, trains: bool) -> int:
        return ceil_div(self._kept(num_bytes, trains), self._fsdp.degree)

    def _kept(self, num_bytes: int, trains: bool) -> int:
        """Bytes of all shards of a weight that is gathered in so many."""
        return round(num_bytes * (self._fsdp.stored if trains else self._fsdp.frozen))

    # forward

    def _forward(self, events: Sequence[Event]) -> Iterator[Event]:
        self.at = events[0]
        first = "embedding" if "embedding" in self._units else "tail"
        yield from self._unshard(first)
        yield from self._copy_out(first)
        current: Unit = first
        last = _last_layered(events)
        for number, event in enumerate(events):
            unit = event.layer if event.layer is not None else ("tail" if number > last else None)
            if event.num_bytes and unit in self._units and unit != current:
                assert unit is not None
                self.at = event
                if current != "tail":
                    yield from self._reshard(current)
                yield from self._unshard(unit)
                yield from self._copy_out(unit)
                current = unit
            yield from self._own(event)
        self.at = events[-1]
        if current != "tail":
            yield from self._reshard(current)
        yield from self._release_gathered()

    # backward

    def _backward(self, events: Sequence[Event]) -> Iterator[Event]:
        self.at = events[0]
        order = list(dict.fromkeys(e.layer for e in events if e.num_bytes and e.layer is not None))
        order = [layer for layer in order if layer in self._units]
        current: Unit | None = None
        last = _last_layered(events)
        for number, event in enumerate(events):
            layer = event.layer
            if event.num_bytes and layer in self._units and layer != current:
                assert layer is not None
                self.at = event
                if current is not None:
                    yield from self._reduce(current)
                elif "embedding" in self._units:
                    yield from self._reduce("tail")
                yield from self._unshard(layer)
                yield from self._copy_out(layer)
                following = order.index(layer) + 1
                if following < len(order):
                    yield from self._unshard(order[following])
                elif "embedding" in self._units:
                    yield from self._unshard("embedding")
                current = layer
            elif event.num_bytes and number > last and current is not None:
                self.at = event
                yield from self._reduce(current)
                if "embedding" in self._units:
                    yield from self._unshard("embedding")
                    yield from self._copy_out("embedding")
                current = None
            yield from self._own(event)
        self.at = events[-1]
        for unit, held in self._units.items():
            if held.gathered or held.gathering or held.gradients:
                yield from self._reduce(unit)
        yield from self._release_gathered()
        if self._last_reduced is not None:
            yield self.free(self._last_reduced)
            self._last_reduced = None

    # what the units do

    def _unshard(self, unit: Unit) -> Iterator[Event]:
        held = self._units[unit]
        if held.gathering or held.gathered or not held.weights:
            return
        held.gathering = True
        if not self._fsdp.copies_out:
            yield self.make(("gathered", unit), held.num_bytes, "communication", GATHER)
            return
        cast = ceil_div(self._cast_bytes(held), self._fsdp.degree)
        if cast:
            yield self.make(("cast", unit), cast, "communication", GATHER)
        yield self.make(("gathered", unit), held.num_bytes, "communication", GATHER)
        if cast:
            yield self.free(("cast", unit))

    def _cast_bytes(self, held: _Held) -> int:
        """Of the weights that are kept in another type than they are gathered in."""
        trained = held.trained if self._fsdp.stored != 1 else 0
        return trained + (held.num_bytes - held.trained if self._fsdp.frozen != 1 else 0)

    def _copy_out(self, unit: Unit) -> Iterator[Event]:
        held = self._units[unit]
        if not held.gathering:
            return
        held.gathering, held.gathered = False, True
        if not self._fsdp.copies_out:
            return
        forward = self.at.phase == "forward"
        if forward:
            yield from self._release_gathered()
        for handle, size in held.weights.items():
            yield self.make(("whole", handle), size, "communication")
        self._last_gathered = unit
        if not forward:
            yield from self._release_gathered()

    def _release_gathered(self) -> Iterator[Event]:
        if self._last_gathered is not None:
            yield self.free(("gathered", self._last_gathered))
            self._last_gathered = None

    def _reshard(self, unit: Unit) -> Iterator[Event]:
        held = self._units[unit]
        if held.gathering:
            held.gathering = False
            yield self.free(("gathered", unit))
        if not held.gathered:
            return
        held.gathered = False
        if not self._fsdp.copies_out:
            yield self.free(("gathered", unit))
            return
        for handle in held.weights:
            yield self.free(("whole", handle))

    def _reduce(self, unit: Unit) -> Iterator[Event]:
        held = self._units[unit]
        yield from self._reshard(unit)
        if not self._reduces or not held.gradients:
            return
        if self._last_reduced is not None:
            yield self.free(self._last_reduced)
        self._number += 1
        self._last_reduced = ("reduced", self._number)
        yield self.make(self._last_reduced, held.trained, "communication")
        for handle in held.gradients:
            yield self.free(handle)
        held.gradients = []
        shard = ceil_div(held.trained, self._fsdp.degree)
        gradient = ("gradient", self._number)
        if self._fsdp.stored == 1:
            yield self.make(gradient, shard, "gradients", REDUCE)
        else:
            yield self.make(("part", self._number), shard, "communication", REDUCE)
            yield self.make(gradient, self._shard(held.trained, True), "gradients", REDUCE)
            yield self.free(("part", self._number))
        held.reduced = gradient

    # what a single GPU does, too

    def _own(self, event: Event) -> Iterator[Event]:
        if event.handle in self._dropped:
            if not event.num_bytes:
                yield from self._gradient_gone(event)
            return
        gradient = self.kinds.get(event.handle) == "gradients"
        if gradient and event.num_bytes and event.phase == "backward":
            unit = self._unit_of(event)
            if unit in self._units:
                self._units[unit].gradients.append(event.handle)
                self._dropped.add(event.handle)
                self._owner[event.handle] = unit
        yield event

    def _gradient_gone(self, event: Event) -> Iterator[Event]:
        self._dropped.discard(event.handle)
        held = self._units[self._owner[event.handle]]
        if held.reduced is not None:
            self.at = event
            yield self.free(held.reduced)
            held.reduced = None

    def _step(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            if event.num_bytes:
                states = self.kinds.get(event.handle) == "optimizer_states"
                grown = event.num_bytes
                if not (states and self._fsdp.fixed_states):
                    grown = self._kept(grown, True)
                yield event._replace(num_bytes=ceil_div(grown, self._fsdp.degree))
            else:
                yield from self._own(event)


def _last_layered(events: Sequence[Event]) -> int:
    """Number of the last allocation that a layer makes; −1 where none does."""
    return max((n for n, e in enumerate(events) if e.num_bytes and e.layer is not None), default=-1)
