"""``willfit run`` and ``willfit status``."""

from __future__ import annotations

from typing import Final

from tools.schemas.shape import (
    ANY,
    BOOL,
    BYTES,
    COUNT,
    NUMBER,
    SECONDS,
    TEXT,
    TEXTS,
    by_name,
    contract,
    each,
    or_null,
    record,
    said,
)

_RELEASE: Final = record(
    {
        "seconds": SECONDS,
        "gpus": each(
            record(
                {
                    "index": COUNT, "name": TEXT, "before_bytes": BYTES, "peak_bytes": BYTES,
                    "after_bytes": BYTES, "holders": TEXTS,
                }
            )
        ),
    }
)  # fmt: skip
STAGE: Final = record(
    {
        "name": TEXT, "fingerprint": TEXT, "rows": COUNT,
        "computed": said(COUNT, "by this run; the others were there"),
        "failed": COUNT, "missing": said(COUNT, "because time ran out"),
        "failures": said(by_name(TEXT), "why, by id, of the first"),
        "reasons": said(TEXTS, "why something was computed again"),
        "seconds": SECONDS, "start_seconds": SECONDS,
        "tokens": COUNT, "padded_tokens": COUNT, "in_order_padded_tokens": COUNT,
        "tokens_per_second": NUMBER, "rows_per_second": NUMBER,
        "retries": COUNT, "out_of_memory": COUNT, "workers_started": COUNT,
        "reserved_bytes": said(each(BYTES), "most that torch reserved, by GPU of a replica"),
        "host_bytes": BYTES,
        "estimate": record({"device_bytes": each(BYTES), "batch_tokens": or_null(COUNT)}),
        "release": said(or_null(_RELEASE), "the memory measured back"),
        "remarks": TEXTS,
    }
)  # fmt: skip
RUN: Final = contract(
    "run",
    "willfit run --json",
    {
        "folder": TEXT, "complete": said(BOOL, "every row of every stage has a result"),
        "seconds": SECONDS, "output": or_null(TEXT), "output_rows": COUNT, "output_sha256": TEXT,
        "stages": each(STAGE), "remarks": TEXTS,
    },
)  # fmt: skip
STATUS: Final = contract(
    "status",
    "willfit status --json",
    {
        "folder": TEXT, "pid": said(or_null(COUNT), "of the process that runs it"),
        "complete": BOOL, "output": or_null(TEXT), "progress": ANY,
        "stages": each(
            record(
                {
                    "name": TEXT, "rows": or_null(COUNT), "done": COUNT,
                    "reasons": said(TEXTS, "what would be computed again, and why"),
                    "report": or_null(ANY),
                }
            )
        ),
    },
)  # fmt: skip
DRY_RUN: Final = contract(
    "dry-run",
    "willfit run --dry-run --json",
    {
        "stages": each(
            record(
                {
                    "name": TEXT, "rows": COUNT, "missing": COUNT, "shards": COUNT,
                    "reasons": TEXTS, "replicas": each(each(COUNT)), "longest_tokens": COUNT,
                    "batch_tokens": or_null(COUNT), "device_bytes": each(BYTES), "remarks": TEXTS,
                }
            )
        )
    },
)  # fmt: skip
