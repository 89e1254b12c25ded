"""Inputs longer than a model has positions for."""

from __future__ import annotations

from willfit.errors import InputError
from willfit.scenario.model import Architecture


def require_positions(architecture: Architecture | None, length: int) -> None:
    """A table of positions has no row past its end; rotary positions have no end."""
    if architecture is not None and architecture.fixed_positions:
        raise InputError(
            f"{length} tokens are more than the {architecture.max_context} positions that this "
            "model has learned: give fewer, or name a model with a longer context"
        )
