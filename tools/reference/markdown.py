"""Docstrings and tables as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Final

GENERATED: Final = "<!-- Written by `python -m tools.build_reference`: do not edit. -->\n\n"
_KEPT: Final = re.compile(r"(`[^`\n]+`|(?<!\w)\*\w+\*(?!\w))")
"""Literals, and a word that is emphasised."""
_SIGNS: Final = re.compile(r"[*<\[\]|]|(?<!\w)_|_(?!\w)")
"""Signs that Markdown would take for its own."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def prose(docstring: str) -> str:
    """A docstring as Markdown: literals in one backtick, indented lines as code."""
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(docstring))
    parts = re.split(r"\n\s*\n", text) if text else []
    return "\n\n".join(map(_paragraph, parts)) + "\n"


def one_line(docstring: str) -> str:
    """A docstring as one line of Markdown, for a cell."""
    return " ".join(prose(docstring).split())


def plain(text: str) -> str:
    """Text in which nothing but its literals is Markdown."""
    parts = _KEPT.split(text)
    return "".join(
        part if index % 2 else _SIGNS.sub(r"\\\g<0>", part) for index, part in enumerate(parts)
    )


def _paragraph(part: str) -> str:
    if all(line.startswith("    ") for line in part.splitlines()):
        return "```text\n" + "\n".join(line[4:] for line in part.splitlines()) + "\n```"
    if part.lstrip().startswith(("- ", "* ")):
        return "\n".join(line[:2] + plain(line[2:]) for line in part.splitlines())
    return plain(part)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").replace("\\\\|", "\\|")
