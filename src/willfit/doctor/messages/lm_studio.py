"""LM Studio: the guard in front of a load, and the report in JSON of a load that failed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.messages.numbers import NUM, UNITS, Fact
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "lmstudio"

_TABLE: Final = (
    Wording(
        pattern=unspaced(
            r"Model loading (?:was stopped|aborted) due to insufficient system resources"
            rf"(?:\. Under the current settings, this model requires approximately (?:"
            rf"(?P<required_bytes>{NUM} {UNITS})|NaN)(?: undefined)? of memory)?"
        ),
        family=_FAMILY,
        marks=frozenset({"guardrail"}),
    ),
    Wording(
        pattern=unspaced(
            r"does not have enough memory to load this model\. We estimate it will take "
            rf"(?P<required_bytes>{NUM} {UNITS}) of memory"
        ),
        family=_FAMILY,
        marks=frozenset({"guardrail"}),
    ),
    Wording(
        pattern=unspaced(r"Not enough resources to load the model with the current settings"),
        family=_FAMILY,
        marks=frozenset({"guardrail"}),
    ),
    Wording(  # releases up to 0.2
        pattern=unspaced(
            r"\"cause\": \"[^\"\n]{0,160}?(?:out of memory|(?:unable|failed) to allocate|"
            r"(?:insufficient|not enough) memory)"
        ),
        family=_FAMILY,
        marks=frozenset({"load_failed"}),
    ),
)
_FACTS: Final = tuple(
    Fact(pattern=re.compile(rf"\"{key}\": ?\"(?P<{name}>{AMOUNT})\""))
    for key, name in (
        ("ram_capacity", "host_total_bytes"),
        ("ram_unused", "host_free_bytes"),
        ("vram_recommended_capacity", "total_bytes"),
        ("vram_unused", "free_bytes"),
    )
)


def _read(flat: Flat) -> Iterator[Report]:
    """Its GB are 10⁹ bytes in some releases and 2³⁰ in others; they are read as 2³⁰."""
    for told in read_wordings(flat, _TABLE, _FACTS):
        if "load_failed" in told.marks and "host_total_bytes" not in told.fields:
            continue  # another program's JSON
        broken = "NaN" in told.quote
        yield replace(told, marks=told.marks | {"estimate_nan"}) if broken else told


READER: Final = Reader(
    name="lmstudio",
    needles=(
        "due to insufficient system resources",
        "enough memory to load this model",
        "Not enough resources to load the model",
        "ram_capacity",
    ),
    read=_read,
)
