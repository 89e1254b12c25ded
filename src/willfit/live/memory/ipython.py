"""Magics: ``%load_ext willfit`` gives a notebook ``%%willfit_watch`` and ``%watch``."""

from __future__ import annotations

import ast
from typing import Any

from willfit.errors import InputError
from willfit.live.memory.watch import watch


def register(shell: Any) -> None:
    """Add the magics to a shell."""

    def willfit_watch(line: str, cell: str) -> Any:
        """Run the cell and report what it does to memory: ``%%willfit_watch [-o NAME] [LABEL]``."""
        name, label = _options(line)
        return run_watched(shell, cell, label, name)

    def watch_line(line: str) -> Any:
        """Run one statement and report what it does to memory: ``%watch [-o NAME] STATEMENT``."""
        name, code = _options(line)
        return run_watched(shell, code, "", name)

    shell.register_magic_function(willfit_watch, "cell", "willfit_watch")
    shell.register_magic_function(watch_line, "line", "watch")


def run_watched(shell: Any, code: str, label: str = "", name: str = "") -> Any:
    """Run code among the notebook's variables; the value of its last expression is returned.

    An error is the cell's own and passes through. ``name``: the variable that gets the result.
    """
    text = shell.transform_cell(code)
    file = shell.compile.cache(text, shell.execution_count, raw_code=code)
    tree = shell.transform_ast(ast.parse(text, file))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    watching = watch(label)
    try:
        with watching:
            exec(compile(tree, file, "exec"), shell.user_ns)
            if last is None:
                return None
            returned = eval(compile(ast.Expression(last.value), file, "eval"), shell.user_ns)
            return returned  # noqa: RET504 - a local that the search for holders finds
    finally:
        if name:
            shell.user_ns[name] = watching.result


def _options(line: str) -> tuple[str, str]:
    words = line.strip().split(maxsplit=2)
    if words[:1] != ["-o"]:
        return "", line.strip()
    if len(words) < 2 or not words[1].isidentifier():
        raise InputError("-o takes the name of a variable for the result, as in -o watched")
    return words[1], words[2] if len(words) > 2 else ""
