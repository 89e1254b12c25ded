"""Notebook: what IPython, where it runs, keeps beside the user's own variables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

OUTPUTS: Final = ("_", "__", "___")
"""The last three results, which IPython keeps as variables and in its display hook."""


def shell() -> Any:
    """The running IPython shell; None outside of one."""
    module = sys.modules.get("IPython.core.getipython")
    ask: Callable[[], Any] | None = getattr(module, "get_ipython", None)
    return ask() if ask is not None else None


def user_variables() -> Mapping[str, Any]:
    """The notebook's variables; those of ``__main__`` outside of one."""
    running = shell()
    if running is not None:
        found: Mapping[str, Any] = running.user_ns
        return found
    return vars(sys.modules["__main__"])


def cell_of(filename: str) -> str:
    """``cell In[5]`` for the file name that IPython gives to a cell's code; else nothing."""
    running = shell()
    ask = getattr(getattr(running, "compile", None), "format_code_name", None)
    named = ask(filename) if ask is not None else None
    return f"cell {named[1]}" if named else ""


def is_output(name: Any) -> bool:
    """Whether a variable is one that IPython makes of results: ``_``, ``_12``, ``Out``, ``_oh``."""
    text = str(name)
    return text in {*OUTPUTS, "Out", "_oh"} or (text[:1] == "_" and text[1:].isdecimal())


def forget_outputs(holds: Callable[[Any], bool]) -> tuple[str, ...]:
    """Drop the results, and the last cell's, whose value ``holds`` says yes to; their names."""
    running = shell()
    if running is None:
        return ()
    spaces = _spaces(running)
    names = {name for space in spaces for name in space if is_output(name)} - {"Out", "_oh"}
    names = {name for name in names if any(holds(space.get(name)) for space in spaces)}
    for space in spaces:
        for name in names:
            space.pop(name, None)
    outputs = running.user_ns.get("_oh", {})
    kept = [number for number, value in outputs.items() if holds(value)]
    for number in kept:
        del outputs[number]
    _forget_display(running, holds)
    return (*sorted(names), *(f"Out[{number}]" for number in kept))


def _spaces(running: Any) -> list[dict[str, Any]]:
    """The variables, and the table of those that are not the user's, which keeps them as well."""
    return [running.user_ns, running.user_ns_hidden]


def _forget_display(running: Any, holds: Callable[[Any], bool]) -> None:
    for name in OUTPUTS:
        if holds(getattr(running.displayhook, name, None)):
            setattr(running.displayhook, name, None)
    last = running.last_execution_result
    if last is not None and holds(last.result):
        running.last_execution_result = None


def forget_error() -> bool:
    """Drop the last error where IPython keeps it: its traceback holds the frames that failed."""
    running = shell()
    if running is None:
        return False
    found = False
    keepers: list[Any] = [getattr(running, name, None) for name in ("InteractiveTB", "SyntaxTB")]
    for keeper in keepers:
        if getattr(keeper, "tb", None) is not None:
            keeper.tb = None
            found = True
    last = running.last_execution_result
    if last is not None and (last.error_in_exec or last.error_before_exec) is not None:
        last.error_in_exec = last.error_before_exec = None
        found = True
    return found
