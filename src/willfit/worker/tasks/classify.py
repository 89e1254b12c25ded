"""``classify``: the logits of a sequence classification head, any number of labels."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.worker.columns import list_column
from willfit.worker.tasks.model import ModelTask, sequences_of


class Classify(ModelTask):
    """Logits [rows, labels] in float32; probabilities are made from them later."""

    auto_task = "text-classification"

    def results(self, batch: pa.Table) -> pa.Table:
        """The head's output at each sequence's last token, or where the class takes it."""
        logits = self.run(self.padded(sequences_of(batch))).logits
        return pa.table({"logits": list_column(logits.float().cpu().numpy())})
