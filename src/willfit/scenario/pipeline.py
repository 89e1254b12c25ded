"""Pipeline: groups of scenarios in sequence; the scenarios of a group are resident together."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.scenario.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scenarios that hold their memory at the same time (two replicas, a DPO reference)."""

    name: str
    scenarios: tuple[Scenario, ...]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Groups that run one after the other, each after the memory of the last is given back."""

    groups: tuple[Group, ...]
