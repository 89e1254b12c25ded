"""Last error: what the interpreter keeps of an exception that nobody caught, for debuggers."""

from __future__ import annotations

import sys
from typing import Final

from willfit.live.memory.notebook import forget_error

NAMES: Final = ("last_exc", "last_value", "last_type", "last_traceback")
"""Attributes of ``sys``; ``last_exc`` since Python 3.12."""


def forget_last_error() -> tuple[str, ...]:
    """Delete them, and IPython's own; returns the names of those that held anything."""
    found = tuple(name for name in NAMES if getattr(sys, name, None) is not None)
    for name in NAMES:
        if hasattr(sys, name):
            delattr(sys, name)
    shell_too = forget_error()
    kept = tuple(f"sys.{name}" for name in found if name != "last_type")
    return (*kept, "IPython's last traceback") if shell_too else kept
