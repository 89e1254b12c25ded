"""Tasks of a model of transformers, loaded as `willfit.load` loads it, without gradients."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from willfit.errors import InputError
from willfit.live.load import load
from willfit.runner.prepared import INPUT_IDS, PreparedRows
from willfit.runner.protocol import Job
from willfit.worker.tasks.task import Task


class ModelTask(Task):
    """A model on this worker's GPUs, or on the CPU."""

    auto_task: ClassVar[str]
    """Task by `willfit.load`'s name."""
    pads_left: ClassVar[bool] = False
    """Whether padding comes before the tokens: where what follows the last one is wanted."""

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        self.job, self.stage = job, job.stage
        self.pad = int(rows.facts.get("pad_token_id", "0"))
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self) -> tuple[str, ...]:
        """The model with the stage's settings, in evaluation mode."""
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < self.job.gpus:
            raise InputError(
                f"stage {self.job.name} has {self.job.gpus} GPU(s) and torch {torch.__version__} "
                f"finds {found} here: install a CUDA build of torch, or set device: cpu"
            )
        stage = self.stage
        loaded = load(
            stage["model"],
            task=self.auto_task,
            adapter=stage.get("adapter"),
            dtype=None if stage.get("dtype") == "auto" else stage.get("dtype"),
            quantize=stage.get("quantize"),
            attn=stage.get("attn"),
            num_labels=stage.get("labels"),
            context=self.job.context,
            revision=stage.get("revision"),
            trust_remote_code=bool(stage.get("trust_remote_code")),
            as_given=True,
        )
        self.model, self.tokenizer, self._kernels = loaded.model, loaded.tokenizer, loaded.kernels
        self.model.eval()
        self.configure(self.model.config)
        return tuple(loaded.notes)

    def configure(self, config: Any) -> None:
        """Settings of the model's config that this task needs."""
        config.pad_token_id = self.pad

    def compute(self, batch: pa.Table) -> pa.Table:
        """Results of one padded batch."""
        with torch.inference_mode(), self._kernels():
            return self.results(batch)

    def results(self, batch: pa.Table) -> pa.Table:
        """Results of one batch, within inference mode."""
        raise NotImplementedError

    def padded(self, sequences: Sequence[npt.NDArray[np.int32]]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` [sequences, longest] on the model's first device."""
        longest = max(map(len, sequences))
        ids = np.full((len(sequences), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(sequences), longest), dtype=np.int64)
        for row, tokens in enumerate(sequences):
            where = slice(longest - len(tokens), None) if self.pads_left else slice(len(tokens))
            ids[row, where] = tokens
            mask[row, where] = 1
        device = self.model.device
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }

    def free(self) -> None:
        """Collect, and empty every GPU's cache."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def allocated(self) -> tuple[int, ...]:
        """As torch counts."""
        return tuple(torch.cuda.memory_allocated(i) for i in _gpus())

    def reserved(self) -> tuple[int, ...]:
        """As torch counts."""
        return tuple(torch.cuda.max_memory_reserved(i) for i in _gpus())

    def num_alloc_retries(self) -> int:
        """Over all GPUs."""
        stats: Sequence[Mapping[str, Any]] = [torch.cuda.memory_stats(i) for i in _gpus()]
        return sum(int(stat.get("num_alloc_retries", 0)) for stat in stats)


def _gpus() -> range:
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def sequences_of(batch: pa.Table) -> list[npt.NDArray[np.int32]]:
    """Token ids of each row."""
    column = batch.column(INPUT_IDS).combine_chunks()
    return [scalar.values.to_numpy(zero_copy_only=False) for scalar in column]
