"""The list of decisions, from their own headings."""

from __future__ import annotations

from typing import Final

from tools.pages import DOCS
from tools.reference.markdown import GENERATED, table

_INTRO: Final = """# Decisions

What was decided, why, and what it costs. One page a decision; later ones may overrule earlier ones.

"""


def page() -> str:
    """A row a decision."""
    found = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    rows = [(f"[{path.stem[:4]}]({path.name})", _heading(path.read_text())) for path in found]
    return f"{GENERATED}{_INTRO}{table(('number', 'decision'), rows)}"


def _heading(text: str) -> str:
    return text.splitlines()[0].lstrip("# ").partition(". ")[2] or text.splitlines()[0].lstrip("# ")
