"""accelerate and the Trainer: parts of a model that went to the host, and batches that shrink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.numbers import NUM
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "accelerate"
_NOT_FATAL: Final = "not_fatal"

_TABLE: Final = (
    Wording(  # device stands twice in some releases
        pattern=unspaced(
            r"Some parameters are on the meta device (?:device )?because they were offloaded to "
            r"the (?:cpu and )?disk"
        ),
        family=_FAMILY,
        marks=frozenset({_NOT_FATAL, "offloaded_to_disk"}),
    ),
    Wording(
        pattern=unspaced(
            r"Some parameters are on the meta device (?:device )?because they were offloaded to "
            r"the(?!\{)"
        ),
        family=_FAMILY,
        marks=frozenset({_NOT_FATAL, "offloaded_to_host"}),
    ),
    Wording(
        pattern=unspaced(
            rf"Current model requires (?P<offload_buffer_bytes>{NUM} bytes) of buffer for "
            r"offloaded layers"
        ),
        family=_FAMILY,
        marks=frozenset({_NOT_FATAL}),
    ),
    Wording(
        pattern=unspaced(r"Evaluation hit an out-of-memory error\. `auto_find_batch_size`"),
        family=_FAMILY,
        weight="aftermath",
        marks=frozenset({"evaluation"}),
        release="transformers 5",
    ),
    Wording(
        pattern=unspaced(r"No executable batch size found, reached zero"),
        family=_FAMILY,
        weight="aftermath",
        marks=frozenset({"batch_size_zero"}),
    ),
    Wording(
        pattern=unspaced(
            r"We need an `offload_dir` to dispatch this model according to this `device_map`"
            r"|The current `device_map` had weights offloaded to the disk"
        ),
        family=_FAMILY,
        marks=frozenset({"offloaded_to_disk"}),
    ),
    Wording(
        pattern=unspaced(
            r"You can't train a model that has been loaded in [48]-bit(?: or [48]-bit)? "
            r"precision with CPU or disk offload"
        ),
        family=_FAMILY,
        marks=frozenset({"offloaded_to_host"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="accelerate",
    needles=(
        "Some parameters are on the meta device",
        "bytes of buffer for offloaded",
        "Evaluation hit an out-of-memory",
        "No executable batch size found",
        "We need an `offload_dir`",
        "had weights offloaded to the disk",
        "with CPU or disk offload",
    ),
    read=_read,
)
