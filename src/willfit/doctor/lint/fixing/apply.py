"""Applies edits to source text with libcst: everything that they do not name stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from willfit.doctor.lint.edits import (
    AddImport,
    DropKeyword,
    Edit,
    MoveStatement,
    RemoveStatement,
    RenameKeyword,
    ReplaceExpression,
    SetKeyword,
    Span,
    WrapStatement,
)
from willfit.doctor.lint.fixing.imports import with_imports
from willfit.doctor.lint.fixing.keywords import edited_call, edited_dict

_Keyword = DropKeyword | RenameKeyword | SetKeyword


def apply(source: str, edits: Sequence[Edit]) -> str:
    """``source`` with all edits made.

    Edits name what they change by its place; one whose place holds nothing of its kind does
    nothing.
    """
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    ranges: Mapping[cst.CSTNode, CodeRange] = wrapper.resolve(PositionProvider)
    module = wrapper.module.visit(_Editor(wrapper.module, ranges, edits))
    return with_imports(module, [e for e in edits if isinstance(e, AddImport)]).code


def _span(place: CodeRange) -> Span:
    return Span(place.start.line, place.start.column, place.end.line, place.end.column)


class _Editor(cst.CSTTransformer):
    """Makes the edits while it leaves the nodes that they name."""

    def __init__(
        self, module: cst.Module, ranges: Mapping[cst.CSTNode, CodeRange], edits: Sequence[Edit]
    ) -> None:
        super().__init__()
        self._ranges = ranges
        self._keywords: dict[Span, list[_Keyword]] = {}
        self._replaced: dict[Span, str] = {}
        self._removed: set[tuple[int, int]] = set()
        self._wrapped: dict[tuple[int, int], str] = {}
        self._moves: dict[tuple[int, int], list[cst.BaseStatement]] = {}
        for edit in edits:
            self._take(edit)
        moves = [e for e in edits if isinstance(e, MoveStatement)]
        if moves:
            self._find_moved(module, moves)

    def _take(self, edit: Edit) -> None:
        if isinstance(edit, DropKeyword | RenameKeyword | SetKeyword):
            self._keywords.setdefault(edit.at, []).append(edit)
        elif isinstance(edit, ReplaceExpression):
            self._replaced[edit.at] = edit.code
        elif isinstance(edit, RemoveStatement):
            self._removed.add(_start(edit.at))
        elif isinstance(edit, WrapStatement):
            self._wrapped[_start(edit.at)] = edit.header

    def _find_moved(self, module: cst.Module, moves: Iterable[MoveStatement]) -> None:
        lines = {_start(_span(self._ranges[one])): one for one in _lines_of(module)}
        for move in moves:
            starts = [_start(at) for at in move.at]
            if all(s in lines for s in starts) and _start(move.before) in lines:
                self._moves[_start(move.before)] = [lines[s] for s in starts]
                self._removed.update(starts)

    def on_leave(  # type: ignore[override]
        self, original: cst.CSTNode, updated: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.BaseStatement]:
        """The node as the edits want it."""
        place = self._ranges.get(original)
        if place is None:
            return updated
        span = _span(place)
        if isinstance(original, cst.BaseExpression):
            return self._expression(span, updated)
        if isinstance(original, cst.BaseSmallStatement):
            return cst.RemoveFromParent() if _start(span) in self._removed else updated
        if isinstance(original, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            return self._statement(span, updated)
        return updated

    def _expression(self, span: Span, updated: cst.CSTNode) -> cst.CSTNode:
        for edit in self._keywords.get(span, ()):
            if isinstance(updated, cst.Call):
                updated = edited_call(updated, edit)
            elif isinstance(updated, cst.Dict):
                updated = edited_dict(updated, edit)
        if span in self._replaced and isinstance(updated, cst.BaseExpression):
            new = cst.parse_expression(self._replaced[span])
            return new.with_changes(lpar=updated.lpar, rpar=updated.rpar)
        return updated

    def _statement(
        self, span: Span, updated: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.BaseStatement]:
        start = _start(span)
        if isinstance(updated, cst.SimpleStatementLine) and not updated.body:
            return cst.RemoveFromParent()
        if start in self._removed and isinstance(updated, cst.BaseCompoundStatement):
            return cst.RemoveFromParent()
        if start in self._wrapped and isinstance(updated, cst.BaseCompoundStatement):
            return _under(updated, self._wrapped[start])
        if start in self._moves and isinstance(updated, cst.BaseStatement):
            return cst.FlattenSentinel([*self._moves[start], updated])
        return updated


def _start(span: Span) -> tuple[int, int]:
    return span.line, span.column


def _lines_of(node: cst.CSTNode) -> Iterable[cst.BaseStatement]:
    """Every statement of a tree, however deep."""
    todo: list[cst.CSTNode] = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, cst.SimpleStatementLine | cst.BaseCompoundStatement):
            yield one
        if not isinstance(one, cst.SimpleStatementLine):
            todo.extend(one.children)


def _under(statement: cst.BaseCompoundStatement, header: str) -> cst.With:
    """A statement as the body of ``with header:``."""
    lines = statement.leading_lines
    return cst.With(
        items=[cst.WithItem(item=cst.parse_expression(header))],
        body=cst.IndentedBlock(body=[statement.with_changes(leading_lines=[])]),
        leading_lines=lines,
    )
