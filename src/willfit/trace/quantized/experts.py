"""Experts that a checkpoint stores one by one, as loading joins them: one row a fused parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.model import pattern_count

_SINGLE: Final = re.compile(
    r"^(?P<owner>.*\.experts)\.(?P<which>\{[^{}]*\})\.(?P<part>gate|up|down)_proj\.weight(?P<rest>.*)$"
)


def fused(weights: LoadedWeights) -> LoadedWeights:
    """Weights whose ``experts.{0-127}.gate_proj.weight`` and ``up_proj`` are ``gate_up_proj``.

    transformers 5.23 core_model_loading.py `MergeModulelist`, `Concatenate`: E of [I, h] and E of
    [I, h] become [E, 2·I, h], scales likewise; the bytes stay.
    """
    return replace(weights, rows=tuple(_rows(weights)))


def _rows(weights: LoadedWeights) -> Iterator[LoadedRow]:
    by_name = {loaded.row.name: loaded for loaded in weights.rows}
    for loaded in weights.rows:
        found = _SINGLE.match(loaded.row.name)
        if found is None:
            yield loaded
            continue
        if found["part"] == "up" and _gate(loaded) in by_name:
            continue  # joined to the gate
        parts = 2 if found["part"] == "gate" else 1
        name = "gate_up_proj" if found["part"] == "gate" else f"{found['part']}_proj"
        yield _joined(loaded, f"{found['owner']}.{name}{found['rest']}", found["which"], parts)


def _gate(loaded: LoadedRow) -> str:
    return loaded.row.name.replace(".up_proj.", ".gate_proj.")


def _joined(loaded: LoadedRow, name: str, which: str, parts: int) -> LoadedRow:
    experts = pattern_count(which)
    rows, *rest = loaded.row.shape or (1,)
    return replace(
        loaded,
        row=replace(loaded.row, name=name, shape=(experts, parts * rows, *rest)),
        weight_bytes=experts * parts * loaded.weight_bytes,
        state_sizes=tuple(experts * parts * size for size in loaded.state_sizes),
        merged=loaded.weight_bytes > 0,
    )
