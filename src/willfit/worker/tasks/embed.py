"""``embed``: one vector a row, pooled from the last hidden state."""

from __future__ import annotations

from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.worker.columns import list_column
from willfit.worker.tasks.model import ModelTask, sequences_of


class Embed(ModelTask):
    """Vectors [rows, hidden] in float32, of unit length where ``normalize_embeddings`` is on."""

    auto_task = "feature-extraction"

    def configure(self, config: Any) -> None:
        """No cache is kept: nothing is generated."""
        super().configure(config)
        config.use_cache = False

    def results(self, batch: pa.Table) -> pa.Table:
        """Mean over tokens, the last token, or the first."""
        given = self.padded(sequences_of(batch))
        hidden = self.model(**given).last_hidden_state.float()
        mask = given["attention_mask"].to(hidden.device)
        vectors = _pooled(hidden, mask, str(self.stage.get("pooling", "mean")))
        if self.stage.get("normalize_embeddings", True):
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return pa.table({"embedding": list_column(vectors.cpu().numpy())})


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[rows, tokens, hidden] and [rows, tokens] to [rows, hidden]; padding is on the right."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1).sub(1).clamp(min=0)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
