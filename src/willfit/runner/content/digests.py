"""blake2b digests of bytes and of files, whole or by samples."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.sources.limits import unreadable
from willfit.units import MIB

DIGEST_BYTES: Final = 16
"""128 bits, 32 hexadecimal digits: two of 2⁶⁴ contents would be expected to meet."""
CHUNK_BYTES: Final = 4 * MIB
SAMPLE_BYTES: Final = MIB
NUM_SAMPLES: Final = 16
"""Samples of a quick look, the first MiB and the last among them. The ends alone would not do:
an adapter merged into a model leaves the header, the embedding and the last norm as they were."""

ReadBytes = Callable[[int], None]
"""Observer of reading: gets the bytes of each piece."""


def unseen(_: int) -> None:
    """The observer that does not look."""


def digest_bytes(data: bytes) -> str:
    """blake2b-128 of some bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_names(files: Iterable[tuple[str, str]]) -> str:
    """One digest for (name, digest) pairs, whatever their order."""
    return digest_bytes(b"".join(f"{len(n)}:{n}={d}\n".encode() for n, d in sorted(files)))


def digest_file(path: Path, read: ReadBytes = unseen) -> str:
    """blake2b-128 of a whole file, streamed; raises `InputError` where it cannot be read."""
    digest, buffer = _blake2b(), memoryview(bytearray(CHUNK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                read(count)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def sample_file(path: Path, read: ReadBytes = unseen) -> str:
    """blake2b-128 of a file's size and of 16 samples of 1 MiB, evenly spread from end to end.

    A change that lies between the samples is not seen: for inputs that nobody writes to.
    """
    digest = _blake2b()
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{size}\n".encode())
            for start in sample_starts(size):
                file.seek(start)
                piece = file.read(SAMPLE_BYTES)
                digest.update(piece)
                read(len(piece))
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def sample_starts(size: int) -> tuple[int, ...]:
    """Where the samples of a file of that many bytes begin; the last one ends with the file."""
    last = max(0, size - SAMPLE_BYTES)
    return tuple(sorted({last * index // (NUM_SAMPLES - 1) for index in range(NUM_SAMPLES)}))


def regular(path: Path) -> os.stat_result:
    """Facts of a regular file, links followed; every other thing is an `InputError`."""
    try:
        facts = path.stat()
    except OSError as error:
        raise _lost(path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path} is no regular file, expected one that can be read twice")
    return facts


def _lost(path: Path, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return InputError(
            f"{path} is a link to {path.readlink()}, which is not there: download the file again"
        )
    return unreadable(path, error)


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)
