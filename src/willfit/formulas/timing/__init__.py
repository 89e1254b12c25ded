"""Seconds by closed formulas: FLOPs and bytes of every pass against a GPU's rates."""

from __future__ import annotations

from willfit.formulas.timing.anatomy import Anatomy, anatomy_of
from willfit.formulas.timing.span import Span

__all__ = ["Anatomy", "Span", "anatomy_of"]
