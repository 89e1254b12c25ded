"""Writes the pages that come from the program itself: command line, JSON, Python, formulas.

``python -m tools.build_reference``; ``--check`` only says which are not current (exit code 1).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.pages import DOCS, ROOT
from tools.reference import cli, contracts, decisions, formulas, python


def documents() -> dict[Path, str]:
    """Text by file, of every generated page and schema."""
    reference = DOCS / "reference"
    return {
        reference / "cli.md": cli.page(),
        reference / "json.md": contracts.page(),
        reference / "python.md": python.page(),
        **{reference / "schemas" / name: text for name, text in contracts.files().items()},
        **{DOCS / "formulas" / name: text for name, text in formulas.pages().items()},
        DOCS / "decisions" / "index.md": decisions.page(),
    }


def stale() -> list[Path]:
    """Files that are not as they would be written."""
    return [
        path
        for path, text in documents().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write what changed, or only say what would."""
    old = stale()
    made = documents()
    for path in old:
        print(f"{'not current' if '--check' in arguments else 'wrote'}: {path.relative_to(ROOT)}")
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
