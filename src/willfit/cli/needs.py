"""Extras that a command needs, asked for before anything is imported."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

from willfit.errors import InputError, MissingLibraryError

_RUN: Final = ("pyarrow", "numpy", "pydantic", "psutil", "rich", "cloudpickle")


def require_run_extra() -> None:
    """That the packages of the extra ``[run]`` are there, and the system has what they stand on."""
    if sys.platform == "win32":
        raise InputError(
            "running a pipeline needs process groups and file locks as Linux and macOS have them: "
            "use WSL"
        )
    lacking = [name for name in _RUN if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingLibraryError(
            f"running a pipeline needs {', '.join(lacking)}: pip install 'willfit[run]'"
        )
