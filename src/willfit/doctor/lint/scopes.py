"""Scopes: what a name is bound to where it is used, said only where it is certain."""

from __future__ import annotations

import ast
import builtins
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from willfit.doctor.lint.known import KNOWN

if TYPE_CHECKING:
    from willfit.doctor.lint.code import Code

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
_SCOPES: Final = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_BRANCHES: Final = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
_CHANGES: Final = frozenset({"update", "pop", "setdefault", "clear", "popitem", "append", "extend"})


_PASTED: Final = {
    **{known.name: known.key for known in KNOWN if known.name[:1].isupper()},
    **{name: name for name in ("torch", "transformers", "peft", "trl")},
}
"""Names that are clear by themselves, where a pasted piece of code imports nothing."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One place where a name gets a value."""

    node: ast.AST
    """The name, or the statement that binds it."""
    value: ast.expr | None = None
    """None where what is bound cannot be told: a parameter, a loop's variable, an ``import``."""
    part: bool = False
    """True where the name gets a part of ``value``: ``a, b = value``."""
    imported: str = ""
    """Dotted name of what an import brought."""


class Scopes:
    """All bindings of a program, by scope and name."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._of: dict[ast.AST, Scope] = {}
        self._bound: dict[tuple[Scope, str], list[Binding]] = {}
        self._stars: list[str] = []
        self._globals: set[tuple[Scope, str]] = set()
        self._touched: dict[str, list[ast.AST]] = {}
        self._found: dict[ast.Name, Binding | None] = {}
        self._comprehended: set[str] = set()
        self._collect()
        imports = (*code.each(ast.Import), *code.each(ast.ImportFrom))
        self._is_piece = not imports
        """Whether the text imports nothing: a piece of a program that somebody pasted."""
        self._names = {name for _, name in self._bound}

    def of(self, node: ast.AST) -> Scope:
        """The scope in which a node is run; parameters and decorators belong to the outside."""
        if node not in self._of:
            for parent in self._code.above(node):
                if isinstance(parent, _SCOPES):
                    self._of[node] = parent
                    break
            else:
                self._of[node] = self._code.tree
        return self._of[node]

    def bindings(self, scope: Scope, name: str) -> list[Binding]:
        """Where a scope binds a name, in the order of the text."""
        return self._bound.get((scope, name), [])

    def lookup(self, name: ast.Name) -> Binding | None:
        """The binding that a name has where it stands, or None where that is not certain."""
        if name not in self._found:
            self._found[name] = self._looked_up(name)
        return self._found[name]

    def _looked_up(self, name: ast.Name) -> Binding | None:
        if self._is_comprehended(name):
            return None
        scope: Scope | None = self.of(name)
        first = True
        while scope is not None:
            found = self.bindings(scope, name.id)
            if found and not (isinstance(scope, ast.ClassDef) and not first):
                if first:
                    return self._latest(name, found)
                return self._only(found)
            first = False
            scope = None if isinstance(scope, ast.Module) else self.of(scope)
        return None

    def _is_comprehended(self, name: ast.Name) -> bool:
        """Whether a comprehension around a name binds it."""
        if name.id not in self._comprehended:
            return False
        for parent in self._code.above(name):
            if isinstance(parent, ast.stmt):
                return False
            for part in getattr(parent, "generators", ()):
                for target in ast.walk(part.target):
                    if isinstance(target, ast.Name) and target.id == name.id:
                        return True
        return False

    def _is_comprehension_target(self, node: ast.Name) -> bool:
        above: ast.AST = node
        while isinstance(above, ast.Name | ast.Tuple | ast.List | ast.Starred):
            above = self._code.parents[above]
        return isinstance(above, ast.comprehension)

    def starred(self, name: str) -> str | None:
        """What ``from transformers import *`` would make of a name.

        In a pasted piece without any import it is what the name says.
        """
        if not self._stars and self._is_piece:
            return _PASTED.get(name) if name not in self._names else None
        if len(self._stars) != 1 or hasattr(builtins, name):
            return None
        return f"{self._stars[0]}.{name}" if name[:1].isupper() or name == "pipeline" else None

    def _only(self, found: list[Binding]) -> Binding | None:
        """Seen from another scope, a name is certain where it is bound once."""
        if len(found) == 1:
            return found[0]
        names = {b.imported for b in found}
        return found[0] if len(names) == 1 and found[0].imported else None

    def _latest(self, name: ast.Name, found: list[Binding]) -> Binding | None:
        code = self._code
        index = bisect_left(found, code.order[name], key=lambda b: code.order[b.node])
        if all(b.imported for b in found):
            return self._only(found) or (found[index - 1] if index else None)
        after = found[index:]
        before = index - 1
        while before >= 0 and self._is_within(name, found[before]):
            before -= 1
        if before < 0:
            return None
        last = found[before]
        loop = self._loop_around(name, last)
        if not self._certain(last.node, name):
            return None
        rebound = [*found[before + 1 : index], *after[:1]]
        if loop is not None and any(code.inside(b.node, loop) for b in rebound):
            return None
        return last

    def _is_within(self, name: ast.Name, binding: Binding) -> bool:
        """Whether a name stands in the very value that the binding gives: ``x = f(x)``."""
        return binding.value is not None and self._code.inside(name, binding.value)

    def _loop_around(self, name: ast.Name, last: Binding) -> ast.AST | None:
        """The outermost loop around a use that the binding stands before."""
        found = None
        for parent in self._code.above(name):
            if isinstance(parent, _LOOPS) and not self._code.inside(last.node, parent):
                found = parent
        return found

    def _certain(self, binding: ast.AST, use: ast.AST) -> bool:
        """Whether whoever comes to ``use`` has come through ``binding``."""
        child: ast.AST = binding
        around = set(map(id, self._code.above(use)))
        for parent in self._code.above(binding):
            if isinstance(parent, _BRANCHES) and not _always(parent, child):
                together = id(parent) in around
                if not together or not _same_branch(parent, child, use, self._code):
                    return False
            child = parent
        return True

    def changed(self, name: ast.Name, binding: Binding) -> bool:
        """Whether what a name holds may have been changed in place before it is used."""
        scope = self.of(binding.node)
        order = self._code.order
        for node in self._touched.get(name.id, []):
            elsewhere = self.of(node) is not scope
            if elsewhere or order[binding.node] < order[node] < order[name]:
                return True
            if order[node] > order[name] and self.of(name) is not scope:
                return True
        return False

    def _bind(self, scope: Scope, name: str, binding: Binding) -> None:
        if (scope, name) in self._globals:
            scope = self._code.tree
        self._bound.setdefault((scope, name), []).append(binding)

    def _collect(self) -> None:
        code = self._code
        for node in code.each(ast.Global):
            self._globals.update((self.of(node), name) for name in node.names)
        kinds = (
            ast.Import, ast.ImportFrom, ast.Name, ast.FunctionDef, ast.AsyncFunctionDef,
            ast.ClassDef, ast.arg, ast.ExceptHandler, ast.MatchAs,
        )  # fmt: skip
        found = [node for kind in kinds for node in code.each(kind)]
        for node in sorted(found, key=code.order.__getitem__):
            self._add(node)
        for node in code.each(ast.Subscript):
            if isinstance(node.value, ast.Name) and not isinstance(node.ctx, ast.Load):
                self._touched.setdefault(node.value.id, []).append(node)
        for node in code.each(ast.Attribute):
            if isinstance(node.value, ast.Name) and (
                isinstance(node.ctx, ast.Store) or node.attr in _CHANGES
            ):
                self._touched.setdefault(node.value.id, []).append(node)

    def _add(self, node: Any) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                full = alias.name if alias.asname else name
                self._bind(self.of(node), name, Binding(node=node, imported=full))
        elif isinstance(node, ast.ImportFrom):
            self._add_from(node)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                self._add_name(node)
        elif isinstance(node, ast.arg):
            self._bind(self.of(node), node.arg, Binding(node=node))
        elif node.name is not None:
            self._bind(self.of(node), node.name, Binding(node=node))

    def _add_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            if alias.name == "*":
                self._stars.append(module.partition(".")[0])
            elif not node.level:
                name = alias.asname or alias.name
                full = f"{module}.{alias.name}"
                self._bind(self.of(node), name, Binding(node=node, imported=full))
            else:
                self._bind(self.of(node), alias.asname or alias.name, Binding(node=node))

    def _add_name(self, node: ast.Name) -> None:
        parent = self._code.parents[node]
        value, part = None, False
        if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            value = parent.value
        elif isinstance(parent, ast.Tuple | ast.List):
            outer = self._code.parents[parent]
            if isinstance(outer, ast.Assign):
                value, part = _matching(outer.value, parent, node)
        scope: Scope = self.of(node)
        if self._is_comprehension_target(node):
            self._comprehended.add(node.id)
            return
        self._bind(scope, node.id, Binding(node=node, value=value, part=part))


def _matching(
    value: ast.expr, targets: ast.Tuple | ast.List, node: ast.Name
) -> tuple[ast.expr, bool]:
    """``a, b = x, y`` gives each name its own value; otherwise a part of the whole."""
    if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(targets.elts):
        for target, item in zip(targets.elts, value.elts, strict=True):
            if target is node and not isinstance(item, ast.Starred):
                return item, False
    return value, True


def _always(parent: ast.AST, child: ast.AST) -> bool:
    """Whether a part of a branching statement is run in any case."""
    if isinstance(parent, ast.If | ast.While):
        return child is parent.test
    if isinstance(parent, ast.For | ast.AsyncFor):
        return child is parent.iter
    if isinstance(parent, ast.Try):
        return any(child is one for one in parent.finalbody)
    return False


def _same_branch(parent: ast.AST, child: ast.AST, use: ast.AST, code: Code) -> bool:
    """Whether a use stands in the same list of statements of ``parent`` as ``child`` does."""
    for _, values in ast.iter_fields(parent):
        if isinstance(values, list) and any(one is child for one in values):
            return code.order[values[0]] <= code.order[use] <= code.last[values[-1]]
    return True
