"""Writers: which program's log a message of torch stands in, where the text around it tells."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property
from typing import Final

from willfit.doctor.passage import Flat

_ROUTER: Final = re.compile(r"\btext_generation_(?:client|router|launcher)\b")
_VLLM: Final = re.compile(
    r"(?i:\bvllm\b|\bvllm[/._])|\bVLLM_[A-Z]|\bVllmWorker|\bEngineCore|\bmultiproc_executor\.py"
    r"|execute_model_input_\d"
)
_DEEPSPEED: Final = re.compile(r"\[launch\.py:\d{1,6}:|\bdeepspeed\.launcher\b|deepspeed/launcher/")
_LINE: Final = 600
"""So much in front of a message may be its line's prefix."""
_BEFORE: Final = 16_000
"""A traceback's length: 200 frames of 80 characters."""
_AFTER: Final = 2_000


class Writers:
    """Of one text."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat

    @cached_property
    def _vllm(self) -> list[int]:
        return [match.start() for match in _VLLM.finditer(self.flat.text)]

    @cached_property
    def _deepspeed(self) -> list[int]:
        return [match.start() for match in _DEEPSPEED.finditer(self.flat.text)]

    def family(self, start: int, base: str) -> str:
        """``pytorch-cuda`` → ``pytorch-cuda+vllm`` for a message that starts there in a log of it.

        What TGI's router passes on is ``tgi``.
        """
        flat = self.flat
        if _ROUTER.search(flat.text, max(0, start - _LINE), start):
            return "tgi"
        speaks = _VLLM.search(flat.line_at(start).speaker) is not None
        if speaks or "vllm" in flat.origins or _near(self._vllm, start):
            return f"{base}+vllm"
        if "deepspeed" in flat.origins or _near(self._deepspeed, start):
            return f"{base}+deepspeed"
        return base


def _near(places: list[int], start: int) -> bool:
    first = bisect_left(places, start - _BEFORE)
    return first < len(places) and places[first] <= start + _AFTER
