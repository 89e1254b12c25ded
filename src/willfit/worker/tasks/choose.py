"""``choose``: multiple choice by the log-likelihood of each choice's tokens after the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.runner.prepared import INPUT_IDS, NUM_CONTEXT
from willfit.worker.choices import DIVISOR
from willfit.worker.columns import list_column
from willfit.worker.tasks.model import ModelTask


class Choose(ModelTask):
    """``logits``: Σ log p(token | before) over a choice's tokens, divided as ``normalize`` says.

    Padding comes first, so that what is scored stands at the end of every sequence: of a large
    vocabulary, only the logits there are made, where the class can.
    """

    auto_task = "text-generation"
    pads_left = True

    def results(self, batch: pa.Table) -> pa.Table:
        """All choices of all rows as one batch."""
        rows, starts = _lists(batch, INPUT_IDS), _lists(batch, NUM_CONTEXT)
        choices = [np.asarray(tokens, dtype=np.int32) for row in rows for tokens in row]
        firsts = [start for row in starts for start in row]
        scores = self._scores(
            choices, [len(c) - first for c, first in zip(choices, firsts, strict=True)]
        )
        divisors = np.asarray(_lists(batch, DIVISOR), dtype=np.float64)
        table = scores.reshape(divisors.shape) / divisors
        return pa.table({"logits": list_column(table.astype(np.float32))})

    def _scores(
        self, sequences: list[npt.NDArray[np.int32]], num_scored: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Σ log p of the last ``num_scored`` tokens of each sequence, one at least."""
        most = max(num_scored)
        given = self.padded(sequences)
        logits = self.model(**given, **self._besides(given, most + 1)).logits
        logits = logits[:, -(most + 1) : -1].float()
        targets = given["input_ids"][:, -most:].to(logits.device)
        taken = torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        counts = torch.tensor(num_scored, device=taken.device).unsqueeze(1)
        place = torch.arange(most, 0, -1, device=taken.device).unsqueeze(0)
        total = torch.where(place <= counts, taken.double(), 0.0).sum(dim=1)
        found: npt.NDArray[np.float64] = total.cpu().numpy()
        return found

    def _besides(self, given: dict[str, torch.Tensor], num_logits: int) -> dict[str, Any]:
        """Positions that begin at each sequence's first token, and how many logits are wanted.

        ``generate`` counts positions so; ``forward`` alone would count the padding too, which
        shifts every learned position. Older releases say ``num_logits_to_keep``.
        """
        found: dict[str, Any] = {}
        if "position_ids" in self.takes:
            found["position_ids"] = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        for name in ("logits_to_keep", "num_logits_to_keep"):
            if name in self.takes:
                return {**found, name: num_logits}
        return found


def _lists(batch: pa.Table, name: str) -> list[Any]:
    found: list[Any] = batch.column(name).to_pylist()
    return found
