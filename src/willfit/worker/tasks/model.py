"""Tasks of a model of transformers, loaded as `willfit.load` loads it, without gradients."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import torch

from willfit.errors import InputError
from willfit.runner.prepared import INPUT_IDS, PreparedRows
from willfit.runner.protocol import Job
from willfit.runner.shards import Range
from willfit.worker.loading import base_of, load_model
from willfit.worker.tasks.task import Task

POSITIONS: Final = re.compile(r"(position_embeddings|position_embedding|embed_positions|wpe)$")
"""Names of learned positions: BERT's, OPT's, GPT-2's and those of models after them."""

MISREAD: Final = ("xlnet",)
"""Model types whose results change with padding although they take a mask."""


class ModelTask(Task):
    """A model on this worker's GPUs, or on the CPU."""

    auto_task: ClassVar[str]
    """Task by `willfit.load`'s name."""
    keeps_cache: ClassVar[bool] = False
    """Whether keys and values are kept: for what is generated, and nothing else."""

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        self.job, self.stage, self.rows = job, job.stage, rows
        self.pad, self.pads_left = 0, False
        self.model: Any = None
        self.takes: frozenset[str] = frozenset()
        """Arguments of the model's own ``forward``, without an adapter's around it."""

    def load(self) -> tuple[str, ...]:
        """The model with the stage's settings, in evaluation mode, and what to know of it."""
        found = load_model(self.job, self.auto_task)
        self.model = found.model.eval()
        base = base_of(self.model)
        self.takes = frozenset(inspect.signature(base.forward).parameters)
        self.pad, self.pads_left = self._padding(), self.padding_first(base)
        for config in (self.model.config, self.model.config.get_text_config()):
            config.pad_token_id = self.pad
            if not self.keeps_cache:
                config.use_cache = False
        self.require_mask(base)
        self._require_known_tokens()
        self._require_positions(base)
        return (*found.notes, *remarks_on(self.rows, self.stage))

    def padding_first(self, base: Any) -> bool:  # noqa: ARG002 - some look at it
        """Whether padding comes before the tokens: where what follows the last one is wanted."""
        return False

    @property
    def is_blind(self) -> bool:
        """Whether the class takes tokens and no mask, so that padding is text to it."""
        return "input_ids" in self.takes and "attention_mask" not in self.takes

    def _padding(self) -> int:
        """The model's own padding token, else the tokenizer's, else the one that ends a text.

        A classifier's head reads the last token that is not padding, so this one decides.
        """
        config, facts = self.model.config.get_text_config(), self.rows.facts
        own = getattr(config, "pad_token_id", None)
        known = (own, facts.get("pad_token_id"), facts.get("eos_token_id"), 0)
        usable = (int(token) for token in known if token is not None)
        return next(token for token in usable if 0 <= token < self._num_embeddings())

    def _num_embeddings(self) -> int:
        return int(self._embeddings().shape[0])

    def _embeddings(self) -> torch.Tensor:
        """[tokens, hidden], on the device that takes a model's input."""
        found: torch.Tensor = self.model.get_input_embeddings().weight
        return found

    def require_mask(self, base: Any) -> None:
        """A class that cannot tell padding from text gives other results beside longer rows."""
        if (self.is_blind or base.config.model_type in MISREAD) and self.job.batch_size != 1:
            raise InputError(
                f"stage {self.job.name}: {type(base).__name__} cannot tell padding from text, so "
                "rows would change each other's results: set batch_size: 1"
            )

    def _require_known_tokens(self) -> None:
        """A token beyond the embeddings would end the process, with nothing but an assertion."""
        largest = largest_token(self.rows)
        if largest >= self._num_embeddings():
            raise InputError(
                f"stage {self.job.name}: the tokenizer makes token {largest} and the model knows "
                f"{self._num_embeddings()} tokens: name the model's own with tokenizer:"
            )

    def _require_positions(self, base: Any) -> None:
        """A row beyond learned positions would end the process too."""
        lengths, _ = self.rows.sizes(Range(0, self.rows.num_rows))
        longest = int(lengths.max(initial=0)) + self.new_tokens
        for module in positions_of(base):
            known = module.num_embeddings - _first_position(module)
            if longest > known:
                raise InputError(
                    f"stage {self.job.name} has a row of {longest} tokens and the model knows "
                    f"{known} positions: lower max_length to {known - self.new_tokens}"
                )

    def compute(self, batch: pa.Table) -> pa.Table:
        """Results of one padded batch."""
        with torch.inference_mode():
            return self.results(batch)

    def results(self, batch: pa.Table) -> pa.Table:
        """Results of one batch, within inference mode."""
        raise NotImplementedError

    def padded(self, sequences: Sequence[npt.NDArray[np.int32]]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask`` [sequences, longest] where the embeddings are."""
        longest = max(map(len, sequences))
        ids = np.full((len(sequences), longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(sequences), longest), dtype=np.int64)
        for row, tokens in enumerate(sequences):
            where = slice(longest - len(tokens), None) if self.pads_left else slice(len(tokens))
            ids[row, where] = tokens
            mask[row, where] = 1
        device = self._embeddings().device
        return {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }

    def run(self, given: Mapping[str, torch.Tensor], **more: Any) -> Any:
        """The model's output for what `padded` made, less what its class does not take."""
        left = {name: t for name, t in given.items() if name == "input_ids" or not self.is_blind}
        return self.model(**left, **more)

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


def positions_of(base: Any) -> list[torch.nn.Embedding]:
    """Tables of learned positions; none where positions rotate."""
    return [
        module
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Embedding) and POSITIONS.search(name)
    ]


def _first_position(module: torch.nn.Embedding) -> int:
    """Where positions begin: behind RoBERTa's padding, or at OPT's offset."""
    if module.padding_idx is not None:
        return module.padding_idx + 1
    return int(getattr(module, "offset", 0))


def sequences_of(batch: pa.Table) -> list[npt.NDArray[np.int32]]:
    """Token ids of each row."""
    column = batch.column(INPUT_IDS).combine_chunks()
    return [scalar.values.to_numpy(zero_copy_only=False) for scalar in column]


def largest_token(rows: PreparedRows) -> int:
    """The largest token id of all rows; -1 without rows."""
    column = rows.source.column(INPUT_IDS)
    while pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    largest = pc.max(column).as_py()
    return -1 if largest is None else int(largest)


def remarks_on(rows: PreparedRows, stage: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the results should know of the rows."""
    num_cut, limit = int(rows.facts.get("num_cut", "0")), rows.facts.get("max_length")
    if not num_cut:
        return ()
    side = "left" if stage.get("task") == "choose" else stage.get("truncate", "right")
    return (
        f"{num_cut:,} of {rows.num_rows:,} rows have more than {limit} tokens and were cut on the "
        f"{side}: max_length and truncate decide that",
    )
