"""The pages that people read, cut into blocks: commands, code, settings, and outputs shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"

_FENCE: Final = re.compile(
    r"(?P<mark><!--(?P<comment>(?:(?!-->).)*)-->\n)?"
    r"^(?P<indent> {0,8})```(?P<language>[a-z]+)(?P<attributes>[^\n]*)\n"
    r"(?P<body>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_OUTPUT: Final = re.compile(
    r'output(?: (?P<number>\d{1,3}))?(?: from "(?P<first>[^"]+)")?(?: to "(?P<last>[^"]+)")?'
    r"(?P<varies>, numbers vary)?(?: of (?P<command>willfit .+))?"
)
_STARTS: Final = re.compile(r"(?:\S*/)?(willfit) ")
"""A command of willfit as typed, from a virtual environment's folder too."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a block says of itself: whose output it shows, and how much of it."""

    source: str
    """A command as typed, or Python code."""
    first: str
    """Words of the first line shown; "" is the whole output's first."""
    last: str
    """Words of the last line shown; "" is the whole output's last."""
    varies: bool
    """Whether its numbers are another's each time: seconds, bytes of the host."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text, from 1."""
    language: str
    text: str
    mark: str
    """The HTML comment right before it; "" where there is none."""
    start: int
    """Where its text begins in the page."""

    @property
    def name(self) -> str:
        """``docs/tour.md:12``."""
        inside = self.page.is_relative_to(ROOT)
        return f"{self.page.relative_to(ROOT) if inside else self.page.name}:{self.line}"


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything below docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """The fenced blocks of a page in their order, without the indent of a list."""
    text = page.read_text(encoding="utf-8") if text is None else text
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start("body")) + 1,
            language=found["language"],
            text=_outdented(found["body"], len(found["indent"])),
            mark=(found["comment"] or "").strip(),
            start=found.start("body"),
        )
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> list[str]:
    """The lines of a bash block as typed, continued ones joined, without comments."""
    if block.language != "bash":
        return []
    joined = re.sub(r"\s*\\\n\s*", " ", block.text)
    lines = (_without_comment(line).strip() for line in joined.splitlines())
    return [_STARTS.sub(r"\1 ", line) for line in lines if line]


def code(block: Block) -> str:
    """A Python block as it runs: with what ``<!-- given: … -->`` before it defines."""
    given = block.mark.removeprefix("given:").strip() if block.mark.startswith("given:") else ""
    return f"{given}\n{block.text}" if given else block.text


def outputs(found: Sequence[Block]) -> Iterator[tuple[Block, Output]]:
    """Blocks that show an output, each with what it shows.

    ``<!-- output -->`` before a block: that of the last willfit command or Python code above it.
    ``from "…"`` and ``to "…"``: the lines between two that have these words. ``3``: of the
    third on the page; ``of willfit …``: of this one.
    """
    seen: list[str] = []
    for block in found:
        seen += [line for line in commands(block) if "willfit " in line]
        seen += [code(block)] if block.language == "python" else []
        match = _OUTPUT.fullmatch(block.mark)
        if match is not None:
            number = int(match["number"]) - 1 if match["number"] else -1
            yield (
                block,
                Output(
                    source=match["command"] or seen[number],
                    first=match["first"] or "",
                    last=match["last"] or "",
                    varies=bool(match["varies"]),
                ),
            )


def part(printed: str, shown: Output) -> str:
    """The lines of an output that a block shows; raises `ValueError` where they are not in it."""
    lines = printed.splitlines()
    first = _index(lines, shown.first, 0) if shown.first else 0
    last = _index(lines, shown.last, first) if shown.last else len(lines) - 1
    return "".join(f"{line}\n" for line in lines[first : last + 1])


def same(one: str, other: str, shown: Output) -> bool:
    """Whether two outputs say the same; where numbers vary, without them and their spaces."""
    return _masked(one) == _masked(other) if shown.varies else one == other


def _masked(text: str) -> str:
    return " ".join(re.sub(r"\d[\d.,]*", "0", text).split())


def _index(lines: Sequence[str], words: str, start: int) -> int:
    for index in range(start, len(lines)):
        if words in lines[index]:
            return index
    raise ValueError(f"no line with {words!r} in the output")


def _outdented(text: str, width: int) -> str:
    return "".join(line[width:] if line.strip() else line for line in text.splitlines(True))


def _without_comment(line: str) -> str:
    """Without a comment: at the start, or a sign between spaces."""
    return "" if line.lstrip().startswith("#") else re.sub(r"\s+#\s.*", "", line)
