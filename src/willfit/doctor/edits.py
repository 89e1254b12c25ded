"""Edits of a user's text: arguments of calls set, added and dropped, statements put beside."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from willfit.settings.code.cells import Cell, lines_of
from willfit.settings.code.values import Site


@dataclass(frozen=True, kw_only=True)
class OwnLine:
    """Lines of the user's own text, and what to write in their place."""

    cell: int | None
    """Of a notebook, from 0; None in a script."""
    line: int
    """Of the first of them, from 1."""
    before: str
    """As they are; several are joined by line ends."""
    after: str
    """As they should be, new lines among them."""


@dataclass(frozen=True, kw_only=True, order=True)
class Edit:
    """A stretch of a cell that is replaced; columns count bytes, as the parser's do."""

    cell: int
    """Its index, 0 in a script."""
    start: tuple[int, int]
    """(line from 1, column)."""
    end: tuple[int, int]
    text: str


def replaced(cell: int | None, node: ast.expr, text: str) -> Edit:
    """The text of an expression."""
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return Edit(cell=cell or 0, start=(node.lineno, node.col_offset), end=end, text=text)


def argument(
    site: Site, name: str, text: str, cells: Sequence[Cell], *, beside: bool = False
) -> Edit | None:
    """``name=text`` in a call: in place of its value, or as one more; None where it cannot be.

    ``beside``: whether a ``**mapping`` that is not known surely lacks it.
    """
    given = site.given.get(name)
    if given is None:
        return None if site.unread and not beside else added(site, f"{name}={text}", cells)
    return replaced(given.written.cell, given.written.node, text) if given.written.exact else None


def added(site: Site, text: str, cells: Sequence[Cell]) -> Edit:
    """One more keyword argument, on a line of its own where the others have theirs."""
    node, cell = site.node, cells[site.cell or 0]
    values: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
    if not values:
        end = (node.end_lineno or node.lineno, (node.end_col_offset or 1) - 1)
        return Edit(cell=site.cell or 0, start=end, end=end, text=text)
    last = max(values, key=lambda value: (value.lineno, value.col_offset))
    begins = cell.lines[last.lineno - 1].encode()[: last.col_offset].decode(errors="replace")
    if isinstance(last, ast.keyword) and not begins.strip():
        at = (last.lineno, last.col_offset)
        return Edit(cell=site.cell or 0, start=at, end=at, text=f"{text},\n{begins}")
    at = (last.end_lineno or last.lineno, last.end_col_offset or last.col_offset)
    return Edit(cell=site.cell or 0, start=at, end=at, text=f", {text}")


def dropped(site: Site, name: str) -> Edit | None:
    """A call without one of its keyword arguments; None where it is not written in the call."""
    keywords = site.node.keywords
    index = next((i for i, keyword in enumerate(keywords) if keyword.arg == name), None)
    if index is None:
        return None
    keyword = keywords[index]
    end = (keyword.end_lineno or keyword.lineno, keyword.end_col_offset or keyword.col_offset)
    start = (keyword.lineno, keyword.col_offset)
    before: list[ast.expr | ast.keyword] = [*site.node.args, *keywords[:index]]
    if index + 1 < len(keywords):
        end = (keywords[index + 1].lineno, keywords[index + 1].col_offset)
    elif before:
        last = max(before, key=lambda value: (value.lineno, value.col_offset))
        start = (last.end_lineno or last.lineno, last.end_col_offset or last.col_offset)
    return Edit(cell=site.cell or 0, start=start, end=end, text="")


def instead(site: Site, name: str, text: str) -> Edit | None:
    """Another keyword argument in the place of one; None where that is not written in the call."""
    keyword = next((keyword for keyword in site.node.keywords if keyword.arg == name), None)
    if keyword is None:
        return None
    end = (keyword.end_lineno or keyword.lineno, keyword.end_col_offset or keyword.col_offset)
    start = (keyword.lineno, keyword.col_offset)
    return Edit(cell=site.cell or 0, start=start, end=end, text=text)


def indent_of(cell: Cell, statement: ast.stmt) -> str:
    """White space before a statement."""
    line = cell.lines[statement.lineno - 1]
    return line[: len(line) - len(line.lstrip())]


def after_statement(site: Site, lines: Iterable[str], cells: Sequence[Cell]) -> Edit:
    """Statements on the lines below the one that holds a call, as deep as it."""
    cell = cells[site.cell or 0]
    number = site.statement.end_lineno or site.statement.lineno
    at = (number, len(cell.lines[number - 1].encode()))
    indent = indent_of(cell, site.statement)
    text = "".join(f"\n{indent}{line}" for line in lines)
    return Edit(cell=site.cell or 0, start=at, end=at, text=text)


def before_line(cell: int, number: int, lines: Iterable[str], indent: str = "") -> Edit:
    """Statements above a line."""
    text = "".join(f"{indent}{line}\n" for line in lines)
    return Edit(cell=cell, start=(number, 0), end=(number, 0), text=text)


def wrapped(site: Site, head: str, cells: Sequence[Cell]) -> Edit:
    """The statement of a call inside ``with …:``."""
    cell, statement = cells[site.cell or 0], site.statement
    last = statement.end_lineno or statement.lineno
    lines = cell.lines[statement.lineno - 1 : last]
    indent = indent_of(cell, statement)
    body = "\n".join(f"    {line}" if line.strip() else line for line in lines)
    end = (last, len(cell.lines[last - 1].encode()))
    return Edit(cell=site.cell or 0, start=(statement.lineno, 0), end=end,
                text=f"{indent}{head}\n{body}")  # fmt: skip


def own_lines(edits: Iterable[Edit], cells: Sequence[Cell]) -> tuple[OwnLine, ...]:
    """The lines that edits touch, as they are and as they become."""
    found: list[OwnLine] = []
    group: list[Edit] = []
    for edit in sorted(dict.fromkeys(edits), key=lambda e: (e.cell, e.start, e.end)):
        apart = group and (edit.cell != group[0].cell or edit.start[0] > _last(group))
        if apart:
            found.append(_own_line(group, cells))
            group = []
        group.append(edit)
    return (*found, _own_line(group, cells)) if group else ()


def _last(group: Sequence[Edit]) -> int:
    return max(edit.end[0] for edit in group)


def _own_line(group: Sequence[Edit], cells: Sequence[Cell]) -> OwnLine:
    cell, first, last = cells[group[0].cell], group[0].start[0], _last(group)
    lines = [line.encode() for line in cell.lines[first - 1 : last]]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    text, done, out = b"\n".join(lines), 0, b""
    for edit in group:
        start = starts[edit.start[0] - first] + edit.start[1]
        if start < done:
            continue  # within what another edit has replaced
        out += text[done:start] + edit.text.encode()
        done = starts[edit.end[0] - first] + edit.end[1]
    after = (out + text[done:]).decode(errors="replace")
    return OwnLine(cell=cell.index, line=first, before=text.decode(errors="replace"), after=after)


def edited(source: str | Sequence[str], lines: Iterable[OwnLine]) -> str | list[str]:
    """A script, or the cells of a notebook, with the lines written in."""
    single = isinstance(source, str)
    texts = [lines_of(text) for text in ([source] if isinstance(source, str) else source)]
    for own in sorted(lines, key=lambda own: (own.cell or 0, own.line), reverse=True):
        count = own.before.count("\n") + 1
        texts[own.cell or 0][own.line - 1 : own.line - 1 + count] = own.after.split("\n")
    joined = ["\n".join(text) for text in texts]
    return joined[0] if single else joined
