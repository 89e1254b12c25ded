"""Imports that new code needs, put after those at the top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from willfit.doctor.lint.edits import AddImport


def with_imports(module: cst.Module, wanted: Sequence[AddImport]) -> cst.Module:
    """The module with what is not imported yet at its top level."""
    for one in dict.fromkeys(wanted):
        if one.what not in _imported(module, one.module):
            module = _added(module, one)
    return module


def _imported(module: cst.Module, name: str) -> set[str]:
    """Names that ``from name import …`` brings under their own name."""
    found: set[str] = set()
    for node in _froms(module):
        if node.module is not None and _dotted(node.module) == name:
            if isinstance(node.names, cst.ImportStar):
                continue
            found |= {a.evaluated_name for a in node.names if a.asname is None}
    return found


def _froms(module: cst.Module) -> Iterator[cst.ImportFrom]:
    for statement in module.body:
        if isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                if isinstance(small, cst.ImportFrom):
                    yield small


def _dotted(node: cst.BaseExpression) -> str:
    return cst.Module(body=[]).code_for_node(node)


def _added(module: cst.Module, wanted: AddImport) -> cst.Module:
    new = cst.parse_statement(f"from {wanted.module} import {wanted.what}")
    body = list(module.body)
    last = -1
    for index, statement in enumerate(body):
        if _is_import(statement):
            last = index
        elif not (index == 0 and _is_docstring(statement)):
            break
    at = last + 1 if last >= 0 else int(bool(body) and _is_docstring(body[0]))
    return module.with_changes(body=[*body[:at], new, *body[at:]])


def _is_import(statement: cst.BaseStatement | cst.BaseSmallStatement) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and all(
        isinstance(one, cst.Import | cst.ImportFrom) for one in statement.body
    )


def _is_docstring(statement: cst.BaseStatement | cst.BaseSmallStatement) -> bool:
    return (
        isinstance(statement, cst.SimpleStatementLine)
        and isinstance(statement.body[0], cst.Expr)
        and isinstance(statement.body[0].value, cst.SimpleString | cst.ConcatenatedString)
    )
