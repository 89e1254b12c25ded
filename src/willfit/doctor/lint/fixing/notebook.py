"""Rewriting a notebook: the same edits, cell by cell; magics, outputs and the rest stay."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import AddImport, Edit, MoveStatement
from willfit.doctor.lint.finding import Finding, Problem
from willfit.doctor.lint.fixing.fix import ROUNDS, Apply, applier, compatible, fixable, parses
from willfit.doctor.lint.lint import as_finding
from willfit.doctor.lint.program import of_notebook
from willfit.doctor.notebooks import Cell, joined, plain, raw_cells, read_notebook
from willfit.scenario.stack import Stack

_MARK: Final = "# willfit:line:"
_MARKED: Final = re.compile(rf"^.*{_MARK}(\d+)$", re.MULTILINE)


def fix_notebook(text: str, *, stack: Stack | None = None) -> tuple[str, list[Finding]]:
    """The notebook with what can be corrected safely corrected, and the findings that this settles.

    Only the source of cells changes; outputs, metadata, magics and shell lines stay. Raises
    `BrokenFileError` where the text is no notebook, `MissingLibraryError` without libcst.
    """
    apply = applier()
    settled: list[Finding] = []
    sources: dict[int, str] = {}
    for _ in range(ROUNDS):
        notebook = read_notebook(text)
        cells = {
            cell.index: replace(cell, source=sources.get(cell.index, cell.source))
            for cell in notebook.cells
        }
        code = of_notebook(replace(notebook, cells=tuple(cells.values())), stack).code
        done = _round(code, cells, apply) if code is not None else {}
        if not done:
            break
        for index, (source, found) in done.items():
            sources[index] = source
            settled += found
    return (_written(text, sources) if sources else text), list(dict.fromkeys(settled))


def _round(
    code: Code, cells: dict[int, Cell], apply: Apply
) -> dict[int, tuple[str, list[Finding]]]:
    """New source, and what it settles, of each cell that changes."""
    edits: dict[int, list[Edit]] = {}
    found: dict[int, list[Finding]] = {}
    for rule, problem in compatible(fixable(code)):
        index = _cell(code, problem)
        if index is not None:
            edits.setdefault(index, []).extend(problem.edits)
            found.setdefault(index, []).append(as_finding(code, rule, problem))
    changed = {}
    for index, wanted in edits.items():
        first = next(i for i, place in enumerate(code.places) if place[0] == index)
        source = _edited(cells[index], [_local(edit, first) for edit in wanted], apply)
        if source != cells[index].source:
            changed[index] = (source, found[index])
    return changed


def _cell(code: Code, problem: Problem) -> int | None:
    """The one cell that all edits of a problem are in; None where they are in several."""
    lines: list[int] = []
    for edit in problem.edits:
        if isinstance(edit, MoveStatement):
            lines += [*(at.line for at in edit.at), edit.before.line]
        elif not isinstance(edit, AddImport):
            lines.append(edit.at.line)
    found = {code.place(line)[0] for line in lines}
    return found.pop() if len(found) == 1 else None


def _local(edit: Edit, lines: int) -> Edit:
    """An edit at its place in the cell."""
    if isinstance(edit, AddImport):
        return edit
    if isinstance(edit, MoveStatement):
        at = tuple(one.shifted(lines) for one in edit.at)
        return replace(edit, at=at, before=edit.before.shifted(lines))
    return replace(edit, at=edit.at.shifted(lines))


def _edited(cell: Cell, edits: Sequence[Edit], apply: Apply) -> str:
    """The cell's source, edited; as it was where a magic would be lost."""
    before = cell.source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    after = plain(cell).text.split("\n")
    marked = [
        new if new == old else f"{new}  {_MARK}{i}".lstrip(" " * (not new))
        for i, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    text = apply("\n".join(marked), edits)
    wanted = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    if [int(number) for number in _MARKED.findall(text)] != wanted or not parses(text):
        return cell.source
    return _MARKED.sub(lambda match: before[int(match[1])], text)


def _written(text: str, sources: dict[int, str]) -> str:
    """The file with new sources, indented and escaped as it was."""
    content: Any = json.loads(text)
    for index, cell in enumerate(raw_cells(content) or ()):
        if index in sources:
            key = "source" if "source" in cell else "input"
            as_list = isinstance(cell.get(key), list)
            cell[key] = sources[index].splitlines(keepends=True) if as_list else sources[index]
            assert joined(cell[key]) == sources[index]
    indent = re.search(r"\n([ \t]+)\S", text[:10_000])
    tail = text[len(text.rstrip()) :]
    dumped = json.dumps(
        content, indent=indent[1] if indent is not None else None, ensure_ascii=text.isascii()
    )
    return dumped + tail
