"""``choose``: multiple choice by the log-likelihood of each choice's tokens after the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import torch
import transformers

from willfit.errors import InputError
from willfit.runner.prepared import INPUT_IDS, NUM_CONTEXT
from willfit.worker.choices import DIVISOR
from willfit.worker.columns import list_column
from willfit.worker.tasks.model import MISREAD, ModelTask, positions_of


class Choose(ModelTask):
    """``logits``: Σ log p(token | before) over a choice's tokens, divided as ``normalize`` says.

    Padding comes first, so that what is scored stands at the end of every sequence: of a large
    vocabulary, only the logits there are made, where the class can. A class that cannot be told
    positions would count the padding with them, so for it padding comes last.
    """

    auto_task = "text-generation"

    def padding_first(self, base: Any) -> bool:
        """Where positions can be told; RoBERTa's begin at another number."""
        begin = all(table.padding_idx is None for table in positions_of(base))
        return begin and "position_ids" in self.takes

    def require_mask(self, base: Any) -> None:
        """Padding behind a text does not reach it, unless a class looks ahead."""
        mapping = transformers.MODEL_FOR_MASKED_LM_MAPPING
        encodes = type(base.config) in mapping and not getattr(base.config, "is_decoder", False)
        if encodes or base.config.model_type in MISREAD:
            raise InputError(
                f"stage {self.job.name}: {type(base).__name__} looks ahead, so it gives no "
                "likelihood of a text: name a causal language model"
            )

    def results(self, batch: pa.Table) -> pa.Table:
        """All choices of all rows as one batch."""
        rows, starts = _lists(batch, INPUT_IDS), _lists(batch, NUM_CONTEXT)
        choices = [np.asarray(tokens, dtype=np.int32) for row in rows for tokens in row]
        firsts = [start for row in starts for start in row]
        scores = self._scores(choices, firsts)
        divisors = np.asarray(_lists(batch, DIVISOR), dtype=np.float64)
        table = scores.reshape(divisors.shape) / divisors
        return pa.table({"logits": list_column(table.astype(np.float32))})

    def _scores(
        self, sequences: list[npt.NDArray[np.int32]], firsts: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Σ log p of each sequence's tokens from its ``first`` on, of which there is one at least.

        A token's logits stand at the token before it.
        """
        given = self.padded(sequences)
        ids = given["input_ids"]
        sizes = torch.tensor([len(tokens) for tokens in sequences], device=ids.device)
        begins = torch.tensor(firsts, device=ids.device)
        if self.pads_left:
            begins, sizes = begins + ids.shape[1] - sizes, torch.full_like(sizes, ids.shape[1])
        least = int(begins.min())
        scored = torch.arange(least, ids.shape[1], device=ids.device).unsqueeze(0)
        logits = self.run(given, **self._besides(given, ids.shape[1] - least + 1)).logits
        logits = logits[:, -(ids.shape[1] - least + 1) : -1].float()
        targets = ids[:, least:].to(logits.device).unsqueeze(-1)
        taken = torch.log_softmax(logits, dim=-1).gather(-1, targets).squeeze(-1)
        wanted = (scored >= begins.unsqueeze(1)) & (scored < sizes.unsqueeze(1))
        total = torch.where(wanted.to(taken.device), taken.double(), 0.0).sum(dim=1)
        found: npt.NDArray[np.float64] = total.cpu().numpy()
        return found

    def _besides(self, given: dict[str, torch.Tensor], num_logits: int) -> dict[str, Any]:
        """Positions that begin at each sequence's first token, and how many logits are wanted.

        ``generate`` counts positions so; ``forward`` alone would count the padding too, which
        shifts every learned position. Older releases say ``num_logits_to_keep``.
        """
        found: dict[str, Any] = {}
        if self.pads_left:
            found["position_ids"] = (given["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        for name in ("logits_to_keep", "num_logits_to_keep"):
            if name in self.takes:
                return {**found, name: num_logits}
        return found


def _lists(batch: pa.Table, name: str) -> list[Any]:
    found: list[Any] = batch.column(name).to_pylist()
    return found
