"""Agents on the nodes of a cluster: which nodes, what they reserve there, and who cannot."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from willfit._version import __version__
from willfit.errors import InputError
from willfit.runner.gpus import GpuProbe
from willfit.runner.ray_backend.agent import Agent, Facts
from willfit.runner.ray_backend.node import Node

SETTLING: Final = 10.0
"""Seconds to wait for GPUs that others hold: what a run before this one held is free within two."""
STARTING: Final = 60.0
"""Seconds for the agents to start."""
CALLS: Final = 64
"""Calls that an agent answers at a time: its GPUs' workers end all at once."""


def started(*, uses_gpus: bool, probe: GpuProbe) -> tuple[list[Node], list[str]]:
    """Nodes whose agents answer, and for the others why they cannot be used.

    With ``uses_gpus`` and where there are any: the nodes with GPUs, of which all are reserved that
    nobody else holds. Else the nodes that have a CPU for an agent.
    """
    wanted = _wanted(uses_gpus=uses_gpus)
    free = _settled(wanted)
    taken = [one for one in wanted if not free[one.id]]
    actors = {
        one: _agent(replace(one, amount=free[one.id]), probe) for one in wanted if free[one.id]
    }
    nodes, refusals = _answering(actors)
    return nodes, [
        *refusals,
        *(f"node {one.name}: its {one.resource}s are in use" for one in taken),
    ]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A node on which an agent is wanted."""

    name: str
    id: str
    resource: Literal["GPU", "CPU"]
    amount: int
    """GPUs to reserve, or one CPU."""


def _wanted(*, uses_gpus: bool) -> list[_Wanted]:
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    alive.sort(key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
    gpus = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in alive}
    resource: Literal["GPU", "CPU"] = "GPU" if uses_gpus and any(gpus.values()) else "CPU"
    return [
        _Wanted(
            name=_name(node, alive),
            id=node["NodeID"],
            resource=resource,
            amount=gpus[node["NodeID"]] if resource == "GPU" else 1,
        )
        for node in alive
        if node["Resources"].get(resource, 0) >= 1
    ]


def _name(node: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> str:
    """The address, with some of the id where several nodes share one."""
    address = str(node["NodeManagerAddress"])
    alike = [other for other in nodes if other["NodeManagerAddress"] == address]
    return address if len(alike) == 1 else f"{address}#{node['NodeID'][:6]}"


def _settled(wanted: Sequence[_Wanted]) -> dict[str, int]:
    """How much of each can be had, by node: once that is all of it, or after `SETTLING` seconds."""
    began = time.monotonic()
    while True:
        free = _free()
        had = {one.id: min(one.amount, free(one)) for one in wanted}
        if all(had[one.id] == one.amount for one in wanted):
            return had
        if time.monotonic() - began > SETTLING:
            return had
        time.sleep(0.2)


def _free() -> Any:
    """What nobody holds of a node now; all of it, where this Ray does not tell."""
    state = importlib.import_module("ray._private.state")
    read = getattr(state, "available_resources_per_node", None)
    found: Mapping[str, Mapping[str, float]] = read() if read is not None else {}

    def free(one: _Wanted) -> int:
        return int(found[one.id].get(one.resource, 0)) if one.id in found else one.amount

    return free


def _agent(one: _Wanted, probe: GpuProbe) -> Any:
    gpus = one.amount if one.resource == "GPU" else 0
    options = ray.remote(Agent).options(
        num_cpus=0 if gpus else 1,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=CALLS,
        scheduling_strategy=NodeAffinitySchedulingStrategy(one.id, soft=False),
    )
    return options.remote(one.name, probe, has_gpus=gpus > 0, folder=str(Path.cwd()))


def _answering(actors: Mapping[_Wanted, Any]) -> tuple[list[Node], list[str]]:
    """The nodes whose agents began, and why others did not; those are ended."""
    facts = {one: actor.facts.remote() for one, actor in actors.items()}
    if facts:
        ray.wait(list(facts.values()), num_returns=len(facts), timeout=STARTING)
    nodes, refusals = [], []
    for one, actor in actors.items():
        try:
            nodes.append(_node(one, actor, ray.get(facts[one], timeout=1.0)))
        except (ray.exceptions.RayError, InputError) as error:
            refusals.append(f"node {one.name}: {_why(error)}")
            ray.kill(actor)
    return nodes, refusals


def _node(one: _Wanted, actor: Any, facts: Facts) -> Node:
    if facts.version != __version__:
        raise InputError(f"it has willfit {facts.version} and the driver {__version__}")
    if one.resource == "GPU" and not facts.devices.gpus:
        raise InputError("NVML finds none of the GPUs that Ray counts there")
    return Node(name=one.name, agent=actor, facts=facts)


def _why(error: Exception) -> str:
    """The last line, which is where Python and Ray say what went wrong."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"its agent did not start within {STARTING:.0f} s"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
