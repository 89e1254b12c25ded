"""Values of expressions, as far as literals and names tell them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

from willfit.settings.code.operations import MAX_TEXT, combined, compared, is_number
from willfit.settings.code.reading import Reading
from willfit.settings.code.values import (
    KNOWN,
    Bound,
    Class,
    Dotted,
    Function,
    Given,
    Made,
    Model,
    Record,
    Unknown,
    Written,
)

_Evaluate = Callable[[Reading, Any], Any]


def value_of(reading: Reading, node: ast.AST | None) -> Any:
    """The value of an expression, `Unknown` where the text does not tell it."""
    if node is None:
        return None
    reading.depth += 1
    try:
        return _evaluated(reading, node) if reading.step() else Unknown()
    finally:
        reading.depth -= 1


def _evaluated(reading: Reading, node: ast.AST) -> Any:
    evaluate: _Evaluate = _BY_NODE.get(type(node), _others)
    return evaluate(reading, node)


def _others(reading: Reading, node: ast.AST) -> Any:
    """Calls inside are met; the value is not known."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            value_of(reading, child)
    return reading.unknown(node)


def _constant(_reading: Reading, node: ast.Constant) -> Any:
    return node.value


def _name(reading: Reading, node: ast.Name) -> Any:
    return reading.names.get(node.id, Dotted(node.id))


def _attribute(reading: Reading, node: ast.Attribute) -> Any:
    return attribute_of(reading, value_of(reading, node.value), node)


def attribute_of(reading: Reading, owner: Any, node: ast.Attribute) -> Any:
    """``owner.name``."""
    name = node.attr
    if isinstance(owner, Dotted):
        return Dotted(f"{owner.name}.{name}"[:200])
    if isinstance(owner, Model):
        return Model(owner.load, f"{owner.path}.{name}"[-60:])
    if isinstance(owner, Class):
        return owner.fields.get(name, Bound(owner, name))
    if isinstance(owner, Record):
        found = owner.get(name, Bound(owner, name))
        if isinstance(found, Function) and owner.of:
            return Function(found.node, found.cell, found.names, owner)
        return found
    if isinstance(owner, Made) and name in owner.site.given:
        return owner.site.value(name)
    if isinstance(owner, (Made, Bound, str)):
        return Bound(owner, name)
    return reading.unknown(node)


def _subscript(reading: Reading, node: ast.Subscript) -> Any:
    owner, key = value_of(reading, node.value), value_of(reading, node.slice)
    try:
        if isinstance(owner, (Record, list, tuple, str)):
            return owner[key]
    except (KeyError, IndexError, TypeError):
        return reading.unknown(node)
    if isinstance(owner, Model):
        return owner
    return Dotted(f"{owner.name}[]") if isinstance(owner, Dotted) else reading.unknown(node)


def _list(reading: Reading, node: ast.List | ast.Set) -> Any:
    return _items(reading, node.elts)


def _tuple(reading: Reading, node: ast.Tuple) -> Any:
    return tuple(_items(reading, node.elts))


def _items(reading: Reading, nodes: list[ast.expr]) -> list[Any]:
    items: list[Any] = []
    for node in nodes:
        value = value_of(reading, node.value if isinstance(node, ast.Starred) else node)
        if isinstance(node, ast.Starred) and isinstance(value, (list, tuple)):
            items += value
        else:
            items.append(value)
        if len(items) > MAX_ITEMS:
            break
    return items


MAX_ITEMS: Final = 10_000
"""Longest list that is put together."""


def _dict(reading: Reading, node: ast.Dict) -> Any:
    record = Record()
    for key, item in zip(node.keys, node.values, strict=True):
        name, value = value_of(reading, key), value_of(reading, item)
        if key is None and isinstance(value, Record):
            reading.pay(len(value))
            record.update(value)
            record.written.update(value.written)
        elif isinstance(name, (str, int)):
            record[name] = value
            record.written[name] = Written(reading.index, item)
    return record


def _joined(reading: Reading, node: ast.JoinedStr) -> Any:
    text = ""
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            value = value_of(reading, part.value)
            if not isinstance(value, (str, int, float)) or part.format_spec is not None:
                return reading.unknown(node)
            text += str(value)
        elif isinstance(part, ast.Constant):
            text += str(part.value)
    return text if len(text) <= MAX_TEXT else reading.unknown(node)


def _binary(reading: Reading, node: ast.BinOp) -> Any:
    left, right = value_of(reading, node.left), value_of(reading, node.right)
    if isinstance(node.op, ast.Mod) and isinstance(right, int) and not is_number(left):
        reading.add("modulo", node, value=right)
    found = combined(node.op, left, right)
    return reading.unknown(node) if found is None else found


def _unary(reading: Reading, node: ast.UnaryOp) -> Any:
    value = value_of(reading, node.operand)
    if isinstance(node.op, ast.Not):
        return not value if isinstance(value, KNOWN) else reading.unknown(node)
    if isinstance(node.op, ast.USub) and is_number(value):
        return -value
    return reading.unknown(node)


def _boolean(reading: Reading, node: ast.BoolOp) -> Any:
    values = [value_of(reading, item) for item in node.values]
    stops = isinstance(node.op, ast.Or)
    for value in values:
        if not isinstance(value, KNOWN):
            return reading.unknown(node)
        if bool(value) is stops:
            return value
    return values[-1]


def _compare(reading: Reading, node: ast.Compare) -> Any:
    left, right = value_of(reading, node.left), value_of(reading, node.comparators[0])
    found = compared(node.ops[0], left, right) if len(node.ops) == 1 else None
    return reading.unknown(node) if found is None else found


def _choice(reading: Reading, node: ast.IfExp) -> Any:
    test = value_of(reading, node.test)
    if isinstance(test, KNOWN):
        return value_of(reading, node.body if test else node.orelse)
    either = value_of(reading, node.body), value_of(reading, node.orelse)
    return either[0] if either[0] == either[1] else reading.unknown(node)


def _comprehension(reading: Reading, node: ast.ListComp | ast.GeneratorExp) -> Any:
    """A list over a short literal list is made; of another the element is looked at once."""
    over = value_of(reading, node.generators[0].iter)
    target = node.generators[0].target
    if not isinstance(target, ast.Name) or not isinstance(over, (list, tuple)) or len(over) > 8:
        over = ()
    reading.pay(len(reading.names))
    kept, made = dict(reading.names), []
    for item in over or (Unknown(reading.text(node.generators[0].iter)),):
        if isinstance(target, ast.Name):
            reading.names[target.id] = item
        made.append(value_of(reading, node.elt))
    reading.names.clear()
    reading.names.update(kept)
    return made if over and len(node.generators) == 1 else reading.unknown(node)


def _lambda(reading: Reading, node: ast.Lambda) -> Any:
    return Function(node, reading.index, reading.names)


def _await(reading: Reading, node: ast.Await | ast.NamedExpr) -> Any:
    value = value_of(reading, node.value)
    if isinstance(node, ast.NamedExpr):
        reading.names[node.target.id] = value
    return value


def _call(reading: Reading, node: ast.Call) -> Any:
    from willfit.settings.code.calling import call  # calls walk the bodies of functions

    return call(reading, node)


def keyword_values(reading: Reading, node: ast.Call) -> tuple[dict[str, Given], tuple[str, ...]]:
    """Keyword arguments with where each is written, and the ``**`` that are not known."""
    given: dict[str, Given] = {}
    unread: list[str] = []
    for keyword in node.keywords:
        value = value_of(reading, keyword.value)
        if keyword.arg is not None:
            given[keyword.arg] = reading.given(keyword.value, value)
        elif isinstance(value, Record):
            here = Written(reading.index, keyword.value, exact=False)
            for name, item in value.items():
                given[str(name)] = Given(item, value.written.get(name, here))
        else:
            unread.append(reading.text(keyword.value))
    return given, tuple(unread)


_BY_NODE: Final[dict[type[ast.AST], _Evaluate]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.List: _list,
    ast.Set: _list,
    ast.Tuple: _tuple,
    ast.Dict: _dict,
    ast.JoinedStr: _joined,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.BoolOp: _boolean,
    ast.Compare: _compare,
    ast.IfExp: _choice,
    ast.Lambda: _lambda,
    ast.ListComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.Await: _await,
    ast.NamedExpr: _await,
    ast.Call: _call,
}
