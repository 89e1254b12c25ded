"""Edits of source text, as data: what to change, at which position of the program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """Where an expression or a statement stands, as ``ast`` counts."""

    line: int
    """From 1."""
    column: int
    """From 0, in characters."""
    end_line: int
    end_column: int

    def shifted(self, lines: int) -> Span:
        """The same place in a text that begins ``lines`` later."""
        return Span(self.line - lines, self.column, self.end_line - lines, self.end_column)


@dataclass(frozen=True, kw_only=True)
class DropKeyword:
    """Takes a keyword out of a call, or a key out of a ``{…}`` literal."""

    at: Span
    """Of the call or the literal."""
    name: str


@dataclass(frozen=True, kw_only=True)
class RenameKeyword:
    """Gives a keyword of a call, or a key of a ``{…}`` literal, another name."""

    at: Span
    name: str
    to: str


@dataclass(frozen=True, kw_only=True)
class SetKeyword:
    """Gives a keyword another value, or adds it."""

    at: Span
    name: str
    code: str
    """Expression, as source text."""


@dataclass(frozen=True, kw_only=True)
class ReplaceExpression:
    """Puts other source text in the place of an expression."""

    at: Span
    code: str


@dataclass(frozen=True, kw_only=True)
class RemoveStatement:
    """Takes a statement out; a block that is empty then gets ``pass``."""

    at: Span


@dataclass(frozen=True, kw_only=True)
class MoveStatement:
    """Moves statements of one block, in their order, to before another statement."""

    at: tuple[Span, ...]
    before: Span


@dataclass(frozen=True, kw_only=True)
class WrapStatement:
    """Puts a statement under a ``with``."""

    at: Span
    header: str
    """``torch.no_grad()``."""


@dataclass(frozen=True, kw_only=True)
class AddImport:
    """Adds ``import NAME`` or ``from NAME import WHAT`` after the last import at the top."""

    module: str
    what: str = ""


Edit = (
    DropKeyword
    | RenameKeyword
    | SetKeyword
    | ReplaceExpression
    | RemoveStatement
    | MoveStatement
    | WrapStatement
    | AddImport
)
