"""The source a user's function depends on: its file and what that imports from beside it."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.runner.content.digests import digest_bytes, digest_names
from willfit.sources.limits import read_bounded
from willfit.units import MIB

MAX_FILES: Final = 200
"""Modules that are followed; a stage that needs more is a library and has a version."""
MAX_SOURCE_BYTES: Final = 16 * MIB
"""A Python file; the largest that people write stay below 1 MiB."""
_STAR: Final = "*"


@dataclass(frozen=True, kw_only=True)
class SourceContent:
    """A function of the user's and the files that its module is made of."""

    path: Path
    """The module's file, absolute."""
    function: str
    """Name at the module's top level."""
    files: Mapping[str, str]
    """Digest of each file, by its path from the module's folder; the module itself comes first."""

    @property
    def digest(self) -> str:
        """One digest of all files and of the function's name."""
        return digest_names([*self.files.items(), ("", self.function)])

    def plain(self) -> dict[str, object]:
        """What goes into the ingredients."""
        return {"function": self.function, "files": dict(self.files)}


def source_content(reference: str, *, base: Path | None = None) -> SourceContent:
    """Digests of the code behind ``module.py:function``, without running any of it.

    Followed are the ``import`` statements, wherever they stand, that lead to a file or package
    beside the module or in ``base``, the folder that relative references start from (default:
    the current one, which is then not searched). Not seen are installed libraries, modules
    imported by a computed name, and data that the code opens. Raises `InputError` where the file
    or the name is not there, and beyond 200 files.
    """
    path, function = _parsed(reference, base)
    roots = tuple(dict.fromkeys([path.parent, *([base.absolute()] if base else [])]))
    content = read_bounded(path, MAX_SOURCE_BYTES)
    _check_name(path, _tree(path, content), function)
    files = _followed(path, roots)
    return SourceContent(path=path, function=function, files=files)


def _parsed(reference: str, base: Path | None) -> tuple[Path, str]:
    file, _, function = reference.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise InputError(
            f"{reference[:200]!r} names no function: expected a file and a name in it, such as "
            "my_stage.py:predict"
        )
    path = Path(os.path.abspath((base or Path()) / Path(file).expanduser()))  # noqa: PTH100 - links stay
    if not path.is_file():
        raise InputError(f"there is no file {path} for {reference[:200]!r}: check its path")
    return path, function


def _check_name(path: Path, tree: ast.Module, function: str) -> None:
    names = _Names()
    names.visit(tree)
    if function in names.bound or _STAR in names.bound:
        return
    has = ", ".join(names.defined[:6]) or "no functions"
    raise InputError(
        f"{path} has no {function!r} at its top level: expected one of what it has ({has})"
    )


class _Names(ast.NodeVisitor):
    """Names that a module binds when it is imported, those in branches among them."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.defined: list[str] = []

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.bound.add(node.name)
        self.defined.append(node.name)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition  # noqa: N815 - ast's

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.bound.update(alias.asname or alias.name.split(".")[0] for alias in node.names)

    visit_Import = visit_ImportFrom = _import  # noqa: N815 - ast's

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bound.add(node.id)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Nothing within is the module's."""


def _followed(first: Path, roots: tuple[Path, ...]) -> dict[str, str]:
    """Digests of a file and of all that it leads to, breadth first."""
    waiting, seen, files = [first], {first.resolve()}, dict[str, str]()
    while waiting:
        path = waiting.pop(0)
        content = read_bounded(path, MAX_SOURCE_BYTES)
        files[os.path.relpath(path, first.parent).replace(os.sep, "/")] = digest_bytes(content)
        for found in _imported(path, _tree(path, content), roots):
            if found.resolve() not in seen:
                seen.add(found.resolve())
                waiting.append(found)
        if len(seen) > MAX_FILES:
            raise InputError(
                f"{first} imports more than {MAX_FILES} files beside it, expected a few: install "
                "them as a package, or move the stage and what it needs into a folder of its own"
            )
    return {name: files[name] for name in [next(iter(files)), *sorted(list(files)[1:])]}


def _tree(path: Path, content: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are for who runs it
            return ast.parse(content, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise InputError(f"{path} is not valid Python{line} ({reason}): correct it") from error


def _imported(path: Path, tree: ast.Module, roots: tuple[Path, ...]) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _from_any(roots, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            starts = roots if node.level == 0 else (_up(path.parent, node.level - 1),)
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _from_any(starts, [*module, alias.name])


def _from_any(starts: tuple[Path, ...], parts: list[str]) -> Iterator[Path]:
    for start in starts:
        yield from _modules(start, parts)


def _up(folder: Path, levels: int) -> Path:
    for _ in range(levels):
        folder = folder.parent
    return folder


def _modules(folder: Path, parts: list[str]) -> Iterator[Path]:
    """Files that importing ``a.b.c`` from a folder runs, as far as they exist."""
    for part in parts:
        package, module = folder / part, folder / f"{part}.py"
        if (package / "__init__.py").is_file():
            yield package / "__init__.py"
        elif module.is_file():
            yield module
            return
        elif not package.is_dir():
            return
        folder = package
