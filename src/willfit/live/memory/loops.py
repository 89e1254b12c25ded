"""Loops: functions of the notebook that return in the first round of a loop."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType

from willfit.live.memory.frames import is_library
from willfit.live.memory.notebook import cell_of, user_variables


def early_returns() -> tuple[str, ...]:
    """A sentence for each function of the user's whose loop ends with a ``return`` of its own.

    Such a loop runs once, whatever it goes over: what it returns is the first batch's.
    """
    functions = {
        id(one): one
        for one in list(user_variables().values())
        if isinstance(one, FunctionType) and not is_library(one.__code__.co_filename)
    }
    return tuple(sentence for one in functions.values() for sentence in _of_function(one))


def _of_function(function: FunctionType) -> Iterator[str]:
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):  # made by exec, or not a whole statement
        return
    where = cell_of(function.__code__.co_filename)
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For | ast.While) and isinstance(loop.body[-1], ast.Return):
            line = first + loop.body[-1].lineno - 1
            place = f"line {line} of {where}" if where else f"line {line}"
            yield (
                f"`{function.__name__}` returns inside its loop ({place}): the loop ends in its "
                "first round, and what follows was never computed"
            )
