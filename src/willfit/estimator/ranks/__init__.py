"""The recordings of ranks: one process as traced, with what several GPUs share and talk through.

A rank of DDP, ZeRO or FSDP runs the same code as a single GPU does. What it allocates besides, or
less, is put into the single GPU's recording, which is then replayed on the rank's own card.
"""

from __future__ import annotations

from willfit.estimator.outcome import Loaded
from willfit.estimator.ranks.fsdp import fsdp_ranks
from willfit.estimator.ranks.rank import Rank, Ranks
from willfit.estimator.ranks.scaled import scaled_ranks
from willfit.estimator.ranks.zero import zero_ranks
from willfit.estimator.spread import strategy_of
from willfit.formulas.training.zero import STAGES
from willfit.scenario import Scenario

__all__ = ["Rank", "Ranks", "ranks_of"]


def ranks_of(scenario: Scenario, loaded: Loaded) -> Ranks | None:
    """The ranks of a scenario on several GPUs; None where the trace itself has all.

    Raises `UnsupportedError` where the formulas do not know the strategy or the model.
    """
    shares, strategy = loaded.split.shares, strategy_of(scenario)
    trains = scenario.workload.training is not None
    if len(shares) == 1 or loaded.split.device_map is not None or not (trains or strategy == "tp"):
        return None
    if trains and scenario.workload.task != "load":
        if strategy == "fsdp":
            return fsdp_ranks(scenario, len(shares))
        if strategy in STAGES:
            return zero_ranks(scenario, STAGES[strategy], len(shares))
    return scaled_ranks(scenario, loaded)
