"""What every test shares: where the published material lies, and quiet libraries."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="willfit-tests-")
settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("suite")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published measurements and configs beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}: published material is not beside this checkout")
    return SHARED
