"""Liger's own benchmark, asked for one kernel: which release ran, and a process that has it.

Releases are fetched by pip as source archives, which hold the kernels and, from 0.5.3 on, the
benchmark's scripts, to where `benchmarks.ledger.releases` has its side directories.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.ledger.beside import SECONDS
from benchmarks.ledger.releases import home, side_directory
from willfit.errors import UnsupportedError

RELEASED: Final = {
    "0.3.0": "2024-09-13", "0.3.1": "2024-10-01", "0.4.0": "2024-11-05", "0.4.1": "2024-11-12",
    "0.4.2": "2024-11-17", "0.5.0": "2024-12-09", "0.5.3": "2025-02-10", "0.5.4": "2025-02-24",
    "0.5.5": "2025-03-13", "0.5.6": "2025-04-02", "0.5.8": "2025-04-12", "0.5.9": "2025-05-04",
    "0.5.10": "2025-05-22", "0.6.0": "2025-07-08", "0.6.1": "2025-07-28", "0.6.2": "2025-08-21",
    "0.6.3": "2025-10-27", "0.6.4": "2025-11-21", "0.6.5": "2026-02-03", "0.7.0": "2026-02-12",
    "0.8.0": "2026-04-30", "0.8.1": "2026-07-22", "0.8.2": "2026-08-18",
}  # fmt: skip
"""Day of each release, by the tags of linkedin/Liger-Kernel."""
_WITH_SCRIPTS: Final = "0.5.3"
_MODULES_OUTSIDE: Final = "0.6.1"
"""Scripts of the chunked losses make their modules outside of what is measured again, as before
2025 (linkedin/Liger-Kernel 1ea9175a, bf48d8da)."""
_TRANSFORMERS: Final = {"2025-01-01": "4.46.3", "2025-06-01": "4.50.3", "2026-01-01": "4.57.6"}
"""Release of transformers up to a day, of those that a side directory is known for."""
_MOST_TRIED: Final = 4


class _Tried(NamedTuple):
    scripts: str
    code: str


def peak_bytes(asked: Mapping[str, Any], day: str) -> int:
    """Bytes of the peak of one kernel on the day it was measured.

    ``asked``: kernel, provider, mode, x, config and gpu. A measurement was taken of what the next
    release had; where that has no such script, of one after it or before.
    Raises `UnsupportedError` where none of them runs.
    """
    transformers = next((v for until, v in _TRANSFORMERS.items() if day < until), None)
    reasons = []
    key = asked["kernel"], asked["provider"], day
    for tried in _KNOWN.get(key) or _likely(asked, day):
        script = _script(_scripts(tried.scripts), asked["kernel"])
        answer = _process(*tried, transformers).ask({**asked, "script": script})
        if "bytes" in answer:
            _KNOWN[key] = [tried]
            return int(answer["bytes"])
        reasons.append(f"{tried.scripts}: {answer['error']}")
    raise UnsupportedError(reasons[0] if reasons else "no release of Liger has a script for it")


_KNOWN: Final[dict[tuple[str, str, str], list[_Tried]]] = {}
"""What answered, by kernel, provider and day: a process takes its time to start."""


def _likely(asked: Mapping[str, Any], day: str) -> list[_Tried]:
    """Choices with a script for the kernel; those first that name all of its settings."""

    def lacks(tried: _Tried) -> bool:
        script = _script(_scripts(tried.scripts), asked["kernel"])
        text = (_scripts(tried.scripts) / str(script)).read_text()
        return not all(f'"{name}"' in text for name in asked["config"])

    choices = dict.fromkeys(_choices(str(asked["kernel"]), day))
    there = [c for c in choices if _script(_scripts(c.scripts), asked["kernel"]) is not None]
    return sorted(there, key=lacks)


def _scripts(version: str) -> Path:
    return _archive(version) / "benchmark" / "scripts"


def _choices(kernel: str, day: str) -> Iterator[_Tried]:
    """Releases of the scripts and of the code, the likeliest first."""
    versions = list(RELEASED)
    at = next((n for n, since in enumerate(RELEASED.values()) if since >= day), len(versions) - 1)
    first = max(at, versions.index(_WITH_SCRIPTS))
    if day < "2025-01-01" and re.search(r"po_loss|kto_loss|distill", kernel):
        yield _Tried(_MODULES_OUTSIDE, _WITH_SCRIPTS)
        yield _Tried(_MODULES_OUTSIDE, _MODULES_OUTSIDE)
    before = versions[max(first - 1, versions.index(_WITH_SCRIPTS))]
    for version in (*versions[first : first + _MOST_TRIED], before):
        yield _Tried(version, versions[at] if at < first else version)


@lru_cache
def _script(folder: Path, kernel: str) -> str | None:
    """The script that measures a kernel: its own, or the one that names it."""
    named = [folder / f"benchmark_{kernel}.py", *sorted(folder.glob("benchmark_*.py"))]
    return next((f.name for f in named if f.is_file() and f'"{kernel}"' in f.read_text()), None)


@lru_cache
def _archive(version: str) -> Path:
    """Where a release's source is, fetched if need be."""
    folder = home() / f"liger_kernel-{version}"
    if folder.is_dir():
        return folder
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home()) as place:
        wanted = ["--no-build-isolation", "--dest", place, f"liger-kernel=={version}"]
        try:
            subprocess.run([*pip, *wanted], capture_output=True, timeout=SECONDS, check=True)
            with tarfile.open(next(Path(place).glob("*.tar.gz"))) as archive:
                archive.extractall(place, filter="data")
            (Path(place) / folder.name).rename(folder)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, StopIteration) as error:
            if not folder.is_dir():  # or another process was faster
                reason = f"pip cannot fetch liger-kernel {version}: {type(error).__name__}"
                raise UnsupportedError(reason) from None
    return folder


class _Process:
    """A worker; started again where a script ended it."""

    def __init__(self, scripts: Path, paths: list[str]) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ledger.liger_worker"]
        self._command.append(str(scripts))
        self._paths = os.pathsep.join([*paths, *filter(None, sys.path)])
        self._running: subprocess.Popen[str] | None = None

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer: ``bytes`` or ``error``."""
        running = self._running = self._running or self._start()
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            print(json.dumps(asked), file=running.stdin, flush=True)
            line = running.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self.end()
            return {"error": "the script ended its process"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let it go."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": self._paths, "HF_HUB_OFFLINE": "1"},
        )


@lru_cache(maxsize=3)
def _process(scripts: str, code: str, transformers: str | None) -> _Process:
    paths = [str(_archive(code) / "src")]
    if transformers is not None:
        found = side_directory(f"transformers=={transformers}")
        if isinstance(found, str):
            raise UnsupportedError(found)
        paths.append(str(found))
    process = _Process(_scripts(scripts), paths)
    atexit.register(process.end)
    return process
