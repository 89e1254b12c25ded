"""Operators on values that are known, bounded: no text, list or number grows without end."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

from willfit.settings.code.values import KNOWN

MAX_TEXT: Final = 10_000
"""Longest text or list that is put together."""
_LARGEST: Final = 2**40
"""Bound on numbers that are computed with."""
_SMALL: Final = 40
"""Largest exponent and shift."""

_Operation = Callable[[Any, Any], Any]
_OPERATIONS: Final[dict[type[ast.operator], _Operation]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


def combined(sign: ast.operator, left: Any, right: Any) -> Any:
    """``left + right`` and its kin, of paths ``/`` too; None where it is not known."""
    texts = isinstance(left, str) and isinstance(right, str)
    if isinstance(sign, ast.Div) and texts:
        return f"{left.rstrip('/')}/{right}"[:MAX_TEXT]
    if isinstance(sign, ast.Add) and (
        texts or (isinstance(left, list) and isinstance(right, list))
    ):
        return left + right if len(left) + len(right) <= MAX_TEXT else None
    work = _OPERATIONS.get(type(sign))
    if work is None or not (is_number(left) and is_number(right)):
        return None
    grows = isinstance(sign, (ast.Pow, ast.LShift))
    if grows and not (0 <= right <= _SMALL and abs(left) <= 2**10):
        return None
    try:
        return work(left, right)
    except (ArithmeticError, ValueError, TypeError):
        return None


def is_number(value: Any) -> bool:
    """Whether a value is a number of a usual size."""
    return isinstance(value, (int, float)) and abs(value) <= _LARGEST


_COMPARISONS: Final[dict[type[ast.cmpop], _Operation]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.LtE: operator.le,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


def compared(sign: ast.cmpop, left: Any, right: Any) -> bool | None:
    """``left < right`` and its kin; None where it is not known."""
    compare = _COMPARISONS.get(type(sign))
    if compare is None or not (isinstance(left, KNOWN) and isinstance(right, KNOWN)):
        return None
    try:
        return bool(compare(left, right))
    except TypeError:
        return None
