"""Batch budgets that workers found, kept by GPU for the next worker and the next run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from willfit.runner.atomic import read_json, write_json
from willfit.runner.gpus import Devices
from willfit.runner.replica import Replica


@dataclass(kw_only=True)
class Budgets:
    """Padded tokens of a batch, by the names and memory of a replica's GPUs."""

    path: Path
    devices: Devices
    first: int | None
    """What to begin with where nothing was found: the user's, or the forecast's."""
    may_change: bool
    """Whether what was found counts; False where the user gave the budget."""
    last: int | None = None
    """Of the last shard that was done."""

    def of(self, replica: Replica) -> int | None:
        """What a worker begins with."""
        if not self.may_change:
            return self.first
        kept = (read_json(self.path) or {}).get(self._key(replica))
        return kept if isinstance(kept, int) and kept > 0 else self.first

    def keep(self, replica: Replica, tokens: int | None) -> None:
        """What a worker had when a shard was done."""
        self.last = tokens
        kept = read_json(self.path) or {}
        if tokens is not None and kept.get(self._key(replica)) != tokens:
            write_json(self.path, {**kept, self._key(replica): tokens})

    def _key(self, replica: Replica) -> str:
        gpus = [self.devices.gpus[gpu] for gpu in replica.gpus]
        return " + ".join(f"{gpu.name} {gpu.total_bytes}" for gpu in gpus) or "cpu"
