"""vLLM's ``LLM`` and llama-cpp-python's ``Llama`` in a user's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from willfit.doctor.edits import Edit
from willfit.doctor.placing import Code, Nowhere
from willfit.scenario import Inference, Scenario

ARGUMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "LLM": {"batch_size": "max_num_seqs", "context_len": "max_model_len",
            "kv_dtype": "kv_cache_dtype"},
    "Llama": {"context_len": "n_ctx"},
}  # fmt: skip
"""Arguments of an engine's class by the fields of an inference."""
_CACHES: Final = {"float8_e4m3fn": "fp8"}


def place_engine(code: Code, before: Scenario, after: Scenario) -> list[Edit]:
    """Edits for every setting of the inference that differs; nothing else may."""
    first, then = before.workload.inference, after.workload.inference
    if first is None or then is None or before.workload.loading != after.workload.loading:
        raise Nowhere
    site = code.site("load")
    names = ARGUMENTS.get(site.last, {})
    same = {field: getattr(first, field) for field in names}
    if replace(then, **same) != first:
        raise Nowhere
    return [
        code.set(site, name, _value(then, field))
        for field, name in names.items()
        if getattr(first, field) != getattr(then, field)
    ]


def _value(inference: Inference, field: str) -> object:
    value = getattr(inference, field)
    if field != "kv_dtype":
        return value
    if value is None or value.name not in _CACHES:
        raise Nowhere
    return _CACHES[value.name]
