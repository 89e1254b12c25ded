"""Records beside the tests: a short JSON file for each gate, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from willfit.comparing.recorded import Recorded, recorded_from
from willfit.errors import BrokenFileError, InputError
from willfit.runner.atomic import write_bytes

FOLDER: Final = "memory"
MAX_BYTES: Final = 2**20
"""Bound on a record; a real one has some two kilobytes."""
_LONGEST: Final = 120
"""Characters of a file's name before its suffix: file systems take 255 bytes."""


def record_path(test_file: Path, test_id: str, name: str) -> Path:
    """``memory/test_model.test_step[8].json`` beside the test's file.

    What a file's name cannot have becomes ``-``, and a few characters of a digest keep two such
    names apart. ``name``: of one gate among several in a test.
    """
    own = test_id.partition("::")[2].replace("::", ".")
    full = f"{test_file.stem}.{own}" + (f".{name}" if name else "")
    plain = re.sub(r"[^A-Za-z0-9_.=\[\]-]+", "-", full)
    if plain != full or len(plain) > _LONGEST:
        digest = hashlib.sha256(full.encode()).hexdigest()[:8]
        plain = f"{plain[:_LONGEST]}-{digest}"
    return test_file.parent / FOLDER / f"{plain}.json"


def read_record(path: Path) -> Recorded | None:
    """The record; None where there is none. Raises `BrokenFileError` on another file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BrokenFileError(f"{path.name} is larger than 1 MiB: record it again")
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BrokenFileError(f"{path.name} is not JSON: record it again") from None
    return recorded_from(content, path.name)


def write_record(path: Path, found: Recorded) -> None:
    """Write it whole; raises `InputError` where that cannot be."""
    write_bytes(path, json.dumps(found.as_json(), indent=2).encode() + b"\n")
