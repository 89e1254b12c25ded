"""``generate``: the model's own ``generate``, greedy unless the stage says otherwise."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.errors import InputError
from willfit.runner.prepared import ROW, PreparedRows
from willfit.runner.protocol import Job
from willfit.worker.tasks.model import ModelTask, sequences_of


class Generate(ModelTask):
    """``text`` and ``num_new_tokens``; the prompt is not repeated."""

    auto_task = "text-generation"
    pads_left = True

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        super().__init__(job, rows)
        self.new_tokens = int(job.stage.get("max_new_tokens") or 256)

    def load(self) -> tuple[str, ...]:
        """The model and the tokenizer that turns ids into text."""
        remarks = super().load()
        named = self.stage.get("tokenizer")
        if named is not None or self.tokenizer is None:
            import transformers

            source = named or self.stage["model"]
            try:
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"stage {self.job.name} has no tokenizer ({str(error)[:80]}): name one with "
                    "tokenizer:"
                ) from error
        return remarks

    def results(self, batch: pa.Table) -> pa.Table:
        """Seeded by the batch's first row, so that a sampled text does not depend on the worker."""
        torch.manual_seed(self.job.seed * 1_000_003 + int(batch.column(ROW)[0].as_py()))
        given = self.padded(sequences_of(batch))
        asked = {"do_sample": False, **dict(self.stage.get("generation", {}))}
        found = self.model.generate(
            **given, max_new_tokens=self.new_tokens, pad_token_id=self.pad, **asked
        )
        new = found[:, given["input_ids"].shape[1] :].cpu()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return pa.table({"text": texts, "num_new_tokens": pa.array(self._counts(new), pa.int32())})

    def _counts(self, new: torch.Tensor) -> list[int]:
        """Tokens up to the end of each text, the end included; padding after it is not counted."""
        ends = _as_list(self.model.generation_config.eos_token_id)
        counts = []
        for row in new.tolist():
            stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            counts.append(stop)
        return counts


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
