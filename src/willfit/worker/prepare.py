"""The data made ready once for every replica and every resume: templates filled, tokens made."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.atomic import writing
from willfit.runner.prepared import INPUT_IDS, LENGTH, SEQUENCES, ordered, own_columns, save_rows
from willfit.runner.protocol import Job, Prepared, Progress
from willfit.runner.table import read_table
from willfit.worker.channel import Channel
from willfit.worker.choices import choice_rows
from willfit.worker.encoding import Encoder
from willfit.worker.texts import CHUNK, RowText, offered_choices, row_texts
from willfit.worker.tokenizer import load_tokenizer, longest_prompt, one_token
from willfit.worker.user_code import load_function

_TELLS: Final = 1.0


def prepare(job: Job, channel: Channel) -> None:
    """Write the prepared rows of a stage to the job's file."""
    found = read_table(Path(job.data), job.id)
    if job.stage.get("run"):
        table, facts = _of_function(found.table, job), dict[str, str]()
        keep = True
    else:
        table, facts = _of_model(found.table, job, channel)
        keep = False
    lengths = table.column(LENGTH).to_numpy()
    save_rows(Path(job.rows), ordered(table, lengths, keep_order=keep), facts)
    tokens = int(np.dot(lengths.astype(np.int64), table.column(SEQUENCES).to_numpy()))
    channel.tell(Prepared(rows=table.num_rows, tokens=tokens))


def _of_function(data: pa.Table, job: Job) -> pa.Table:
    """The user's columns as they are, in the data's order, each row of length one."""
    wrong = [name for name in data.column_names if name.startswith("#")]
    if wrong:
        raise InputError(
            f"the data has a column {wrong[0]!r}: names that begin with # are taken, rename it"
        )
    ones = np.ones(data.num_rows, dtype=np.int32)
    columns = zip(data.column_names, data.columns, strict=True)
    return own_columns(data.column(job.id), ones, ones, columns)


def _of_model(data: pa.Table, job: Job, channel: Channel) -> tuple[pa.Table, dict[str, str]]:
    """Tokens of each row, and the facts that a worker needs: ids of tokens, and what was cut."""
    tokenizer = load_tokenizer(job)
    stage, ids = job.stage, data.column(job.id)
    encoder = Encoder(
        tokenizer=tokenizer,
        limit=longest_prompt(job, tokenizer),
        side=str(stage.get("truncate", "right")),
        special=bool(stage.get("add_special_tokens", True)) and not stage.get("chat"),
        chat=bool(stage.get("chat")),
    )
    texts, told = row_texts(data, job, tokenizer), _Telling(channel)
    if stage["task"] == "choose":
        offered = offered_choices(data, stage, job.name)
        normalize = str(stage.get("normalize", "none"))
        table = choice_rows(ids, texts, offered, encoder, normalize, told)
    else:
        table = _sequences(ids, texts, encoder, told)
    return table, _facts(tokenizer, encoder)


def _facts(tokenizer: Any, encoder: Encoder) -> dict[str, str]:
    known = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_length": encoder.limit,
        "num_cut": encoder.num_cut,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


class _Telling:
    """Rows done, told once a second."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._last = channel, time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _TELLS:
            self._last = now
            self._channel.tell(Progress(done=done, tokens=0))


def _sequences(ids: Any, texts: Iterator[RowText], encoder: Encoder, told: _Telling) -> pa.Table:
    """One sequence a row; an empty text becomes one token, so that each row has a result."""
    fallback = [one_token(encoder.tokenizer)]
    columns, lengths = [], list[int]()
    while chunk := list(itertools.islice(texts, CHUNK)):
        encoded: Sequence[list[int]] = [tokens or fallback for tokens in encoder.encode(chunk)]
        columns.append(pa.array(encoded, pa.list_(pa.int32())))
        lengths += list(map(len, encoded))
        told(len(lengths))
    sizes = np.asarray(lengths, dtype=np.int32)
    tokens = pa.chunked_array(columns, pa.list_(pa.int32()))
    return own_columns(ids, sizes, np.ones_like(sizes), [(INPUT_IDS, tokens)])


def build(job: Job, channel: Channel) -> None:
    """Call the user's function for the data, and keep what it returns as Parquet.

    It is given the path of ``data``, and returns a DataFrame, an Arrow table or another path.
    """
    function, _ = load_function(str(job.stage["prepare"]))
    made = function(job.data) if job.data else function()
    table = _as_table(made, job)
    with writing(Path(job.rows)) as pending:
        pq.write_table(table, pending.path, compression="zstd", write_page_checksum=True)
    channel.tell(Prepared(rows=table.num_rows, tokens=0))


def _as_table(made: Any, job: Job) -> pa.Table:
    if isinstance(made, pa.Table):
        return made
    if isinstance(made, (str, Path)):
        return read_table(Path(made), job.id).table
    if hasattr(made, "to_arrow"):  # polars
        return made.to_arrow()
    if hasattr(made, "columns"):
        return pa.Table.from_pandas(made, preserve_index=False)
    raise InputError(
        f"{job.stage['prepare']} returned {type(made).__name__}: expected a DataFrame, an "
        "Arrow table, or the path of a file that holds one"
    )
