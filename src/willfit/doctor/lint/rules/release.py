"""Rules on the order of a clean-up: names first, then the allocator's cache."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.cleanup import CLEANUP, EMPTY, is_call, is_cleanup
from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import MoveStatement
from willfit.doctor.lint.finding import Problem, Rule

_LONGEST: Final = 40
"""Statements of one clean-up that are looked at."""
_ORDER: Final = "del every name, then gc.collect(), then torch.cuda.empty_cache()"


def _too_early(code: Code) -> Iterator[Problem]:
    """``empty_cache()`` and only then ``del``."""
    for call in code.named_calls.get(EMPTY, []):
        statement = code.statement(call)
        if not (isinstance(statement, ast.Expr) and statement.value is call):
            continue
        block, at = code.block(statement)
        after = []
        for one in block[at + 1 : at + 1 + _LONGEST]:
            if not is_cleanup(code, one):
                break
            after.append(one)
        dels = [one for one in after if isinstance(one, ast.Delete)]
        if not dels or any(_empties(code, one) for one in after):
            continue
        first = at
        while first > max(0, at - _LONGEST) and is_cleanup(code, block[first - 1]):
            first -= 1
        yield Problem(
            at=call,
            message=(
                "empty_cache() before del gives nothing back: the tensors are still held, and "
                "what del frees afterwards stays with this process's allocator"
            ),
            fix=_ORDER,
            edits=(
                MoveStatement(
                    at=tuple(code.position(one) for one in dels),
                    before=code.position(block[_first_cache(code, block, first, at)]),
                ),
            ),
        )


def _empties(code: Code, statement: ast.stmt) -> bool:
    """Whether a statement, or what stands in it, calls ``empty_cache``."""
    return any(
        isinstance(node, ast.Call) and code.dotted(node.func) == EMPTY
        for node in ast.walk(statement)
    )


def _first_cache(code: Code, block: list[ast.stmt], first: int, at: int) -> int:
    """The first statement of the clean-up that the names must go before."""
    for index in range(first, at + 1):
        if is_call(code, block[index], *CLEANUP):
            return index
    return at


RULES: Final = (
    Rule(
        name="empty-cache-before-del",
        severity="leak",
        why="empty_cache() gives back blocks that nobody holds: names must go first.",
        check=_too_early,
    ),
)
