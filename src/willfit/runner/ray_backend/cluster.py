"""The nodes of a run, with their GPUs numbered through as those of one machine are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from willfit.errors import InputError
from willfit.runner.backend import Backend
from willfit.runner.gpus import Devices, GpuProbe
from willfit.runner.processes import Launcher
from willfit.runner.ray_backend.agents import started
from willfit.runner.ray_backend.connection import joined
from willfit.runner.ray_backend.launcher import Place, RayLauncher
from willfit.runner.ray_backend.node import Node
from willfit.runner.ray_backend.probe import ClusterProbe


@contextlib.contextmanager
def connected(*, local: Launcher, uses_gpus: bool, probe: GpuProbe) -> Iterator[Backend]:
    """The cluster at ``RAY_ADDRESS``, or else the one that this machine belongs to.

    Agents are on its nodes with GPUs; where there are none, or ``uses_gpus`` is False, on those
    with a CPU for them. ``local`` starts what prepares rows; ``probe`` reads the GPUs of a node,
    over there. Raises `InputError` where there is no cluster: none is ever started. Afterwards
    nothing of ours runs on any node.
    """
    with joined():
        cluster = Cluster.of(uses_gpus=uses_gpus, probe=probe)
        try:
            yield cluster.backend(local)
        finally:
            cluster.close()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The nodes of a run, and the numbers of their GPUs."""

    nodes: Sequence[Node]
    remarks: tuple[str, ...] = ()
    lost: set[int] = field(default_factory=set)
    """GPUs that went with their node."""

    @classmethod
    def of(cls, *, uses_gpus: bool, probe: GpuProbe) -> Cluster:
        """With an agent on every node that can take one; raises `InputError` where none can."""
        nodes, refusals = started(uses_gpus=uses_gpus, probe=probe)
        if not nodes:
            why = "; ".join(refusals) or "it has no node with a free CPU"
            raise InputError(
                f"no node of the Ray cluster can be used ({why}): see `ray status`, or set "
                "backend: local"
            )
        cluster = cls(nodes=nodes, remarks=tuple(f"{why}, so it is left out" for why in refusals))
        for node in nodes:
            node.on_lost = cluster._lose
            node.listen()
        return cluster

    def backend(self, local: Launcher) -> Backend:
        """For a run."""
        devices = self.devices()
        places = {
            devices.names[number]: Place(node=node, device=device)
            for number, (node, device) in enumerate(self._gpus())
        }
        return Backend(
            launcher=RayLauncher(local=local, nodes=self.nodes, places=places),
            probe=ClusterProbe(nodes=self.nodes),
            devices=devices,
            shares_folder=False,
            remarks=self.remarks,
        )

    def devices(self) -> Devices:
        """The GPUs of all nodes, numbered from 0, node by node."""
        gpus = [gpu for node in self.nodes for gpu in node.facts.devices.gpus.values()]
        of_node = dict(enumerate(self._gpus()))
        return Devices(
            gpus=dict(enumerate(gpus)),
            names={number: f"{node.name}/{name}" for number, (node, name) in of_node.items()},
            nvml_index={number: number for number in of_node},
            nodes={number: node.name for number, (node, _) in of_node.items()},
            num_nodes=len(self.nodes),
            host_free_bytes=min(node.facts.host_free_bytes for node in self.nodes),
            lost=self.lost,
        )

    def close(self) -> None:
        """Every agent is gone, and with it what it started."""
        threads = [threading.Thread(target=node.close) for node in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _gpus(self) -> Iterator[tuple[Node, str]]:
        for node in self.nodes:
            for name in node.facts.devices.names.values():
                yield node, name

    def _lose(self, lost: Node) -> None:
        gone = {number for number, (node, _) in enumerate(self._gpus()) if node is lost}
        self.lost.update(gone)
