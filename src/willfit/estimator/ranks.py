"""The recordings of ranks: one process as traced, with what several GPUs share and talk through.

A rank of DDP, ZeRO or FSDP runs the same code as a single GPU does. By how much its weights,
gradients and states are less, and what it takes to talk to the others, is the difference between
two closed formulas; every allocation of the trace is scaled by it before it is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.errors import UnsupportedError
from willfit.estimator.by_formula import work_of
from willfit.estimator.fsdp import Fsdp, computing_alone, fsdp_of
from willfit.estimator.outcome import Loaded, loading_of_one
from willfit.estimator.replay import kinds_of
from willfit.estimator.spread import strategy_of
from willfit.estimator.zero import Zero, casting_alone, zero_of
from willfit.formulas.phase import ComponentName, Phase
from willfit.scenario import Scenario
from willfit.trace.recording import Event, Handle, Layer, Place, Recording


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one GPU of several has of what a single one would have."""

    parts: Mapping[ComponentName, float]
    """Of each component; what is not named is whole."""
    buffers: Mapping[ComponentName, int]
    """Bytes that a single GPU does not have, from the first step on."""
    phases: frozenset[str]
    """Phases of the formulas; a replica of DataParallel has no optimizer's."""

    def recording(self, alone: Recording) -> Recording:
        """What this rank allocates where a single GPU makes ``alone``."""
        categories = {**alone.categories, **{_handle(name): name for name in self.buffers}}
        events = list(self._events(alone.events, self._sizes(alone)))
        return alone.with_events(events, categories)

    def _sizes(self, alone: Recording) -> dict[Handle, int]:
        """Bytes of every storage; what is shared and stays is flat: one storage a layer.

        What clipping and the optimizer make for a moment is of the states that the rank has.
        """
        freed = {event.handle for event in alone.events if not event.num_bytes}
        born = {event.handle: event for event in alone.events if event.num_bytes}
        first: dict[tuple[ComponentName, Layer | None], Handle] = {}
        sizes: dict[Handle, int] = {}
        for handle, kind in kinds_of(alone):
            passing = kind == "temporaries" and born[handle].phase in ("clip", "step")
            part = self.parts.get("optimizer_states" if passing else kind, 1.0)
            num_bytes = round(born[handle].num_bytes * part)
            if part < 1 and handle not in freed:
                into = first.setdefault((kind, born[handle].layer), handle)
                sizes[into] = sizes.get(into, 0) + num_bytes
                sizes.setdefault(handle, 0)
            else:
                sizes[handle] = num_bytes
        return sizes

    def _events(self, events: Sequence[Event], sizes: Mapping[Handle, int]) -> Iterator[Event]:
        left = dict(self.buffers)
        for event in events:
            if event.phase != "load":
                for name, num_bytes in left.items():
                    yield Event(_handle(name), num_bytes, event.phase, _COLLECTIVE, None)
                left = {}
            size = sizes.get(event.handle)
            if size is None or (size and not event.num_bytes):
                yield event
            elif size:
                yield event._replace(num_bytes=size)

    def has(self, phase: str) -> bool:
        """Whether the rank goes through a phase of the trace."""
        return _STANDS_FOR.get(phase, phase) in self.phases


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """All GPUs that share one work; equal ones are one object."""

    ranks: Sequence[Rank | Fsdp | Zero]
    note: str
    notes: Mapping[ComponentName, str]
    alone: Scenario
    """What a single GPU would run that computes as a rank does."""

    def recordings(self, alone: Recording) -> list[Recording]:
        """One for each GPU; equal ranks have the same."""
        made: dict[int, Recording] = {}
        for rank in self.ranks:
            if id(rank) not in made:
                made[id(rank)] = rank.recording(alone)
        return [made[id(rank)] for rank in self.ranks]


ZERO: Final = {"zero1": 1, "zero2": 2, "zero3": 3}
"""Stages of DeepSpeed's ZeRO."""
_COLLECTIVE: Final = Place("", "collective")
_STANDS_FOR: Final = {"forward": "backward", "clip": "step"}
"""The formulas' phase that has what is shared in one of the trace's."""


def _handle(name: ComponentName) -> Handle:
    return ("between ranks", name)


def ranks_of(scenario: Scenario, loaded: Loaded) -> Ranks | None:
    """The ranks of a scenario on several GPUs; None where the trace itself has all.

    Raises `UnsupportedError` where the formulas do not know the strategy or the model.
    """
    shares = loaded.split.shares
    strategy = strategy_of(scenario)
    trains = scenario.workload.training is not None
    shared = trains or strategy == "tp"
    if len(shares) == 1 or loaded.split.device_map is not None or not shared:
        return None
    if trains and strategy == "fsdp" and scenario.workload.task != "load":
        note = f"FSDP's gathering and reducing on {len(shares)} GPUs is replayed around one's trace"
        text = "gathered weights and gradients on their way"
        fsdp = fsdp_of(scenario, len(shares))
        return Ranks(
            ranks=[fsdp] * len(shares),
            note=note,
            notes={"communication": text},
            alone=computing_alone(scenario),
        )
    if trains and strategy in ZERO and scenario.workload.task != "load":
        stage = ZERO[strategy]
        first, other = zero_of(scenario, stage, len(shares))
        return Ranks(
            ranks=[first, *[other] * (len(shares) - 1)],
            note=f"ZeRO-{stage} over {len(shares)} GPUs is replayed around one GPU's trace",
            notes={"communication": "buckets" if stage < 3 else "gathered parameters"},
            alone=casting_alone(scenario),
        )
    if scenario.model.architecture is None or scenario.workload.task == "load":
        raise UnsupportedError(
            f"what --strategy {strategy} shares is known by formula alone, and not for "
            f"{scenario.model.model_class}: name one GPU"
        )
    alone = work_of(scenario, replace(shares[0], weights=loaded.weights, stage=None), 1)
    one = [loading_of_one(scenario, loaded.weights), *alone.phases]
    found: list[Rank] = []
    notes: dict[ComponentName, str] = {}
    for share, load in zip(shares, loaded.phases, strict=True):
        work = work_of(scenario, share, len(shares))
        if work.unsupported:
            raise UnsupportedError(f"{work.unsupported[0]}: name one GPU")
        rank = _rank(one, [load, *work.phases], trains=trains)
        found.append(next((known for known in found if known == rank), rank))
        notes |= {
            name: text
            for phase in work.phases
            for name, text in phase.notes.items()
            if name == "communication"
        }
    note = f"what {len(shares)} GPUs share ({strategy}) is by formula, on top of one GPU's trace"
    return Ranks(ranks=found, note=note, notes=notes, alone=scenario)


_SHARED: Final[frozenset[ComponentName]] = frozenset(
    (
        "weights",
        "quantization_state",
        "adapters",
        "gradients",
        "optimizer_states",
        "communication",
    )
)
"""What the ranks of a training share or talk through: each computes its own batch as a whole."""


def _rank(one: Sequence[Phase], several: Sequence[Phase], *, trains: bool) -> Rank:
    """By the most that there is of a component in any phase: peaks are at different moments."""
    whole, part = _most(one), _most(several)
    names = [name for name in {**whole, **part} if not trains or name in _SHARED]
    return Rank(
        parts={
            name: part.get(name, 0) / whole[name]
            for name in names
            if name in whole and part.get(name, 0) != whole[name]
        },
        buffers={name: part[name] for name in names if name not in whole},
        phases=frozenset(phase.name for phase in several),
    )


def _most(phases: Sequence[Phase]) -> dict[ComponentName, int]:
    most: dict[ComponentName, int] = {}
    for phase in phases:
        for name, num_bytes in phase.components.items():
            if num_bytes:
                most[name] = max(most.get(name, 0), num_bytes)
    return most
