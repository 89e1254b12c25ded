"""The JSON that the commands print, as JSON Schema: one row a contract."""

from __future__ import annotations

from typing import Final

from tools.schemas import doctoring, estimating, listing, measuring, planning, running
from tools.schemas.shape import Contract

CONTRACTS: Final[tuple[Contract, ...]] = (
    estimating.ESTIMATE,
    planning.PLAN,
    planning.WHERE,
    doctoring.DIAGNOSIS,
    estimating.DIFF,
    *measuring.CONTRACTS,
    running.RUN,
    running.DRY_RUN,
    running.STATUS,
    listing.GPUS,
    listing.LIVE,
    listing.MODELS,
)
"""In the order in which people meet the commands."""
