"""bitsandbytes: its CUDA checks, and what transformers says where it places or configures it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, placed_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "bitsandbytes"
_PAGED: Final = "paged_memory"

_TABLE: Final = (
    Wording(
        pattern=unspaced(
            r"Some modules are dispatched on the CPU or the disk\. Make sure you have enough GPU "
            r"RAM"
        ),
        family=_FAMILY,
        marks=frozenset({"dispatched"}),
    ),
    Wording(
        pattern=unspaced(
            r"Some modules are offloaded to the CPU or the disk\. Note that these modules will be "
            r"converted to 8-bit"
        ),
        family=_FAMILY,
        marks=frozenset({"dispatched", "not_fatal"}),
    ),
    Wording(
        pattern=unspaced(
            r"Error out of memory at line \d{1,6} in file \S{0,160}?pythonInterface\.c"
        ),
        family=_FAMILY,
        marks=frozenset({_PAGED}),
    ),
    Wording(
        pattern=unspaced(r"Error out of memory at line \d{1,6} in file"),
        family=_FAMILY,
    ),
)
_UNUSED: Final = re.compile(
    r"Unused kwargs: \[(?P<keys>[^\[\]]{0,600})\]\. These kwargs are not used in "
    r"(?:<class ')?[\w.]{0,80}BitsAndBytesConfig"
)
_KEY: Final = re.compile(r"'(\w{1,60})'")
_OWN_KEYS: Final = frozenset({"_load_in_4bit", "_load_in_8bit", "quant_method"})
"""What a saved config has of the class's own: loading it again names them, and nothing is wrong."""
_WRONG_KEY: Final = unspaced(r"load_in_8bit_fp32_cpu_offload=")
_ADVICE: Final = 400
"""Length of the sentence with the key, in characters."""
_RIGHT_KEY: Final = unspaced(r"llm_int8_enable_fp32_cpu_offload=")


def _read(flat: Flat) -> Iterator[Report]:
    """The dispatch error is no shortage by itself: a device map left modules on the host."""
    yield from (
        _dated(flat, told)
        for told, match in placed_wordings(flat, _TABLE)
        if not flat.text.endswith('""" ', 0, match.start())  # the source of the message
    )
    for match in _UNUSED.finditer(flat.text):
        keys = [key for key in _KEY.findall(match["keys"]) if key not in _OWN_KEYS]
        if keys:
            yield _ignored(flat, match, keys)


def _ignored(flat: Flat, match: re.Match[str], keys: list[str]) -> Report:
    return report(
        flat,
        match,
        family=_FAMILY,
        weight="words",
        fields={"unused_kwargs": keys},
        marks=frozenset({"ignored_key", "not_fatal"}),
    )


def _dated(flat: Flat, told: Report) -> Report:
    """What the key in the advice tells: the first of the two exists in no release."""
    place = flat.text.find(told.quote)
    advice = flat.text[place : place + len(told.quote) + _ADVICE].replace(" ", "")
    if "dispatched" not in told.marks or place < 0:
        return told
    if _WRONG_KEY.search(advice):
        return replace(told, release="transformers ≤ 4.44", marks=told.marks | {"wrong_key"})
    if _RIGHT_KEY.search(advice):
        return replace(told, release="transformers ≥ 4.45")
    return told


READER: Final = Reader(
    name="bitsandbytes",
    needles=(
        "Some modules are dispatched on the CPU",
        "Some modules are offloaded to the CPU",
        "Error out of memory at line",
        "Unused kwargs: [",
    ),
    read=_read,
)
