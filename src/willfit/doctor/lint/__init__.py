"""What costs or leaks memory in scripts, notebooks and settings: one file a subject."""

from __future__ import annotations

from willfit.doctor.lint.commands import lint_command, lint_shell
from willfit.doctor.lint.finding import Finding, Severity
from willfit.doctor.lint.fixing.fix import fix_python
from willfit.doctor.lint.fixing.notebook import fix_notebook
from willfit.doctor.lint.lint import lint_notebook, lint_python, same_in_effect
from willfit.doctor.lint.rules.same_configs import SameConfigs, compare_configs
from willfit.doctor.lint.settings import lint_settings

__all__ = [
    "Finding",
    "SameConfigs",
    "Severity",
    "compare_configs",
    "fix_notebook",
    "fix_python",
    "lint_command",
    "lint_notebook",
    "lint_python",
    "lint_settings",
    "lint_shell",
    "same_in_effect",
]
