"""Where a tokenizer's ``tokenizer.json`` is: a file, a folder, the Hub's cache or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.sources.hub import HUB_ID, _cache_path, offline_mode
from willfit.sources.hub_errors import asking

FILE: Final = "tokenizer.json"


def tokenizer_at_hand(name: str) -> Path | None:
    """The file without network; None where neither a folder nor the Hub's cache has it."""
    path = Path(name)
    if path.is_file():
        own = path.name == FILE
        return path if own else _existing(path.parent / FILE)
    if path.is_dir():
        return _existing(path / FILE)
    return _cache_path(name, FILE, None) if HUB_ID.fullmatch(name) and ".." not in name else None


def find_tokenizer(name: str) -> Path:
    """The file, from the Hub where it is nowhere else; raises `InputError` where there is none."""
    found = tokenizer_at_hand(name)
    if found is not None:
        return found
    if Path(name).exists() or not HUB_ID.fullmatch(name) or ".." in name or offline_mode():
        raise InputError(
            f"no {FILE} for {name[:80]!r}: give a folder that has one, the file itself, or a Hub "
            "id (which needs the network unless it is in the cache)"
        )
    from huggingface_hub import hf_hub_download

    return Path(asking(name, lambda: hf_hub_download(name, FILE, library_name="willfit")))


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
