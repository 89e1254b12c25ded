"""Keywords of a call and keys of a ``{…}`` literal: taken out, renamed, set."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from willfit.doctor.lint.edits import DropKeyword, RenameKeyword, SetKeyword


def edited_call(call: cst.Call, edit: DropKeyword | RenameKeyword | SetKeyword) -> cst.Call:
    """The call with one keyword changed."""
    at = next(
        (i for i, a in enumerate(call.args) if a.keyword and a.keyword.value == edit.name), None
    )
    if isinstance(edit, SetKeyword):
        return call.with_changes(args=_set(call.args, at, edit))
    if at is None:
        return call
    if isinstance(edit, RenameKeyword):
        argument = call.args[at].with_changes(keyword=cst.Name(edit.to))
        return call.with_changes(args=[*call.args[:at], argument, *call.args[at + 1 :]])
    return call.with_changes(args=_without(call.args, at))


def _without(args: Sequence[cst.Arg], at: int) -> list[cst.Arg]:
    """The rest; a last one that goes leaves its comma and line end to the one before."""
    rest = [*args[:at], *args[at + 1 :]]
    if rest and at == len(args) - 1:
        gone = args[at]
        rest[-1] = rest[-1].with_changes(
            comma=gone.comma, whitespace_after_arg=gone.whitespace_after_arg
        )
    return rest


def _set(args: Sequence[cst.Arg], at: int | None, edit: SetKeyword) -> list[cst.Arg]:
    value = cst.parse_expression(edit.code)
    if at is not None:
        return [*args[:at], args[at].with_changes(value=value), *args[at + 1 :]]
    new = cst.Arg(
        keyword=cst.Name(edit.name),
        value=value,
        equal=cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace("")),
    )
    if not args:
        return [new]
    last = args[-1]
    between = args[-2].comma if len(args) > 1 else cst.MaybeSentinel.DEFAULT
    return [
        *args[:-1],
        last.with_changes(comma=between, whitespace_after_arg=cst.SimpleWhitespace("")),
        new.with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg),
    ]


def edited_dict(table: cst.Dict, edit: DropKeyword | RenameKeyword | SetKeyword) -> cst.Dict:
    """The literal with one key changed."""
    elements = list(table.elements)
    at = next((i for i, e in enumerate(elements) if _key(e) == edit.name), None)
    if at is None:
        return table
    element = elements[at]
    if isinstance(edit, DropKeyword):
        rest = [*elements[:at], *elements[at + 1 :]]
        if rest and at == len(elements) - 1:
            rest[-1] = rest[-1].with_changes(comma=element.comma)
        return table.with_changes(elements=rest)
    assert isinstance(element, cst.DictElement)
    if isinstance(edit, SetKeyword):
        elements[at] = element.with_changes(value=cst.parse_expression(edit.code))
    else:
        assert isinstance(element.key, cst.SimpleString)
        quote = element.key.value[-1]
        elements[at] = element.with_changes(key=cst.SimpleString(f"{quote}{edit.to}{quote}"))
    return table.with_changes(elements=elements)


def _key(element: cst.BaseDictElement) -> str | None:
    if isinstance(element, cst.DictElement) and isinstance(element.key, cst.SimpleString):
        value = element.key.evaluated_value
        return value if isinstance(value, str) else None
    return None
