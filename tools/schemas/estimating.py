"""``willfit estimate`` and ``willfit diff``."""

from __future__ import annotations

from typing import Final

from tools.schemas.shape import (
    ANY,
    BOOL,
    BYTES,
    COUNT,
    SIGNED,
    TEXT,
    TEXTS,
    Schema,
    by_name,
    contract,
    each,
    one_of,
    or_null,
    record,
    said,
    with_optional,
)

COMPONENTS: Final = (
    "weights", "quantization_state", "adapters", "kv_cache", "activations", "logits", "gradients",
    "optimizer_states", "temporaries", "workspaces", "communication", "fragmentation",
    "cuda_context", "other_processes",
)  # fmt: skip
VERDICT: Final = one_of("fits", "tight", "does_not_fit")
LEVEL: Final = one_of("formula", "trace", "measured")

AMOUNTS: Final = {
    "allocated_bytes": said(BYTES, "live tensors after the allocator's rounding"),
    "reserved_bytes": said(BYTES, "what the caching allocator took from the device"),
    "device_bytes": said(BYTES, "reserved plus the CUDA context: what nvidia-smi shows"),
}
_COMPONENT: Final = record({"name": one_of(*COMPONENTS), "bytes": BYTES, "note": TEXT})
_GPU: Final = record(
    {
        "index": COUNT, "name": TEXT, "phase": TEXT, **AMOUNTS,
        "capacity_bytes": BYTES, "budget_bytes": said(SIGNED, "capacity − reserve − in use"),
        "fits": BOOL, "layers": TEXT, "components": each(_COMPONENT),
    }
)  # fmt: skip
HOST: Final = record(
    {"ram_bytes": BYTES, "pinned_bytes": BYTES, "disk_bytes": BYTES, "fits": or_null(BOOL)}
)
_FAILURE: Final = record(
    {"phase": TEXT, "module": TEXT, "op": TEXT, "tried_bytes": BYTES, "message": TEXT,
     "gpu_index": COUNT}
)  # fmt: skip
_ALIVE: Final = record(
    {"module": TEXT, "op": TEXT, "phase": TEXT, "num_bytes": BYTES, "count": COUNT}
)
_DTYPE: Final = record(
    {
        "dtype": TEXT, "largest_layer_bytes": BYTES, "total_bytes": BYTES,
        "training_adam_bytes": said(or_null(BYTES), "weights, gradients and both Adam states"),
    }
)  # fmt: skip
_SCENARIO: Final = record(
    {
        "model": record(
            {"id": TEXT, "source": TEXT, "library": TEXT, "model_class": TEXT,
             "stored_dtype": TEXT,
             "quantization": said(or_null(ANY), "as it is stored; null where it is not quantised")}
        ),
        "workload": said(ANY, "loading, then inference or training, as settings"),
        "machine": said(or_null(ANY), "null where no GPU was named"),
        "stack": said(ANY, "versions and allocator settings"),
    }
)  # fmt: skip

FIELDS: Final[dict[str, Schema]] = {
    "level": said(LEVEL, "what the numbers rest on"),
    "scenario": _SCENARIO,
    "model": record(
        {"id": TEXT, "library": TEXT, "source": TEXT, "standing": TEXT, "num_params": COUNT,
         "num_trainable_params": COUNT}
    ),
    "components": said(
        each(_COMPONENT), "of the peak on the GPU with the least headroom; they add up to it"
    ),
    "peak": said(
        record({"gpu_index": COUNT, "phase": TEXT, **AMOUNTS}), "on the GPU with least headroom"
    ),
    "range": record(
        {"low_device_bytes": BYTES, "high_device_bytes": BYTES,
         "unknowns": said(each(ANY), "what is not known, with its effect")}
    ),
    "phases": each(record({"name": TEXT, **AMOUNTS})),
    "per_gpu": said(each(_GPU), "empty where no GPU was named"),
    "host": HOST,
    "kv_cache_bytes": said(or_null(BYTES), "once the whole context is in it"),
    "largest_layer_bytes": BYTES,
    "largest_layer": TEXT,
    "dtypes": each(_DTYPE),
    "limits": said(
        record({"batch_size": or_null(COUNT), "context_len": or_null(COUNT)}),
        "the largest that still fit, the rest unchanged",
    ),
    "fits": or_null(BOOL),
    "verdict": said(or_null(VERDICT), "null where no GPU was named"),
    "headroom_bytes": said(or_null(SIGNED), "budget − peak"),
    "refused": said(or_null(TEXT), "why the library would not load it this way"),
    "off_gpu_bytes": BYTES,
    "failure": said(or_null(_FAILURE), "where a traced run would end"),
    "largest_alive": said(each(_ALIVE), "what fills the peak; by trace alone"),
    "assumptions": TEXTS,
    "unsupported": said(TEXTS, "not empty: no trustworthy number, exit code 4"),
    "ignored_settings": TEXTS,
    "notes": by_name(TEXT),
}  # fmt: skip
ESTIMATE: Final = with_optional(
    contract("estimate", "willfit estimate --json", FIELDS),
    {"willfit": said(TEXT, "the version that printed it")},
)

MOVED: Final = record({"name": TEXT, "a_bytes": BYTES, "b_bytes": BYTES, "change_bytes": SIGNED})
_SIDE: Final = record(
    {"model": TEXT, "phase": TEXT, "device_bytes": BYTES, "verdict": or_null(VERDICT)}
)
SETTING: Final = record(
    {
        "path": said(TEXT, "its place in a scenario"),
        "title": said(TEXT, "its flag, or words"),
        "a": said(TEXT, "before; none where it was not given"),
        "b": said(TEXT, "after"),
    }
)
_CHECK: Final = record(
    {
        "passes": BOOL, "allowed_bytes": BYTES, "grown": each(MOVED), "shrunk": each(MOVED),
        "peak_grew": BOOL,
        "settings": said(each(SETTING), "that differ"),
        "by_willfit": said(BOOL, "another version of willfit is all that differs"),
        "willfit": record({"a": or_null(TEXT), "b": or_null(TEXT)}),
    }
)  # fmt: skip
DIFF: Final = contract(
    "diff",
    "willfit diff --json",
    {
        "a": _SIDE,
        "b": _SIDE,
        "components": said(each(MOVED), "the largest change first; they add up"),
        "change_bytes": SIGNED,
        "check": said(_CHECK, "what grew past what is allowed"),
    },
)
