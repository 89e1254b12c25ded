"""``willfit doctor``."""

from __future__ import annotations

from typing import Final

from tools.schemas.planning import QUALITY
from tools.schemas.shape import (
    ANY,
    COUNT,
    NUMBER,
    SIGNED,
    TEXT,
    TEXTS,
    contract,
    each,
    one_of,
    or_null,
    record,
    said,
    with_optional,
)

_OWN_LINE: Final = record(
    {"cell": said(COUNT, "notebooks only, from 0"), "line": COUNT, "before": TEXT, "after": TEXT},
    optional=("cell",),
)
_REMEDY: Final = record(
    {
        "id": TEXT, "title": TEXT,
        "saves_bytes": said(or_null(SIGNED), "null where no scenario is known"),
        "snippet": TEXT, "quality_cost": QUALITY, "relative_time": or_null(NUMBER),
        "plan": said(or_null(COUNT), "changes of one plan belong together"),
        "own_lines": each(_OWN_LINE),
    }
)  # fmt: skip
_FIELDS: Final = {
    "type": "object",
    "patternProperties": {
        "_bytes$": {"type": ["integer", "array", "object"]},
    },
    "description": "what the text says, in its numbers; what it does not say is absent",
}
_REPORT: Final = record(
    {
        "family": said(TEXT, "who says it: pytorch-cuda, vllm, …"),
        "fields": _FIELDS,
        "cause": TEXT,
        "confidence": one_of("certain", "likely", "guess"),
        "evidence": TEXTS,
        "changes": each(_REMEDY),
        "line": said(COUNT, "from 1"),
        "quote": TEXT,
        "release": TEXT,
        "stage": TEXT,
        "times": COUNT,
        "notes": TEXTS,
    }
)
_FINDING: Final = record(
    {
        "file": TEXT, "rule": TEXT, "cell": said(COUNT, "notebooks only, from 0"),
        "line": said(COUNT, "from 1"), "severity": one_of("error", "waste", "leak", "ignored"),
        "message": TEXT, "fix": TEXT,
    },
    optional=("cell",),
)  # fmt: skip
_DIAGNOSIS: Final = contract(
    "diagnosis",
    "willfit doctor --json",
    {
        "reports": said(each(_REPORT), "empty where the text has no failure"),
        "lint": each(_FINDING),
    },
)
_SNAPSHOT: Final = record({"gpus": each(ANY), "settings": each(ANY), "notes": TEXTS})
DIAGNOSIS: Final = with_optional(
    _DIAGNOSIS,
    {
        "remarks": said(TEXTS, "what was read, and what was not given"),
        "settings": said(ANY, "the scenario that was read"),
        "snapshot": said(_SNAPSHOT, "where one was given"),
    },
)
