"""The user's data on the command line: ``--lengths``, ``--tokenizer``, ``--text-column``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from willfit.formulas.training import padding
from willfit.formulas.training.freeze import EMBEDDINGS
from willfit.formulas.training.settings import micro_batch_of
from willfit.scenario.lengths import Lengths
from willfit.scenario.model import ModelSpec
from willfit.scenario.workload import Training
from willfit.settings.lengths import Counter, ReadLengths, by_characters, by_tokenizer, read_lengths


@dataclass(frozen=True, kw_only=True)
class Data:
    """Lengths of the samples, cut at ``max_length``, and what a reader should see of them."""

    read: ReadLengths
    max_length: int | None

    @property
    def lengths(self) -> Lengths:
        """As a step will see them."""
        return self.read.lengths.cut(self.max_length)


def read_data(options: Mapping[str, Any], spec: ModelSpec) -> Data | None:
    """The file of ``--lengths``; None without the flag."""
    if not options.get("lengths"):
        return None
    given = options.get("tokenizer")
    read = read_lengths(
        Path(options["lengths"]),
        counter=_counter(given, options.get("model"), spec),
        tokenizer_given=given is not None,
        columns=options.get("text_column") or (),
        progress=lambda text: print(f"willfit: {text}", file=sys.stderr),
    )
    return Data(read=read, max_length=options.get("max_length"))


def _counter(given: str | None, model: str | None, spec: ModelSpec) -> Counter:
    """The tokenizer asked for, else the model's own where it is at hand, else the estimate."""
    from willfit.errors import WillfitError
    from willfit.sources.tokenizer import find_tokenizer, tokenizer_at_hand

    if given is not None:
        return by_tokenizer(find_tokenizer(given), given)
    own = tokenizer_at_hand(model or spec.id)
    if own is not None:
        try:
            return by_tokenizer(own, spec.id)
        except WillfitError:
            pass  # nobody asked for it: the estimate says how to
    return by_characters(vocab_size_of(spec))


def vocab_size_of(spec: ModelSpec) -> int | None:
    """Rows of the input embedding (a classification head has no vocabulary); None without one."""
    names = tuple(f"{name}.weight" for name in EMBEDDINGS)
    tables = (row for row in spec.tensors if row.name.endswith(names))
    return max((row.shape[0] for row in tables if len(row.shape) == 2), default=None)


def data_notes(data: Data, training: Training) -> dict[str, str]:
    """Lines on the data for a report: its lengths, and the padding of its batches."""
    from willfit.report.data import data_line, padding_line

    lengths, batch = data.lengths, micro_batch_of(training)
    accumulation = training.gradient_accumulation_steps
    row = data.max_length or lengths.longest
    return {
        "data": data_line(data.read.lengths, data.max_length),
        "padding": padding_line(
            batch=batch,
            shuffled=padding.random_order(lengths, batch),
            grouped=padding.grouped_by_length(lengths, batch, accumulation),
            row_length=row,
            packed_rows=padding.packed_rows(lengths, row),
        ),
    }
