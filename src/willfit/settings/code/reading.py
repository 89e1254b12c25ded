"""Reading: what has been met so far while a script is followed in the order in which it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from willfit.settings.code.cells import Cell
from willfit.settings.code.values import Given, Model, Record, Site, Unknown, Written

MAX_STEPS: Final = 50_000
"""Bound on expressions looked at, functions that are followed at every call included."""
MAX_USES: Final = 2_000
"""Uses that are remembered of one model, and of none."""
MAX_LOADS: Final = 32
"""Models that are told apart."""
MAX_DEPTH: Final = 40
"""Bound on calls and expressions within each other."""


@dataclass(eq=False, kw_only=True)
class Use:
    """One thing that the script does: with a model, or with whatever stands around it."""

    role: str
    """``trainer``, ``forward``, ``tokens``…"""
    order: int
    cell: int | None
    line: int
    last_line: int
    site: Site | None = None
    """The call; None where it is none (``model.config.use_cache = False``)."""
    value: Any = None
    """What else there is to know."""
    trains: bool = False
    """Whether it stands in a training step."""


@dataclass(eq=False, kw_only=True)
class Load:
    """A model that the script loads."""

    site: Site
    kind: str
    """Who loads it: ``transformers``, ``unsloth``, ``pipeline``, ``vllm``, ``llama.cpp``…"""
    name: Any
    """The model's name as given: a text, or `Unknown`."""
    uses: list[Use] = field(default_factory=list)

    def used(self, *roles: str) -> list[Use]:
        """Uses of these kinds, in their order."""
        return [use for use in self.uses if use.role in roles]


@dataclass(eq=False, kw_only=True)
class Reading:
    """Names, models and uses; one for all cells of a notebook."""

    bf16: bool
    """Answer to the script's question whether the card computes in bfloat16."""
    cells: tuple[Cell, ...] = ()
    names: dict[str, Any] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    """Those that belong to no model in particular."""
    notes: list[str] = field(default_factory=list)
    arguments: Record = field(default_factory=Record)
    """Defaults of ``parser.add_argument``."""
    followed: set[int] = field(default_factory=set)
    """Functions whose bodies have been read, by the identity of their nodes."""
    steps: int = 0
    depth: int = 0
    cell: Cell | None = None
    statement: ast.stmt | None = None

    def step(self) -> bool:
        """Count one more expression; False once there were too many or they nest too deep."""
        self.steps += 1
        return self.steps < MAX_STEPS and self.depth < MAX_DEPTH

    def pay(self, size: int) -> None:
        """Count the copy of so many names, so that many copies of many names end soon."""
        self.steps += size // 20

    @property
    def index(self) -> int | None:
        """Of the cell that is read."""
        return self.cell.index if self.cell is not None else None

    def enter(self, index: int | None) -> None:
        """Go on in the cell with that index."""
        self.cell = next((cell for cell in self.cells if cell.index == index), self.cell)

    def text(self, node: ast.AST) -> str:
        """First line of an expression as written, cut."""
        line = getattr(node, "lineno", 0)
        if self.cell is None or not 0 < line <= len(self.cell.lines):
            return ""
        written = self.cell.lines[line - 1].encode()
        end = node.end_col_offset if getattr(node, "end_lineno", 0) == line else None  # type: ignore[attr-defined]
        return written[node.col_offset : end].decode(errors="replace")[:60]  # type: ignore[attr-defined]

    def unknown(self, node: ast.AST) -> Unknown:
        """An expression whose value is not in the text."""
        return Unknown(self.text(node))

    def given(self, node: ast.expr, value: Any) -> Given:
        """A value and the place of its expression."""
        return Given(value, Written(self.index, node))

    def note(self, sentence: str) -> None:
        """Something to say of the whole; once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, role: str, node: ast.AST, *, of: Any = None, site: Site | None = None,
            value: Any = None) -> Use:  # fmt: skip
        """One more use, of a model's where ``of`` holds one."""
        use = Use(
            role=role,
            order=self.steps,
            cell=self.index,
            line=getattr(node, "lineno", 0),
            last_line=getattr(node, "end_lineno", 0),
            site=site,
            value=value,
        )
        models = list(models_in(of))
        for uses in [load.uses for load in models] or [self.uses]:
            if len(uses) < MAX_USES:
                uses.append(use)
        return use


def models_in(value: Any, depth: int = 0) -> Iterator[Load]:
    """Models that a value is or holds: a wrapper's, a module's of the script's own."""
    if isinstance(value, Model):
        yield value.load
    elif isinstance(value, Record) and value.of and depth < 3:
        for held in list(value.values())[:50]:
            yield from models_in(held, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 3:
        for held in value[:16]:
            yield from models_in(held, depth + 1)
