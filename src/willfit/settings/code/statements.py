"""Statements in the order in which they run; both ways of a branch that cannot be decided."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from willfit.settings.code.expressions import value_of
from willfit.settings.code.reading import Reading
from willfit.settings.code.values import (
    KNOWN,
    Class,
    Dotted,
    Function,
    Made,
    Model,
    Record,
    Unknown,
    Written,
)

MAX_ROUNDS: Final = 4
"""Elements of a literal list that a loop over it is followed for."""


class Returned(Exception):  # noqa: N818 -- the way out of a function that is followed
    """A ``return`` was met."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def walk(reading: Reading, statements: Sequence[ast.stmt]) -> None:
    """Read statements one after the other."""
    outer = reading.statement
    try:
        for statement in statements:
            reading.statement = statement
            if reading.step():
                _BY_NODE.get(type(statement), _plain)(reading, statement)
    finally:
        reading.statement = outer


def _plain(reading: Reading, node: ast.stmt) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            value_of(reading, child)


def _assign(reading: Reading, node: ast.Assign) -> None:
    value = value_of(reading, node.value)
    for target in node.targets:
        assign(reading, target, value, node.value)


def _annotated(reading: Reading, node: ast.AnnAssign) -> None:
    if node.value is not None:
        assign(reading, node.target, value_of(reading, node.value), node.value)


def _augmented(reading: Reading, node: ast.AugAssign) -> None:
    value_of(reading, node.value)
    if isinstance(node.target, ast.Name):
        reading.names[node.target.id] = reading.unknown(node.target)


def assign(reading: Reading, target: ast.expr, value: Any, node: ast.expr) -> None:
    """Bind a target; ``node`` is the expression of the value."""
    if isinstance(target, ast.Name):
        reading.names[target.id] = value
    elif isinstance(target, (ast.Tuple, ast.List)):
        items = value if isinstance(value, (tuple, list)) else ()
        for index, element in enumerate(target.elts):
            item = items[index] if index < len(items) else reading.unknown(element)
            assign(reading, element, item, node)
    elif isinstance(target, ast.Attribute):
        _set(reading, value_of(reading, target.value), target.attr, value, node)
    elif isinstance(target, ast.Subscript):
        _set(reading, value_of(reading, target.value), value_of(reading, target.slice), value, node)


def _set(reading: Reading, owner: Any, name: Any, value: Any, node: ast.expr) -> None:
    if name == "requires_grad" and value is False:
        reading.add("frozen", node)
    if isinstance(owner, Class):
        owner = owner.fields
    if isinstance(owner, Record) and isinstance(name, (str, int)):
        owner[name] = value
        owner.written[name] = Written(reading.index, node)
    elif isinstance(owner, Made) and isinstance(name, str):
        owner.site.given[name] = reading.given(node, value)
    elif isinstance(owner, Model):
        reading.add(f"set {owner.path}.{name}"[:80], node, of=owner, value=value)
    elif isinstance(owner, Dotted) and owner.name.endswith("environ"):
        reading.add("environment", node, value=(name, value))


def _function(reading: Reading, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    reading.names[node.name] = Function(node, reading.index, reading.names)


def _class(reading: Reading, node: ast.ClassDef) -> None:
    outer, fields = reading.names, Record()
    reading.pay(len(outer))
    bases = [value_of(reading, base) for base in node.bases]
    for base in bases:
        if isinstance(base, Class):
            fields.update(base.fields)
            fields.written.update(base.fields.written)
    reading.names = {**outer}
    walk(reading, node.body)
    for statement in node.body:
        for name, written in _fields(reading, statement):
            fields[name] = reading.names.get(name, Unknown(name))
            if written is not None:
                fields.written[name] = written
    reading.names = outer
    names = tuple(b.name for b in bases if isinstance(b, (Dotted, Class)))
    inherited = tuple(n for b in bases if isinstance(b, Class) for n in b.bases)
    outer[node.name] = Class(node.name, (*names, *inherited), fields)


def _fields(reading: Reading, node: ast.stmt) -> Iterator[tuple[str, Written | None]]:
    """Names that a statement of a class binds, with where their values are written."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, Written(reading.index, node.value)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.value is not None:
            yield node.target.id, Written(reading.index, node.value)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, None


def _if(reading: Reading, node: ast.If) -> None:
    before_test = len(reading.uses)
    test = value_of(reading, node.test)
    for use in reading.uses[before_test:]:
        use.last_line = node.end_lineno or use.last_line  # of ``step % 8``: what it decides on
    if isinstance(test, KNOWN):
        walk(reading, node.body if test else node.orelse)
        return
    reading.pay(3 * len(reading.names))
    before, returned = dict(reading.names), []
    for branch in (node.body, node.orelse):
        reading.names, kept = dict(before), reading.names
        try:
            walk(reading, branch)
        except Returned as out:
            returned.append(out)
        reading.names, after = kept, reading.names
        _merge(reading, before, after, node)
    if len(returned) == 2:
        raise returned[0]


def _merge(reading: Reading, before: dict[str, Any], after: dict[str, Any], node: ast.If) -> None:
    """Names that a branch binds: known where nothing else was bound, else not."""
    for name, value in after.items():
        old = before.get(name)
        if value is old:
            continue
        now = reading.names.get(name)
        first = now is old and (old is None or isinstance(old, (Unknown, Dotted)))
        settled = isinstance(value, (Model, Made, Function, Class, Record))
        if first or settled or now == value:
            reading.names[name] = value
        else:
            reading.names[name] = Unknown(reading.text(node.test))


def _for(reading: Reading, node: ast.For | ast.AsyncFor) -> None:
    over = value_of(reading, node.iter)
    items = over if isinstance(over, (list, tuple)) and 0 < len(over) <= MAX_ROUNDS else None
    if items is None or not all(isinstance(i, (str, tuple, Record, Model)) for i in items):
        items = [Unknown(reading.text(node.iter))]
    for item in items:
        assign(reading, node.target, item, node.iter)
        walk(reading, node.body)
    walk(reading, node.orelse)


def _while(reading: Reading, node: ast.While) -> None:
    value_of(reading, node.test)
    walk(reading, node.body)
    walk(reading, node.orelse)


def _with(reading: Reading, node: ast.With | ast.AsyncWith) -> None:
    for item in node.items:
        value = value_of(reading, item.context_expr)
        if item.optional_vars is not None:
            assign(reading, item.optional_vars, value, item.context_expr)
    walk(reading, node.body)


def _try(reading: Reading, node: ast.Try) -> None:
    walk(reading, node.body)
    reading.pay(len(reading.names))
    kept = dict(reading.names)
    for handler in node.handlers:
        walk(reading, handler.body)
    reading.names.update(kept)
    walk(reading, node.orelse)
    walk(reading, node.finalbody)


def _return(reading: Reading, node: ast.Return) -> None:
    raise Returned(value_of(reading, node.value))


def _import(reading: Reading, node: ast.Import) -> None:
    for alias in node.names:
        name = alias.name if alias.asname else alias.name.partition(".")[0]
        reading.names[alias.asname or name] = Dotted(name)


def _import_from(reading: Reading, node: ast.ImportFrom) -> None:
    for alias in node.names:
        if alias.name != "*":
            reading.names[alias.asname or alias.name] = Dotted(f"{node.module or ''}.{alias.name}")


def _delete(reading: Reading, node: ast.Delete) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            reading.names.pop(target.id, None)


_BY_NODE: Final[dict[type[ast.stmt], Callable[[Reading, Any], None]]] = {
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: _augmented,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.ClassDef: _class,
    ast.If: _if,
    ast.For: _for,
    ast.AsyncFor: _for,
    ast.While: _while,
    ast.With: _with,
    ast.AsyncWith: _with,
    ast.Try: _try,
    ast.Return: _return,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.Delete: _delete,
}
