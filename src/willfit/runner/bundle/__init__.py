"""A pipeline and what it needs in one folder, to be run where there is no internet."""

from __future__ import annotations

from willfit.runner.bundle.bundle import Bundle, bundle

__all__ = ["Bundle", "bundle"]
