"""``willfit plan`` and ``willfit where``."""

from __future__ import annotations

from typing import Final

from tools.schemas.estimating import ESTIMATE, HOST, LEVEL, VERDICT
from tools.schemas.shape import (
    ANY,
    BOOL,
    BYTES,
    COUNT,
    NUMBER,
    SECONDS,
    SIGNED,
    TEXT,
    TEXTS,
    by_name,
    contract,
    each,
    one_of,
    or_null,
    record,
    said,
)

QUALITY: Final = one_of("none", "slight", "real")
_REF: Final = {"$ref": "#/$defs/estimate"}
_SPAN: Final = record({"low": SECONDS, "nominal": SECONDS, "high": SECONDS})
_DURATION: Final = record(
    {"unit_seconds": _SPAN, "unit": TEXT, "total_seconds": or_null(_SPAN), "assumptions": TEXTS}
)
_CHANGE: Final = record(
    {
        "id": TEXT, "title": TEXT,
        "saves_bytes": said(SIGNED, "in the listed order; their sum is baseline − plan"),
        "quality_cost": QUALITY, "quality_reason": TEXT, "remark": TEXT, "lines": TEXTS,
    }
)  # fmt: skip
_PLAN: Final = record(
    {
        "changes": each(_CHANGE),
        "estimate": _REF,
        "quality_cost": QUALITY,
        "relative_time": said(or_null(NUMBER), "of a sample, against the baseline's"),
        "total_time_seconds": or_null(SECONDS),
        "duration": or_null(_DURATION),
        "in_time": said(or_null(BOOL), "null without a time limit"),
        "price": or_null(NUMBER),
        "code": said(or_null(record({"target": TEXT, "text": TEXT})), "with --emit"),
    }
)
PLAN: Final = contract(
    "plan",
    "willfit plan --json",
    {
        "goal": one_of("smallest-change", "fastest"),
        "baseline": said(_REF, "as asked"),
        "baseline_duration": or_null(_DURATION),
        "plans": said(each(_PLAN), "the best first"),
        "why_none": said(or_null(TEXT), "why nothing fits, and where it would"),
        "num_judged": COUNT,
        "not_applicable": said(by_name(TEXT), "reason by change"),
    },
    **{"$defs": {"estimate": ESTIMATE.schema}},
)

_STAY: Final = {
    "name": TEXT, "title": TEXT, "provider": TEXT, "gpus": TEXTS,
    "status": one_of("fits", "fits_changed", "too_slow", "does_not_fit", "cannot_run", "refused",
                     "unknown"),
    "fits": BOOL, "reason": TEXT, "changes": TEXTS, "verdict": or_null(VERDICT),
    "level": or_null(LEVEL), "peak_device_bytes": or_null(BYTES), "headroom_bytes": or_null(SIGNED),
    "host": or_null(HOST), "total_time_seconds": or_null(_SPAN),
    "samples_per_second": or_null(_SPAN), "sessions": or_null(COUNT), "price": or_null(NUMBER),
    "internet": BOOL, "session_hours": or_null(NUMBER), "weekly_hours": or_null(NUMBER),
    "ram_bytes": or_null(BYTES), "disk_bytes": or_null(BYTES), "notes": TEXTS, "checked": TEXT,
    "sources": by_name(TEXT),
}  # fmt: skip
WHERE: Final = contract(
    "where",
    "willfit where --json",
    {
        "model": record({"id": TEXT, "library": TEXT, "source": TEXT}),
        "job": ANY,
        "places": each(record(_STAY)),
        "then": said(
            or_null(record({**_STAY, "job": ANY, "upload_bytes": BYTES, "handover_notes": TEXTS})),
            "the job after it, with --then",
        ),
        "fits": BOOL,
        "notes": by_name(TEXT),
        "assumptions": TEXTS,
        "ignored_settings": TEXTS,
    },
)
