"""Several models or settings side by side: what differs, why, and whether that is fair."""

from __future__ import annotations

from willfit.comparing.compare import compare
from willfit.comparing.result import Compared, Comparison, Difference, Moved, Part, Step

__all__ = ["Compared", "Comparison", "Difference", "Moved", "Part", "Step", "compare"]
