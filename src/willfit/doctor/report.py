"""Report: one failure that a text tells of, with the numbers that it carries and no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal[
    "load",
    "train-forward",
    "train-backward",
    "optimizer-step",
    "eval",
    "save",
    "merge",
    "resume",
    "inference",
    "generate",
    "serve-init",
    "serve-run",
    "unknown",
]
Weight = Literal["numbers", "words", "aftermath"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One line of a traceback."""

    file: str
    """Path as printed."""
    function: str
    """"" where the traceback does not tell."""
    line: int | None = None
    code: str = ""
    """Source text of the line, where it was printed."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What stands around a report."""

    frames: tuple[Frame, ...] = ()
    """Of its traceback, outermost first."""
    stage: Stage = "unknown"
    clues: frozenset[str] = frozenset()
    """Facts that words around it give, such as ``wsl``, ``deepspeed``, ``resumed``; names are
    those of `willfit.doctor.context`."""
    nearby: tuple[str, ...] = ()
    """Cleaned lines around the report, bounded."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A message of a library, or the trace of a killed process."""

    family: str
    """A name of the corpus: ``pytorch-cuda``, ``vllm``, ``host-kill``…"""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Numbers by their name in the contract; one that the text does not carry is absent. Amounts
    are integers of bytes: the printed number times its unit, cut."""
    printed: Mapping[str, str] = field(default_factory=dict)
    """Amounts as printed by the same names, ``tried_bytes`` → ``224.00 MiB``: their precision."""
    line: int
    """Of its first word, from 1."""
    last_line: int
    quote: str
    """The message, cleaned and on one line; at most a few hundred characters."""
    release: str = ""
    """What the wording tells of the version: ``torch 2.1``; "" where it tells nothing."""
    marks: frozenset[str] = frozenset()
    """What else the wording says, such as ``cut_off``, ``advises_expandable``, ``repeated``."""
    weight: Weight = "words"
    """``aftermath`` is what follows from another failure and is dropped where that is there."""
    speaker: str = ""
    """Who wrote the line where several write: ``rank0``, ``VllmWorker rank=1``."""
    times: int = 1
    """How often the same message stands in the text."""
    context: Context = field(default_factory=Context)
