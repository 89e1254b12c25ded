"""Hooks of the docs site: the changelog, which lies beside the docs, becomes one of its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

CHANGELOG: Final = Path(__file__).resolve().parents[1] / "CHANGELOG.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the changelog as a page."""
    from mkdocs.structure.files import File

    text = CHANGELOG.read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=text))
    return files
