"""What a script says of the length and the padding of its rows."""

from __future__ import annotations

from typing import Any

from willfit.settings.code.around import around
from willfit.settings.code.gathered import plain
from willfit.settings.code.reading import Load, Reading, Use
from willfit.settings.code.values import Site


def longest(reading: Reading, load: Load) -> int | None:
    """Tokens at which a row is cut: ``max_length`` of the tokenizer's calls; None where unsaid."""
    lengths = [length for use in _cuts(reading, load) if (length := length_in(use))]
    return max(lengths, default=None)


def cutting(reading: Reading, load: Load) -> tuple[Site, ...]:
    """The calls that cut rows to a known length."""
    sites = [use.site for use in _cuts(reading, load) if length_in(use)]
    return tuple(site for site in sites if site is not None)


def _cuts(reading: Reading, load: Load) -> list[Use]:
    """Uses around the model of which one cuts rows, else those of the whole script."""
    near = around(reading, load, "tokens") or around(reading, load, "collator")
    if any(length_in(use) for use in near):
        return near
    return [use for use in reading.uses if use.role == "tokens"]


def length_in(use: Use) -> int | None:
    """``max_length`` of one call; None where it cuts nothing."""
    if use.site is None:
        return None
    cut = plain(use.site.value("truncation")), plain(use.site.value("padding"))
    length = plain(use.site.value("max_length", use.site.value("max_seq_length")))
    known = isinstance(length, int) and not isinstance(length, bool) and length > 0
    cuts = any(value not in (None, False) for value in cut) or _old(use)
    return int(length) if known and cuts else None


def _old(use: Use) -> bool:
    """``pad_to_max_length=True``, the name before transformers 3."""
    return use.site is not None and use.site.value("pad_to_max_length") is True


def padded(reading: Reading, load: Load, batch: Any) -> bool:
    """Whether rows are padded: to a fixed length, or to the longest of a batch of several."""
    several = batch is None or batch > 1
    for use in around(reading, load, "tokens"):
        padding = plain(use.site.value("padding")) if use.site is not None else None
        if padding == "max_length" or _old(use) or (padding in (True, "longest") and several):
            return True
        if use.site is not None and use.site.last == "pad" and several:
            return True
    collators = [use.site.last for use in around(reading, load, "collator") if use.site is not None]
    return several and any(
        name in ("DataCollatorWithPadding", "pad_sequence") for name in collators
    )
