"""The error for a name that no source knows."""

from __future__ import annotations

from willfit.errors import ModelNotFoundError


def not_found(name: str, reason: str = "") -> ModelNotFoundError:
    """The error for a name nobody knows, with the nearest names that the catalogue has."""
    from willfit.sources import catalogue

    close = catalogue.nearest(name, 3)
    why = reason or f"no model is called {name[:120]!r}"
    suggestion = f": did you mean {' or '.join(close)}?" if close else ""
    return ModelNotFoundError(f"{why}{suggestion} ('willfit models' lists those known offline)")
