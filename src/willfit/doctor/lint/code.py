"""Code: one program as the rules see it, with names resolved and calls in their order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from willfit.doctor.lint.edits import Span
from willfit.doctor.lint.scopes import Scope, Scopes
from willfit.doctor.lint.signatures import Signatures
from willfit.doctor.lint.values import UNKNOWN, Symbol

if TYPE_CHECKING:
    from willfit.doctor.lint.models import Models

_DEPTH: Final = 8
"""Longest chain of names that is followed to a value."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A keyword of a call."""

    name: str
    value: ast.expr
    owner: ast.Call | ast.Dict
    """The call, or the literal behind ``**`` that holds it."""
    node: ast.AST
    """Where it stands."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Keywords of a call, those of literals behind ``**`` included."""

    named: dict[str, Argument]
    open: bool
    """True where a ``**`` brings what cannot be told."""


@dataclass(frozen=True)
class Code:
    """A parsed program."""

    text: str
    tree: ast.Module
    signatures: Signatures
    gpu: str = ""
    """Name of the GPU where it is known: a notebook's metadata, a flag."""
    places: tuple[tuple[int, int], ...] = ()
    """Cell and line in it of each line of a notebook's program; empty for a script."""
    names: dict[ast.AST, str | None] = field(default_factory=dict, repr=False)
    """Dotted names found so far."""
    keys: dict[ast.AST, str] = field(default_factory=dict, repr=False)
    """Library and last part of those."""
    nodes: dict[type[ast.AST], list[Any]] = field(init=False, repr=False)
    parents: dict[ast.AST, ast.AST] = field(init=False, repr=False)
    order: dict[ast.AST, int] = field(init=False, repr=False)
    """Nodes numbered in the order of the text; a statement's parts lie between it and its last."""
    blocks: dict[ast.AST, tuple[list[ast.stmt], int]] = field(init=False, repr=False)
    """The statements among which each stands, and its index there."""
    last: dict[ast.AST, int] = field(init=False, repr=False)
    """Number of the last part of each node."""

    def __post_init__(self) -> None:
        nodes: dict[type[ast.AST], list[Any]] = {}
        parents: dict[ast.AST, ast.AST] = {}
        order: dict[ast.AST, int] = {}
        blocks: dict[ast.AST, tuple[list[ast.stmt], int]] = {}
        todo: list[ast.AST] = [self.tree]
        while todo:
            node = todo.pop()
            order[node] = len(order)
            nodes.setdefault(type(node), []).append(node)
            children = _parts(node, blocks)
            for child in children:
                parents[child] = node
            children.reverse()
            todo += children
        for name, value in (("nodes", nodes), ("parents", parents), ("order", order),
                            ("blocks", blocks), ("last", _lasts(order, parents))):  # fmt: skip
            object.__setattr__(self, name, value)

    @cached_property
    def scopes(self) -> Scopes:
        """Names and what they are bound to."""
        return Scopes(self)

    @cached_property
    def models(self) -> Models:
        """Every load of a model."""
        from willfit.doctor.lint.models import Models  # it reads this module's types

        return Models(self)

    def imports(self, library: str) -> bool:
        """Whether a library, or something of it, is imported anywhere."""
        names = [alias.name for node in self.each(ast.Import) for alias in node.names]
        names += [node.module or "" for node in self.each(ast.ImportFrom) if not node.level]
        return any(name.partition(".")[0] == library for name in names)

    @cached_property
    def lines(self) -> list[str]:
        """Lines of the text as ``ast`` counts them."""
        return self.text.split("\n")

    @cached_property
    def calls(self) -> list[ast.Call]:
        """All calls, in the order of the text."""
        return self.each(ast.Call)

    @cached_property
    def named_calls(self) -> dict[str, list[ast.Call]]:
        """Calls by the dotted name of what they call."""
        found: dict[str, list[ast.Call]] = {}
        for call in self.calls:
            found.setdefault(self.dotted(call.func) or "", []).append(call)
        return found

    @cached_property
    def methods(self) -> dict[str, list[ast.Call]]:
        """Calls of attributes, by the attribute's name."""
        found: dict[str, list[ast.Call]] = {}
        for call in self.calls:
            if isinstance(call.func, ast.Attribute):
                found.setdefault(call.func.attr, []).append(call)
        return found

    def each(self, kind: type[ast.AST]) -> list[Any]:
        """Nodes of a kind, in the order of the text."""
        return self.nodes.get(kind, [])

    def inside(self, node: ast.AST, outer: ast.AST) -> bool:
        """Whether a node is ``outer`` or a part of it."""
        return self.order[outer] <= self.order[node] <= self.last[outer]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Parents of a node, the nearest first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that holds a node."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def block(self, statement: ast.stmt) -> tuple[list[ast.stmt], int]:
        """The statements among which one stands, and its index."""
        return self.blocks.get(statement, ([statement], 0))

    @cached_property
    def by_name(self) -> dict[str, list[ast.Name]]:
        """Every use and binding of each name, in the order of the text."""
        found: dict[str, list[ast.Name]] = {}
        for node in self.each(ast.Name):
            found.setdefault(node.id, []).append(node)
        return found

    def function(self, node: ast.AST) -> Scope:
        """The function, lambda, class or module in which a node is run."""
        return self.scopes.of(node)

    def place(self, line: int) -> tuple[int | None, int]:
        """Cell (None in a script) and line of a line of the program."""
        if not self.places:
            return None, line
        return self.places[min(max(line, 1), len(self.places)) - 1]

    def where(self, node: ast.AST) -> str:
        """``line 12``, or ``cell 3, line 2``, of a node."""
        cell, line = self.place(node.lineno)  # type: ignore[attr-defined]
        return f"line {line}" if cell is None else f"cell {cell}, line {line}"

    def position(self, node: ast.AST) -> Span:
        """Where a node stands; columns in characters."""
        line, end_line = node.lineno, node.end_lineno  # type: ignore[attr-defined]
        return Span(
            line,
            self._column(line, node.col_offset),  # type: ignore[attr-defined]
            end_line,
            self._column(end_line, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def _column(self, line: int, offset: int) -> int:
        """Characters of so many bytes of a line."""
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return offset if text.isascii() else len(text.encode()[:offset].decode(errors="replace"))

    def dotted(self, node: ast.AST, depth: int = 0) -> str | None:
        """``transformers.BitsAndBytesConfig`` of an expression that names something imported."""
        if depth:
            return self._dotted(node, depth)
        if node not in self.names:
            self.names[node] = self._dotted(node, 0)
        return self.names[node]

    def _dotted(self, node: ast.AST, depth: int) -> str | None:
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value, depth)
            return f"{owner}.{node.attr}" if owner else None
        if not isinstance(node, ast.Name) or depth > _DEPTH:
            return None
        binding = self.scopes.lookup(node)
        if binding is None:
            return self.scopes.starred(node.id)
        if binding.imported:
            return binding.imported
        if isinstance(binding.value, ast.Name | ast.Attribute):
            return self.dotted(binding.value, depth + 1)
        return None

    def key(self, node: ast.AST) -> str:
        """Library and last part: ``transformers.BitsAndBytesConfig`` however it was imported."""
        if node not in self.keys:
            self.keys[node] = self._key(node)
        return self.keys[node]

    def _key(self, node: ast.AST) -> str:
        name = self.dotted(node) or ""
        library, _, rest = name.partition(".")
        return f"{library}.{rest.rpartition('.')[2]}" if rest else name

    def origin(self, node: ast.expr, depth: int = 0) -> ast.expr:
        """The expression behind a name, where it is certain; the expression itself otherwise."""
        if isinstance(node, ast.Name) and depth < _DEPTH:
            binding = self.scopes.lookup(node)
            if binding is not None and binding.value is not None and not binding.part:
                return self.origin(binding.value, depth + 1)
        return node

    def value(self, node: ast.expr | None, depth: int = 0) -> Any:
        """What an expression is worth: a constant, a `Symbol`, a list or dict of them."""
        if node is None or depth > _DEPTH:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.value(node.operand, depth + 1)
            return -inner if isinstance(inner, int | float) else UNKNOWN
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self.value(item, depth + 1) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self._dict(node, depth)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node, depth)
        return UNKNOWN

    def _dict(self, node: ast.Dict, depth: int) -> Any:
        if any(key is None for key in node.keys):
            return UNKNOWN
        keys = [self.value(key, depth + 1) for key in node.keys]
        if any(not isinstance(key, str | int | float | bool) for key in keys):
            return UNKNOWN
        values = [self.value(item, depth + 1) for item in node.values]
        return dict(zip(keys, values, strict=True))

    def _named(self, node: ast.Name | ast.Attribute, depth: int) -> Any:
        name = self.dotted(node)
        if name:
            return Symbol(name)
        if isinstance(node, ast.Name):
            binding = self.scopes.lookup(node)
            if binding is not None and binding.value is not None and not binding.part:
                if self.scopes.changed(node, binding):
                    return UNKNOWN
                return self.value(binding.value, depth + 1)
        return UNKNOWN

    def arguments(self, call: ast.Call) -> Arguments:
        """Keywords of a call; ``**`` of literals is followed."""
        named: dict[str, Argument] = {}
        is_open = any(isinstance(one, ast.Starred) for one in call.args)
        for keyword in call.keywords:
            if keyword.arg is not None:
                named[keyword.arg] = Argument(
                    name=keyword.arg, value=keyword.value, owner=call, node=keyword.value
                )
                continue
            inner = self._unpacked(keyword.value)
            if inner is None:
                is_open = True
            else:
                named.update(inner.named)
                is_open = is_open or inner.open
        return Arguments(named=named, open=is_open)

    def _unpacked(self, node: ast.expr) -> Arguments | None:
        """What ``**node`` brings; None where it cannot be told."""
        if isinstance(node, ast.Name):
            binding = self.scopes.lookup(node)
            if binding is None or binding.value is None or binding.part:
                return None
            if self.scopes.changed(node, binding):
                return None
            node = binding.value
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
                return self.arguments(node)
            return None
        if not isinstance(node, ast.Dict):
            return None
        named: dict[str, Argument] = {}
        is_open = False
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                named[key.value] = Argument(name=key.value, value=value, owner=node, node=key)
            else:
                is_open = True
        return Arguments(named=named, open=is_open)

    def keyword(self, call: ast.Call, name: str) -> Any:
        """Value of a keyword; None where it is absent, `UNKNOWN` where it cannot be told."""
        arguments = self.arguments(call)
        argument = arguments.named.get(name)
        if argument is not None:
            return self.value(argument.value)
        return UNKNOWN if arguments.open else None


def _parts(node: ast.AST, blocks: dict[ast.AST, tuple[list[ast.stmt], int]]) -> list[ast.AST]:
    """Direct parts of a node; statements in a list are noted with their place in it."""
    parts: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            parts.append(value)
        elif isinstance(value, list):
            if value and isinstance(value[0], ast.stmt):
                blocks.update((one, (value, index)) for index, one in enumerate(value))
            parts += [one for one in value if isinstance(one, ast.AST)]
    return parts


def _lasts(order: dict[ast.AST, int], parents: dict[ast.AST, ast.AST]) -> dict[ast.AST, int]:
    """Number of the last part of each node; parts come after what they are parts of."""
    last: dict[ast.AST, int] = {}
    for node in reversed(order):
        end = last.setdefault(node, order[node])
        parent = parents.get(node)
        if parent is not None and last.get(parent, -1) < end:
            last[parent] = end
    return last
