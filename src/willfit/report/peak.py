"""What fills each GPU at its peak, as stacked bars against what it can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from willfit.report.bars import MARGIN, Page, bar, has_range, sorted_parts
from willfit.report.bitmap import png
from willfit.report.drawing import Drawing, Words, svg
from willfit.report.palette import look, place
from willfit.report.parts import Key, heading, legend, scale
from willfit.report.terminal import alike, places_text
from willfit.results import Estimate, GpuEstimate
from willfit.units import format_bytes

WIDE: Final = 720
NARROW: Final = 340
"""Width of a picture on a phone, where text of a wide one would be too small."""
MOST_BARS: Final = 48
"""Bars of a picture: more say nothing."""
_VERDICTS: Final = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}
Side = tuple[str, GpuEstimate]
"""A bar: what it is called, and the GPU at its peak."""


def sides_of(estimate: Estimate, label: str = "") -> list[Side]:
    """The bars of an estimate: GPUs that hold the same are one."""
    begin = f"{label}, " if label else ""
    groups = alike(estimate.gpus)
    if label and len(groups) == 1:
        return [(label, groups[0][0])]
    return [(begin + places_text(gpus), gpus[0]) for gpus in groups]


def peak_svg(
    estimates: Sequence[Side], title: str, *, width: int = WIDE, embedded: bool = False
) -> str:
    """The bars as SVG; ``embedded`` takes the colour of the page around it."""
    return svg(peak_drawing(estimates, title, width=width), embedded=embedded)


def peak_png(estimates: Sequence[Side], title: str) -> bytes:
    """The bars as a bitmap; raises `InputError` where Pillow is missing."""
    return png(peak_drawing(estimates, title))


def peak_drawing(
    estimates: Sequence[Side], title: str, *, width: int = WIDE, titled: bool = True
) -> Drawing:
    """One bar for each (label, GPU), on one scale; not ``titled``: the title is only told."""
    shown = estimates[:MOST_BARS]
    most = max((_extent(gpu) for _, gpu in shown), default=0) or 1
    page = Page(width=width, most_bytes=most)
    shapes, y = heading(title if titled else "", width - 2 * MARGIN, MARGIN)
    y += 4
    for label, gpu in shown:
        drawn, y = bar(page, label, verdict_words(gpu), gpu, y)
        shapes += drawn
    ticks, y = scale(most, page.room, MARGIN, y + 4)
    keys, y = legend(_keys(page, shown), width, MARGIN, y + 10)
    shapes += [*ticks, *keys]
    if len(estimates) > len(shown):
        y += 16
        left_out = f"{len(estimates) - len(shown):,} more are not drawn"
        shapes.append(Words(at=(MARGIN, y), text=left_out))
    return Drawing(
        width=width,
        height=round(y + MARGIN),
        title=title,
        description=" ".join(f"{label}: {sentence(gpu)}" for label, gpu in shown),
        shapes=shapes,
    )


def verdict_words(gpu: GpuEstimate) -> str:
    """Whether it fits, with the amounts: ``fits: 12.90 GiB of 14.56 GiB in backward…``."""
    peak = gpu.peak
    amount, phase = format_bytes(peak.device_bytes), f" in {peak.name}" if peak.name else ""
    if gpu.verdict is None or gpu.budget_bytes is None:
        return f"{amount}{phase}"
    said = f"{_VERDICTS[gpu.verdict]}: {amount} of {format_bytes(gpu.budget_bytes)}{phase}"
    headroom = gpu.headroom_bytes or 0
    rest = (
        f"{format_bytes(-headroom)} too much" if headroom < 0 else f"{format_bytes(headroom)} free"
    )
    return f"{said}, {rest}{_range_words(gpu)}"


def sentence(gpu: GpuEstimate) -> str:
    """All that a bar shows, in words."""
    parts = [
        f"{look(part.name).words} {format_bytes(part.num_bytes)}"
        for part in gpu.peak.components
        if part.num_bytes
    ]
    return f"{verdict_words(gpu)}. Of it {', '.join(parts) or 'nothing'}."


def _range_words(gpu: GpuEstimate) -> str:
    low, high = format_bytes(gpu.low_device_bytes), format_bytes(gpu.high_device_bytes)
    return "" if low == high else f" (range {low} to {high})"


def _extent(gpu: GpuEstimate) -> int:
    ends = (gpu.peak.device_bytes, gpu.high_device_bytes, gpu.budget_bytes, gpu.capacity_bytes)
    return max(end or 0 for end in ends)


def _keys(page: Page, sides: Sequence[Side]) -> list[Key]:
    """(colour, words) of the legend: with the amount where there is one bar alone."""
    parts = {part.name: part for _, gpu in sides for part in sorted_parts(gpu)}
    keys: list[Key] = []
    for name in sorted(parts, key=place):
        amount = f" {format_bytes(parts[name].num_bytes)}" if len(sides) == 1 else ""
        keys.append((look(name).color, look(name).words + amount))
    if any(gpu.budget_bytes is not None for _, gpu in sides):
        keys.append(("line", "usable at most"))
    if any(gpu.capacity_bytes != gpu.budget_bytes for _, gpu in sides):
        keys.append(("edge", "all of the card"))
    if any((gpu.headroom_bytes or 0) < 0 for _, gpu in sides):
        keys.append(("hatch", "too much"))
    if any(has_range(page, gpu) for _, gpu in sides):
        keys.append(("range", "range of what is not known"))
    return keys
