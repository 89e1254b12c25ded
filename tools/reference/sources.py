"""Modules read as text: their functions, constants and fields with docstrings, nothing imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tools.pages import ROOT

SRC: Final = ROOT / "src"


@dataclass(frozen=True, kw_only=True)
class Documented:
    """One name with its docstring."""

    name: str
    text: str
    """Signature of a function, value of a constant, annotation of a field."""
    docstring: str


@cache
def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def path_of(module: str) -> Path:
    """File of ``willfit.results``."""
    base = SRC.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def functions(body: Sequence[ast.stmt]) -> Iterator[Documented]:
    """Functions and methods in the order of the file."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield Documented(
                name=node.name, text=signature(node), docstring=ast.get_docstring(node) or ""
            )


def signature(node: ast.FunctionDef) -> str:
    """``name(a, *, b=1) -> int`` as it is written, in several lines where it is long."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    one = f"{node.name}({ast.unparse(node.args)}){result}"
    if len(one) <= 88:
        return one
    inside = _arguments(node.args)
    return f"{node.name}(\n" + "".join(f"    {each},\n" for each in inside) + f"){result}"


def _arguments(given: ast.arguments) -> list[str]:
    written: list[str] = []
    plain = [*given.posonlyargs, *given.args]
    pad = len(plain) - len(given.defaults)
    for index, argument in enumerate(plain):
        written.append(_with(argument, given.defaults[index - pad] if index >= pad else None))
    if given.vararg is not None:
        written.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        written.append("*")
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    written += [_with(argument, default) for argument, default in pairs]
    return [*written, f"**{ast.unparse(given.kwarg)}"] if given.kwarg is not None else written


def _with(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def fields(body: Sequence[ast.stmt]) -> Iterator[Documented]:
    """Annotated names, of a class or a module, with the docstring below them."""
    following = [*body[1:], None]
    for node, after in zip(body, following, strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield Documented(
                name=node.target.id, text=_written(node), docstring=_string(after) or ""
            )


def _written(node: ast.AnnAssign) -> str:
    value = f" = {ast.unparse(node.value)}" if node.value is not None else ""
    return f"{ast.unparse(node.annotation)}{value}"


def _string(node: ast.stmt | None) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else None
    return None
