"""Rows of ``choose``: a sequence for each choice, and where in it the choice begins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.runner.prepared import INPUT_IDS, NUM_CONTEXT, own_columns
from willfit.worker.encoding import Encoder
from willfit.worker.texts import RowText
from willfit.worker.tokenizer import one_token

DIVISOR: Final = "#divisor"
"""What each choice's log-likelihood is divided by."""
CHUNK: Final = 256
"""Rows whose sequences are made at once."""


def choice_rows(
    ids: Any,
    texts: Iterator[RowText],
    offered: Sequence[Sequence[str]],
    encoder: Encoder,
    normalize: str,
    told: Callable[[int], None],
) -> pa.Table:
    """The prepared columns, in the data's order.

    Context and choice are tokens of one text. All choices of a row are scored from the same token
    on: the first that is not the context's own in one of them. So a blank at a context's end
    belongs to the choice where tokens begin with their blank.
    """
    columns: dict[str, list[Any]] = {INPUT_IDS: [], NUM_CONTEXT: [], DIVISOR: []}
    lengths: list[int] = []
    before, choices = encoder.before(), iter(offered)
    while chunk := list(itertools.islice(texts, CHUNK)):
        rows = _sequences(chunk, list(itertools.islice(choices, CHUNK)), encoder, before)
        lengths += [max(len(tokens) for tokens, _, _ in row) for row in rows]
        columns[INPUT_IDS].append([[tokens for tokens, _, _ in row] for row in rows])
        columns[NUM_CONTEXT].append([[start for _, start, _ in row] for row in rows])
        columns[DIVISOR].append([[_divisor(normalize, *part) for part in row] for row in rows])
        told(len(lengths))
    sizes = np.asarray(lengths, dtype=np.int32)
    counts = np.asarray([len(row) for row in offered], dtype=np.int32)
    types = {INPUT_IDS: pa.list_(pa.list_(pa.int32())), NUM_CONTEXT: pa.list_(pa.int32()),
             DIVISOR: pa.list_(pa.float64())}  # fmt: skip
    more = [
        (name, pa.chunked_array([pa.array(part, type_) for part in columns[name]], type_))
        for name, type_ in types.items()
    ]
    return own_columns(ids, sizes, counts, more)


_Part = tuple[list[int], int, str]
"""Tokens, where the choice begins in them, and the choice."""


def _sequences(
    texts: Sequence[RowText], offered: Sequence[Sequence[str]], encoder: Encoder, before: list[int]
) -> list[list[_Part]]:
    """All texts of some rows through the tokenizer at once."""
    flat: list[str] = []
    for row, choices in zip(texts, offered, strict=True):
        flat += [row.text, *(row.text + choice for choice in choices)]
    tokens = iter(encoder.whole(flat))
    found = []
    for choices in offered:
        context = next(tokens)
        wholes = [next(tokens) for _ in choices]
        start = min(_num_shared(context, whole) for whole in wholes)
        first = before if before or start else [one_token(encoder.tokenizer)]
        fits = [_fitted(first, whole, start, encoder.limit) for whole in wholes]
        encoder.num_cut += any(cut for _, _, cut in fits)
        pairs = zip(choices, fits, strict=True)
        found.append([(ids, begins, choice) for choice, (ids, begins, _) in pairs])
    return found


def _num_shared(context: Sequence[int], whole: Sequence[int]) -> int:
    """Tokens at the beginning that both have; one token of the whole at least is left to score."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(context, whole, strict=False))
    return min(sum(1 for _ in pairs), len(whole) - 1)


def _fitted(
    before: list[int], whole: list[int], start: int, limit: int | None
) -> tuple[list[int], int, bool]:
    """The sequence within the limit, where its choice begins, and whether the context was cut.

    The context loses its beginning; special tokens stay, and so does the choice, whole. One token
    at least is before the choice.
    """
    wanted = 0 if limit is None else len(before) + len(whole) - limit
    over = max(0, min(wanted, start if before else start - 1))
    return before + whole[over:], len(before) + start - over, over > 0


def _divisor(normalize: str, tokens: Sequence[int], start: int, choice: str) -> float:
    if normalize == "tokens":
        return float(len(tokens) - start)
    return float(len(choice)) if normalize == "characters" else 1.0
