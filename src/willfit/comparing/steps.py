"""From one scenario to another, a setting at a time: what each moved, adding up to the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from willfit.comparing.moved import components_of, moved, only_changed
from willfit.comparing.result import Part, Step
from willfit.comparing.settings import Setting
from willfit.comparing.words import title
from willfit.errors import WillfitError
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import Scenario


def by_formula(scenario: Scenario) -> Estimate | None:
    """The estimate; None where the formulas give none that can be relied on."""
    try:
        found = estimate(scenario, search_limits=False)
    except (WillfitError, LookupError, ValueError):
        return None  # two settings of different sides that do not go together
    return None if found.unsupported or found.refused else found


@dataclass(frozen=True, kw_only=True)
class Walk:
    """From one scenario to another, a setting at a time."""

    steps: tuple[Step, ...] = ()
    """They add up to the difference of both ends by formula; none where an end has no formula."""
    around_model: tuple[Estimate, Estimate] | None = None
    """Before and after the model alone was changed; None where it was not, or not alone."""

    @property
    def length(self) -> int:
        """Bytes that were moved on the way, there and back."""
        return sum(abs(step.change_bytes) for step in self.steps)


def shortest_walk(scenario: Scenario, settings: Sequence[Setting]) -> Walk:
    """The model first or last, whichever moves less.

    A type that one model has by default and the other is told would else be moved there and back.
    """
    models = [setting for setting in settings if setting.is_model]
    others = [setting for setting in settings if not setting.is_model]
    ways = [[*models, *others], [*others, *models]] if models and others else [settings]
    walks = [found for way in ways if (found := walk(scenario, way)).steps]
    return min(walks, key=lambda found: found.length, default=Walk())


def walk(
    scenario: Scenario,
    settings: Sequence[Setting],
    estimating: Callable[[Scenario], Estimate | None] = by_formula,
) -> Walk:
    """Each setting with what it moved.

    Where a state in between has no estimate, the next setting is changed with it.
    """
    before = estimating(scenario)
    around_model: tuple[Estimate, Estimate] | None = None
    found: list[Step] = []
    waiting: list[Setting] = []
    now = scenario
    for setting in settings if before is not None else ():
        now = setting.put_into(now)
        waiting.append(setting)
        after = estimating(now)
        if before is None or after is None:
            continue
        if setting.is_model and len(waiting) == 1:
            around_model = (before, after)
        found.append(_step(waiting, before, after))
        before, waiting = after, []
    if waiting:
        return Walk()
    return Walk(steps=tuple(found), around_model=around_model)


def _step(settings: Sequence[Setting], before: Estimate, after: Estimate) -> Step:
    return Step(
        parts=tuple(map(_part, settings)),
        change_bytes=after.binding.peak.device_bytes - before.binding.peak.device_bytes,
        components=only_changed(moved(components_of(before), components_of(after))),
    )


def _part(setting: Setting) -> Part:
    path = setting.paths[0]
    before, after = setting.texts()
    return Part(path=".".join(path), title=title(path), before=before, after=after)
