"""A job over places as text within 80 columns, and as JSON ``willfit.where/1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from willfit.formulas.timing.span import Span
from willfit.plan.stay import Handover, Stay, Where
from willfit.report.contract import plain
from willfit.report.text import Style, table, wrapped
from willfit.units import GIB, format_bytes

SCHEMA: Final = "willfit.where/1"
HOUR: Final = 3600.0
_UNITS: Final = (
    (96 * HOUR, 24 * HOUR, "d"),
    (HOUR, HOUR, "h"),
    (60.0, 60.0, "min"),
    (0.0, 1.0, "s"),
)
"""From how many seconds on a time is told in which unit."""
_QUICK: Final = "changes are the first that do, found quickly: willfit plan looks at more of them"
_WORDS: Final = {
    "fits": ("as asked", "green"),
    "fits_changed": ("changed", "green"),
    "too_slow": ("too slow", "yellow"),
    "does_not_fit": ("no", "red"),
    "cannot_run": ("cannot", "red"),
    "refused": ("refused", "red"),
    "unknown": ("unknown", "yellow"),
}


def render_where(where: Where, style: Style | None = None) -> str:
    """The table of places, what is to be known of them, the job after, what was assumed."""
    style = style or Style()
    lines = [f"{style.paint(where.scenario.model.id, 'bold')}: {_job(where)}", ""]
    lines += _painted(_table(where.stays), where.stays, style)
    lines += ["", *_remarks(where.stays)]
    if any(stay.changes for stay in where.stays):
        lines += wrapped(_QUICK, first="", rest="  ")
    if where.then is not None:
        lines += ["", *_handover(where.then, style)]
    lines += [""] if where.assumptions or where.ignored_settings else []
    for title, items in (("assumed", where.assumptions), ("ignored", where.ignored_settings)):
        for item in items:
            lines += wrapped(item, first=f"{title}: ", rest="  ")
    return "\n".join(lines).rstrip() + "\n"


def _job(where: Where) -> str:
    workload, job = where.scenario.workload, where.job
    training = workload.training
    what = f"{training.method} training" if training is not None else workload.task
    if job.samples is not None:
        what += f" of {job.samples:,} samples"
        what += f", {job.epochs:g} epochs" if training is not None and job.epochs != 1 else ""
    if job.time_limit_seconds is not None:
        what += f", within {job.time_limit_seconds / HOUR:,.1f} h"
    return what


def _table(stays: Sequence[Stay]) -> list[str]:
    """As many columns as there is something to say."""
    columns: list[tuple[str, list[str]]] = [
        ("place", [stay.place.title for stay in stays]),
        ("fits", [_WORDS[stay.status][0] for stay in stays]),
        ("peak", [_peak(stay) for stay in stays]),
        ("headroom", [_headroom(stay) for stay in stays]),
        ("time (range)", [_hours(stay.seconds) for stay in stays]),
        ("cost", ["" if s.price is None else f"{s.price:,.2f}" for s in stays]),
    ]
    kept = [column for column in columns if any(column[1])]
    return table(
        [name for name, _ in kept], list(zip(*(c for _, c in kept), strict=True)), indent=""
    )


def _painted(lines: list[str], stays: Sequence[Stay], style: Style) -> list[str]:
    rows = [
        style.paint(line, _WORDS[stay.status][1])
        for line, stay in zip(lines[2:], stays, strict=True)
    ]
    return [*lines[:2], *rows]


def _peak(stay: Stay) -> str:
    made = stay.estimate
    return "" if made is None or made.refused else _amount(made.binding.peak.device_bytes)


def _headroom(stay: Stay) -> str:
    made = stay.estimate
    if made is None or made.refused or made.binding.headroom_bytes is None:
        return ""
    return _amount(made.binding.headroom_bytes)


def _amount(num_bytes: int) -> str:
    """Hundreds of GiB without decimals: the table has 80 columns."""
    large = abs(num_bytes) >= 100 * GIB
    return f"{num_bytes / GIB:,.0f} GiB" if large else format_bytes(num_bytes)


def _hours(seconds: Span | None) -> str:
    """``8.9 h (7.1–12)``; minutes below one hour, days above four."""
    if seconds is None:
        return ""
    unit, name = next(
        (unit, name) for least, unit, name in _UNITS if seconds.nominal >= least or unit == 1
    )
    low, nominal, high = (_short(s / unit) for s in (seconds.low, seconds.nominal, seconds.high))
    return f"{nominal} {name} ({low}–{high})"


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def _remarks(stays: Sequence[Stay]) -> list[str]:
    """One paragraph for each thing to say, with all the places that it is said of."""
    said: dict[str, list[str]] = {}
    for kind in (_changes, _reason, _notes):
        for stay in stays:
            for sentence in kind(stay):
                said.setdefault(sentence, []).append(stay.place.title)
    return [
        line
        for sentence, titles in said.items()
        for line in wrapped(f"{', '.join(titles)}: {sentence}", first="", rest="  ")
    ]


def _changes(stay: Stay) -> tuple[str, ...]:
    if not stay.changes:
        return ()
    return (f"to fit, {'; '.join(title[:1].lower() + title[1:] for title in stay.changes)}",)


def _reason(stay: Stay) -> tuple[str, ...]:
    """Why not, unless the table's headroom says it."""
    shown = stay.status == "does_not_fit" and _headroom(stay).startswith("-")
    return (stay.reason,) if stay.reason and not shown else ()


def _notes(stay: Stay) -> tuple[str, ...]:
    return stay.notes if stay.passes or stay.status == "too_slow" else ()


def _handover(then: Handover, style: Style) -> list[str]:
    stay = then.stay
    word, color = _WORDS[stay.status]
    head = f"then at {stay.place.title}: {style.paint(word, color)}"
    parts = []
    if stay.passes or stay.status == "too_slow":
        parts = [f"peak {_peak(stay)}", f"headroom {_headroom(stay)}"]
        parts += [_hours(stay.seconds)] if stay.seconds is not None else []
    lines = wrapped(", ".join([head, *parts]), first="", rest="  ")
    sentences = [*_changes(stay), *_reason(stay), *_notes(stay), *then.notes]
    if then.upload_bytes:
        sentences.append(f"take along the trained weights: {then.upload_bytes / 1e6:,.0f} MB")
    for sentence in sentences:
        lines += wrapped(sentence, first="  ", rest="    ")
    return lines


def where_json(where: Where) -> dict[str, Any]:
    """Every place with its numbers; additions only, never a renamed key."""
    model, then = where.scenario.model, where.then
    return {
        "schema": SCHEMA,
        "model": {"id": model.id, "library": model.library, "source": model.source},
        "job": plain(where.job),
        "places": [_stay(stay) for stay in where.stays],
        "then": None
        if then is None
        else {
            **_stay(then.stay),
            "job": plain(then.job),
            "upload_bytes": then.upload_bytes,
            "handover_notes": list(then.notes),
        },
        "fits": where.fits,
        "assumptions": list(where.assumptions),
        "ignored_settings": list(where.ignored_settings),
    }


def _stay(stay: Stay) -> dict[str, Any]:
    place, made = stay.place, stay.estimate
    binding = made.binding if made is not None and made.refused is None else None
    return {
        "name": place.name,
        "title": place.title,
        "provider": place.provider,
        "gpus": [gpu.name for gpu in place.gpus],
        "status": stay.status,
        "fits": stay.passes,
        "reason": stay.reason,
        "changes": list(stay.changes),
        "verdict": made.verdict if made is not None else None,
        "level": made.level if made is not None else None,
        "peak_device_bytes": binding.peak.device_bytes if binding is not None else None,
        "headroom_bytes": binding.headroom_bytes if binding is not None else None,
        "host": plain(made.host) if made is not None else None,
        "total_time_seconds": plain(stay.seconds),
        "samples_per_second": plain(stay.samples_per_second),
        "sessions": stay.sessions,
        "price": stay.price,
        "internet": place.internet,
        "session_hours": place.session_hours,
        "weekly_hours": place.weekly_hours,
        "ram_bytes": place.ram_bytes,
        "disk_bytes": place.disk_bytes,
        "notes": list(stay.notes),
        "checked": place.checked,
        "sources": dict(place.sources),
    }
