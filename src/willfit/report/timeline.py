"""Memory over a traced run as a picture: a panel for each GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from willfit.report.bitmap import png
from willfit.report.drawing import Drawing, svg
from willfit.report.palette import look
from willfit.report.panel import MARGIN, Card, Panel, parts_of
from willfit.report.parts import Key, heading, legend
from willfit.report.peak import WIDE
from willfit.results import Estimate, Timeline

Timelines = Mapping[int, Timeline]
"""A run's timeline on each GPU, by index."""


Cards = Mapping[int, Card]
"""The GPUs of a timeline, by index, as far as they are known."""


def cards_of(estimate: Estimate) -> Cards:
    """The GPUs of an estimate."""
    return {
        gpu.index: Card(
            outside_bytes=gpu.peak.device_bytes - gpu.peak.reserved_bytes,
            budget_bytes=gpu.budget_bytes,
        )
        for gpu in estimate.gpus
    }


def timeline_svg(
    timelines: Timelines,
    title: str,
    *,
    cards: Cards | None = None,
    width: int = WIDE,
    embedded: bool = False,
) -> str:
    """Stacked areas by component, reserved as a dashed line, the phases along the bottom."""
    return svg(timeline_drawing(timelines, title, cards=cards, width=width), embedded=embedded)


def timeline_png(timelines: Timelines, title: str, *, cards: Cards | None = None) -> bytes:
    """The same as a bitmap; raises `InputError` where Pillow is missing."""
    return png(timeline_drawing(timelines, title, cards=cards))


def timeline_drawing(
    timelines: Timelines,
    title: str,
    *,
    cards: Cards | None = None,
    width: int = WIDE,
    titled: bool = True,
) -> Drawing:
    """A panel for each GPU, and one legend for all."""
    shapes, y = heading(title if titled else "", width - 2 * MARGIN, MARGIN)
    panels = []
    for gpu, timeline in sorted(timelines.items()):
        name = f"GPU {gpu}" if len(timelines) > 1 else ""
        card = (cards or {}).get(gpu, Card())
        panel = Panel(timeline=timeline, name=name, card=card, top=y + 26, width=width)
        shapes += panel.shapes()
        panels.append(panel)
        y = panel.bottom + 24
    keys, y = legend(list(_keys(panels)), width, MARGIN, y)
    return Drawing(
        width=width,
        height=round(y + MARGIN),
        title=title,
        description=" ".join(panel.sentence() for panel in panels),
        shapes=[*shapes, *keys],
    )


def _keys(panels: Sequence[Panel]) -> Iterator[Key]:
    for name in parts_of([panel.timeline for panel in panels]):
        yield look(name).color, look(name).words
    yield "dashes", "reserved by the allocator"
    if any(panel.card.outside_bytes for panel in panels):
        yield look("cuda_context").color, f"{look('cuda_context').words}: with it, device"
    if any(panel.limit_bytes is not None for panel in panels):
        yield "line", "usable at most"
