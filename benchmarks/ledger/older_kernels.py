"""What an older bitsandbytes holds: by formula alone, for its kernels are called by address."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.ledger.reading import Reading
from willfit.estimator import estimate
from willfit.scenario import Scenario
from willfit.scenario.stack import TESTED


def todays_kernels(scenario: Scenario) -> Scenario:
    """The same run with the bitsandbytes that a trace can run."""
    versions = {**scenario.stack.versions, "bitsandbytes": TESTED["bitsandbytes"]}
    return replace(scenario, stack=replace(scenario.stack, versions=versions))


def older_bytes(scenario: Scenario, reading: Reading) -> int:
    """Bytes that the scenario's own release has above today's, at what is read."""
    older, newer = (
        reading(estimate(one, search_limits=False)) for one in (scenario, todays_kernels(scenario))
    )
    return older - newer
