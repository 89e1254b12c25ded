"""Where tools that are not installed are kept: scripts and side directories, never in this tree."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from benchmarks.ledger.beside import made_by_pip

SECONDS: Final = 120
"""The longest that a download may take."""


def home() -> Path:
    """``$WILLFIT_PEERS``, ``~/.cache/willfit/peers`` by default."""
    given = os.environ.get("WILLFIT_PEERS")
    return Path(given) if given else Path.home() / ".cache" / "willfit" / "peers"


def script(name: str, address: str, sha256: str) -> Path | str:
    """A published file as it is, fetched once; or why it cannot be had."""
    path = home() / name
    try:
        if not path.is_file():
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:  # https, a literal
                text: bytes = answer.read()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, urllib.error.URLError) as error:
        return f"{address} cannot be fetched: {error}"
    if found != sha256:
        return f"{path} is not the file that was published at {address}"
    return path


def side_directory(requirement: str) -> Path | str:
    """A folder with one package without its dependencies, made by pip; or why there is none."""
    folder = home() / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    return made_by_pip(folder, [requirement]) or folder
