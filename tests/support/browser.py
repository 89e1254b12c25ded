"""A real headless Chromium, or a skip that says what is missing.

With ``WILLFIT_BROWSER=required`` in the environment, as CI sets it, a missing browser is a failure.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def missing(reason: str) -> NoReturn:
    """Skip, or fail where a browser is required."""
    if os.environ.get("WILLFIT_BROWSER") == "required":
        pytest.fail(f"{reason}, and WILLFIT_BROWSER=required")
    pytest.skip(reason)


def needed(module: str, package: str) -> Any:
    """A module that browser tests stand on."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"{package} is not installed")


def chromium() -> str:
    """The path of Chromium; skips where there is none (``WILLFIT_CHROMIUM`` names another)."""
    named = os.environ.get("WILLFIT_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("no Chromium on the path: install Debian's package chromium")
    return found


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser of playwright's API over that Chromium, closed at the end."""
    sync_api = needed("playwright.sync_api", "playwright")
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()
