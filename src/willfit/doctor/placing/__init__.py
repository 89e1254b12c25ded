"""Places of changed arguments in a user's code: one file a kind of call."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from willfit.doctor.edits import Edit, argument, before_line, indent_of
from willfit.doctor.placing.definitions import definition
from willfit.emitting import Call, Variable
from willfit.emitting.code import literal
from willfit.settings.code import Loaded
from willfit.settings.code.cells import Cell
from willfit.settings.code.values import Site

__all__ = ["Code", "Nowhere", "changed", "written"]


class Nowhere(Exception):  # noqa: N818 -- an answer, not a fault
    """A part of the change has no place in this code."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The user's code as read, and the model that is meant."""

    cells: tuple[Cell, ...]
    loaded: Loaded
    at_definitions: bool = True
    """Whether a number that has a name is changed where it gets it, not where it is used."""

    def site(self, name: str) -> Site:
        """The call that decides; raises `Nowhere` where there is none."""
        site = self.loaded.sites.get(name)
        if site is None:
            raise Nowhere
        return site

    def has(self, name: str) -> bool:
        """Whether there is such a call."""
        return name in self.loaded.sites

    def set(self, site: Site, name: str, value: Any, *aliases: str) -> Edit:
        """An argument of a call, under that of its names which the call has."""
        name = next((n for n in (name, *aliases) if n in site.given), name)
        given = site.given.get(name)
        if given is not None and isinstance(value, int) and not isinstance(value, bool):
            defined = self.define(given.written.node, value)
            if defined is not None:
                return defined
        beside = site.last in ("generate", "forward") or site.node in self._runs()
        edit = argument(site, name, written(value), self.cells, beside=beside)
        if edit is None:
            raise Nowhere
        return edit

    def define(self, node: ast.expr, value: int) -> Edit | None:
        """A number where its name gets it; None where it has none of its own."""
        return definition(self.cells, node, str(value)) if self.at_definitions else None

    def stride(self, value: int) -> Edit:
        """Rows at a time: where the number is defined, for the slice of the rows uses it too."""
        edit = definition(self.cells, self.site("strides").node.args[2], str(value))
        if edit is None:
            raise Nowhere
        return edit

    def _runs(self) -> list[ast.Call]:
        """Calls that get the tokenizer's ``**inputs``, which carry no settings."""
        names = ("generate", "forward")
        return [self.loaded.sites[n].node for n in names if n in self.loaded.sites]

    def cut_rows(self, length: int) -> list[Edit]:
        """Every call that cuts rows to more tokens cuts them to so many."""
        found = [s for s in self.loaded.rows if s.known("max_length", "max_seq_length") > length]
        return [self.set(site, "max_length", length, "max_seq_length") for site in found]

    def variable(self) -> str:
        """Name that the loaded model is bound to."""
        statement = self.site("load").statement
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Tuple) and target.elts:
            target = target.elts[0]
        if isinstance(target, (ast.Name, ast.Attribute)):
            return ast.unparse(target)
        raise Nowhere

    def imports(self, module: str, names: Iterable[str] = ()) -> list[Edit]:
        """An import above the others, of what the code has not imported yet."""
        wanted = [name for name in names if name not in self._imported()]
        if not wanted and (names or module in self._imported()):
            return []
        line = f"from {module} import {', '.join(wanted)}" if names else f"import {module}"
        cell, statement = self.first_import()
        indent = indent_of(self.cells[cell], statement)
        return [before_line(cell, statement.lineno, [line], indent)]

    def needs(self, text: str) -> list[Edit]:
        """Imports of the libraries that a written value names."""
        return self.imports("torch") if "torch." in text else []

    def _imported(self) -> frozenset[str]:
        return frozenset(
            alias.asname or alias.name.partition(".")[0]
            for _, node in self._nodes()
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        )

    def _nodes(self) -> Iterator[tuple[int, ast.AST]]:
        for index, cell in enumerate(self.cells):
            for statement in cell.body:
                for node in ast.walk(statement):
                    yield index, node

    def first_import(self) -> tuple[int, ast.stmt]:
        """The first import at the margin, else the statement that loads the model."""
        for index, cell in enumerate(self.cells):
            for statement in cell.body:
                future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
                if isinstance(statement, (ast.Import, ast.ImportFrom)) and not future:
                    return index, statement
        site = self.site("load")
        return site.cell or 0, site.statement


def written(value: Any) -> str:
    """A value as code; a variable of an emitted script as what it stands for."""
    return literal(_without_variables(value))


def _without_variables(value: Any) -> Any:
    if isinstance(value, Variable):
        return value.value
    if isinstance(value, Mapping):
        return {key: _without_variables(item) for key, item in value.items()}
    if isinstance(value, Call):
        found = {key: _without_variables(item) for key, item in value.arguments.items()}
        return replace(value, arguments=found)
    return value


def changed(old: Call | None, new: Call | None) -> dict[str, Any]:
    """Arguments that the newer call gives otherwise; one that it lacks is `None`."""
    before = old.arguments if old is not None else {}
    after = new.arguments if new is not None else {}
    found = {name: value for name, value in after.items() if before.get(name) != value}
    return found | {name: None for name in before if name not in after}
