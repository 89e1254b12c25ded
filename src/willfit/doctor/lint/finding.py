"""Findings: what a rule says about a line, and the edits that would set it right."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from willfit.doctor.lint.edits import Edit

if TYPE_CHECKING:
    from willfit.doctor.lint.code import Code

Severity = Literal["error", "waste", "leak", "ignored"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of somebody's code or settings that costs memory or does not do what it says."""

    rule: str
    """Name of the rule: ``bnb-unknown-key``."""
    cell: int | None = None
    """Index of a notebook's cell, from 0; None in a script or a settings file."""
    line: int
    """From 1, in the cell or the file."""
    severity: Severity
    """``error``: fails, or loads something else; ``waste``: takes memory for nothing; ``leak``:
    keeps memory; ``ignored``: has no effect."""
    message: str
    """What happens and why."""
    fix: str
    """What to write instead."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a rule found in a program, before it is said."""

    at: ast.AST
    """The expression or statement to point at."""
    message: str
    fix: str
    edits: tuple[Edit, ...] = ()
    """What ``fix_python`` does about it; empty where a person must decide."""
    severity: Severity | None = None
    """None takes the rule's."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that is looked for."""

    name: str
    severity: Severity
    why: str
    """Why it matters, in one sentence."""
    check: Callable[[Code], Iterator[Problem]]
    quiet: bool = False
    """True for what is brought up to date when code is rewritten, and is no fault."""
