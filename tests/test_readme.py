"""The README sets up what it needs; that its commands and outputs are true is test_docs.py's."""

from __future__ import annotations

from pathlib import Path

from tools.pages import Block, blocks, commands, outputs

README = Path(__file__).resolve().parents[1] / "README.md"
FOUND = blocks(README)


def marked(mark: str) -> Block:
    (block,) = (block for block in FOUND if block.mark == mark)
    return block


def test_the_two_commands_set_up_all_they_need() -> None:
    assert "python3 -m venv" in marked("command 1").text
    assert "constraints.txt" in marked("command 2").text
    assert "pytest" in marked("command 2").text


def test_the_first_command_shows_what_it_prints() -> None:
    typed = [line for line in commands(marked("command 1")) if line.startswith("willfit ")]
    shown = [output.source for _, output in outputs(FOUND)]
    assert typed and shown[: len(typed)] == typed
