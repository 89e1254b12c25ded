"""``willfit compare`` and ``willfit measure``."""

from __future__ import annotations

from typing import Final

from tools.schemas.estimating import ESTIMATE, MOVED, SETTING
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
    Contract,
    by_name,
    contract,
    each,
    one_of,
    or_null,
    record,
    said,
)

_ESTIMATE: Final = {"$ref": "#/$defs/estimate"}
_READING: Final = record(
    {
        "phase": TEXT, "step": said(COUNT, "the optimizer's, from 1; 0 outside of training"),
        "gpu_index": COUNT,
        "allocated_bytes": said(BYTES, "most that live tensors took in the phase"),
        "reserved_bytes": said(BYTES, "most that the allocator held in the phase"),
        "held_bytes": said(BYTES, "live tensors at its end"),
        "held_reserved_bytes": said(BYTES, "the allocator's at its end"),
        "process_bytes": said(or_null(BYTES), "of this process, by NVML"),
        "device_bytes": said(or_null(BYTES), "all that is in use on the device, by NVML"),
        "host_bytes": said(BYTES, "resident memory at its end"),
    }
)  # fmt: skip
_LINE: Final = record(
    {
        "gpu_index": COUNT, "phase": TEXT, "kind": TEXT,
        "measured_bytes": or_null(SIGNED),
        "formula_bytes": or_null(SIGNED), "formula_error": said(or_null(NUMBER), "a share"),
        "trace_bytes": or_null(SIGNED), "trace_error": or_null(NUMBER),
    }
)  # fmt: skip
_GPU: Final = record(
    {
        "index": COUNT,
        "name": TEXT,
        "capacity_bytes": BYTES,
        "compute_capability": each(COUNT),
        "idle_bytes": or_null(BYTES),
    }
)
_FIELDS: Final = {
    "level": {"const": "measured"},
    "scenario": said(or_null(ANY), "as willfit.estimate/1 has it"),
    "device": said(TEXT, "of the first GPU, or cpu"),
    "capacity_bytes": or_null(BYTES),
    "gpus": said(each(_GPU), "empty without CUDA"),
    "driver": TEXT,
    "versions": by_name(TEXT),
    "counted": said(one_of("torch", "tensors"), "torch's counters, or live tensors of the host"),
    "readings": each(_READING),
    "seconds": by_name(SECONDS),
    "baseline_bytes": BYTES,
    "alive": said(
        each(record({"where": TEXT, "num_bytes": BYTES, "count": COUNT})), "at the peak of a step"
    ),
    "notes": TEXTS,
    "failure": said(TEXT, "why it ended early; empty where it did not"),
    "failure_kind": one_of("", "out_of_memory", "refused", "died", "not_done"),
    "context_bytes": by_name(or_null(SIGNED)),
    "lines": said(each(_LINE), "measured beside estimated"),
    "estimates": by_name(or_null(_ESTIMATE)),
    "no_estimate": said(by_name(TEXT), "why there is none, by level"),
}
MEASUREMENT: Final = contract(
    "measurement",
    "willfit measure --json",
    _FIELDS,
    **{"$defs": {"estimate": ESTIMATE.schema}},
)

_RUN: Final = {"$ref": "#/$defs/measurement"}
_STEP: Final = record(
    {"settings": each(SETTING), "change_bytes": SIGNED, "components": each(MOVED)}
)
COMPARE: Final = contract(
    "compare",
    "willfit compare --json",
    {
        "shared": said(TEXT, "settings of all sides"),
        "sides": each(
            record(
                {
                    "label": TEXT,
                    "estimate": or_null(_ESTIMATE),
                    "measurement": said(or_null(_RUN), "the median run, with --measure"),
                    "repeats": each(_RUN),
                    "reason": said(or_null(TEXT), "why it has no number"),
                }
            )
        ),
        "differences": said(
            each(
                record(
                    {
                        "a": TEXT, "b": TEXT, "b_index": COUNT, "change_bytes": SIGNED,
                        "components": each(MOVED),
                        "steps": said(each(_STEP), "one setting after the other"),
                        "reasons": TEXTS,
                    }
                )
            ),
            "of each side against the first",
        ),
        "same": said(
            record({"components": by_name(BYTES), "facts": ANY, "assumptions": TEXTS}),
            "what is the same in all",
        ),
        "facts": said(by_name({"type": "array"}), "of the models, where they differ"),
        "remarks": TEXTS,
        "fits": or_null(BOOL),
    },
    **{
        "$defs": {
            "estimate": ESTIMATE.schema,
            "measurement": {
                key: value for key, value in MEASUREMENT.schema.items() if key != "$defs"
            },
        }
    },
)  # fmt: skip
SUITE: Final = contract(
    "suite",
    "willfit measure --suite NAME --json",
    {
        "suite": TEXT,
        "rows": COUNT,
        "failed": said(by_name(TEXT), "why, by case"),
        "left": said(TEXTS, "cases for which there was no time yet"),
        "errors": said(each(ANY), "by level and counter"),
        "look_next": each(
            record(
                {
                    "name": TEXT, "phase": TEXT, "level": TEXT, "measured_bytes": SIGNED,
                    "error": NUMBER, "settles": TEXT,
                }
            )
        ),
    },
)  # fmt: skip
CONTRACTS: Final[tuple[Contract, ...]] = (COMPARE, MEASUREMENT, SUITE)
