"""Clean-up statements, and where a name is used or dropped: what the rules on release share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code

EMPTY: Final = "torch.cuda.empty_cache"
CLEANUP: Final = frozenset(
    {EMPTY, "gc.collect", "torch.cuda.synchronize", "torch.cuda.ipc_collect",
     "torch.cuda.set_device", "torch.cuda.reset_peak_memory_stats"}
)  # fmt: skip
LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)


def is_call(code: Code, statement: ast.stmt, *names: str) -> bool:
    """Whether a statement calls one of these functions and does no more."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and code.dotted(statement.value.func) in names
    )


def is_cleanup(code: Code, statement: ast.stmt) -> bool:
    """Whether a statement cleans up: ``del``, ``x = None``, ``gc.collect()``."""
    if isinstance(statement, ast.Delete) or is_call(code, statement, *CLEANUP):
        return True
    if isinstance(statement, ast.Assign):
        return isinstance(statement.value, ast.Constant) and statement.value.value is None
    if isinstance(statement, ast.With | ast.For):
        return all(is_cleanup(code, one) for one in statement.body)
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Attribute)
        and statement.value.func.attr in ("cpu", "to")
    )


def is_late_cleanup(code: Code, node: ast.Name) -> bool:
    """``model_a.cpu()`` is a use that asks for nothing."""
    return is_cleanup(code, code.statement(node))


def uses(code: Code, name: str, scope: object, after: int) -> list[ast.Name]:
    """Where a name of a scope is read after a place."""
    return [
        node
        for node in code.by_name.get(name, [])
        if code.order[node] > after and isinstance(node.ctx, ast.Load)
        and _reaches(code, node, scope)
    ]  # fmt: skip


def _reaches(code: Code, node: ast.Name, scope: object) -> bool:
    """Whether a name inside a function may be that of an outer scope."""
    here = code.function(node)
    while True:
        if here is scope:
            return True
        if isinstance(here, ast.Module) or code.scopes.bindings(here, node.id):
            return False
        here = code.function(here)


def dropped(code: Code, name: str, scope: object, start: int, end: int) -> bool:
    """Whether a name is deleted or bound anew between two places."""
    for node in code.by_name.get(name, []):
        between = start < code.order[node] < end and code.function(node) is scope
        if between and isinstance(node.ctx, ast.Del | ast.Store):
            return True
    return False


def given_to(node: ast.expr) -> Iterator[ast.expr]:
    """What a call is given."""
    if isinstance(node, ast.Call):
        yield from node.args
        yield from (k.value for k in node.keywords)
