"""Which of a script's uses belong to a model: its own, then those between it and the next."""

from __future__ import annotations

from collections.abc import Callable

from willfit.settings.code.reading import Load, Reading, Use


def around(reading: Reading, load: Load, *roles: str) -> list[Use]:
    """Uses of these kinds in their order.

    The model's own; else those while it is the newest one; else those that name no model.
    """
    own = load.used(*roles)
    if own:
        return own
    common = [use for use in reading.uses if use.role in roles]
    start, end = load.site.order, next_order(reading, load)
    within = [use for use in common if start <= use.order < end]
    return within or common


def next_order(reading: Reading, load: Load) -> float:
    """When the next model is loaded."""
    later = (other.site.order for other in reading.loads if other.site.order > load.site.order)
    return min(later, default=float("inf"))


def first(uses: list[Use], wanted: Callable[[Use], bool] = bool) -> Use | None:
    """The first use that is as wanted, else the first, None without any."""
    return next((use for use in uses if wanted(use)), uses[0] if uses else None)


def trains(reading: Reading, load: Load) -> bool:
    """Whether the script trains this model: with a trainer, or in a loop with ``backward``."""
    if load.used("trainer"):
        return True
    alone = len(reading.loads) == 1
    if alone and any(use.role == "trainer" for use in reading.uses):
        return True
    everything = [*reading.uses, *(use for other in reading.loads for use in other.uses)]
    if not any(use.role == "backward" for use in everything):
        return False
    if load.used("optimizer"):
        return True
    owned = any(other.used("optimizer") for other in reading.loads)
    return not owned and (alone or bool(load.used("forward")))
