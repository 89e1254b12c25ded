"""Every rule on Python code, one file a subject; duplicate names raise."""

from __future__ import annotations

from typing import Final

from willfit.doctor.lint.finding import Rule
from willfit.doctor.lint.rules import (
    arguments,
    bitsandbytes,
    checkpointing,
    dtypes,
    environment,
    holders,
    inference,
    memory_limits,
    placement,
    release,
    removed,
    same_configs,
    second_model,
    training,
)


def _table(*groups: tuple[Rule, ...]) -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    for rule in (one for group in groups for one in group):
        if rule.name in found:
            raise ValueError(f"two rules are called {rule.name}")
        found[rule.name] = rule
    return found


RULES: Final = _table(
    bitsandbytes.RULES,
    same_configs.RULES,
    arguments.RULES,
    memory_limits.RULES,
    dtypes.RULES,
    removed.RULES,
    placement.RULES,
    checkpointing.RULES,
    training.RULES,
    inference.RULES,
    release.RULES,
    second_model.RULES,
    holders.RULES,
    environment.RULES,
)
"""By name; the name stands in every finding."""
