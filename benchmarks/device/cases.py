"""The recorded grid's cases, which are the suite ``recorded``, and their scenarios."""

from __future__ import annotations

from willfit.cli.suite import scenario_of as _scenario_of
from willfit.live.suite.case import Case, load_suite
from willfit.scenario import Scenario

__all__ = ["Case", "cases", "scenario_of"]


def cases() -> list[Case]:
    """All of them."""
    return list(load_suite("recorded").cases)


def scenario_of(case: Case, gpu: str = "H100", stack: str = "") -> Scenario:
    """The scenario that the case's arguments describe, with the fields that have no flag."""
    return _scenario_of(case, gpu, stack)
