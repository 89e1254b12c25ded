"""Reading text of any size: decoded, cleaned of colours and prefixes, cut to what matters."""

from __future__ import annotations

from willfit.doctor.reading.blocks import Source
from willfit.doctor.reading.passages import passage_of
from willfit.doctor.reading.stretches import Stretch, Stretches

__all__ = ["Source", "Stretch", "Stretches", "passage_of"]
