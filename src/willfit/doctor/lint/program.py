"""Programs out of source text: a script, or a notebook's cells as one in their order."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.finding import Finding
from willfit.doctor.lint.signatures import LIBRARIES, Signatures, here
from willfit.doctor.notebooks import Cell, Notebook, Shell, Written, plain
from willfit.scenario.stack import TESTED, Stack

MAX_SOURCE: Final = 8 * 2**20
"""Bound on the code that is parsed; a program of people's is far smaller."""
_PIN: Final = re.compile(r"\b([a-z_]+)(?:==|-)(\d+(?:\.\d+){1,3})(?![\w.]*\*)")


@dataclass(frozen=True, kw_only=True)
class Program:
    """Code that could be read, and what could not."""

    code: Code | None
    broken: tuple[Finding, ...] = ()
    """One for each part that does not parse."""
    shell: tuple[Shell, ...] = ()
    written: tuple[Written, ...] = ()


def of_script(source: str, stack: Stack | None = None, gpu: str = "") -> Program:
    """A file of Python."""
    source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    tree = _parsed(source)
    if isinstance(tree, Finding):
        return Program(code=None, broken=(tree,))
    signatures = Signatures(stack=_whole(stack) if stack is not None else here())
    return Program(code=Code(source, tree, signatures, gpu))


def of_notebook(notebook: Notebook, stack: Stack | None = None) -> Program:
    """All cells of a notebook as one program; a cell that does not parse is left out."""
    lines: list[str] = []
    places: list[tuple[int, int]] = []
    broken: list[Finding] = []
    shell: list[Shell] = []
    written: list[Written] = []
    for cell in notebook.cells:
        part = plain(cell)
        shell += part.shell
        written += [part.written] if part.written is not None else []
        text = _cell_text(cell, part.text, broken)
        own = text.split("\n")
        lines += own
        places += [(cell.index, i) for i in range(1, len(own) + 1)]
    source = "\n".join(lines)
    tree = _parsed(source)
    if isinstance(tree, Finding):
        return Program(code=None, broken=(*broken, replace(tree, cell=0)), shell=tuple(shell))
    known = _whole(stack) if stack is not None else pinned(here(), (one.text for one in shell))
    signatures = Signatures(stack=known)
    code = Code(source, tree, signatures, notebook.gpu, tuple(places))
    return Program(code=code, broken=tuple(broken), shell=tuple(shell), written=tuple(written))


def _whole(stack: Stack) -> Stack:
    """A stack that names some libraries only, with the tested versions of the others."""
    return replace(stack, versions={**TESTED, **stack.versions})


def _cell_text(cell: Cell, text: str, broken: list[Finding]) -> str:
    tree = _parsed(text)
    if isinstance(tree, ast.Module):
        return text
    broken.append(replace(tree, cell=cell.index))
    return "\n" * text.count("\n")


def _parsed(source: str) -> ast.Module | Finding:
    if len(source) > MAX_SOURCE:
        return _unreadable(1, "it is larger than 8 MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's texts
            return ast.parse(source)
    except SyntaxError as error:
        return _unreadable(max(1, error.lineno or 1), (error.msg or "invalid syntax")[:200])
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return _unreadable(1, str(error)[:200] or type(error).__name__)


def _unreadable(line: int, why: str) -> Finding:
    return Finding(
        rule="unreadable-code",
        line=line,
        severity="error",
        message=f"this is not Python that can be read: {why}",
        fix="give a file of Python code, or a notebook as .ipynb",
    )


def pinned(stack: Stack, commands: Iterable[str]) -> Stack:
    """Versions that a notebook installs: ``pip install transformers==4.41.2`` or a wheel's name."""
    versions = dict(stack.versions)
    for command in commands:
        if "pip" not in command and "uv " not in command:
            continue
        for name, version in _PIN.findall(command):
            if name in TESTED or name in LIBRARIES:
                versions[name] = version
    return replace(stack, versions=versions)
