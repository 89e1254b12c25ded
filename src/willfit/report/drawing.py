"""A drawing of areas, lines and words, and its form as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from willfit.report.palette import DARK_INK, DARK_PAPER, INK, LIGHT_INK, LIGHT_PAPER
from willfit.report.writing import printable

FONT_SIZE: Final = 12
FONT: Final = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
FAINT: Final = 0.35
"""Opacity of lines that stand back, such as those of a scale."""
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Area:
    """A filled polygon; ``name`` is shown where the pointer rests."""

    points: Sequence[Point]
    color: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Open lines, dashed or faint; each stroke is a line of its own."""

    strokes: Sequence[Sequence[Point]]
    color: str = INK
    width: float = 1
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Words:
    """Text on its base line, from ``at``, around it or up to it."""

    at: Point
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    color: str = INK
    size: float = FONT_SIZE
    bold: bool = False


Shape = Area | Line | Words


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Shapes in the order in which they cover each other; the origin is at the top left."""

    width: int
    height: int
    title: str
    description: str = ""
    """All that the picture says, in words, for who does not see it."""
    shapes: Sequence[Shape]


def svg(drawing: Drawing, *, embedded: bool = False) -> str:
    """The drawing as SVG: a document on paper, or ``embedded`` in a page whose colour it takes."""
    box = f"0 0 {drawing.width} {drawing.height}"
    paper = "" if embedded else _PAPER
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" '
        f'width="{drawing.width}" height="{drawing.height}" '
        f'style="max-width:100%;height:auto" role="img" aria-label="{_text(drawing.title)}" '
        f'font-family="{FONT}" font-size="{FONT_SIZE}">'
        f"<title>{_text(drawing.title)}</title><desc>{_text(drawing.description)}</desc>"
        f"{paper}{''.join(map(_svg, drawing.shapes))}</svg>\n"
    )


_PAPER: Final = (
    f"<style>svg{{color:{LIGHT_INK}}}.willfit-paper{{fill:{LIGHT_PAPER}}}"
    f"@media (prefers-color-scheme:dark){{svg{{color:{DARK_INK}}}"
    f".willfit-paper{{fill:{DARK_PAPER}}}}}</style>"
    '<rect class="willfit-paper" width="100%" height="100%"/>'
)


def _text(text: str) -> str:
    return escape(printable(text))


def _svg(shape: Shape) -> str:
    if isinstance(shape, Words):
        return _svg_words(shape)
    if isinstance(shape, Line):
        return _svg_line(shape)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    name = f"<title>{_text(shape.name)}</title>" if shape.name else ""
    return f'<polygon points="{points}" fill="{shape.color}">{name}</polygon>'


def _svg_words(words: Words) -> str:
    x, y = words.at
    more = "" if words.anchor == "start" else f' text-anchor="{words.anchor}"'
    more += "" if words.size == FONT_SIZE else f' font-size="{words.size:g}"'
    more += ' font-weight="600"' if words.bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{words.color}"{more}>{_text(words.text)}</text>'


def _svg_line(line: Line) -> str:
    path = "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in stroke) for stroke in line.strokes if stroke
    )
    more = ' stroke-dasharray="4 3"' if line.dashed else ""
    more += "" if line.width == 1 else f' stroke-width="{line.width:g}"'
    more += f' stroke-opacity="{FAINT}"' if line.faint else ""
    return f'<path d="{path}" fill="none" stroke="{line.color}"{more}/>'
