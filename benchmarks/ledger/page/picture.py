"""Estimated against measured, log–log: one square a measurement, one colour a tier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.ledger.row import Outcome
from willfit.report.drawing import Area, Drawing, Line, Shape, Words
from willfit.units import GIB, MIB, format_bytes

_SIDE: Final = 560
_LEFT: Final = 74
_TOP: Final = 34
_BOTTOM: Final = 58
_RIGHT: Final = 150
_SQUARE: Final = 1.6
_ENDS: Final = (32 * MIB, 1024 * GIB)
_TICKS: Final = tuple(2**power * MIB for power in range(5, 21, 3))
_COLORS: Final = {"A": "#1f6feb", "B": "#c9730a", "C": "#8f8f8f"}
_BANDS: Final = (0.1,)


def scatter(outcomes: Sequence[Outcome]) -> Drawing:
    """Of measurements that are expressed, each once; tier A is drawn last, on top."""
    shown = sorted((o for o in outcomes if o.error is not None), key=lambda o: o.tier, reverse=True)
    shapes: list[Shape] = [*_axes(), *map(_square, shown), *_legend(shown)]
    near = sum(abs(o.error or 0) <= _BANDS[0] for o in shown)
    return Drawing(
        width=_LEFT + _SIDE + _RIGHT,
        height=_TOP + _SIDE + _BOTTOM,
        title="Estimated against measured GPU memory",
        description=f"{len(shown):,} published measurements from {format_bytes(_ENDS[0])} to "
        f"{format_bytes(_ENDS[1])} on logarithmic scales; {near:,} lie within 10 % of the line "
        "where both are the same.",
        shapes=tuple(shapes),
    )


def _at(num_bytes: float) -> float:
    """Place on a scale, 0 to 1; what lies outside is drawn at its end."""
    low, high = (math.log(end) for end in _ENDS)
    return min(max((math.log(max(num_bytes, 1)) - low) / (high - low), 0.0), 1.0)


def _x(num_bytes: float) -> float:
    return _LEFT + _SIDE * _at(num_bytes)


def _y(num_bytes: float) -> float:
    return _TOP + _SIDE * (1 - _at(num_bytes))


def _axes() -> Iterator[Shape]:
    low, high = _ENDS
    for tick in _TICKS:
        x, y = _x(tick), _y(tick)
        strokes = (((x, _TOP), (x, _TOP + _SIDE)), ((_LEFT, y), (_LEFT + _SIDE, y)))
        yield Line(strokes=strokes, faint=True)
        label = format_bytes(tick).replace(".0", "").replace(".00", "")
        yield Words(at=(x, _TOP + _SIDE + 18), text=label, anchor="middle")
        yield Words(at=(_LEFT - 8, y + 4), text=label, anchor="end")
    yield Line(strokes=(((_x(low), _y(low)), (_x(high), _y(high))),), width=1.5)
    for band in _BANDS:
        for factor in (1 - band, 1 + band):
            ends = ((_x(low), _y(low * factor)), (_x(high / factor), _y(high)))
            yield Line(strokes=(ends,), dashed=True, faint=True)
    middle = _TOP + _SIDE + 42
    yield Words(at=(_LEFT + _SIDE / 2, middle), text="measured by others", anchor="middle")
    yield Words(at=(_LEFT, _TOP - 12), text="estimated by willfit", bold=True)


def _square(outcome: Outcome) -> Shape:
    x, y, half = _x(outcome.measured_bytes), _y(outcome.estimated_bytes or 1), _SQUARE
    corners = (
        (x - half, y - half),
        (x + half, y - half),
        (x + half, y + half),
        (x - half, y + half),
    )
    return Area(points=corners, color=_COLORS.get(outcome.tier, _COLORS["C"]))


def _legend(shown: Sequence[Outcome]) -> Iterator[Shape]:
    x, y = _LEFT + _SIDE + 18, _TOP + 10
    for tier, color in _COLORS.items():
        count = sum(outcome.tier == tier for outcome in shown)
        yield Area(
            points=((x, y), (x + 10, y), (x + 10, y + 10), (x, y + 10)),
            color=color,
        )
        yield Words(at=(x + 16, y + 10), text=f"tier {tier}: {count:,}")
        y += 22
    yield Line(strokes=(((x, y + 6), (x + 12, y + 6)),), width=1.5)
    yield Words(at=(x + 16, y + 10), text="the same")
    yield Line(strokes=(((x, y + 28), (x + 12, y + 28)),), dashed=True, faint=True)
    yield Words(at=(x + 16, y + 32), text="10 % off")
