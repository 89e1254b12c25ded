"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError, StorageError
from willfit.sources.limits import json_object
from willfit.units import MIB, format_bytes

TEMPORARY: Final = ".tmp-"
"""How the names of unfinished files begin: readers pass over them, `remove_stale` deletes them."""
MAX_JSON_BYTES: Final = 64 * MIB
"""A JSON file that is read; the largest that a run writes have a few hundred thousand bytes."""
_OF_WRITING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # a reader never meets these
)
_NO_FOLDER_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
"""What file systems answer that cannot flush a folder (some network and FUSE mounts)."""


@dataclass(kw_only=True)
class Pending:
    """A file that is being written under its temporary name; usable wherever a path is."""

    path: Path
    """The temporary file, which exists and is empty: whoever writes opens it by this name."""
    target: Path
    """Where it goes if nobody says otherwise."""
    committed: Path | None = field(default=None, init=False)
    """Where it went; None as long as it is pending."""

    def __fspath__(self) -> str:
        return str(self.path)

    def commit(self, final_name: str | None = None) -> Path:
        """Flush the file and give it its final name in the same folder; returns the path.

        The file must be closed by then. Raises `StorageError` where the disk is full or must
        not be written, `InputError` where it refuses for another reason.
        """
        if self.committed is not None:
            raise RuntimeError(f"{self.committed} is committed already")
        target = self.target if final_name is None else _beside(self.target, final_name)
        try:
            _flush(self.path)
            self.path.replace(target)
            self.committed = target
            _flush_folder(target.parent)
        except OSError as error:
            raise cannot_write(target, error) from error
        return target


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Pending]:
    """A temporary file beside ``path`` for someone else to write, committed at the end.

    With ``pending.commit(name)`` the final name may be decided after writing:

        with writing(folder / "shard") as pending:
            pq.write_table(table, pending.path)
            final = pending.commit(f"{digest_file(pending.path)}.parquet")

    Whatever is raised within, the temporary file goes; a full disk becomes a `StorageError`.
    """
    pending = Pending(path=_temporary(path), target=path)
    try:
        yield pending
        if pending.committed is None:
            pending.commit()
    except OSError as error:
        if error.errno in _OF_WRITING:
            raise cannot_write(path, error) from error
        raise
    finally:
        if pending.committed is None:
            with contextlib.suppress(OSError):
                pending.path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole; its folder is made if need be. Raises `InputError` where it cannot."""
    with writing(path) as pending:
        try:
            pending.path.write_bytes(data)
        except OSError as error:
            raise cannot_write(path, error) from error


def write_json(path: Path, obj: object) -> None:
    """Write an object as JSON, readable to people; raises ValueError on NaN and infinities."""
    text = json.dumps(obj, indent=1, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where it is absent, cut short, broken or over 64 MiB.

    Raises `InputError` where the file is there and the system does not let us read it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path} ({_reason(error)}): give access to it") from error
    try:
        return json_object(content, str(path)) if len(content) <= MAX_JSON_BYTES else None
    except BrokenFileError:
        return None


def remove_stale(folder: Path) -> int:
    """Delete unfinished files of processes that died, in all folders below; returns how many.

    Only for who holds the run's lock: a living writer would lose its file.
    """
    return sum(map(_removed, folder.rglob(f"{TEMPORARY}*")))


def remove_stale_of(path: Path) -> int:
    """Delete what processes that died left of this one file, in a folder that others write to too.

    Process ids are those of this machine: a writer elsewhere would lose its file.
    """
    left = path.parent.glob(f"{TEMPORARY}*-{_mark(path)}-*")
    return sum(_removed(file) for file in left if not _lives(file.name))


def _temporary(path: Path) -> Path:
    """A new empty file beside ``path``, so that a folder that refuses is known at once."""
    name = f"{TEMPORARY}{os.getpid()}-{_mark(path)}-{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(name).touch(exist_ok=False)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path.with_name(name)


def _mark(path: Path) -> str:
    """Which file a temporary one is for, short enough for every name."""
    return hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()


def _lives(temporary: str) -> bool:
    """Whether the process that writes a temporary file is there."""
    try:
        os.kill(int(temporary.removeprefix(TEMPORARY).partition("-")[0]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False


def _beside(path: Path, name: str) -> Path:
    if not name or Path(name).name != name or name.startswith(TEMPORARY):
        raise ValueError(f"expected the name of a file beside {path}, got {name!r}")
    return path.with_name(name)


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the new name last; systems that cannot open a folder (Windows) have no need of it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> InputError:
    """What a file that could not be written comes to: a `StorageError` where there is no place."""
    kind = StorageError if error.errno in _OF_WRITING else InputError
    return kind(f"cannot write {path} ({_reason(error)}): {_remedy(path.parent, error)}")


def _remedy(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{_free(folder)}free some space, or name a place on another disk"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (ulimit -f), or name another folder"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "name a folder that this user can write to"
    return "expected a folder that can be written to, name another"


def _free(folder: Path) -> str:
    if not hasattr(os, "statvfs"):
        return ""
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        return f"{format_bytes(disk.f_bavail * disk.f_frsize)} are free there, "
    return ""


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
