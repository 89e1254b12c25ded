"""Where a number that calls use is defined: ``BATCH = 16``, ``CFG.batch_size``, ``--bs``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from willfit.doctor.edits import Edit, replaced
from willfit.settings.code.cells import Cell

MAX_STEPS: Final = 4
"""Names that lead to a name."""

_Found = Iterator[tuple[int | None, ast.expr]]


def definition(cells: Sequence[Cell], node: ast.expr, text: str) -> Edit | None:
    """Another number where the one of an expression is written; None where that is not one place.

    A number in the expression's own place is no definition: others may stand for the same.
    """
    for _ in range(MAX_STEPS):
        found = list(_bindings(cells, node))
        if len(found) != 1:
            return None
        cell, node = found[0]
        if isinstance(node, ast.Constant):
            return replaced(cell, node, text) if isinstance(node.value, int) else None
    return None


def _bindings(cells: Sequence[Cell], node: ast.expr) -> _Found:
    """Expressions that the code binds to a name, an attribute or a key."""
    if isinstance(node, ast.Name):
        yield from _named(cells, node.id, attribute=False)
    elif isinstance(node, ast.Attribute):
        yield from _named(cells, node.attr, attribute=True)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        yield from _keyed(cells, node.slice.value)


def _nodes(cells: Sequence[Cell]) -> Iterator[tuple[int | None, ast.AST]]:
    for cell in cells:
        for statement in cell.body:
            for node in ast.walk(statement):
                yield cell.index, node


def _named(cells: Sequence[Cell], name: str, *, attribute: bool) -> _Found:
    """Assignments and, of a name, defaults of parameters; of an attribute, argparse's."""
    classes = [node for _, node in _nodes(cells) if isinstance(node, ast.ClassDef)]
    fields = {id(statement) for node in classes for statement in node.body}
    for cell, node in _nodes(cells):
        if any(_is(target, name, attribute, id(node) in fields) for target in _targets(node)):
            yield from ((cell, value) for value in _value(node))
        elif isinstance(node, ast.arguments) and not attribute:
            yield from ((cell, default) for default in _defaults(node, name))
        elif isinstance(node, ast.Call) and attribute:
            yield from ((cell, default) for default in _option(node, name))


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _value(node: ast.AST) -> Iterator[ast.expr]:
    value = getattr(node, "value", None)
    if isinstance(value, ast.expr):
        yield value


def _is(target: ast.expr, name: str, attribute: bool, inside: bool) -> bool:
    """``name = …``, in a class where an attribute is meant; ``x.name = …``."""
    if isinstance(target, ast.Name):
        return target.id == name and attribute is inside
    return attribute and isinstance(target, ast.Attribute) and target.attr == name


def _defaults(node: ast.arguments, name: str) -> Iterator[ast.expr]:
    given = [*node.posonlyargs, *node.args]
    for argument, default in zip(reversed(given), reversed(node.defaults), strict=False):
        if argument.arg == name:
            yield default
    for argument, value in zip(node.kwonlyargs, node.kw_defaults, strict=True):
        if argument.arg == name and value is not None:
            yield value


def _option(node: ast.Call, name: str) -> Iterator[ast.expr]:
    """``add_argument("--name", default=16)``."""
    adds = isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    flags = [a.value for a in node.args if isinstance(a, ast.Constant)] if adds else []
    if any(isinstance(flag, str) and flag.lstrip("-").replace("-", "_") == name for flag in flags):
        yield from (k.value for k in node.keywords if k.arg == "default")


def _keyed(cells: Sequence[Cell], key: object) -> _Found:
    """Entries of dicts and arguments of ``dict(…)`` with that name."""
    for cell, node in _nodes(cells):
        if isinstance(node, ast.Dict):
            for name, value in zip(node.keys, node.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key:
                    yield cell, value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
            yield from ((cell, k.value) for k in node.keywords if k.arg == key)
