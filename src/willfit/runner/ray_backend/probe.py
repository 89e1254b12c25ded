"""The GPUs of all nodes as one machine's, read by the nodes' agents."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import ray
import ray.exceptions

from willfit.live.nvml import LiveGpu
from willfit.runner.ray_backend.node import Node, cause_of

READING: Final = 10.0
"""Seconds for a node's reading of its GPUs."""


class ClusterProbe:
    """The GPUs of all nodes, in the order of `Devices`, read by their agents.

    Of a node that is lost its GPUs are given as empty, so that the others keep their numbers; who
    reports on GPUs leaves those in `Devices.lost` out. A node that does not answer in time is given
    as it was before.
    """

    def __init__(self, *, nodes: Sequence[Node]) -> None:
        self._last = {node.name: list(node.facts.devices.gpus.values()) for node in nodes}
        self._nodes, self._lock = nodes, threading.Lock()

    def read(self) -> Sequence[LiveGpu]:
        """All nodes at once."""
        with self._lock:
            asked = {
                n.name: n.ask("read") for n in self._nodes if self._last[n.name] and not n.lost
            }
            for node in self._nodes:
                if node.name in asked:
                    self._take_in(node, asked[node.name])
            return [gpu for node in self._nodes for gpu in self._of(node)]

    def _take_in(self, node: Node, reference: Any) -> None:
        try:
            found = ray.get(reference, timeout=READING)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from error
        except ray.exceptions.RayError:
            return
        pairs = zip(found, self._last[node.name], strict=True)
        self._last[node.name] = [_on(node, new) if new else old for new, old in pairs]

    def _of(self, node: Node) -> list[LiveGpu]:
        last = self._last[node.name]
        return [_lost(gpu) for gpu in last] if node.lost else last


def _on(node: Node, gpu: LiveGpu) -> LiveGpu:
    """With the node beside the names of who holds memory."""
    named = (replace(process, name=f"{process.name} on {node.name}") for process in gpu.processes)
    return replace(gpu, processes=tuple(named))


def _lost(gpu: LiveGpu) -> LiveGpu:
    return replace(gpu, used_bytes=0, free_bytes=gpu.total_bytes, processes=())
