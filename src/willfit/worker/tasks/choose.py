"""``choose``: multiple choice by the log-likelihood of each choice's tokens after the context."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.runner.prepared import INPUT_IDS, NUM_CONTEXT
from willfit.worker.columns import list_column
from willfit.worker.tasks.model import ModelTask


class Choose(ModelTask):
    """``logits``: Σ log p(token | before) over a choice's tokens, divided as ``normalize`` says."""

    auto_task = "text-generation"
    pads_left = True

    def configure(self, config: Any) -> None:
        """No cache is kept: nothing is generated."""
        super().configure(config)
        config.use_cache = False

    def results(self, batch: pa.Table) -> pa.Table:
        """All choices of all rows as one batch; only the logits that score them are made."""
        choices = [[np.asarray(c, dtype=np.int32) for c in row] for row in _lists(batch, INPUT_IDS)]
        starts = _lists(batch, NUM_CONTEXT)
        flat = [tokens for row in choices for tokens in row]
        num_scored = [
            len(tokens) - start
            for row, firsts in zip(choices, starts, strict=True)
            for tokens, start in zip(row, firsts, strict=True)
        ]
        scores = self._scores(flat, num_scored)
        width, divisors = len(choices[0]), _lists(batch, "#divisor")
        table = scores.reshape(-1, width) / np.asarray(divisors, dtype=np.float64)
        return pa.table({"logits": list_column(table.astype(np.float32))})

    def _scores(
        self, sequences: list[npt.NDArray[np.int32]], num_scored: list[int]
    ) -> npt.NDArray[np.float64]:
        """Σ log p of the last ``num_scored`` tokens of each sequence."""
        most = max(num_scored)
        given = self.padded(sequences)
        longest = given["input_ids"].shape[1]
        kept = {"logits_to_keep": most + 1} if most + 1 < longest else {}
        logits = self.model(**given, **kept).logits[:, -(most + 1) : -1].float()
        targets = given["input_ids"][:, -most:].to(logits.device)
        taken = torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        counts = torch.tensor(num_scored, device=taken.device).unsqueeze(1)
        place = torch.arange(most, 0, -1, device=taken.device).unsqueeze(0)
        total = torch.where(place <= counts, taken.double(), 0.0).sum(dim=1)
        found: npt.NDArray[np.float64] = total.cpu().numpy()
        return found


def _lists(batch: pa.Table, name: str) -> list[Any]:
    found: list[Any] = batch.column(name).to_pylist()
    return found
