"""Where a change goes in the user's own code: the line as it is, and as it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from willfit.doctor.edits import Edit, OwnLine, edited, own_lines
from willfit.doctor.placing import Code, Nowhere
from willfit.doctor.placing.adapters import place_adapter, place_prepare
from willfit.doctor.placing.around import place_environment
from willfit.doctor.placing.engines import place_engine
from willfit.doctor.placing.loading import place_loading
from willfit.doctor.placing.running import place_inference
from willfit.doctor.placing.training import place_training
from willfit.emitting import Arguments, arguments
from willfit.errors import WillfitError
from willfit.scenario import Scenario
from willfit.settings.code import CodeSettings, read_code

__all__ = ["OwnLine", "edited", "lines_in"]


def lines_in(
    source: str | Sequence[str],
    before: Scenario,
    after: Scenario,
    *,
    line: int | None = None,
    cell: int | None = None,
) -> tuple[OwnLine, ...]:
    """Lines of a script, or of a notebook's cells, that lead from one scenario to the other.

    ``line`` and ``cell`` say which of several models is meant, as for `read_code`. All of the
    change or nothing: empty where a part of it has no place in this code, such as another way to
    launch it. What the lines make of the code parses, and reads as the changed settings. A plain
    loop's gradient accumulation is left to the user.
    """
    read = read_code(source, line, cell)
    prompted = any(line.startswith(">>>") for one in read.cells for line in one.lines)
    if read.chosen is None or prompted or any(one.unread for one in read.cells):
        return ()
    for at_definitions in (True, False):
        code = Code(cells=read.cells, loaded=read.loads[read.chosen], at_definitions=at_definitions)
        try:
            lines = own_lines(_edits(code, before, after), read.cells)
        except (Nowhere, WillfitError):
            return ()
        if lines and _holds(source, lines, read, before, after):
            return lines
    return ()


def _edits(code: Code, before: Scenario, after: Scenario) -> list[Edit]:
    if before.workload.task != after.workload.task:
        raise Nowhere
    inference = after.workload.inference
    if inference is not None and inference.engine != "transformers":
        return place_engine(code, before, after)
    old, new = arguments(before), arguments(after)
    _refuse(old, new)
    edits = place_environment(code, before, after)
    edits += place_loading(code, old.load, new.load)
    if after.workload.training is not None:
        edits += place_prepare(code, old, new)
        edits += place_adapter(code, old, new, after)
        edits += place_training(code, before, after, old, new)
    else:
        edits += place_inference(code, before, after, old, new)
    return edits


def _refuse(old: Arguments, new: Arguments) -> None:
    """What takes more than arguments and lines."""
    same = ("launch", "merge_adapter", "freeze", "trainable_dtype", "offload_activations")
    if any(getattr(old, name) != getattr(new, name) for name in same):
        raise Nowhere


def _holds(
    source: str | Sequence[str],
    lines: Sequence[OwnLine],
    read: CodeSettings,
    before: Scenario,
    after: Scenario,
) -> bool:
    """Whether the code with the lines can be read, and no number changed that should not."""
    again = read_code(edited(source, lines))
    if len(again.loads) != len(read.loads) or any(one.unread for one in again.cells):
        return False
    index = read.chosen or 0
    old, new = read.loads[index].settings.flags, again.loads[index].settings.flags
    counted = [flag for flag in NUMBERS if flag != _STEPS or old.get("trainer") != "loop"]
    return all(_follows(flag, old, new, before, after) for flag in counted)


def _follows(
    flag: str, old: Mapping[str, Any], new: Mapping[str, Any], before: Scenario, after: Scenario
) -> bool:
    """Whether a number of the code went where the scenario's did, or stayed where it stayed."""
    was, becomes = NUMBERS[flag](before), NUMBERS[flag](after)
    if was == becomes:
        return old.get(flag) == new.get(flag)
    return old.get(flag) != was or new.get(flag) == becomes


_STEPS: Final = "gradient_accumulation_steps"


def _training(name: str) -> Callable[[Scenario], object]:
    return lambda scenario: getattr(scenario.workload.training, name, None)


def _inference(name: str) -> Callable[[Scenario], object]:
    return lambda scenario: getattr(scenario.workload.inference, name, None)


def _rank(scenario: Scenario) -> object:
    return getattr(_training("lora")(scenario), "r", None)


NUMBERS: Final[Mapping[str, Callable[[Scenario], object]]] = {
    "per_device_train_batch_size": _training("micro_batch_size"),
    "gradient_accumulation_steps": _training("gradient_accumulation_steps"),
    "max_length": _training("max_length"),
    "lora_r": _rank,
    "batch_size": _inference("batch_size"),
    "context": _inference("context_len"),
    "max_new_tokens": _inference("max_new_tokens"),
}
"""Numbers of a scenario by their flags: a name may stand for two of them."""
