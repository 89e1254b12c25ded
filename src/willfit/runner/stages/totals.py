"""What a stage's workers said of their work, added up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from willfit.runner.protocol import Loaded, ShardDone


@dataclass(kw_only=True)
class Totals:
    """Sums and peaks over all replicas."""

    began: float = field(default_factory=time.monotonic)
    first_loaded: float | None = None
    computed: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    shard_seconds: float = 0.0
    ooms: int = 0
    starts: int = 0
    reserved: tuple[int, ...] = ()
    host: int = 0
    remarks: dict[str, None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def loaded(self, event: Loaded) -> None:
        """A model is there."""
        if self.first_loaded is None:
            self.first_loaded = time.monotonic()
        self.host = max(self.host, event.host)
        self.remarks.update(dict.fromkeys(event.remarks))
        self.versions = dict(event.versions)

    def shard(self, event: ShardDone) -> None:
        """A shard is committed."""
        self.computed += event.stop - event.start
        self.tokens += event.tokens + event.new_tokens
        self.padded_tokens += event.padded_tokens
        self.shard_seconds += event.seconds
        self.host = max(self.host, event.host)
        width = max(len(self.reserved), len(event.reserved))
        pairs = (_at(self.reserved, i, event.reserved) for i in range(width))
        self.reserved = tuple(pairs)

    @property
    def start_seconds(self) -> float:
        """Until the first model was there; all of it where none ever was."""
        end = self.first_loaded if self.first_loaded is not None else time.monotonic()
        return end - self.began

    @property
    def seconds_per_token(self) -> float:
        """Of one replica; 0 before the first shard."""
        return self.shard_seconds / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all replicas together."""
        if self.first_loaded is None:
            return 0.0
        busy = time.monotonic() - self.first_loaded
        return self.tokens / busy if busy > 0 else 0.0


def _at(one: tuple[int, ...], index: int, other: tuple[int, ...]) -> int:
    return max((values[index] for values in (one, other) if index < len(values)), default=0)
