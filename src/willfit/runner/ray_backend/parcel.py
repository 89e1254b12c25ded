"""What a stage's workers need on other nodes: its rows, its code, and how its model looks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ray

from willfit.runner.content import digest_file, source_content
from willfit.runner.protocol import Job
from willfit.runner.ray_backend.models import ModelFiles, model_files
from willfit.runner.ray_backend.node import Node, NodeLostError
from willfit.units import MIB

CHUNK_BYTES: Final = 64 * MIB
"""A piece of prepared rows in Ray's object store, from where every node fetches it."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Of one stage; the object store keeps its rows as long as this lives."""

    digest: str
    """Of the prepared rows' file."""
    chunks: tuple[Any, ...]
    """Ray's references of its pieces, in order."""
    code: Mapping[str, bytes]
    """The user's module and what it imports, by path from its folder; empty for a model."""
    models: Mapping[str, ModelFiles]
    """Model, adapter and tokenizer; empty for a function."""

    def send_rows(self, node: Node) -> None:
        """The rows, unless they are there; with `Node.placing` held."""
        if node.rows == self.digest:
            return
        for number, chunk in enumerate(self.chunks):
            node.call("receive", self.digest, number * CHUNK_BYTES, chunk)
        node.call("complete", self.digest, patience=None)
        node.rows = self.digest


def parcel_of(job: Job) -> Parcel:
    """Made from the driver's files."""
    rows = Path(job.rows)
    return Parcel(
        digest=digest_file(rows),
        chunks=tuple(_chunks(rows)),
        code=_code(job),
        models=model_files(job.stage),
    )


def _chunks(path: Path) -> list[Any]:
    chunks = []
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            if not ray.is_initialized():  # the run is over; a call would start a cluster
                raise NodeLostError("the run is over")
            chunks.append(ray.put(data))
    return chunks


def _code(job: Job) -> dict[str, bytes]:
    reference = job.stage.get("run")
    if not isinstance(reference, str):
        return {}
    found = source_content(reference)
    return {name: (found.path.parent / name).read_bytes() for name in found.files}


@dataclass(kw_only=True)
class Parcels:
    """The parcel of the stage under way: made by its first worker, for all of them."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _of: tuple[str, Parcel] | None = None

    def of(self, job: Job) -> Parcel:
        """The job's stage's."""
        with self._lock:
            if self._of is None or self._of[0] != job.fingerprint:
                self._of = job.fingerprint, parcel_of(job)
            return self._of[1]
