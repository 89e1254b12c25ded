"""``willfit gpus`` and ``willfit models``."""

from __future__ import annotations

from typing import Final

from tools.schemas.shape import (
    BOOL,
    BYTES,
    COUNT,
    NUMBER,
    TEXT,
    by_name,
    contract,
    each,
    or_null,
    record,
    said,
)

GPUS: Final = contract(
    "gpus",
    "willfit gpus --json",
    {
        "gpus": each(
            record(
                {
                    "name": TEXT, "capacity_bytes": BYTES,
                    "compute_capability": {
                        "type": "array", "items": COUNT, "minItems": 2, "maxItems": 2,
                    },
                    "bandwidth_bytes_per_s": or_null(COUNT),
                    "flops": said(by_name(NUMBER), "dense, a second, by dtype"),
                    "context_bytes": said(or_null(BYTES), "null where nobody measured it"),
                    "vendor": TEXT, "unified_memory": BOOL,
                    "sources": said(by_name(TEXT), "of each figure"),
                }
            )
        )
    },
)  # fmt: skip
LIVE: Final = contract(
    "live",
    "willfit gpus --live --json",
    {
        "gpus": each(
            record(
                {
                    "index": COUNT, "name": TEXT, "total_bytes": BYTES, "used_bytes": BYTES,
                    "free_bytes": BYTES,
                    "processes": each(
                        record({"pid": COUNT, "name": TEXT, "bytes": or_null(BYTES)})
                    ),
                }
            )
        )
    },
)  # fmt: skip
MODELS: Final = contract(
    "models",
    "willfit models --json",
    {"models": each(record({"id": TEXT, "library": TEXT, "num_params": COUNT, "standing": TEXT}))},
)
