"""One door: a scenario and a target in, code or configuration out; and what a change alters."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from willfit.emitting.accelerate_config import accelerate_text
from willfit.emitting.axolotl_config import axolotl_yaml
from willfit.emitting.commands import llama_server_command, vllm_command
from willfit.emitting.inference_script import inference_script
from willfit.emitting.kaggle import kaggle_cell
from willfit.emitting.training import trainer_class
from willfit.emitting.training_script import training_script
from willfit.errors import InputError
from willfit.scenario import Scenario

Target = Callable[[Scenario], str]


def transformers(scenario: Scenario) -> str:
    """The library alone: loading and generation, or a Trainer's script."""
    if scenario.workload.training is not None:
        return training_script(scenario, "transformers")
    return inference_script(scenario)


def trl(scenario: Scenario) -> str:
    """TRL's SFTTrainer for causal language models; the Trainer for others."""
    return training_script(scenario, "trl")


def peft(scenario: Scenario) -> str:
    """The Trainer around a PEFT model."""
    return training_script(scenario, "transformers")


TARGETS: Final[dict[str, Target]] = {
    "transformers": transformers,
    "trl": trl,
    "peft": peft,
    "accelerate": accelerate_text,
    "vllm": vllm_command,
    "kaggle": kaggle_cell,
    "axolotl": axolotl_yaml,
    "llama-server": llama_server_command,
}
"""What `emit` writes, by name."""


def emit(scenario: Scenario, target: str, *, versions: Mapping[str, str] | None = None) -> str:
    """Text for ``target`` that runs as it stands, with the names that the stack's releases have.

    ``versions`` replaces versions of the stack. Raises `InputError` on an unknown target and,
    with the reason, on what a library of that release cannot do.
    """
    return writer(target)(_with_versions(scenario, versions))


def writer(target: str) -> Target:
    """What writes for a target of that name; raises `InputError` naming those there are."""
    write = TARGETS.get(target)
    if write is None:
        raise InputError(f"unknown target {target[:40]!r}: expected one of {', '.join(TARGETS)}")
    return write


def _with_versions(scenario: Scenario, versions: Mapping[str, str] | None) -> Scenario:
    if not versions:
        return scenario
    stack = replace(scenario.stack, versions={**scenario.stack.versions, **versions})
    return replace(scenario, stack=stack)


def default_target(scenario: Scenario) -> str:
    """The target that writes what the estimate was made for."""
    training, inference = scenario.workload.training, scenario.workload.inference
    if training is not None:
        return "trl" if trainer_class(scenario) == "trl" else "peft"
    if inference is not None and inference.engine != "transformers":
        return "vllm" if inference.engine == "vllm" else "llama-server"
    return "transformers"


def lines_to_change(before: Scenario, after: Scenario) -> tuple[str, ...]:
    """Lines of code that lead from one scenario to the other: added and altered ones.

    A line that has to go stands as ``# without: …``.
    """
    target = default_target(after)
    old, new = (emit(scenario, target).splitlines() for scenario in (before, after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    lines: list[str] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind in ("insert", "replace"):
            lines += _block(new[c:d])
        elif kind == "delete":
            lines += [f"# without: {line.strip()}" for line in _block(old[a:b])]
    return tuple(lines)


def _block(lines: Iterable[str]) -> list[str]:
    """The lines at their own depth, without those that only space, close or import."""
    code = textwrap.dedent("\n".join(lines)).splitlines()
    told = [line for line in code if line.strip(" ()[]{},")]
    return code if len(told) > 1 and _nested(code) else told


def _nested(lines: list[str]) -> bool:
    return any(line.endswith(("(", "[", "{")) for line in lines)
