"""Writes the outputs that the pages show: runs the command above each and puts in what it prints.

``python -m tools.build_shown [PAGE …]``; the pages' tests say when one is not current.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.additions import PAGE, carried_out, copied
from tools.pages import ROOT, Block, blocks, commands, outputs, pages, part, same
from tools.typed import Printed, set_up


def rewritten(page: Path, folder: Path, run: dict[str, Printed]) -> str:
    """The page with every output as it is printed now."""
    text = page.read_text(encoding="utf-8")
    for block, new in reversed(list(_now(page, folder, run))):
        text = text[: block.start] + new + text[block.start + len(block.text) :]
    return text


def _now(page: Path, folder: Path, run: dict[str, Printed]) -> Iterator[tuple[Block, str]]:
    """Blocks whose output is another now, each with it."""
    found = blocks(page)
    if page == PAGE:
        printed = carried_out(copied(folder))
    else:
        desk = set_up(folder, run)
        for line in (line for block in found for line in commands(block)):
            if " > " in line:  # a file that a later command reads
                desk.run(line)
        printed = {block: desk.run(shown.source).out for block, shown in outputs(found)}
    for block, shown in outputs(found):
        new = part(printed[block], shown)
        if not same(new, block.text, shown):
            yield block, new


def main(names: list[str]) -> int:
    """Rewrite the pages named, or all."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        run: dict[str, Printed] = {}
        for number, page in enumerate([Path(name).resolve() for name in names] or pages()):
            new = rewritten(page, Path(folder) / str(number), run)
            if new != page.read_text(encoding="utf-8"):
                page.write_text(new, encoding="utf-8")
                print(f"wrote {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
