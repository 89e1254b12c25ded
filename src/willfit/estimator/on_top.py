"""What several GPUs change about a traced process, by formula, on top of its trace.

A rank of DDP, ZeRO or FSDP runs the same code as a single GPU does; what it shares with the others
and what it takes to talk to them is the difference between two closed formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from willfit.errors import UnsupportedError
from willfit.estimator.by_formula import work_of
from willfit.estimator.outcome import Loaded, loading_of_one
from willfit.estimator.replay import ReplayedPhase
from willfit.estimator.spread import strategy_of
from willfit.formulas.phase import ComponentName, Phase
from willfit.scenario import Scenario
from willfit.units import MIB, round_up

Difference = Mapping[ComponentName, int]
"""Bytes by component, what is shared negative."""


@dataclass(frozen=True, kw_only=True)
class OnTop:
    """Differences by phase, for each GPU."""

    differences: Sequence[Mapping[str, Difference]]
    note: str
    notes: Mapping[ComponentName, str]

    def applied(self, gpu: int, phases: Sequence[ReplayedPhase]) -> tuple[ReplayedPhase, ...]:
        """The traced phases of one GPU with what the others change.

        A part never falls below zero; what was reserved above the most that was allocated by then
        stays. A phase that a replica does not have (its optimizer's) is left out.
        """
        known = self.differences[gpu]
        changed: list[ReplayedPhase] = []
        most = most_before = 0
        for phase in phases:
            difference = known.get(_STANDS_FOR.get(phase.name, phase.name))
            most_before = max(most_before, phase.allocated_bytes)
            if difference is None:
                continue
            components = _changed(phase.components, difference)
            allocated = sum(components.values())
            most = max(most, allocated)
            reserved = round_up(most + phase.reserved_bytes - most_before, 2 * MIB)
            changed.append(
                replace(
                    phase,
                    components=components,
                    allocated_bytes=allocated,
                    reserved_bytes=reserved,
                )
            )
        return tuple(changed)


_STANDS_FOR = {"forward": "backward", "clip": "step"}
"""The formulas' phase that has what is shared in one of the trace's."""


def on_top(scenario: Scenario, loaded: Loaded) -> OnTop | None:
    """The differences of a scenario on several GPUs to that on one; None where the trace has all.

    Raises `UnsupportedError` where the formulas do not know the strategy or the model.
    """
    shares = loaded.split.shares
    strategy = strategy_of(scenario)
    independent = scenario.workload.training is None and strategy != "tp"
    if len(shares) == 1 or loaded.split.device_map is not None or independent:
        return None
    if scenario.model.architecture is None or scenario.workload.task == "load":
        raise UnsupportedError(
            f"what --strategy {strategy} shares is known by formula alone, and not for "
            f"{scenario.model.model_class}: name one GPU"
        )
    alone = work_of(scenario, replace(shares[0], weights=loaded.weights, stage=None), 1)
    one = {"load": loading_of_one(scenario, loaded.weights), **_named(alone.phases)}
    found: list[Mapping[str, Difference]] = []
    notes: dict[ComponentName, str] = {}
    for share, load in zip(shares, loaded.phases, strict=True):
        work = work_of(scenario, share, len(shares))
        if work.unsupported:
            raise UnsupportedError(f"{work.unsupported[0]}: name one GPU")
        several = {"load": load, **_named(work.phases)}
        found.append({n: _difference(one[n], phase) for n, phase in several.items() if n in one})
        notes |= {
            n: t for p in several.values() for n, t in p.notes.items() if n == "communication"
        }
    note = f"what {len(shares)} GPUs share ({strategy}) is by formula, on top of one GPU's trace"
    return OnTop(differences=found, note=note, notes=notes)


def _named(phases: Sequence[Phase]) -> dict[str, Phase]:
    return {phase.name: phase for phase in phases}


def _difference(one: Phase, several: Phase) -> Difference:
    names = dict.fromkeys([*one.components, *several.components])
    return {n: several.components.get(n, 0) - one.components.get(n, 0) for n in names}


def _changed(
    components: Mapping[ComponentName, int], difference: Difference
) -> dict[ComponentName, int]:
    changed = dict(components)
    for name, amount in difference.items():
        changed[name] = max(changed.get(name, 0) + amount, 0)
    return {name: amount for name, amount in changed.items() if amount}
