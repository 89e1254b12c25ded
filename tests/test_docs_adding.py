"""What the page about adding things adds is really added, to a copy, and its outputs are true."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.additions import PAGE, carried_out, copied
from tools.pages import blocks, outputs, part


def contents(folder: Path) -> dict[Path, bytes]:
    """Sources and small data of the copy."""
    found = [*(folder / "src").rglob("*.py"), *(folder / "src/willfit/data").glob("*.json")]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_every_addition_of_the_page_works(tmp_path: Path) -> None:
    shown = dict(outputs(blocks(PAGE)))
    copy = copied(tmp_path)
    before = contents(tmp_path)
    printed = carried_out(copy)
    for block, output in shown.items():
        assert block.text == part(printed[block], output), block.name
    changed = {path for path, text in contents(tmp_path).items() if before.get(path) != text}
    assert {path.parts[2] for path in changed} == {
        "data", "formulas", "changes", "doctor", "sources",
    }  # fmt: skip
    assert len(changed) == 8


def test_without_the_addition_there_is_nothing(tmp_path: Path) -> None:
    """The copy's answers come from what the page puts in."""
    copy = copied(tmp_path)
    with pytest.raises(ValueError, match="unknown GPU 'X1'"):
        copy.run("willfit estimate llama-3-8b --gpu X1")


def test_an_anchor_that_is_gone_is_said(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    block = next(block for block in blocks(PAGE) if block.mark.startswith("insert"))
    (copy.folder / "src/willfit/data/gpus.json").write_text("{}")
    with pytest.raises(ValueError, match="0 lines that begin with"):
        copy.put(block)
