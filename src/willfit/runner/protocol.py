"""What driver and worker tell each other: a job file, commands down one pipe, events up another.

Both pipes carry one JSON object a line. The commands' pipe is the worker's *lifeline* too: when
its other end closes, whatever the reason, the worker ends itself and all that it started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

ROW_OOM: Final = 17
"""Exit code of a worker whose GPU cannot hold one single row."""
SOFTWARE: Final = 70
"""Exit code of a worker that stops on an error that it has told (``EX_SOFTWARE`` of sysexits)."""
MARK: Final = "WILLFIT_WORKER"
"""Environment variable that every process below a worker inherits: none of them can hide."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> bytes:
        """As it goes through a pipe."""
        return self.model_dump_json().encode() + b"\n"


class Job(_Line):
    """All that a worker is told before it starts."""

    kind: Literal["prepare", "build", "stage", "call"]
    """``prepare``: rows of a stage in their order; ``build``: the user's own function for the data;
    ``stage``: shards of results; ``call``: functions of a notebook."""
    name: str
    """The stage's name, for messages."""
    stage: Mapping[str, Any] = {}
    """The stage as the pipeline file has it, its defaults filled in."""
    fingerprint: str = ""
    rows: str = ""
    """File of the prepared rows: written by ``prepare``, read by ``stage``."""
    results: str = ""
    """Folder of the shards."""
    data: str = ""
    """The user's table, for ``prepare`` and ``build``."""
    id: str = "id"
    """Name of the table's unique column."""
    parent: int
    """Process id of the driver."""
    gpus: int = 0
    """Number of GPUs that the worker must find; 0: the CPU."""
    batch_tokens: int | None = None
    """Padded tokens of a batch to begin with; None: one batch of what a shard holds."""
    batch_size: int | None = None
    """Most rows of a batch."""
    context: int | None = None
    """Longest sequence, prompt and new tokens together."""
    seed: int = 0
    returns_bytes: bool = False
    """Whether shards go up with their event instead of into ``results`` (no shared folder)."""


# ---- down


class Take(_Line):
    """Compute a shard."""

    type: Literal["take"] = "take"
    start: int
    stop: int
    batch_tokens: int | None = None
    """A budget found elsewhere since the worker began; None keeps its own."""


class Call(_Line):
    """Call a function: a file with the pickled call, and one for the answer."""

    type: Literal["call"] = "call"
    call: str
    answer: str


class Stop(_Line):
    """Nothing more to do: leave."""

    type: Literal["stop"] = "stop"


# ---- up


class Booted(_Line):
    """The process runs."""

    type: Literal["booted"] = "booted"
    pid: int
    devices: str = ""
    """``CUDA_VISIBLE_DEVICES`` as the worker has it."""


class Loaded(_Line):
    """The model is there."""

    type: Literal["loaded"] = "loaded"
    seconds: float
    allocated: tuple[int, ...] = ()
    """Bytes in live tensors by GPU."""
    host: int = 0
    """Resident bytes of the process."""
    versions: Mapping[str, str] = {}
    remarks: tuple[str, ...] = ()


class Progress(_Line):
    """Rows done of the shard under way; also says that the worker is not stuck."""

    type: Literal["progress"] = "progress"
    done: int
    tokens: int


class ShardDone(_Line):
    """A shard's file is there."""

    type: Literal["shard"] = "shard"
    start: int
    stop: int
    file: str
    tokens: int
    padded_tokens: int
    """Tokens with padding: what the model computed."""
    new_tokens: int = 0
    """Tokens generated."""
    seconds: float
    batch_tokens: int | None = None
    reserved: tuple[int, ...] = ()
    """Highest reserved bytes so far by GPU."""
    host: int = 0
    """Highest resident bytes so far."""
    data: str = ""
    """The file itself in base64, where the folder is not shared."""


class ShardFailed(_Line):
    """A shard failed and the worker goes on, or leaves if ``leaves`` says so."""

    type: Literal["failed"] = "failed"
    start: int
    stop: int
    first: int
    last: int
    """The rows it was at: ``first`` to ``last``, without ``last``."""
    kind: Literal["error", "row-oom", "cuda"]
    reason: str
    leaves: bool = False


class OutOfMemory(_Line):
    """A batch did not fit; the budget became smaller."""

    type: Literal["oom"] = "oom"
    before: int
    after: int
    message: str


class Heartbeat(_Line):
    """The process lives; says nothing about progress."""

    type: Literal["heartbeat"] = "heartbeat"
    host: int


class Answered(_Line):
    """A call's answer is in its file."""

    type: Literal["answered"] = "answered"
    answer: str
    ok: bool


class Prepared(_Line):
    """The prepared rows are there."""

    type: Literal["prepared"] = "prepared"
    rows: int
    tokens: int


class Fatal(_Line):
    """The worker cannot go on, and another would not either: ends the stage."""

    type: Literal["fatal"] = "fatal"
    kind: Literal["input", "storage", "memory", "bug"]
    """``input``: what was given cannot be used; ``storage``: no place for results; ``memory``: the
    model does not fit; ``bug``: anything else, with the traceback in the log."""
    message: str


Command = Take | Call | Stop
Event = (
    Booted | Loaded | Progress | ShardDone | ShardFailed | OutOfMemory | Heartbeat | Answered
    | Prepared | Fatal
)  # fmt: skip
_COMMANDS: Final[TypeAdapter[Command]] = TypeAdapter(
    Annotated[Command, Field(discriminator="type")]
)
_EVENTS: Final[TypeAdapter[Event]] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def command_of(line: bytes) -> Command:
    """A command from its line; raises pydantic's `ValueError` on anything else."""
    return _COMMANDS.validate_json(line)


def event_of(line: bytes) -> Event:
    """An event from its line; raises pydantic's `ValueError` on anything else."""
    return _EVENTS.validate_json(line)


def job_of(path: Path) -> Job:
    """A job from its file."""
    return Job.model_validate_json(path.read_bytes())
