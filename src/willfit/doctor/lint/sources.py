"""Parameters of a library's classes and functions, read from its source text without importing it.

A library's file is parsed; base classes are followed through its imports. What a function with
``**kwargs`` takes out of them by name counts as a parameter.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from willfit.doctor.lint.known import KNOWN, Known

Unknown = Literal["raises", "silent", "logged", "warned"]
_MAX_SOURCE: Final = 4 * 2**20
_DEPTH: Final = 64
"""Bound on the base classes that are followed, and on the imports on the way to one."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What a callable of one release takes by keyword."""

    names: frozenset[str]
    unknown: Unknown = "raises"
    """What a keyword outside of ``names`` does."""
    unused: frozenset[str] = frozenset()
    """Of ``names``, those that are taken and thrown away."""
    booleans: frozenset[str] = frozenset()
    """Fields annotated ``bool``."""
    on: frozenset[str] = frozenset()
    """Fields whose default is ``True``."""
    base: str = ""
    """Class of another library whose fields are its fields too, by its name alone."""


@dataclass(frozen=True)
class Sources:
    """Folders with libraries, the first one that has a module wins."""

    folders: tuple[Path, ...]
    parsed: dict[Path, ast.Module] = field(default_factory=dict, repr=False)

    def parameters(self, known: Known) -> Parameters | None:
        """Of a callable; None where these folders do not have it."""
        if known.kind == "words":
            return self._texts(known)
        owner, _, method = known.name.partition(".")
        for module in known.module.split("|"):
            found = self._definition(f"{known.library}.{module}", owner)
            if found is not None:
                break
        else:
            return None
        where, node = found
        if known.kind == "fields":
            return self._fields(where, node)
        function = (
            self._method(where, node, method or "__init__")
            if isinstance(node, ast.ClassDef)
            else node
        )
        if function is None:
            return None
        if known.kind == "init":
            return _of_function(function, words=_asked)
        return _of_function(function, extra=self._auto(known) if known.kind == "loader" else ())

    def _module(self, module: str) -> tuple[ast.Module, str] | None:
        """A file, parsed, and its name; a package's is spelled with ``__init__``."""
        parts = module.removesuffix(".__init__").split(".")
        for folder in self.folders:
            base = folder.joinpath(*parts)
            for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
                if path.is_file() and path.stat().st_size <= _MAX_SOURCE:
                    if path not in self.parsed:
                        self.parsed[path] = ast.parse(path.read_bytes())
                    inside = path.name == "__init__.py"
                    return self.parsed[path], ".".join([*parts, *["__init__"][: int(inside)]])
        return None

    def _definition(
        self, module: str, name: str, depth: int = 0
    ) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
        file = self._module(module)
        if file is None or depth > _DEPTH:
            return None
        tree, module = file
        for node in _top(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                if not _is_overload(node):
                    return module, node
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self._definition(_absolute(module, node), alias.name, depth + 1)
        return None

    def _bases(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        """The class and its bases, nearest first."""
        todo: list[tuple[str, ast.ClassDef]] = [(module, node)]
        for _ in range(_DEPTH):
            if not todo:
                return
            where, current = todo.pop(0)
            yield where, current
            for base in current.bases:
                name = base.id if isinstance(base, ast.Name) else ""
                found = self._definition(where, name) if name else None
                if found is not None and isinstance(found[1], ast.ClassDef):
                    todo.append((found[0], found[1]))

    def _method(self, module: str, node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
        for _, cls in self._bases(module, node):
            for item in cls.body:
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    return item
        return None

    def _fields(self, module: str, node: ast.ClassDef | ast.FunctionDef) -> Parameters | None:
        if not isinstance(node, ast.ClassDef):
            return None
        named: dict[str, ast.AnnAssign | None] = {}
        base = ""
        for where, cls in self._bases(module, node):
            if where.split(".")[0] != module.split(".")[0]:
                base = base or cls.name
                continue
            for item in cls.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    named.setdefault(item.target.id, item if _is_field(item) else None)
        fields = {name: item for name, item in named.items() if item is not None}
        return Parameters(
            names=frozenset(fields) | _aliases(fields.values()),
            booleans=frozenset(n for n, item in fields.items() if _is_bool(item)),
            on=frozenset(n for n, item in fields.items() if _default(item) is True),
            base=base if any(base == k.name for k in KNOWN) else "",
        )

    def _texts(self, known: Known) -> Parameters | None:
        """Every text of a module that could be an option or a key."""
        file = self._module(f"{known.library}.{known.module}")
        if file is None:
            return None
        words = (text.removeprefix("--").replace("-", "_") for text in _constants(file[0]))
        return Parameters(names=frozenset(word for word in words if word.isidentifier()))

    def _auto(self, known: Known) -> tuple[ast.FunctionDef, ...]:
        """What the ``Auto`` classes take before they hand on."""
        found = self._definition(f"{known.library}.models.auto.auto_factory", "_BaseAutoModelClass")
        if found is None or not isinstance(found[1], ast.ClassDef):
            return ()
        method = self._method(found[0], found[1], "from_pretrained")
        return (method,) if method is not None else ()


def _top(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements of a module, those under ``if`` and ``try`` too."""
    todo: list[ast.stmt] = list(tree.body)
    for node in todo:
        yield node
        if isinstance(node, ast.If):
            todo.extend([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            todo.extend(node.body)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, *(node.module or "").split(".")]).rstrip(".")


def _is_overload(node: ast.ClassDef | ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def _is_field(item: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(item.annotation):
        return False
    call = item.value
    return not (
        isinstance(call, ast.Call)
        and any(
            k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False
            for k in call.keywords
        )
    )


def _is_bool(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation) in (
        "bool", "bool | None", "Optional[bool]", "None | bool",
    )  # fmt: skip


def _aliases(fields: Iterable[ast.AnnAssign]) -> frozenset[str]:
    """Other names of pydantic fields: ``Field(alias="stage3_max_live_parameters")``."""
    return frozenset(
        keyword.value.value
        for item in fields
        if isinstance(item.value, ast.Call)
        for keyword in item.value.keywords
        if keyword.arg in ("alias", "validation_alias")
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    )


def _default(item: ast.AnnAssign) -> object:
    value = item.value
    if isinstance(value, ast.Call):
        value = next((k.value for k in value.keywords if k.arg == "default"), None)
    return value.value if isinstance(value, ast.Constant) else None


def _of_function(
    function: ast.FunctionDef,
    *,
    extra: tuple[ast.FunctionDef, ...] = (),
    words: Callable[[ast.FunctionDef], Iterator[str]] | None = None,
) -> Parameters:
    arguments = function.args
    names = {a.arg for a in (*arguments.args, *arguments.kwonlyargs)} - {"self", "cls"}
    taken: set[str] = set()
    used: set[str] = set()
    for one in (function, *extra):
        names |= {a.arg for a in one.args.args} - {"self", "cls"}
        names |= set((words or _words)(one))
        taken |= _thrown_away(one)
        used |= set(_words(one)) - _thrown_away(one)
    for decorator in function.decorator_list:
        names |= {w for w in _constants(decorator) if w.isidentifier()}
    return Parameters(
        names=frozenset(names),
        unknown=_fate(function) if arguments.kwarg is not None else "raises",
        unused=frozenset(taken - used),
        on=frozenset(_true_defaults(arguments)),
    )


def _true_defaults(arguments: ast.arguments) -> Iterator[str]:
    for argument, default in zip(
        reversed(arguments.args), reversed(arguments.defaults), strict=False
    ):
        if isinstance(default, ast.Constant) and default.value is True:
            yield argument.arg


def _constants(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _words(function: ast.FunctionDef) -> Iterator[str]:
    """Identifiers in quotes within a function that has ``**kwargs``: what it may look for."""
    if function.args.kwarg is None:
        return
    for statement in function.body:
        yield from (word for word in _constants(statement) if word.isidentifier())


def _asked(function: ast.FunctionDef) -> Iterator[str]:
    """Names that a function asks its ``**kwargs`` for."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "kwargs"
        ):
            yield from list(_constants(node))[:1]


def _thrown_away(function: ast.FunctionDef) -> set[str]:
    """Names popped out of ``**kwargs`` whose values are given to nobody."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.For) and len(node.body) == 1 and _pops(node.body[0]):
            found |= {w for w in _constants(node.iter) if w.isidentifier()}
        elif isinstance(node, ast.stmt) and not isinstance(node, ast.For) and _pops(node):
            found |= set(list(_constants(node))[:1])
    return found


def _pops(node: ast.stmt) -> bool:
    """Whether a statement is ``_ = kwargs.pop(…)`` and no more."""
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        if not (isinstance(target, ast.Name) and target.id == "_"):
            return False
    elif not isinstance(node, ast.Expr):
        return False
    value = node.value
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "pop"
        and isinstance(value.func.value, ast.Name)
        and value.func.value.id == "kwargs"
    )


def _fate(function: ast.FunctionDef) -> Unknown:
    """What becomes of keywords that nobody asks for: said to the log, or lost."""
    name = function.args.kwarg.arg if function.args.kwarg is not None else ""
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in ("info", "warning", "warn"):
            continue
        if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node)):
            return "logged" if node.func.attr == "info" else "warned"
    return "silent"
