"""A node's scratch folder: prepared rows, code and logs of one agent, gone when it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from willfit.errors import InputError
from willfit.runner.atomic import cannot_write, write_bytes
from willfit.runner.content import digest_bytes, digest_file
from willfit.runner.content.digests import digest_names


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A folder below the node's temporary one (``TMPDIR``), locked as long as anyone uses it."""

    folder: Path
    lock: int
    """Descriptor of its lock, which workers inherit: who is killed leaves the folder unlocked, and
    the next agent removes it."""

    @classmethod
    def new(cls) -> Scratch:
        """A folder of its own; those that nobody holds any more are removed."""
        base = Path(tempfile.gettempdir()) / f"willfit-nodes-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
        with _held(base / "lock"):  # so that a new folder is not taken for an old one
            _remove_unheld(base)
            folder = Path(tempfile.mkdtemp(dir=base))
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in ("jobs", "logs", "rows", "code"):
            (folder / name).mkdir()
        return cls(folder=folder, lock=lock)

    @property
    def jobs(self) -> Path:
        """Job files of workers."""
        return self.folder / "jobs"

    def log(self, key: str) -> Path:
        """What a worker prints."""
        return self.folder / "logs" / f"{key}.txt"

    def rows(self, digest: str) -> Path:
        """The prepared rows with that digest."""
        return self.folder / "rows" / f"{digest}.arrow"

    def receive(self, digest: str, offset: int, data: bytes) -> None:
        """A piece of prepared rows; the same piece may come twice."""
        path = self.rows(digest).with_suffix(".part")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            with open(descriptor, "r+b") as file:  # noqa: PTH123 - of a descriptor
                file.seek(offset)
                file.write(data)
        except OSError as error:
            kind = type(cannot_write(path, error))
            raise kind(
                f"cannot write {path} ({error.strerror}): expected room for the prepared rows, "
                "start that node's Ray with TMPDIR on another disk"
            ) from error

    def complete(self, digest: str) -> None:
        """All pieces are there: check them, and drop the rows of earlier stages."""
        path = self.rows(digest)
        part = path.with_suffix(".part")
        if not path.exists():
            found = digest_file(part)
            if found != digest:
                part.unlink()
                raise InputError(f"{part} is not what was sent: run the same command again")
            part.replace(path)
        for other in path.parent.iterdir():
            if other != path:
                other.unlink()

    def code(self, reference: str, files: Mapping[str, bytes]) -> str:
        """``module.py:function`` on this node: in place where it is the same there, else a copy.

        ``files``: the module's file and those it imports, by their paths from its folder.
        """
        path, _, function = reference.rpartition(":")
        if all(_same(Path(path).parent / name, data) for name, data in files.items()):
            return reference  # a shared disk: what the code opens beside itself is there too
        digest = digest_names((name, digest_bytes(data)) for name, data in files.items())
        home = self.folder / "code" / digest / _depth(files)
        for name, data in files.items():
            write_bytes(Path(os.path.normpath(home / name)), data)
        return f"{home / Path(path).name}:{function}"

    def remove(self) -> None:
        """Nothing of it is left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


def _depth(files: Mapping[str, bytes]) -> PurePosixPath:
    """Folders above the module's own, as many as relative imports go up."""
    ups = max(PurePosixPath(name).parts.count("..") for name in files)
    return PurePosixPath(*["up"] * ups)


def _same(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unheld(base: Path) -> None:
    for folder in base.iterdir():
        if not folder.is_dir():
            continue
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
