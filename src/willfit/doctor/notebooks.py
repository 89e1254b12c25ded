"""Notebooks: cells, their code without magics and shell lines, and what they printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import BrokenFileError

MAX_BYTES: Final = 64 * 2**20
"""Bound on a notebook; larger ones hold pictures, not code."""
_PYTHON_CELLS: Final = frozenset(
    {"time", "timeit", "capture", "prun", "python", "python3", "debug"}
)
"""Cell magics whose cell is Python that runs in the kernel."""
_ENV: Final = re.compile(r"\s*%(?:set_)?env\s+(\w+)(?:\s*=\s*|\s+)(.*)")
_WRITE: Final = re.compile(r"%%writefile\s+(?:-a\s+)?(\S+)")
_TOKENS: Final = re.compile(
    r"(?P<comment>\#[^\n]*)|(?P<triple>\"\"\"|''')"
    r"|(?P<text>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<joined>\\\n)|(?P<line>\n)",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of code."""

    index: int
    """Among all cells, from 0, those of text included."""
    source: str
    outputs: tuple[str, ...] = ()
    """What it printed, a traceback included, one text an output."""


@dataclass(frozen=True, kw_only=True)
class Shell:
    """A command line that a notebook hands to the shell."""

    cell: int
    line: int
    """From 1."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that a cell writes: ``%%writefile train.py``."""

    cell: int
    path: str
    text: str
    """From the line after the magic; line 1 of it is line 2 of the cell."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A cell's code as Python: magics are blank lines or ``pass``."""

    text: str
    shell: tuple[Shell, ...] = ()
    written: Written | None = None


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """Cells of code, and what the file says about the machine."""

    cells: tuple[Cell, ...]
    gpu: str = ""
    """``T4`` where Kaggle's or Colab's metadata or a printed nvidia-smi tells; "" otherwise."""

    def outputs(self) -> str:
        """Everything that was printed, in the order of the cells."""
        return "\n".join(text for cell in self.cells for text in cell.outputs)


def read_notebook(text: str) -> Notebook:
    """The cells of an ``.ipynb``; raises `BrokenFileError` where it is none."""
    if len(text) > MAX_BYTES:
        raise BrokenFileError(
            "the notebook is larger than 64 MiB: expected cells and small outputs"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenFileError(
            "this is not a notebook: expected JSON with a list of cells (a file of Python code "
            "ends in .py)"
        ) from None
    cells = raw_cells(content)
    if cells is None:
        raise BrokenFileError('this is not a notebook: expected {"cells": [...]}')
    found = tuple(
        Cell(
            index=i,
            source=joined(cell.get("source", cell.get("input"))),
            outputs=tuple(_printed(cell)),
        )
        for i, cell in enumerate(cells)
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    )
    return Notebook(cells=found, gpu=_gpu(content, found))


def raw_cells(content: Any) -> list[Any] | None:
    """The list of cells of format 4, or of the worksheets of format 3."""
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("cells"), list):
        return list(content["cells"])
    sheets = content.get("worksheets")
    if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict):
        cells = sheets[0].get("cells")
        return list(cells) if isinstance(cells, list) else None
    return None


def joined(source: Any) -> str:
    """Text of a field that is a string or a list of lines."""
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _printed(cell: dict[str, Any]) -> Iterator[str]:
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            continue
        if "traceback" in output:
            lines = output["traceback"] if isinstance(output["traceback"], list) else []
            yield "\n".join(line for line in lines if isinstance(line, str))
        elif "text" in output:
            yield joined(output["text"])
        elif isinstance(output.get("data"), dict):
            yield joined(output["data"].get("text/plain"))


def _gpu(content: dict[str, Any], cells: Sequence[Cell]) -> str:
    meta = content.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    for group, name in (("kaggle", "accelerator"), ("colab", "gpuType")):
        value = meta.get(group, {}).get(name) if isinstance(meta.get(group), dict) else None
        if isinstance(value, str) and "T4" in value:
            return "T4"
    printed = any("Tesla T4" in text for cell in cells for text in cell.outputs)
    return "T4" if printed else ""


def plain(cell: Cell) -> Plain:
    """A cell's code with every magic and shell line taken out, line for line."""
    source = cell.source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        return _magic_cell(cell, lines, first)
    return _without_magics(cell.index, lines)


def _magic_cell(cell: Cell, lines: list[str], first: int) -> Plain:
    name = lines[first][2:].split(None, 1)[0] if lines[first][2:].strip() else ""
    if name in _PYTHON_CELLS:
        lines[first] = ""
        return _without_magics(cell.index, lines)
    empty = "\n" * (len(lines) - 1)
    written = _WRITE.match(lines[first])
    if written is not None:
        body = "\n" * first + "\n".join(lines[first + 1 :])
        return Plain(text=empty, written=Written(cell=cell.index, path=written[1], text=body))
    if name in ("bash", "sh", "script"):
        shell = [
            Shell(cell=cell.index, line=first + 2 + i, text=line)
            for i, line in _commands(lines[first + 1 :])
        ]
        return Plain(text=empty, shell=tuple(shell))
    return Plain(text=empty)


def _commands(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Commands with their continued lines, and the index of the line each begins on."""
    start, held = 0, ""
    for i, line in enumerate(lines):
        start = i if not held else start
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        if (held + line).strip():
            yield start, held + line
        held = ""
    if held.strip():
        yield start, held


def _without_magics(index: int, lines: list[str]) -> Plain:
    starts = _statement_lines("\n".join(lines))
    shell: list[Shell] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        stripped = line.lstrip()
        length = 1
        if i in starts and stripped[:1] in ("!", "%", "?") and not stripped.startswith("!="):
            while lines[i + length - 1].rstrip().endswith("\\") and i + length < len(lines):
                length += 1
            text = " ".join(one.rstrip().removesuffix("\\") for one in lines[i : i + length])
            if stripped[0] == "!":
                shell.append(Shell(cell=index, line=i + 1, text=text.strip().lstrip("!")))
            lines[i] = _replaced(line, stripped)
            lines[i + 1 : i + length] = [""] * (length - 1)
        elif i in starts:
            lines[i] = _captured(line, index, i, shell)
        i += length
    return Plain(text="\n".join(lines), shell=tuple(shell))


def _replaced(line: str, stripped: str) -> str:
    """Python in the place of a magic: ``%env`` sets a variable, the rest does nothing."""
    indent = line[: len(line) - len(stripped)]
    env = _ENV.fullmatch(line)
    if env is not None:
        return f"{indent}import os; os.environ[{env[1]!r}] = {env[2].strip()!r}"
    time = re.match(r"%(?:time|timeit|prun)\s+(?:-\S+\s+)*(?=[A-Za-z_(])", stripped)
    if time is not None:
        return indent + stripped[time.end() :]
    return f"{indent}pass" if indent else ""


def _captured(line: str, index: int, at: int, shell: list[Shell]) -> str:
    """``files = !ls`` and ``x = %magic`` get a value that nobody knows; ``name?`` is help."""
    found = re.match(r"(\s*[\w, \[\]]+=\s*)([!%])(?!=)(.*)", line)
    if found is not None:
        if found[2] == "!":
            shell.append(Shell(cell=index, line=at + 1, text=found[3]))
        return f"{found[1]}..."
    return "" if re.fullmatch(r"[\w.]+\?\??\s*", line) else line


def _statement_lines(text: str) -> set[int]:
    """Indices of the lines on which a statement may begin: outside of brackets and of texts."""
    starts, depth, line, position = {0}, 0, 0, 0
    while True:
        match = _TOKENS.search(text, position)
        if match is None:
            return starts
        position = match.end()
        kind = match.lastgroup
        if kind == "triple":
            end = _closing(text, position, match[0])
            line += text.count("\n", position, end)
            position = end
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind in ("line", "joined"):
            line += 1
            if kind == "line" and depth == 0:
                starts.add(line)
        elif kind == "text":
            line += match[0].count("\n")


def _closing(text: str, position: int, quotes: str) -> int:
    """Where a text in triple quotes ends."""
    while True:
        end = text.find(quotes, position)
        if end < 0:
            return len(text)
        slashes = (
            len(text[:end]) - len(text[:end].rstrip("\\")) if text[end - 1 : end] == "\\" else 0
        )
        if slashes % 2 == 0:
            return end + 3
        position = end + 1
