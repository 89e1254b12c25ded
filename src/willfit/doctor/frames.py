"""Frames: the lines of a traceback, however it was printed and however much of it is left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from willfit.doctor.report import Frame

MOST: Final = 120
"""Frames kept of one traceback, the innermost ones."""
LONGEST: Final = 400
"""Characters of a line that are looked at."""

_STANDARD: Final = re.compile(
    r'File "(?P<file>[^"]{1,300})"(?:, line (?P<line>\d{1,7}))?, in (?P<function>[^\s(]{1,120})'
    r"\s{0,8}(?P<code>.{0,400})"
)
"""CPython; where the text was shortened the source line may follow on the same line."""
_CELL: Final = re.compile(
    r"(?:File |Cell )(?P<file>[^\s,:\"]{1,300}|In ?\[\d{1,6}\])(?::|, line )(?P<line>\d{1,7})"
    r"(?:, in (?P<function>[^\s(]{1,120}))?"
)
"""IPython 8: ``File /usr/…/module.py:1553, in Module._call_impl(self, *args)``, ``Cell In[5],
line 3``."""
_ANCIENT_CELL: Final = re.compile(
    r"(?P<file>(?:[/~<]|\.\.\.|[A-Za-z]:\\)[^\s]{1,300}) in (?P<function>[^\s(]{1,120})(?:\(.*)?$"
)
"""IPython up to 7: ``/usr/…/modeling_x.py in forward(self, x)``."""
_PYTEST: Final = re.compile(
    r"(?P<file>[^\s:]{1,300}\.py):(?P<line>\d{1,7}): in (?P<function>[^\s(]{1,120})"
)
"""pytest: ``src/a.py:12: in forward``."""
_WARNING: Final = re.compile(
    r"(?P<file>[^\s:]{1,300}\.py):(?P<line>\d{1,7}): \w{0,40}Warning: (?P<code>.{0,400})"
)
"""Where the message itself is in a warning."""
_RICH: Final = re.compile(
    r"[│|]\s*(?P<file>[^\s:│]{1,300}\.py):(?P<line>\d{1,7}) in (?P<function>[^\s(│]{1,120})"
)
_ARROW: Final = re.compile(r"(?:[-=]{1,6}>|❱|>)\s{0,4}(?P<line>\d{1,7})\s(?P<code>.{1,400})")
"""The line that failed, in IPython (``--> 325``), pytest and rich (``❱ 105 │``)."""
_BORDER: Final = re.compile(r"[│|┃]")
_MARKS_ONLY: Final = re.compile(r"[\s~^│|┃╭╰─-]*")

_CODE: Final = re.compile(
    r"(?:return |await )?[A-Za-z_][\w.\[\]]{0,80}"
    r"(?:\s?[-+*/@|]?=(?!=)\s?[\w(\[{-]|\([^)]{0,200}\)?[,\w.(]{0,80}$)"
)
"""A statement: an assignment, or a call that ends the line."""
LOOSE: Final = 3

_HEADS: Final = ("Traceback (most recent call last)",)
_SEAMS: Final = (
    "During handling of the above exception",
    "The above exception was the direct cause",
)
_SHAPES: Final = (_STANDARD, _CELL, _RICH, _PYTEST, _ANCIENT_CELL)


def frames_of(lines: Sequence[str], last: int) -> tuple[Frame, ...]:
    """Frames of the traceback that line ``last`` ends, outermost first.

    Where none stands before it, as in texts that were pasted out of order, those of the first
    traceback after it. What a chained exception said earlier is not part of it.
    """
    if not lines:
        return ()
    warned = _WARNING.match(lines[last].strip()[:LONGEST])
    if warned is not None:
        return (_as_frame(warned),)
    before = lines[_start_of(lines, last) : last + 1]
    return _bounded(before) or _bounded(_first_after(lines, last)) or _loose(before[:-1])


def _bounded(lines: Sequence[str]) -> tuple[Frame, ...]:
    return tuple(_read(lines))[-MOST:]


def _loose(lines: Sequence[str]) -> tuple[Frame, ...]:
    """What is left of a traceback that was cut: the source line right above the message."""
    for text in reversed(lines[-LOOSE:]):
        arrow = _ARROW.search(text[:LONGEST])
        code = _BORDER.sub(" ", arrow["code"]).strip() if arrow else text[:LONGEST].strip()
        if _CODE.match(code):
            return (Frame(file="", function="", code=code),)
    return ()


def _start_of(lines: Sequence[str], last: int) -> int:
    """Index after the seam, or of the header, that precedes ``last``."""
    for index in range(last, -1, -1):
        if index < last and _has(lines[index], _SEAMS):
            return index + 1
        if _has(lines[index], _HEADS):
            return index
    return 0


def _first_after(lines: Sequence[str], last: int) -> Sequence[str]:
    rest = lines[last + 1 :]
    ends = [i for i, line in enumerate(rest) if _has(line, _SEAMS)]
    return rest[: ends[0]] if ends else rest


def _has(line: str, needles: tuple[str, ...]) -> bool:
    return any(needle in line for needle in needles)


def _read(lines: Sequence[str]) -> Iterator[Frame]:
    """Frames in the order of the lines; a line of source belongs to the frame above it."""
    frame: Frame | None = None
    for text in lines:
        line = text[:LONGEST]
        found = _frame(line)
        if found is not None:
            if frame is not None:
                yield frame
            frame = found
        elif frame is not None:
            frame = _with_source(frame, line)
    if frame is not None:
        yield frame


def _frame(line: str) -> Frame | None:
    if ".py" not in line and "File " not in line and "Cell " not in line and " in " not in line:
        return None
    for shape in _SHAPES:
        match = _at_start(shape)(line)
        if match is not None:
            return _as_frame(match)
    return None


def _as_frame(match: re.Match[str]) -> Frame:
    parts = match.groupdict(default="")
    return Frame(
        file=parts["file"],
        function=parts.get("function", ""),
        line=int(parts["line"]) if parts.get("line") else None,
        code=parts.get("code", "").strip(),
    )


def _at_start(shape: re.Pattern[str]) -> Callable[[str], re.Match[str] | None]:
    """C++ lines (``frame #3: c10::…``) and prose name files too: most shapes begin a line."""
    return shape.search if shape in (_STANDARD, _RICH) else lambda line: shape.match(line.strip())


def _with_source(frame: Frame, line: str) -> Frame:
    arrow = _ARROW.search(line)
    if arrow is not None:
        code = _BORDER.sub(" ", arrow["code"]).strip()
        return replace(frame, line=int(arrow["line"]), code=code)
    indented = line[:1] in (" ", "\t", ">") and not _MARKS_ONLY.fullmatch(line)
    return (
        replace(frame, code=line.lstrip("> \t").rstrip()) if indented and not frame.code else frame
    )
