"""A suite of measurements with all that it needs on a machine without network."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from willfit._version import __version__
from willfit.errors import InputError
from willfit.live.suite.case import Suite
from willfit.runner.bundle.bundle import put, require_free
from willfit.runner.bundle.image import kaggle_image
from willfit.runner.bundle.pack import pack
from willfit.runner.bundle.wheels import Wheel, collect, read_wheel
from willfit.runner.bundle.words import PAYLOAD

SCHEMA: Final = "willfit.suite-bundle/1"
ALWAYS: Final = ("nvidia-ml-py",)
"""What measuring reads with and a machine with torch may lack."""
RUN: Final = """\
#!/bin/sh
# Runs the suite here, without network; the same command goes on where it ended.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python3}}
"$python" "$here/prepare.py"
export PYTHONPATH="$here/site${{PYTHONPATH:+:$PYTHONPATH}}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
exec "$python" -m willfit measure --suite {suite} --out "$here/{suite}.jsonl" "$@"
"""
README: Final = """\
# willfit {version}: suite {suite}

{title}. {count} runs, {minutes} minutes at most, no network, no download: models have random
weights, made from the configurations that are in the package.

    sh run.sh

runs them with `python3`; `PYTHON=/path/to/python sh run.sh` takes another. That Python needs torch
and transformers. Whatever else it lacks is taken from `wheels/` into `site/` here; nothing that is
installed is changed. Rows are appended to `{suite}.jsonl` as they come: after an interruption the
same command goes on. `sh run.sh --trace` adds the traces to the summary (minutes more, no GPU).

The file to send back is `{suite}.jsonl`: device, versions and bytes, and nothing else of the
machine.
"""


@dataclass(frozen=True, kw_only=True)
class SuiteBundle:
    """What was made."""

    path: Path
    """The folder or the .zip."""
    suite: str
    num_bytes: int
    """Of its files, before they are packed."""
    wheels: tuple[tuple[str, str], ...]
    """(name, version) of each."""
    sentences: tuple[str, ...]
    """What still lacks, in one sentence each."""


def bundle_suite(
    suite: Suite, *, out: Path, wheels: Path | None = None, python: str | None = None
) -> SuiteBundle:
    """Make the bundle of a suite; an older one at ``out`` is replaced. Raises `InputError`.

    ``wheels``: a folder of wheels in place of packing and downloading; ``python``: the version
    there, this one's by default.
    """
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as temporary:
        folder = Path(temporary) / f"willfit-{suite.name}"
        (folder / "wheels").mkdir(parents=True)
        making = _Making(folder / "wheels", wheels, python or _this_python())
        found = making.all(suite)
        _write(folder, suite, found)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        put(folder, out)
    return SuiteBundle(
        path=out,
        suite=suite.name,
        num_bytes=size,
        wheels=tuple((wheel.name, wheel.version) for wheel in found),
        sentences=tuple(making.lacking),
    )


class _Making:
    def __init__(self, folder: Path, given: Path | None, python: str) -> None:
        self.lacking: list[str] = []
        self._folder, self._given, self._python = folder, given, python

    def all(self, suite: Suite) -> list[Wheel]:
        """Willfit's own wheel and those of what the suite needs, each once."""
        own = read_wheel(pack("willfit", self._folder), self._python)
        found = {own.name: own}
        for name in (*ALWAYS, *suite.needs):
            if name not in found:
                found.update((wheel.name, wheel) for wheel in self._got(name))
        return list(found.values())

    def _got(self, name: str) -> Iterator[Wheel]:
        """Its wheel and those of what the image lacks of its needs; else a sentence."""
        try:
            if self._given is None and _is_pure(name):
                yield read_wheel(pack(name, self._folder), self._python)
                return
            yield from collect(
                [name], self._folder, image=kaggle_image(), python=self._python, given=self._given
            )
        except InputError as error:
            self.lacking.append(f"{name} is not in it ({error}); cases that need it are refused")


def _is_pure(name: str) -> bool:
    """Whether it is installed here and made of Python alone, so that its files are its wheel."""
    try:
        text = importlib.metadata.distribution(name).read_text("WHEEL") or ""
    except importlib.metadata.PackageNotFoundError:
        return False
    return "Root-Is-Purelib: true" in text and "-none-any" in text


def _this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _write(folder: Path, suite: Suite, wheels: list[Wheel]) -> None:
    facts = {
        "schema": SCHEMA,
        "suite": suite.name,
        "willfit": __version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "wheels": [wheel.json() for wheel in wheels],
    }
    words = README.format(
        version=__version__,
        suite=suite.name,
        title=suite.title[0].upper() + suite.title[1:],
        count=len(suite.cases),
        minutes=round(suite.budget_seconds / 60),
    )
    texts = {
        "README.md": words,
        "run.sh": RUN.format(suite=suite.name),
        "bundle.json": json.dumps(facts, indent=1) + "\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "run.sh").chmod(0o755)
    shutil.copyfile(PAYLOAD / "prepare.py", folder / "prepare.py")
