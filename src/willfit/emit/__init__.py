"""A scenario as code or configuration that runs as it stands."""

from __future__ import annotations

from willfit.emit.arguments import Arguments, arguments
from willfit.emit.call import Call, Variable
from willfit.emit.emit import TARGETS, emit, lines_to_change

__all__ = ["TARGETS", "Arguments", "Call", "Variable", "arguments", "emit", "lines_to_change"]
