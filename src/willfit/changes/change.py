"""Change: one setting changed, as a function of a scenario, with what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from willfit.scenario import Scenario


class Quality(IntEnum):
    """What a change does to the result: bit-for-bit noise, little, or something to be checked."""

    NONE = 0
    """The same mathematics: at most the order of summation differs."""
    SLIGHT = 1
    """Published comparisons find little or no difference on common tasks."""
    REAL = 2
    """The model learns, sees or says something else: check it on the task."""


class Effort(IntEnum):
    """What a change asks of the user."""

    SETTING = 0
    """One argument or one line."""
    INSTALL = 1
    """A package more, or another way to launch."""
    REWORK = 2
    """Other data, another checkpoint, other code or another machine."""


@dataclass(frozen=True, kw_only=True)
class NotApplicable:
    """Why a change cannot be made to a scenario, or would change nothing."""

    reason: str
    for_now: bool = False
    """Whether any other change that takes less memory may open the way."""


Apply = Callable[[Scenario], Scenario | NotApplicable]
Edit = Callable[[Scenario], Scenario]
"""Makes a change, given that nothing speaks against it."""
Guard = Callable[[Scenario], "str | None"]
"""What speaks against a change, in a few words; None where nothing does."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value of one setting.

    Applying it is pure; what it saves and the time it takes are differences of estimates, never
    part of it.
    """

    id: str
    """Setting and value: ``gradient_checkpointing``, ``optim=adamw_8bit``."""
    setting: str
    """What it sets (``optim``): a plan holds at most one change of a setting."""
    title: str
    """In an imperative sentence, for people."""
    apply: Apply
    quality: Quality = Quality.NONE
    quality_reason: str = ""
    """What is lost and where that was found; empty for `Quality.NONE`."""
    effort: Effort = Effort.SETTING
    spends: bool = False
    """Whether it can only save time: it costs memory or leaves it as it is."""
    opens: bool = False
    """Whether other changes apply after it that did not before (a type that a kernel needs)."""
    dominated_by: str = ""
    """Id of a change that takes the same bytes and time and loses less: no search needs both."""
    times: Callable[[Scenario], int] | None = None
    """How many times its loss counts in this scenario: 3 where an eighth is left. None is once."""
    remark: Callable[[Scenario], str] | None = None
    """What to say of it in this scenario, such as how many rows of the data it cuts."""

    def loss(self, scenario: Scenario) -> int:
        """What it costs in quality where it is made, in steps of `Quality`."""
        return int(self.quality) * (self.times(scenario) if self.times is not None else 1)


def halvings(now: int, then: int) -> int:
    """How often the one is halved before it is at most the other, at least once."""
    return max(math.ceil(math.log2(now / then)), 1)


def guarded(edit: Edit, *guards: Guard) -> Apply:
    """Applies ``edit`` where none of the guards, asked in their order, has an objection."""

    def apply(scenario: Scenario) -> Scenario | NotApplicable:
        for guard in guards:
            reason = guard(scenario)
            if reason is not None:
                return NotApplicable(reason=reason)
        return edit(scenario)

    return apply
