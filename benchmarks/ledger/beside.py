"""Packages beside the installed ones: a folder that pip fills, without dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SECONDS: Final = 600
"""The longest that pip may take."""


def made_by_pip(folder: Path, wanted: Sequence[str]) -> str | None:
    """Make a folder of these requirements, whole or not at all; why not, or None."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [*pip, str(unfinished), *wanted], capture_output=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"pip cannot fetch {wanted[0]}: {type(error).__name__}"
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"pip cannot fetch {wanted[0]}: {' '.join(last)}"
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return None
