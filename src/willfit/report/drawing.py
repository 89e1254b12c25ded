"""A drawing of areas, lines and words, and its two forms: SVG, and PNG where Pillow is there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from willfit.errors import InputError

FONT_SIZE: Final = 12
SCALE: Final = 2
"""Pixels of a PNG for each unit of the drawing."""
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Area:
    """A filled polygon; ``name`` is shown where the pointer rests."""

    points: Sequence[Point]
    color: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An open line, dashed or faint."""

    points: Sequence[Point]
    color: str
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Words:
    """Text on its base line, from ``at`` or up to it."""

    at: Point
    text: str
    anchor: Literal["start", "end"] = "start"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Shapes in the order in which they cover each other; the origin is at the top left."""

    width: int
    height: int
    title: str
    shapes: Sequence[Area | Line | Words]


def svg(drawing: Drawing) -> str:
    """The drawing as an SVG document."""
    box = f"0 0 {drawing.width} {drawing.height}"
    shapes = "".join(map(_svg, drawing.shapes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" '
        f'font-family="sans-serif" font-size="{FONT_SIZE}"><title>{escape(drawing.title)}</title>'
        f'<rect width="{drawing.width}" height="{drawing.height}" fill="white"/>{shapes}</svg>\n'
    )


def _svg(shape: Area | Line | Words) -> str:
    if isinstance(shape, Words):
        x, y = shape.at
        anchor = ' text-anchor="end"' if shape.anchor == "end" else ""
        return f'<text x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(shape.text)}</text>'
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    if isinstance(shape, Area):
        name = f"<title>{escape(shape.name)}</title>"
        return f'<polygon points="{points}" fill="{shape.color}">{name}</polygon>'
    dashes = ' stroke-dasharray="4 3"' if shape.dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{shape.color}"{dashes}/>'


def png(drawing: Drawing) -> bytes:
    """The drawing as a PNG file; raises `InputError` where Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise InputError(
            "a .png picture needs Pillow: pip install pillow, or name an .svg or .html file"
        ) from None
    image = Image.new("RGB", (drawing.width * SCALE, drawing.height * SCALE), "white")
    canvas: Any = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE * SCALE)
    for shape in drawing.shapes:
        _paint(canvas, font, shape)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _paint(canvas: Any, font: Any, shape: Area | Line | Words) -> None:
    if isinstance(shape, Words):
        anchor = "rs" if shape.anchor == "end" else "ls"
        canvas.text(_scaled(shape.at), shape.text, fill="black", font=font, anchor=anchor)
        return
    points = [_scaled(point) for point in shape.points]
    if isinstance(shape, Area):
        if len(points) > 1:
            canvas.polygon(points, fill=shape.color)
        return
    canvas.line(points, fill=shape.color, width=SCALE)


def _scaled(point: Point) -> Point:
    return (point[0] * SCALE, point[1] * SCALE)
