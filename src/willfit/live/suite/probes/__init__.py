"""Single operations on the device: what one product, attention or 4-bit layer allocates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from willfit.live.suite.probes.attention import attention
from willfit.live.suite.probes.basics import context, rates, softmax, workspaces
from willfit.live.suite.probes.quantized import eight_bit, four_bit, four_bit_rows
from willfit.live.suite.probes.watched import Row

PROBES: Final[dict[str, Callable[[str, bool], list[Row]]]] = {
    "workspaces": workspaces,
    "context": context,
    "rates": rates,
    "softmax": softmax,
    "attention": attention,
    "four_bit": four_bit,
    "four_bit_rows": four_bit_rows,
    "eight_bit": eight_bit,
}
"""Probes by name; each takes the device and whether to stay tiny."""
