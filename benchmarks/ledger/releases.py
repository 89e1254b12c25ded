"""Traces under another release of a library: a side directory, and a process that has it first.

``python -m benchmarks.ledger --level trace`` makes the directories it needs with pip, without
dependencies, under ``$WILLFIT_RELEASES`` (``~/.cache/willfit/releases`` by default). Nothing
installed is changed; torch stays the installed one.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger.beside import SECONDS, made_by_pip
from benchmarks.ledger.traced import Traced, traced
from willfit.errors import UnsupportedError, WillfitError
from willfit.scenario import Scenario, Stack
from willfit.scenario.stack import TESTED, release

COMPANIONS: Final[dict[str, tuple[str, ...]]] = {
    # requirement: what its own metadata asks for and today's releases are not; PEFT of its time,
    # which the trainer imports
    "transformers==4.34.1": ("tokenizers==0.14.1", "huggingface_hub==0.17.3"),
    "transformers==4.35.2": ("tokenizers==0.15.2", "huggingface_hub==0.20.3"),
    **{
        f"transformers=={version}": (
            "tokenizers==0.15.2", "huggingface_hub==0.20.3", "numpy==1.26.4", "peft==0.11.1",
        )
        for version in ("4.36.2", "4.37.2", "4.38.1", "4.38.2", "4.39.3")
    },
    **{
        f"transformers=={version}": (
            "tokenizers==0.19.1", "huggingface_hub==0.25.2", "numpy==1.26.4", "peft==0.11.1",
        )
        for version in ("4.40.2", "4.41.2", "4.42.4", "4.43.4", "4.44.2")
    },
    "peft==0.20.0": (),
    "peft==0.13.2": (),
    "trl==0.12.1": (),
    "accelerate==1.1.1": (),
    "datasets==4.4.1": (
        "multiprocess==0.70.18", "dill==0.4.0", "httpx==0.28.1", "httpcore==1.0.9", "h11==0.16.0",
        "anyio==4.11.0", "sniffio==1.3.1",
    ),
}  # fmt: skip
"""Releases that a side directory can be made for, besides `TOKENIZERS`'."""
TOKENIZERS: Final = (("4.56", "0.22.1"), ("4.47", "0.21.4"), ("4.45", "0.20.3"))
"""Of any release of transformers 4 from 4.45 on: the tokenizers that its metadata asks for."""
_HUB: Final = "huggingface_hub==0.36.0"
_LIBRARIES: Final = ("transformers", "peft")


def others(stack: Stack) -> tuple[str, ...]:
    """Requirements of a stack that are not today's releases: ``("peft==0.20.0",)``."""
    return tuple(
        f"{name}=={stack.versions[name]}"
        for name in _LIBRARIES
        if stack.version(name)[:2] != release(TESTED[name])[:2]
    )


def trace_under(requirements: Sequence[str], scenario: Scenario) -> Traced:
    """The traced run with these releases.

    Raises `UnsupportedError` where one cannot be had, and what the trace raises.
    """
    directories = [side_directory(requirement) for requirement in requirements]
    for directory in directories:
        if isinstance(directory, str):
            raise UnsupportedError(directory)
    paths = [*map(str, directories), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__],
        input=pickle.dumps(scenario),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UnsupportedError(f"{', '.join(requirements)}: {' '.join(last) or 'no answer'}")
    answer = pickle.loads(done.stdout)
    if isinstance(answer, WillfitError):
        raise answer
    assert isinstance(answer, Traced)
    return answer


@lru_cache
def side_directory(requirement: str) -> Path | str:
    """Where a release is, made if need be; or why there is none."""
    library, _, version = requirement.partition("==")
    directory = home() / f"{library}-{version}"
    if (directory / library).is_dir():
        return directory
    companions = _companions(library, version)
    if companions is None:
        return f"no side directory is known for {requirement}"
    return made_by_pip(directory, [requirement, *companions]) or directory


def _companions(library: str, version: str) -> tuple[str, ...] | None:
    known = COMPANIONS.get(f"{library}=={version}")
    if known is not None or library != "transformers" or release(version)[:1] != (4,):
        return known
    for since, tokenizers in TOKENIZERS:
        if release(version) >= release(since):
            return f"tokenizers=={tokenizers}", _HUB
    return None


def home() -> Path:
    """The folder of all side directories."""
    given = os.environ.get("WILLFIT_RELEASES")
    return Path(given) if given else Path.home() / ".cache" / "willfit" / "releases"


def main() -> int:
    """In the process that has the release: a pickled scenario in, a traced run or an error out."""
    scenario: Scenario = pickle.loads(sys.stdin.buffer.read())
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # libraries print
    without_datasets()
    with_bitsandbytes()
    answer: Traced | WillfitError
    try:
        answer = traced(scenario)
    except WillfitError as error:
        answer = error
    out.write(pickle.dumps(answer))
    return 0


def without_datasets() -> None:
    """The installed ``datasets`` wants a later Hub client than an older release has beside it."""
    utils: Any = importlib.import_module("transformers.utils.import_utils")
    if hasattr(utils, "_datasets_available"):
        utils._datasets_available = False


def with_bitsandbytes() -> None:
    """Until 4.43 its layers were there only beside a GPU; a trace has the layers without one."""
    for name in ("transformers.utils", "transformers.utils.import_utils"):
        place: Any = importlib.import_module(name)
        place.is_bitsandbytes_available = lambda *_: True


if __name__ == "__main__":
    sys.exit(main())
