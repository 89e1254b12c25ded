"""accelerate ``estimate-memory`` with the fifth that its documentation adds for inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from benchmarks.ledger.peers import accelerate_estimate
from benchmarks.ledger.peers._peer import Answer, NotPredicted
from willfit.scenario import Scenario

ADDED: Final = (1, 5)
"""Up to 20 % for inference: the guide under `ABOUT.source`, after EleutherAI's Transformer Math."""

ABOUT: Final = replace(
    accelerate_estimate.ABOUT,
    title="accelerate estimate-memory, and 20 % for inference",
    claims="memory for inference: Total Size and the 20 % that its guide says to allow",
    called="as accelerate estimate-memory; inference alone",
)


def predict(scenario: Scenario) -> Answer:
    """Total Size × 1.2, bytes."""
    if scenario.workload.inference is None:
        return NotPredicted(reason="the 20 % are for inference")
    total = accelerate_estimate.predict(scenario)
    if isinstance(total, NotPredicted):
        return total
    part, of = ADDED
    return total + total * part // of
