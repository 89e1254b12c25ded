"""Text Generation Inference: the warm-up of server/, and the router that passes its errors on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "tgi"
_WRAPPED: Final = r"""(?:Error: Warmup\(Generation\(\\?["'])?"""
"""The launcher's last word, which quotes the message: a part of it, not a quotation."""

_TABLE: Final = (
    Wording(  # 0.9 to 1.0
        pattern=unspaced(
            _WRAPPED + r"Not enough memory to handle (?P<total_tokens>\d{1,12}) total tokens with "
            r"(?P<prefill_tokens>\d{1,12}) prefill tokens"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            _WRAPPED + r"Not enough memory to handle (?P<prefill_tokens>\d{1,12}) prefill tokens"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            _WRAPPED
            + r"Not enough memory to handle `?max_total_tokens=(?P<max_total_tokens>\d{1,12})`"
        ),
        family=_FAMILY,
    ),
    Wording(  # 1 to 2.0, while it served
        pattern=unspaced(
            r"Out of available cache blocks: asked (?P<asked_blocks>\d{1,9}), only "
            r"(?P<free_blocks>\d{1,9}) free blocks"
        ),
        family=_FAMILY,
        marks=frozenset({"cache_blocks"}),
    ),
    Wording(  # around another message; the launcher's last word
        pattern=unspaced(r"""Error: Warmup\(Generation\(\\?["'](?!Not enough memory)"""),
        family=_FAMILY,
        weight="aftermath",
        marks=frozenset({"wrapper"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="tgi",
    needles=("Not enough memory to handle", "Out of available cache blocks", "Warmup(Generation("),
    read=_read,
)
