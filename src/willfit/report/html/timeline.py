"""Memory over a traced run as a page of its own."""

from __future__ import annotations

from willfit.report.html.markup import element
from willfit.report.html.page import figure, page
from willfit.report.timeline import Cards, Timelines, timeline_drawing


def timeline_html(timelines: Timelines, title: str, *, cards: Cards | None = None) -> str:
    """The picture in a page."""
    return page(
        title,
        element("p", "Allocated by component; dashed: reserved by the allocator."),
        figure(
            lambda width: timeline_drawing(timelines, title, cards=cards, width=width, titled=False)
        ),
    )
