"""A rank as one GPU's recording scaled: DDP, DataParallel and tensor parallel inference.

By how much its weights, gradients and states are less, and what it takes to talk to the others, is
the difference between two closed formulas; every allocation is scaled by it before it is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.errors import UnsupportedError
from willfit.estimator.by_formula import work_of
from willfit.estimator.outcome import Loaded, loading_of_one
from willfit.estimator.ranks.rank import COLLECTIVE, Ranks
from willfit.estimator.replay import kinds_of
from willfit.estimator.spread import strategy_of
from willfit.formulas.phase import ComponentName, Phase
from willfit.scenario import Scenario
from willfit.trace.recording import Event, Handle, Layer, Recording


@dataclass(frozen=True, kw_only=True)
class Scaled:
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
                    yield Event(_handle(name), num_bytes, event.phase, COLLECTIVE, None)
                left = {}
            size = sizes.get(event.handle)
            if size is None or (size and not event.num_bytes):
                yield event
            elif size:
                yield event._replace(num_bytes=size)

    def has(self, phase: str, /) -> bool:
        """Whether the rank goes through a phase of the trace."""
        return _STANDS_FOR.get(phase, phase) in self.phases


_STANDS_FOR: Final = {"forward": "backward", "clip": "step"}
"""The formulas' phase that has what is shared in one of the trace's."""


def _handle(name: ComponentName) -> Handle:
    return ("between ranks", name)


def scaled_ranks(scenario: Scenario, loaded: Loaded) -> Ranks:
    """The ranks by the formulas' shares.

    Raises `UnsupportedError` where they do not know the strategy or the model.
    """
    shares, strategy = loaded.split.shares, strategy_of(scenario)
    if scenario.model.architecture is None or scenario.workload.task == "load":
        raise UnsupportedError(
            f"what --strategy {strategy} shares is known by formula alone, and not for "
            f"{scenario.model.model_class}: name one GPU"
        )
    alone = work_of(scenario, replace(shares[0], weights=loaded.weights, stage=None), 1)
    one = [loading_of_one(scenario, loaded.weights), *alone.phases]
    found: list[Scaled] = []
    notes: dict[ComponentName, str] = {}
    trains = scenario.workload.training is not None
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


def _rank(one: Sequence[Phase], several: Sequence[Phase], *, trains: bool) -> Scaled:
    """By the most that there is of a component in any phase: peaks are at different moments."""
    whole, part = _most(one), _most(several)
    names = [name for name in {**whole, **part} if not trains or name in _SHARED]
    return Scaled(
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
