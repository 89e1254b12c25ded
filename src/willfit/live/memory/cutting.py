"""Cutting: the line of code that makes a place let go of what hangs on it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import FunctionType
from typing import Any, Final

from torch import nn

from willfit.live.memory.last_error import NAMES
from willfit.live.memory.roots import Root, is_library_module
from willfit.live.memory.specials import Special
from willfit.live.memory.steps import Step

NO_LINE: Final = "# no line of Python does: end the process"
_MUTABLE: Final = (list, dict, set, deque)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """An object of a way, with the step that leads on from it."""

    place: int
    expression: str | None
    step: Step
    special: Special | None


def cut(way: Sequence[Any], stops: Sequence[Stop], root: Root, count: int) -> str:
    """Delete what is held where Python can say it; a container of many is emptied.

    ``count``: how many of the parts of what the place holds lead to what was looked for.
    """
    if root.expression is None:
        return NO_LINE
    if count > 1 and isinstance(way[0], _MUTABLE):
        return f"{root.expression}.clear()"
    if not stops:
        return f"del {root.expression}"
    last = stops[-1]
    if last.expression is not None and last.step.access:
        end = Stop(
            place=-1, expression=last.expression + last.step.access, step=Step(), special=None
        )
        return delete(way, [*stops, end])
    if root.is_library:
        return NO_LINE  # a variable of a library is not the user's to delete
    return delete(way, stops)


def delete(way: Sequence[Any], stops: Sequence[Stop]) -> str:
    """``del`` of the innermost thing that can be written and whose holder does without it.

    Elements of tuples stay, and attributes of libraries' objects, which break without them. Where
    an element cannot be written (of a set, by a key that is an object), its container is emptied.
    """
    best = stops[0]
    for outer, stop in pairwise(stops):
        if stop.expression is None or not _can_lose(way[outer.place], outer.step):
            break
        best = stop
    held = way[best.place] if best.place >= 0 else None
    if isinstance(held, _MUTABLE) and best.step.access is None:
        return f"{best.expression}.clear()"
    if best is not stops[0] and (best.expression or "").rpartition(".")[2].isidentifier():
        return f"{best.expression} = None"  # whoever asks for the attribute still finds one
    return f"del {best.expression}"


def _can_lose(holder: Any, step: Step) -> bool:
    if isinstance(holder, tuple):
        return False
    if not (step.access or "").startswith(".") or isinstance(holder, _OPEN):
        return True
    return not is_library_module(type(holder).__module__)


_OPEN: Final = (nn.Module, FunctionType)
"""Objects of libraries that take any attribute and lose it without harm."""


def line_for(root: Root, line: str) -> str:
    """With the import that it needs; or what to do where no line of code helps."""
    if root.kind in _LINES:
        return _LINES[root.kind].format(name=root.name, place=root.place)
    if root.kind == "last exception":
        held = [f"sys.{name}" for name in NAMES if hasattr(sys, name)]
        return f"import sys; del {', '.join(held)}"
    if root.expression is None or line.startswith("#"):
        return line
    return f"import {root.imports}; {line}" if root.imports else line


_LINES: Final = {
    "handled exception": "# leave the `except` block first, then call willfit.release",
    "ipython": "willfit.release(clear=('last_exception', 'ipython'))",
    "output": "willfit.release(clear=('ipython',))",
    "returned": "# the caller gets it",
    "thread": "# wait until that thread has left the function",
    "context": "# set the context variable `{name}` to something else",
    "signal": "import signal; signal.signal(signal.{name}, signal.SIG_DFL)",
}
