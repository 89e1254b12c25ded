"""The largest batch and context that fit, everything else unchanged, by doubling and bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from willfit.scenario import Scenario

LARGEST_BATCH: Final = 4096
"""Where the search for a batch size stops: beyond it memory is not what limits anyone."""
LARGEST_CONTEXT: Final = 1 << 20
"""Where the search for a context stops if the model names no maximum."""


def largest(fits: Callable[[int], bool], *, ceiling: int) -> int | None:
    """The largest n in 1..ceiling with ``fits(n)``, given that fitting is monotone; None if none.

    Calls ``fits`` O(log ceiling) times.
    """
    if ceiling < 1 or not fits(1):
        return None
    good, bad = 1, 2
    while bad <= ceiling and fits(bad):
        good, bad = bad, bad * 2
    bad = min(bad, ceiling + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def with_batch_size(scenario: Scenario, batch_size: int) -> Scenario:
    """The scenario with another (micro-)batch size."""
    workload = scenario.workload
    if workload.training is not None:
        changed = replace(
            workload, training=replace(workload.training, micro_batch_size=batch_size)
        )
    elif workload.inference is not None:
        changed = replace(workload, inference=replace(workload.inference, batch_size=batch_size))
    else:
        return scenario
    return replace(scenario, workload=changed)


def with_context(scenario: Scenario, context_len: int) -> Scenario:
    """The scenario with another context (inference) or longest sequence (training)."""
    workload = scenario.workload
    if workload.training is not None:
        training = replace(workload.training, max_length=context_len, lengths=())
        return replace(scenario, workload=replace(workload, training=training))
    if workload.inference is None:
        return scenario
    new_tokens = workload.inference.max_new_tokens
    inference = replace(
        workload.inference,
        context_len=context_len,
        max_new_tokens=None if new_tokens is None else min(new_tokens, context_len),
    )
    return replace(scenario, workload=replace(workload, inference=inference))


def context_ceiling(scenario: Scenario) -> int:
    """The longest context that the model allows."""
    architecture = scenario.model.architecture
    maximum = architecture.max_context if architecture is not None else None
    return min(maximum or LARGEST_CONTEXT, LARGEST_CONTEXT)
