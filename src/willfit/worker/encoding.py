"""Texts into tokens, those that are too long cut where the stage says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from willfit.worker.texts import RowText


@dataclass(kw_only=True)
class Encoder:
    """A tokenizer with a stage's limit.

    ``truncate: right`` cuts a row's end and ``left`` its beginning. What the tokenizer puts about a
    text stays, and so does the form of a chat: only the message within it becomes shorter.
    """

    tokenizer: Any
    limit: int | None
    """Tokens of a row at most."""
    side: str = "right"
    special: bool = True
    """Whether the tokenizer puts its special tokens about a text; a chat's template has them."""
    chat: bool = False
    num_cut: int = 0
    """Rows that were cut so far."""

    def __post_init__(self) -> None:
        self.tokenizer.truncation_side = self.side

    def encode(self, texts: Sequence[RowText]) -> list[list[int]]:
        """Token ids of each text."""
        if self.chat and self.limit is not None and getattr(self.tokenizer, "is_fast", False):
            return self._chats(texts)
        found = self._call([row.text for row in texts], limit=self.limit)
        self.num_cut += self._count_cut(texts, found)
        ids: list[list[int]] = found["input_ids"]
        return ids

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without a limit, and without special tokens."""
        found = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        ids: list[list[int]] = found["input_ids"]
        return ids

    def before(self) -> list[int]:
        """The special tokens that begin a text."""
        if not self.special:
            return []
        bare = self.whole(["a"])[0]
        full: list[int] = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        starts = range(len(full) - len(bare) + 1)
        return full[: next((i for i in starts if full[i : i + len(bare)] == bare), 0)]

    def _call(self, texts: list[str], *, limit: int | None, offsets: bool = False) -> Any:
        cut = {"truncation": True, "max_length": limit} if limit is not None else {}
        if offsets:
            cut["return_offsets_mapping"] = True
        return self.tokenizer(
            texts,
            add_special_tokens=self.special and not self.chat,
            return_attention_mask=False,
            verbose=False,
            **cut,
        )

    def _count_cut(self, texts: Sequence[RowText], found: Any) -> int:
        """Fast tokenizers keep what they cut off; others are asked again."""
        if self.limit is None:
            return 0
        encodings = getattr(found, "encodings", None)
        if encodings is not None:
            return sum(bool(encoding.overflowing) for encoding in encodings)
        full = [
            row.text
            for row, ids in zip(texts, found["input_ids"], strict=True)
            if len(ids) >= self.limit
        ]
        again = self._call(full, limit=None)["input_ids"] if full else []
        return sum(len(ids) > self.limit for ids in again)

    def _chats(self, texts: Sequence[RowText]) -> list[list[int]]:
        found = self._call([row.text for row in texts], limit=None, offsets=True)
        pairs = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
        return [self._fitted(row, ids, spans) for row, ids, spans in pairs]

    def _fitted(self, row: RowText, ids: list[int], spans: list[tuple[int, int]]) -> list[int]:
        assert self.limit is not None
        over = len(ids) - self.limit
        if over <= 0:
            return ids
        self.num_cut += 1
        own = [i for i, (a, b) in enumerate(spans) if row.start <= a < b <= row.stop]
        if len(own) < over:  # the form alone is too long
            return ids[: self.limit] if self.side == "right" else ids[over:]
        left_out = set(own[-over:] if self.side == "right" else own[:over])
        return [token for i, token in enumerate(ids) if i not in left_out]
