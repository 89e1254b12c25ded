"""``generate``: the model's own ``generate``, greedy unless the stage says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.errors import InputError
from willfit.runner.prepared import ROW, PreparedRows
from willfit.runner.protocol import Job
from willfit.worker.tasks.model import ModelTask, sequences_of
from willfit.worker.tasks.task import row_seed
from willfit.worker.tokenizer import load_tokenizer

NOT_ONE_TEXT: Final = ("num_return_sequences", "return_dict_in_generate")
"""Arguments of ``generate`` after which a row has not one text."""


class Generate(ModelTask):
    """``text`` and ``num_new_tokens``; the prompt is not repeated."""

    auto_task = "text-generation"
    keeps_cache = True

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        super().__init__(job, rows)
        self.new_tokens = int(job.stage.get("max_new_tokens") or 256)
        self.asked: dict[str, Any] = dict(job.stage.get("generation", {}))

    def padding_first(self, base: Any) -> bool:  # noqa: ARG002 - as every task has it
        """New tokens follow the prompt's last."""
        return True

    def load(self) -> tuple[str, ...]:
        """The model, and the tokenizer that turns ids into text."""
        require_one_text(self.job.name, self.asked)
        remarks = super().load()
        self.tokenizer = load_tokenizer(self.job)
        config = self.model.generation_config
        ends = self.asked.get("eos_token_id", config.eos_token_id)
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.arguments = {
            "do_sample": False,
            "use_cache": True,  # a checkpoint may have been saved while training, without
            "pad_token_id": self.pad,
            "max_new_tokens": self.new_tokens,
            **({"tokenizer": self.tokenizer} if "stop_strings" in self.asked else {}),
            **self.asked,
        }
        return remarks

    def results(self, batch: pa.Table) -> pa.Table:
        """Seeded by the batch's first row, so that a sampled text does not depend on the worker."""
        torch.manual_seed(row_seed(self.job.seed, int(batch.column(ROW)[0].as_py())))
        given = self.padded(sequences_of(batch))
        found = self.model.generate(**given, **self.arguments)
        new = found[:, given["input_ids"].shape[1] :].tolist()
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        counts = [num_new(row, self.ends, self.pad) for row in new]
        return pa.table({"text": texts, "num_new_tokens": pa.array(counts, pa.int32())})


def require_one_text(name: str, asked: dict[str, Any]) -> None:
    """Raise `InputError` on arguments after which ``generate`` returns other than a text a row."""
    for argument in NOT_ONE_TEXT:
        if asked.get(argument) not in (None, False, 1):
            raise InputError(
                f"stage {name}: generation.{argument} is {asked[argument]} and a row has one text: "
                "leave it out"
            )


def num_new(tokens: Sequence[int], ends: frozenset[int], pad: int) -> int:
    """Tokens up to the end of a text, its end included; padding after it is not counted."""
    for number, token in enumerate(tokens, 1):
        if token in ends:
            return number
    return len(tokens) - next((i for i, t in enumerate(reversed(tokens)) if t != pad), len(tokens))
