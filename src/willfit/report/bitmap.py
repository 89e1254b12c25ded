"""A drawing as a bitmap, dark on white, where Pillow is there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from willfit.errors import InputError
from willfit.report.drawing import Drawing, Line, Point, Words
from willfit.report.palette import INK, LIGHT_INK, LIGHT_PAPER
from willfit.report.writing import printable

SCALE: Final = 2
"""Pixels of a PNG for each unit of the drawing."""
_FAINT_INK: Final = "#b1b2b4"
"""The ink at the opacity of what stands back (`drawing.FAINT`), on white."""


def png(drawing: Drawing) -> bytes:
    """The drawing as a PNG file; raises `InputError` where Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise InputError(
            "a .png picture needs Pillow: pip install pillow, or name an .svg or .html file"
        ) from None
    image = Image.new("RGB", (drawing.width * SCALE, drawing.height * SCALE), LIGHT_PAPER)
    canvas: Any = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Words):
            _paint_words(canvas, ImageFont.load_default(shape.size * SCALE), shape)
        elif isinstance(shape, Line):
            _paint_line(canvas, shape)
        elif len(shape.points) > 1:
            canvas.polygon([_scaled(point) for point in shape.points], fill=shape.color)
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _paint_words(canvas: Any, font: Any, words: Words) -> None:
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
    color = LIGHT_INK if words.color == INK else words.color
    heavy = {"stroke_width": SCALE / 4} if words.bold else {}
    text = printable(words.text)
    canvas.text(_scaled(words.at), text, fill=color, font=font, anchor=anchor, **heavy)


def _paint_line(canvas: Any, line: Line) -> None:
    color = LIGHT_INK if line.color == INK else line.color
    if line.faint:
        color = _FAINT_INK
    width = max(round(line.width * SCALE), 1)
    for stroke in line.strokes:
        points = [_scaled(point) for point in stroke]
        for part in _dashes(points) if line.dashed else [points]:
            canvas.line(part, fill=color, width=width)


def _dashes(points: Sequence[Point]) -> Sequence[Sequence[Point]]:
    """A polyline cut into dashes of 4 units and gaps of 3."""
    parts: list[list[Point]] = []
    on, off = 4 * SCALE, 3 * SCALE
    walked = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        start = -(walked % (on + off))
        while start < length:
            a, b = max(start, 0.0), min(start + on, length)
            if b > a:
                at = [(x0 + (x1 - x0) * d / length, y0 + (y1 - y0) * d / length) for d in (a, b)]
                parts.append(at)
            start += on + off
        walked += length
    return parts


def _scaled(point: Point) -> Point:
    return (point[0] * SCALE, point[1] * SCALE)
