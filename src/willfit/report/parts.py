"""Pieces that pictures share: a title, boxes, hatching, a scale of amounts, a legend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from willfit.report.drawing import Area, Line, Point, Shape, Words
from willfit.report.writing import lines_of, text_width
from willfit.units import GIB, KIB, MIB

TITLE_SIZE: Final = 15
_HATCH: Final = 6
"""Units between two lines of a hatching."""
_UNITS: Final = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
Key = tuple[str, str]
"""A colour, ``line``, ``edge``, ``dashes``, ``hatch`` or ``range``; and what it stands for."""


def heading(title: str, room: float, left: float) -> tuple[list[Shape], float]:
    """The title in at most three lines, and where they end."""
    y, shapes = 8.0, list[Shape]()
    for line in lines_of(title, room, TITLE_SIZE, bold=True):
        y += TITLE_SIZE + 5
        shapes.append(Words(at=(left, y), text=line, size=TITLE_SIZE, bold=True))
    return shapes, y


def boxed(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The corners of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def hatched(left: float, top: float, right: float, bottom: float) -> Iterator[list[Point]]:
    """Rising lines that fill a rectangle and end at its edges."""
    height = bottom - top
    start = left - height
    while start < right:
        a, b = max(start, left), min(start + height, right)
        if b > a:
            yield [(a, bottom - (a - start)), (b, bottom - (b - start))]
        start += _HATCH


def ticks_of(most_bytes: float, count: int) -> tuple[list[float], int, str]:
    """Round amounts from 0 to ``most_bytes``, at most ``count`` + 1; their unit and its name."""
    unit, name = next((known for known in _UNITS if most_bytes >= known[0]), (1, "B"))
    step = 1.0
    while most_bytes / (step * unit) > count:
        step *= 2.5 if f"{step:g}".startswith("2") else 2
    amounts = [step * number * unit for number in range(count + 1)]
    return [amount for amount in amounts if amount <= most_bytes * 1.001], unit, name


def scale(most_bytes: int, room: float, left: float, y: float) -> tuple[list[Shape], float]:
    """A horizontal scale below ``y``, and where it ends."""
    amounts, unit, name = ticks_of(most_bytes, int(room / 75))
    shapes: list[Shape] = []
    xs = [left + room * amount / most_bytes for amount in amounts]
    shapes.append(
        Line(strokes=[[(left, y), (left + room, y)], *([(x, y), (x, y + 4)] for x in xs)])
    )
    for number, (x, amount) in enumerate(zip(xs, amounts, strict=True)):
        text = f"{amount / unit:g} {name}"
        half = text_width(text, 12) / 2
        anchored = "start" if number == 0 else "middle" if x + half <= left + room else "end"
        shapes.append(Words(at=(x, y + 17), text=text, anchor=anchored))  # type: ignore[arg-type]
    return shapes, y + 20


def side_scale(
    most_bytes: float, count: int, xs: tuple[float, float], y: Callable[[float], float]
) -> Iterator[Shape]:
    """Faint lines from left to right at round amounts, which stand before them."""
    amounts, unit, name = ticks_of(most_bytes, count)
    left, right = xs
    yield Line(strokes=[[(left, y(amount)), (right, y(amount))] for amount in amounts], faint=True)
    for amount in amounts:
        yield Words(at=(left - 6, y(amount) + 4), text=f"{amount / unit:g} {name}", anchor="end")


def legend(keys: Sequence[Key], width: float, left: float, y: float) -> tuple[list[Shape], float]:
    """A mark and its words for each key, in as many rows as they need; and where they end."""
    shapes: list[Shape] = []
    x = left
    for mark, words in keys:
        taken = 18 + text_width(words, 12)
        if x > left and x + taken > width - left:
            x, y = left, y + 20
        shapes += [*_mark(mark, x, y), Words(at=(x + 18, y + 11), text=words)]
        x += taken + 14
    return shapes, y + 14


def _mark(mark: str, x: float, y: float) -> Iterator[Shape]:
    box = (x, y + 1, x + 12, y + 13)
    if mark == "hatch":
        yield Line(strokes=[[*boxed(*box), (box[0], box[1])], *hatched(*box)])
    elif mark == "line":
        yield Line(strokes=[[(x + 6, y), (x + 6, y + 14)]], width=3)
    elif mark == "edge":
        yield Line(strokes=[[(x + 6, y), (x + 6, y + 14)]], dashed=True)
    elif mark == "dashes":
        yield Line(strokes=[[(x, y + 7), (x + 14, y + 7)]], dashed=True)
    elif mark == "range":
        caps = [[(end, y + 3), (end, y + 11)] for end in (x, x + 12)]
        yield Line(strokes=[[(x, y + 7), (x + 12, y + 7)], *caps], width=1.5)
    else:
        yield Area(points=boxed(*box), color=mark)
        yield Line(strokes=[[*boxed(*box), (box[0], box[1])]])
