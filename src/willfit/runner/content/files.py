"""Which files of a model's folder its results depend on, judged by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

from willfit.sources.weight_files import pick_weights

PartName = Literal["weights", "config", "tokenizer", "code"]
PARTS: Final[tuple[PartName, ...]] = ("weights", "config", "tokenizer", "code")

SUBFOLDERS: Final = ("additional_chat_templates",)
"""Folders within that transformers reads; those of sentence-transformers are in modules.json."""

_WITHOUT_EFFECT: Final = (
    "training_args.bin", "optimizer.*", "optimizer_*", "scheduler.*", "scaler.*", "rng_state*",
    "trainer_state.json", "*_results.json", ".*",
)  # fmt: skip
"""What trainers leave beside the weights; nothing that predicts reads it."""
_PATTERNS: Final[tuple[tuple[PartName, tuple[str, ...]], ...]] = (
    (
        "weights",
        ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.index.json"),
    ),
    ("code", ("*.py",)),
    (
        "tokenizer",
        (
            "tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*",
            "*vocab*", "*merges*", "*.model", "*.spm", "*.tiktoken", "*.jinja", "tekken.json",
            "*.codes", "dict.txt",
        ),
    ),
    ("config", ("*.json",)),
)  # fmt: skip
"""The first that matches decides."""
_SET: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<ending>\.\w+)")


def part_of(name: str) -> PartName | None:
    """The part of a model that a file belongs to; None where results do not depend on it."""
    last = name.rpartition("/")[2]
    if _matches(last, _WITHOUT_EFFECT):
        return None
    return next((part for part, patterns in _PATTERNS if _matches(last, patterns)), None)


def set_of(name: str) -> tuple[str, ...]:
    """Names of all files of the set that ``model-00002-of-00005.gguf`` is part of, or its own."""
    match = _SET.fullmatch(name)
    if match is None:
        return (name,)
    stem, total, ending = match["stem"], match["total"], match["ending"]
    return tuple(f"{stem}-{number:05d}-of-{total}{ending}" for number in range(1, int(total) + 1))


def why_incomplete(names: Iterable[str]) -> str:
    """What is missing for the weights among the names of one folder to be loaded; "" if nothing.

    An interrupted download must not become part of a fingerprint, for it would not last.
    """
    weights = [name for name in names if part_of(name) == "weights"]
    stored = [name for name in weights if not name.endswith(".index.json")]
    index = pick_weights(weights).index
    if index is not None:
        stored = [name for name in stored if _may_be_of(index, name)]
    sets = {set_of(name) for name in stored}
    gaps = [next((name for name in parts if name not in weights), None) for parts in sets]
    if index is not None and not sets:
        return f"{index} is there, but no file that it lists"
    if not sets:
        return "it holds no weights"
    missing = sorted(gap for gap in gaps if gap is not None)
    return f"{missing[0]} is missing" if len(missing) == len(gaps) else ""


def _may_be_of(index: str, name: str) -> bool:
    """Whether an index may list a file: a set's name begins like its index, others are free."""
    stem = index.removesuffix(".safetensors.index.json")
    free = _SET.fullmatch(name) is None and not name.startswith(("adapter_", "consolidated"))
    return name.endswith(".safetensors") and (free or name.startswith(f"{stem}-"))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
