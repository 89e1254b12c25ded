"""Call: one call of a library as plain data, which `emit` prints and `live` makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A value that a text keeps in a variable of its own (``DEVICE``)."""

    name: str
    value: Any
    """What it is on the machine of the plan."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """``library.name(**arguments)``.

    Values are literals, `DType` (``torch.bfloat16``), `Variable`, another `Call`, or lists and
    dicts of these. Every keyword exists in the library at the stack's version.
    """

    library: str
    """Module that has the name: ``transformers``."""
    name: str
    """``BitsAndBytesConfig``, ``AutoModelForCausalLM.from_pretrained``."""
    arguments: Mapping[str, Any]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """By argument, in a few words: why it has this value, or what it does."""


class Keywords:
    """Arguments and their reasons, gathered one by one."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def set(self, name: str, value: Any, reason: str = "") -> None:
        """One argument; an empty reason prints none."""
        self.arguments[name] = value
        if reason:
            self.reasons[name] = reason

    def call(self, library: str, name: str) -> Call:
        """The call with what was gathered."""
        return Call(library=library, name=name, arguments=self.arguments, reasons=self.reasons)
