"""A rank of DeepSpeed's ZeRO: one GPU's recording with shared states, buckets and gathered weights.

DeepSpeed 0.19.8 runtime/zero (stage_1_and_2.py, stage3.py); sizes are `formulas.training.zero`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from willfit.dtypes import FLOAT32
from willfit.estimator.alone import alone_of
from willfit.estimator.ranks.rank import GATHER, REDUCE, Ranks, Walk, WalkedRank
from willfit.formulas.training import static
from willfit.formulas.training.optimizers import Optimizer, find_optimizer
from willfit.formulas.training.settings import autocast_of, optimizer_of
from willfit.formulas.training.zero import (
    BUCKET_ELEMENTS,
    MASTER_BYTES,
    live_bytes,
    stepped_at_once,
)
from willfit.formulas.weights import loading_dtype
from willfit.scenario import Scenario
from willfit.trace.recording import Event, Handle, Layer, Recording
from willfit.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class Zero(WalkedRank):
    """How one rank's part is made."""

    stage: int
    degree: int
    first: bool
    """Whether it is rank 0, whose own gradients, those of the first weights, come last."""
    element_bytes: int
    """Of what trains, as it is computed."""
    loaded: float
    """Bytes of a weight as it is loaded for a byte of it as DeepSpeed casts it."""
    optimizer: Optimizer

    def walk(self, alone: Recording) -> Walk:
        """Bucket by bucket."""
        return _Walk(self, alone)


def zero_ranks(scenario: Scenario, stage: int, degree: int) -> Ranks:
    """Rank 0, and the others as the worst of them."""
    first, other = zero_of(scenario, stage, degree)
    return Ranks(
        ranks=[first, *[other] * (degree - 1)],
        note=f"ZeRO-{stage} over {degree} GPUs is replayed around one GPU's trace",
        notes={"communication": "buckets" if stage < 3 else "gathered parameters"},
        alone=alone_of(scenario),
    )


def zero_of(scenario: Scenario, stage: int, degree: int) -> tuple[Zero, Zero]:
    """Rank 0, and one of those that keep gradients while buckets are reduced."""
    training = scenario.workload.training
    assert training is not None
    cast = autocast_of(training)
    own, _ = loading_dtype(scenario.model, scenario.workload.loading, scenario.stack)
    trained, lora = own, training.lora_config
    if training.method != "full":
        trained = (lora.dtype if lora is not None else None) or FLOAT32
    loaded = 1.0 if cast is None or scenario.quantized else own.block_bytes / cast.block_bytes
    one = Zero(
        stage=stage,
        degree=degree,
        first=True,
        element_bytes=(cast or trained).block_bytes,
        loaded=loaded,
        optimizer=find_optimizer(optimizer_of(training, scenario.stack)),
    )
    return one, replace(one, first=False)


class _Walk(Walk):
    def __init__(self, zero: Zero, alone: Recording) -> None:
        super().__init__(alone)
        self._zero = zero
        self._weights: dict[Handle, int] = {}
        self._dropped: set[Handle] = set()
        self._bucket = 0
        """Bytes in the bucket that is being filled."""
        self._live: dict[Layer | None, int] = {}
        """Bytes of gathered weights by layer."""
        self._buffers = self._partition = self._started = self._stepped = False
        trained = [
            event.num_bytes
            for event in alone.events
            if event.phase == "load" and self.stays(event) and self.trains(event)
        ]
        self._tensors = len(trained)
        """How many train."""
        self._trained = sum(trained) // zero.element_bytes
        """Values of all of them."""
        self._by_layer: dict[Layer | None, int] = {None: 0}
        """Bytes of whole weights outside of layers, then of each layer in the model's order."""

    @property
    def _share(self) -> int:
        """Values of what trains that this rank keeps."""
        return ceil_div(self._trained, self._zero.degree)

    def events(self) -> Iterator[Event]:
        for events in self.runs:
            self.at = events[0]
            phase = self.at.phase
            if phase == "load":
                yield from self._loaded(events)
                continue
            if not self._started:
                yield from self._start()
            if phase == "forward":
                yield from self._gathered()
                yield from events
            elif phase == "backward":
                yield from self._backward(events)
            else:
                yield from self._step(events)

    def _loaded(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            kind = self.kinds.get(event.handle)
            if self.stays(event):
                self._weights[event.handle] = event.num_bytes
                self._by_layer.setdefault(event.layer, 0)
                self._by_layer[event.layer] += event.num_bytes
                growth = self._zero.loaded if kind == "weights" else 1
                yield event._replace(num_bytes=self._part(round(event.num_bytes * growth)))
            else:
                yield event

    def _part(self, num_bytes: int) -> int:
        return ceil_div(num_bytes, self._zero.degree) if self._zero.stage == 3 else num_bytes

    def _start(self) -> Iterator[Event]:
        """The engine: weights cast, masters made, and in stage 3 a place for the gradients."""
        self._started = True
        if self._zero.loaded != 1:
            for handle, size in self._weights.items():
                if self.kinds.get(handle) == "weights":
                    yield self.make(("cast", handle), self._part(size), "weights")
                    yield self.free(handle)
        yield self.make("masters", MASTER_BYTES * self._share, "optimizer_states")
        if self._zero.stage == 3:
            yield self.make("partition", self._share * self._zero.element_bytes, "gradients")

    def _gathered(self) -> Iterator[Event]:
        """As many parameters as may be live; those that are used last in backward go last."""
        size = self._zero.element_bytes
        left = live_bytes(sum(self._weights.values()) // size, size)
        for layer, num_bytes in self._by_layer.items():
            if self._zero.stage == 3 and left and layer not in self._live:
                self._live[layer] = min(num_bytes, left)
                left -= self._live[layer]
                yield self.make(("live", layer), self._live[layer], "communication", GATHER)

    def _released(self, layer: Layer | None) -> Iterator[Event]:
        if self._live.pop(layer, 0):
            yield self.free(("live", layer))

    def _backward(self, events: Sequence[Event]) -> Iterator[Event]:
        current: Layer | None = None
        for event in events:
            kind = self.kinds.get(event.handle)
            if event.handle in self._dropped:
                continue
            if event.num_bytes and event.layer is not None and event.layer != current:
                self.at = event
                if current is not None:
                    yield from self._released(current)
                current = event.layer
            if kind != "gradients" or not event.num_bytes:
                yield event
                continue
            self.at = event
            yield event
            yield from self._taken(event)
        self.at = events[-1]
        yield from self._reduced()
        for layer in list(self._live):
            yield from self._released(layer)
        if self._buffers:
            self._buffers = False
            yield self.free(("bucket", 0))
            yield self.free(("bucket", 1))

    def _taken(self, event: Event) -> Iterator[Event]:
        """A gradient goes into the bucket, and its own memory is free again."""
        if self._zero.stage == 3:
            yield self.make("reduced", event.num_bytes, "communication", REDUCE)
            yield self.free("reduced")
        else:
            size = BUCKET_ELEMENTS * self._zero.element_bytes
            if not self._buffers:
                self._buffers = True
                yield self.make(("bucket", 0), size, "communication")
                yield self.make(("bucket", 1), size, "communication")
            if self._bucket + event.num_bytes > size:
                yield from self._reduced()
            self._bucket += event.num_bytes
        self._dropped.add(event.handle)
        yield self.free(event.handle)

    def _reduced(self) -> Iterator[Event]:
        """The bucket is copied and reduced; what is the rank's own is kept."""
        if not self._bucket:
            return
        yield self.make("copy", self._bucket, "communication", REDUCE)
        yield self.free("copy")
        self._bucket = 0
        last = self.at.layer is None or not self._zero.first
        if last and not self._partition:
            self._partition = True
            yield self.make("partition", self._share * self._zero.element_bytes, "gradients")

    def _step(self, events: Sequence[Event]) -> Iterator[Event]:
        """The optimizer works on float32, of this rank's part alone."""
        self.at = events[0]
        if events[0].phase == "step":
            yield self.make("flat", MASTER_BYTES * self._at_once, "gradients")
        if self._partition:
            self._partition = False
            yield self.free("partition")
        states = [
            event
            for event in events
            if event.num_bytes and self.kinds.get(event.handle) == "optimizer_states"
        ]
        if states and not self._stepped:  # of one tensor, which has all weights flat
            self._stepped = True
            kinds = max(1, round(len(states) / max(self._tensors, 1)))
            everything = self._states(sum(event.num_bytes for event in states))
            for number in range(kinds):
                yield self.make(("states", number), everything // kinds, "optimizer_states")
        self._dropped |= {event.handle for event in states}
        if events[0].phase == "step" and self._zero.optimizer.step_largest:
            flat = static.flat(self._at_once)
            work = static.step_temporary_bytes((flat,), self._zero.optimizer)
            yield self.make("work", work, "temporaries")
            yield self.free("work")
            self._dropped |= {event.handle for event in events if event.num_bytes}
        for event in events:
            if event.handle not in self._dropped:
                size = self._work(event.num_bytes) if event.num_bytes else 0
                yield event._replace(num_bytes=size)
        self.at = events[-1]
        if events[0].phase == "step":
            yield self.free("flat")

    @property
    def _at_once(self) -> int:
        """Values that the optimizer is given at a time: in stage 3 a part of what the rank has."""
        return stepped_at_once(self._zero.stage, self._share)

    def _work(self, num_bytes: int) -> int:
        """Bytes that the step on a part of this rank's values takes of a single GPU's."""
        part = self._at_once / max(self._share, 1)
        return max(round(self._in_step(num_bytes) * part), 1)

    def _states(self, alone: int) -> int:
        """Bytes of states on this rank where a single GPU has ``alone``."""
        if not self._zero.optimizer.closed:
            return self._in_step(alone)
        flat = static.flat(self._share)
        return static.optimizer_state_bytes((flat,), self._zero.optimizer)[0]

    def _in_step(self, num_bytes: int) -> int:
        """Bytes on this rank of what a single GPU's optimizer has in the type of the weights."""
        growth = MASTER_BYTES / self._zero.element_bytes
        return ceil_div(round(num_bytes * growth), self._zero.degree)
