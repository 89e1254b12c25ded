"""Tokens of a text: by its real tokenizer, else from its characters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, MissingLibraryError
from willfit.units import MIB, format_bytes

CHARS_PER_TOKEN: Final = 3.94
"""English text in Llama 3's vocabulary of 128,000 (The Llama 3 Herd of Models, section 3.2)."""
CHARS_PER_TOKEN_SMALL: Final = 3.17
"""The same text in Llama 2's vocabulary of 32,000 (the same sentence)."""
SMALL_VOCABULARY: Final = 64_000
MAX_TOKENIZER_BYTES: Final = 256 * MIB
"""A ``tokenizer.json``; Gemma's 256,000 tokens take 33 MB."""


class Counter(ABC):
    """Tokens of texts, many at a time: ``counter.count(["Hello world"])`` is [3] with a BOS."""

    assumption: str
    """How it counts, for the reader."""

    @abstractmethod
    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""


@dataclass(frozen=True, kw_only=True)
class ByCharacters(Counter):
    """Characters ÷ characters per token; a character outside of ASCII is a token."""

    vocab_size: int | None

    @property
    def chars_per_token(self) -> float:
        """Of English, by the size of the vocabulary."""
        small = self.vocab_size is not None and self.vocab_size < SMALL_VOCABULARY
        return CHARS_PER_TOKEN_SMALL if small else CHARS_PER_TOKEN

    @property
    def assumption(self) -> str:  # type: ignore[override]  # computed, read only
        """The rate, its range and its source."""
        return (
            f"lengths estimated at {self.chars_per_token} characters a token (English takes "
            f"{CHARS_PER_TOKEN_SMALL} to {CHARS_PER_TOKEN}: The Llama 3 Herd of Models, 3.2; code "
            "and other scripts fewer, and what is not ASCII counts as a token each): "
            "--tokenizer counts them"
        )

    def count(self, texts: Sequence[str]) -> list[int]:
        """⌈ASCII characters / rate⌉ + the others, and the token that starts a sequence."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> int:
        plain = len(text) if text.isascii() else sum(map(str.isascii, text))
        return 1 + -int(-plain // self.chars_per_token) + len(text) - plain


@dataclass(frozen=True, kw_only=True)
class ByTokenizer(Counter):
    """The tokenizers library with a ``tokenizer.json``: data, never code."""

    path: Path
    name: str
    tokenizer: Any = field(repr=False)

    @property
    def assumption(self) -> str:  # type: ignore[override]  # computed, read only
        """Which tokenizer counted."""
        return f"lengths counted with the tokenizer of {self.name}, its special tokens included"

    def count(self, texts: Sequence[str]) -> list[int]:
        """What ``tokenizer(text)["input_ids"]`` has, untruncated."""
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(list(texts))]


def by_tokenizer(path: Path, name: str) -> ByTokenizer:
    """Counter of a ``tokenizer.json``; raises where it is none, or tokenizers is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise MissingLibraryError(
            "counting tokens needs the tokenizers library: pip install 'willfit[data]', or leave "
            "out --tokenizer for an estimate"
        ) from None
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise BrokenFileError(
            f"{path} is larger than {format_bytes(MAX_TOKENIZER_BYTES)}: not a tokenizer"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # a panic of its Rust code is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise BrokenFileError(
            f"{path} is no tokenizer that the tokenizers library reads: download it again"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ByTokenizer(path=path, name=name, tokenizer=tokenizer)
