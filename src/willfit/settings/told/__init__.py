"""Settings that a log tells of the run that wrote it: only what is certain, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from willfit.settings.code.names import checkpoint_of
from willfit.settings.command_lines import pinned_versions, read_command_line
from willfit.settings.settings import Settings
from willfit.settings.told.dumps import dump_at
from willfit.settings.told.facts import Facts
from willfit.settings.told.lines import read_line
from willfit.settings.told.machines import gpu_of, read_gpus, read_versions

__all__ = ["read_told"]

MAX_LINES: Final = 200_000
"""Lines that are read of a log; what a run says of itself stands at its beginning."""
MAX_CHARACTERS: Final = 16_384
"""Characters that are read of one line."""


def read_told(lines: Sequence[str]) -> Settings:
    """Settings that a log tells: flags with ``gpu`` and ``stack`` among them.

    A later line counts over an earlier. ``train`` is there only where the log tells the method;
    without it the training's other flags complete what a script or the user says. No text makes
    it raise.
    """
    facts = Facts()
    number = 0
    while number < min(len(lines), MAX_LINES):
        line = lines[number][:MAX_CHARACTERS]
        read_line(facts, line)
        read_gpus(facts, line)
        read_versions(facts, line)
        _command(facts, line)
        number += max(dump_at(facts, lines, number), 1)
    return _settings(facts)


def _command(facts: Facts, line: str) -> None:
    """A command that stands in the log, after a prompt or ``+``."""
    facts.versions.update(pinned_versions(line) if "==" in line else {})
    if "--" in line or "serve" in line or " -m " in line:
        found = read_command_line(line)
        if found is not None:
            facts.add(found)


def _settings(facts: Facts) -> Settings:
    flags: dict[str, Any] = dict(facts.flags)
    _method(facts, flags)
    gpu = gpu_of(facts)
    if gpu is not None:
        flags["gpu"] = gpu
    if facts.versions:
        flags["stack"] = ",".join(f"{name}={version}" for name, version in facts.versions.items())
    for family in facts.families:
        facts.assume(f"frames run modeling_{family}.py: a model of the {family} family")
    model, assumed = (None, "")
    if facts.model is not None:
        gguf = facts.model.endswith(".gguf")
        model, assumed = (facts.model, "") if gguf else checkpoint_of(facts.model)
    if assumed:
        facts.assume(assumed)
    return Settings(
        flags=flags,
        model=model,
        ignored=tuple(facts.ignored),
        assumptions=tuple(facts.assumptions),
    )


def _method(facts: Facts, flags: dict[str, Any]) -> None:
    """Full, LoRA or QLoRA by how many of the parameters are trained."""
    if facts.trainable is None:
        return
    trained, every = facts.trainable
    if not 0 < trained <= every:
        return
    if trained == every:
        flags["train"] = "full"
    elif trained < every / 4:
        four = str(flags.get("quantize", "")).startswith(("nf4", "fp4"))
        flags["train"] = "qlora" if four else flags.get("train") or "lora"
        flags["train"] = "lora" if flags["train"] == "full" else flags["train"]
    facts.assume(f"{trained:,} of {every:,} parameters are trained")
