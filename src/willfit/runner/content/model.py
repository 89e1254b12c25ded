"""The content of a model, adapter or tokenizer: digests of its files, wherever they lie."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from willfit.errors import InputError
from willfit.runner.content.cache import DigestCache
from willfit.runner.content.digests import (
    NUM_SAMPLES,
    SAMPLE_BYTES,
    digest_file,
    digest_names,
    regular,
    sample_file,
)
from willfit.runner.content.files import PARTS, PartName
from willfit.runner.content.find import Found, find_model
from willfit.units import MIB

QUICK_ABOVE_BYTES: Final = 64 * MIB
"""Files up to this size are always read whole; a disk of 500 MB/s does it in 0.13 s."""
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Names in a ``blobs`` folder: git's sha1 of a small file, sha256 of one in LFS."""

How = Literal["hub blobs", "full", "quick"]
Progress = Callable[[int, int], None]
"""Observer of reading: bytes done, bytes in all."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a model: its files by name."""

    files: Mapping[str, str]
    """``kind:digest`` of each: ``hub`` for the name of its blob, ``full`` or ``quick``."""

    @property
    def digest(self) -> str:
        """One digest of all its files; that of no files where there are none."""
        return digest_names(self.files.items())


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a model consists of, so that a result can be keyed by it."""

    source: str
    """As it was named; not part of any digest, for a folder may move."""
    path: Path
    """The folder or file that was looked at: who loads this path loads what was digested."""
    how: How
    """``hub blobs``: names given by the Hub; ``full``: all bytes; ``quick``: samples of some."""
    weights: Part
    config: Part
    tokenizer: Part
    code: Part
    """Python files; none unless the code of the model may run."""

    @property
    def digest(self) -> str:
        """One digest of all parts."""
        return digest_names((name, self.part(name).digest) for name in PARTS)

    def part(self, name: PartName) -> Part:
        """The part of that name."""
        found: Part = getattr(self, name)
        return found

    def plain(self) -> dict[str, dict[str, str]]:
        """What goes into the ingredients: files of each part that has any."""
        return {n: dict(self.part(n).files) for n in PARTS if self.part(n).files}


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """A file whose digest nobody knows yet."""

    path: Path
    facts: os.stat_result
    looked_at: float
    """Seconds since the epoch when the facts were taken."""
    kind: str

    @property
    def num_bytes(self) -> int:
        """Bytes to read."""
        size = self.facts.st_size
        return size if self.kind == "full" else min(size, NUM_SAMPLES * SAMPLE_BYTES)


def model_content(
    source: str,
    revision: str | None = None,
    *,
    cache: DigestCache,
    quick: bool = False,
    trust_remote_code: bool = False,
    parts: Collection[PartName] = PARTS,
    progress: Progress | None = None,
) -> Content:
    """Digests of a model's files: a folder, a file, or a Hub id in huggingface_hub's cache.

    Files of that cache are known by the names of their blobs and are not opened. Others are read
    whole, once as long as ``cache`` remembers them; those over 64 MiB only by samples if
    ``quick``, or if their folder cannot be written to. ``parts`` names what is wanted
    (``("tokenizer",)`` for a tokenizer alone). Never touches the network. Raises `InputError`
    where the model is not there, is incomplete, or cannot be read.
    """
    found = find_model(source, revision, parts, trust_remote_code=trust_remote_code)
    quick = quick or not os.access(found.folder, os.W_OK)
    digests: dict[Path, str] = {}
    unread: list[_Unread] = []
    for path in found.paths():
        known = _known(path, cache, quick=quick)
        if isinstance(known, str):
            digests[path] = known
        else:
            unread.append(known)
    digests.update(_read(unread, cache, progress or _unseen))
    return _content(source, found, digests)


def _known(path: Path, cache: DigestCache, *, quick: bool) -> str | _Unread:
    looked_at, facts = time.time(), regular(path)
    blob = _blob(path)
    if blob is not None:
        return f"hub:{blob}"
    kind = "quick" if quick and facts.st_size > QUICK_ABOVE_BYTES else "full"
    kept = cache.get(path, facts, kind)
    if kept is not None:
        return f"{kind}:{kept}"
    return _Unread(path=path, facts=facts, looked_at=looked_at, kind=kind)


def _blob(path: Path) -> str | None:
    """Name of the blob that a file of the Hub's cache links to; blobs may be links themselves."""
    if not path.is_symlink():
        return None
    target = path.parent.resolve() / path.readlink()
    folder, name = target.parent.name, target.name
    return name if folder == "blobs" and _BLOB.fullmatch(name) else None


def _read(
    unread: list[_Unread], cache: DigestCache, progress: Progress
) -> Iterator[tuple[Path, str]]:
    """Digests of files, kept even if a later one is not reached."""
    done, total = 0, sum(file.num_bytes for file in unread)

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    try:
        for file in unread:
            digest = (digest_file if file.kind == "full" else sample_file)(file.path, read)
            _check_unchanged(file)
            cache.put(file.path, file.facts, file.kind, digest, looked_at=file.looked_at)
            yield file.path, f"{file.kind}:{digest}"
    finally:
        cache.save()


def _check_unchanged(file: _Unread) -> None:
    now = regular(file.path)
    if (now.st_size, now.st_mtime_ns) != (file.facts.st_size, file.facts.st_mtime_ns):
        raise InputError(
            f"{file.path} changed while it was read: wait until it is written and start again"
        )


def _content(source: str, found: Found, digests: Mapping[Path, str]) -> Content:
    by_part = {
        name: Part(files={file: digests[path] for file, path in sorted(files.items())})
        for name, files in found.files.items()
    }
    empty = Part(files={})
    return Content(
        source=source,
        path=found.path,
        how=_how(digests.values()),
        weights=by_part.get("weights", empty),
        config=by_part.get("config", empty),
        tokenizer=by_part.get("tokenizer", empty),
        code=by_part.get("code", empty),
    )


def _how(digests: Collection[str]) -> How:
    """The weakest way in which any file is known."""
    kinds = {digest.partition(":")[0] for digest in digests}
    if "quick" in kinds:
        return "quick"
    return "full" if "full" in kinds else "hub blobs"


def _unseen(_done: int, _total: int) -> None:
    """The observer that does not look."""
