"""``LoraConfig``, ``get_peft_model`` and ``prepare_model_for_kbit_training`` in a user's code."""

from __future__ import annotations

from typing import Final

from willfit.doctor.edits import Edit, after_statement, dropped, replaced
from willfit.doctor.placing import Code, Nowhere, changed, written
from willfit.emitting import Arguments, Call
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Scenario

LEFT: Final = ("lora_alpha", "task_type")
"""Arguments that no change is about: memory does not depend on them."""


def place_prepare(code: Code, old: Arguments, new: Arguments) -> list[Edit]:
    """The model itself in place of ``prepare_model_for_kbit_training(model)``."""
    if old.prepare == new.prepare or (old.prepare is not None and new.prepare is not None):
        return []
    if new.prepare is not None:
        raise Nowhere
    site = code.site("prepare")
    if not site.node.args:
        raise Nowhere
    first = site.node.args[0]
    cell = code.cells[site.cell or 0]
    if first.lineno != first.end_lineno:
        raise Nowhere
    text = cell.lines[first.lineno - 1].encode()[first.col_offset : first.end_col_offset].decode()
    return [replaced(site.cell, site.node, text)]


def place_adapter(code: Code, old: Arguments, new: Arguments, after: Scenario) -> list[Edit]:
    """The config's arguments; a whole adapter where there was none."""
    if new.adapter is None or old.adapter == new.adapter:
        return []
    if old.adapter is None:
        return _whole(code, new.adapter, after)
    site = code.site("adapter")
    edits: list[Edit] = []
    for name, value in changed(old.adapter, new.adapter).items():
        if name in LEFT:
            continue
        if value is not None:
            edits.append(code.set(site, name, value))
        elif name in site.given:
            edit = dropped(site, name)
            if edit is None:
                raise Nowhere
            edits.append(edit)
    return edits


def _whole(code: Code, adapter: Call, after: Scenario) -> list[Edit]:
    model = code.variable()
    lines = [f"{model} = get_peft_model({model}, {written(adapter)})"]
    training = after.workload.training
    if training is not None and checkpointing_of(training):
        lines.append(f"{model}.enable_input_require_grads()")
    return [
        *code.imports("peft", [adapter.name, "get_peft_model"]),
        after_statement(code.site("load"), lines, code.cells),
    ]
