"""``embed``: one vector a row, pooled from the last hidden state."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.worker.columns import list_column
from willfit.worker.tasks.model import ModelTask, sequences_of


class Embed(ModelTask):
    """Vectors [rows, hidden] in float32, of unit length where ``normalize_embeddings`` is on.

    Of a model with encoder and decoder, the encoder's.
    """

    auto_task = "feature-extraction"

    def results(self, batch: pa.Table) -> pa.Table:
        """Mean over tokens, the last token, or the first."""
        given = self.padded(sequences_of(batch))
        of_both = self.model.config.is_encoder_decoder
        found = self.model.get_encoder()(**given) if of_both else self.run(given)
        hidden = found.last_hidden_state.float()
        mask = given["attention_mask"].to(hidden.device)
        vectors = pooled(hidden, mask, str(self.stage.get("pooling", "mean")))
        if self.stage.get("normalize_embeddings", True):
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return pa.table({"embedding": list_column(vectors.cpu().numpy())})


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[rows, tokens, hidden] and [rows, tokens] to [rows, hidden]; padding is on the right."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1).sub(1).clamp(min=0)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
