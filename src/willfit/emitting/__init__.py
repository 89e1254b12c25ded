"""A scenario as code or configuration that runs as it stands."""

from __future__ import annotations

from willfit.emitting.arguments import Arguments, arguments
from willfit.emitting.call import Call, Variable
from willfit.emitting.emit import TARGETS, emit, lines_to_change, writer

__all__ = [
    "TARGETS",
    "Arguments",
    "Call",
    "Variable",
    "arguments",
    "emit",
    "lines_to_change",
    "writer",
]
