"""Cells: source text as trees, with magics and shell lines taken out and line numbers kept."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_CHARACTERS: Final = 2**20
"""Bound on what is read of one cell; a real script has a few hundred lines."""
MAX_DEPTH: Final = 100
"""Bound on brackets within brackets: parsing is recursive, and no script nests so deep."""
_MAGIC: Final = re.compile(r"\s*(?:[!?]|%|\w[\w, ]{0,60}=\s?[!%])")
_SHELL: Final = re.compile(r"\s*(?:\w+\s?=\s?)?(?:!|%pip |%conda |%sx )")
_PROMPT: Final = re.compile(r"(?:>>>|\.\.\.)(?: |$)")
_OF_PYTHON: Final = ("%%time", "%%timeit", "%%capture", "%%writefile", "%%prun", "%%memit")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a notebook, or a script."""

    index: int | None
    """From 0; None for a script."""
    lines: tuple[str, ...]
    """As written, without line ends."""
    body: tuple[ast.stmt, ...]
    """Statements that could be parsed, at the lines where they stand."""
    commands: tuple[tuple[int, str], ...]
    """Shell lines with their number."""
    unread: tuple[int, ...]
    """Numbers of lines that are no Python."""


def cells_of(sources: str | Sequence[str]) -> tuple[Cell, ...]:
    """A script as one cell; a list as the cells of a notebook."""
    if isinstance(sources, str):
        return (_cell(sources, None),)
    return tuple(_cell(source, index) for index, source in enumerate(sources))


def lines_of(source: str) -> list[str]:
    """Lines as the parser counts them: form feeds and the like end none."""
    return re.split(r"\r\n|\r|\n", source.replace("\0", " ")[:MAX_CHARACTERS])


def _cell(source: str, index: int | None) -> Cell:
    written = lines_of(source)
    code, commands = _without_magics(written)
    body, unread = _statements(code)
    return Cell(
        index=index,
        lines=tuple(written),
        body=tuple(body),
        commands=tuple(commands),
        unread=tuple(unread),
    )


def _without_magics(lines: Sequence[str]) -> tuple[list[str], list[tuple[int, str]]]:
    """Code with ``pass`` where a magic stood, and the shell's lines."""
    first = next((line for line in lines if line.strip()), "").strip()
    if first.startswith("%%") and not first.startswith(_OF_PYTHON):
        shell = first.startswith(("%%bash", "%%sh", "%%!", "%%script"))
        return [""] * len(lines), list(_joined(lines, 1)) if shell else []
    code: list[str] = []
    commands: list[tuple[int, str]] = []
    continued = False
    prompted = first.startswith(">>>")
    for number, line in enumerate(lines, 1):
        text = _PROMPT.sub("", line) if prompted else line
        if continued or _MAGIC.match(text):
            shell = continued or bool(_SHELL.match(text))
            if shell and continued and commands:
                commands[-1] = (commands[-1][0], f"{commands[-1][1]} {text.strip(' !')}"[:4096])
            elif shell:
                commands.append((number, re.sub(r"^\s*(?:\w+\s?=\s?)?[!%]\s?", "", text)[:4096]))
            code.append("" if continued else text[: len(text) - len(text.lstrip())] + "pass")
            continued = shell and text.rstrip().endswith("\\")
        else:
            code.append(text)
    return code, [(number, text.replace("\\", " ")) for number, text in commands]


def _joined(lines: Sequence[str], start: int) -> Iterator[tuple[int, str]]:
    """Shell lines, each with those that continue it."""
    held, at = "", 0
    for number, line in enumerate(lines[start:], start + 1):
        at = at or number
        held = f"{held} {line.rstrip(chr(92))}"[:4096]
        if not line.endswith("\\"):
            yield at, held.strip()
            held, at = "", 0


def _statements(lines: Sequence[str]) -> tuple[list[ast.stmt], list[int]]:
    """All at once; where that fails, what can be parsed of the blocks at the margin."""
    whole = _parsed(lines, 0)
    if whole is not None:
        return whole, []
    body: list[ast.stmt] = []
    unread: list[int] = []
    for start, end in _blocks(lines):
        part = _parsed(lines[start:end], start)
        if part is None:
            unread += [n + 1 for n in range(start, end) if lines[n].strip()]
        else:
            body += part
    return body, unread


_GOES_ON: Final = re.compile(r"[\s#)\]}]|(?:else|elif|except|finally)\b")


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Stretches that begin at the margin, with what belongs to them."""
    start = 0
    for number in range(1, len(lines)):
        line = lines[number]
        if line and not _GOES_ON.match(line) and not lines[number - 1].startswith("@"):
            yield start, number
            start = number
    yield start, len(lines)


def _parsed(lines: Sequence[str], before: int) -> list[ast.stmt] | None:
    """Statements with ``before`` lines counted above them; None where it is no Python."""
    source = "\n".join(lines)
    if _too_deep(source):
        return None
    indented = _INDENTED.match(source) is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in a stranger's strings
            tree = ast.parse(f"if True:\n{source}" if indented else source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if before - indented:
        ast.increment_lineno(tree, before - indented)
    return tree.body[0].body if indented and isinstance(tree.body[0], ast.If) else tree.body


_INDENTED: Final = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]+[^\s#]")
"""A piece out of a function: its first statement is not at the margin."""


def _too_deep(source: str) -> bool:
    depth = 0
    for sign in re.findall(r"[()\[\]{}]", source):
        depth += 1 if sign in "([{" else -1
        if depth > MAX_DEPTH:
            return True
    return False
