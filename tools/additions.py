"""The page about adding things, carried out: its blocks put into a copy, its commands run there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.pages import DOCS, ROOT, Block, blocks, code, commands, outputs

PAGE: Final = DOCS / "adding.md"
_INSERT: Final = re.compile(r'insert into (?P<file>\S+) (?P<side>after|before) "(?P<anchor>.+)"')
_NEW: Final = re.compile(r"new file (?P<file>\S+)")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A copy of the package, and a folder of the reader's beside it."""

    folder: Path

    def put(self, block: Block) -> bool:
        """Carry out an addition; False where the block is none. Raises `ValueError`."""
        insert, new = _INSERT.fullmatch(block.mark), _NEW.fullmatch(block.mark)
        if insert is not None:
            path = self.folder / insert["file"]
            path.write_text(_inserted(path.read_text(), insert, block.text))
        elif new is not None:
            path = self.folder / new["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        return bool(insert or new)

    def run(self, source: str) -> str:
        """What a command or Python code prints with the copy."""
        command = ["-c", source] if "\n" in source else ["-m", *shlex.split(source)]
        words = [sys.executable, *command]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode or not done.stdout:
            raise ValueError(f"{source}: exit code {done.returncode}: {done.stderr[-800:]}")
        return done.stdout


def copied(folder: Path) -> Copy:
    """A fresh copy."""
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    return Copy(folder=folder)


def carried_out(copy: Copy) -> dict[Block, str]:
    """The page from top to bottom; the whole output by the block that shows it."""
    found = blocks(PAGE)
    shown = dict(outputs(found))
    printed: dict[str, str] = {}
    for block in found:
        if not copy.put(block):
            sources = [code(block)] if block.language == "python" else commands(block)
            printed |= {source: copy.run(source) for source in sources}
    return {block: printed[output.source] for block, output in shown.items()}


def _inserted(text: str, where: re.Match[str], new: str) -> str:
    """Before or after the one line that begins with the anchor."""
    lines = text.splitlines(keepends=True)
    anchor = where["anchor"]
    found = [index for index, line in enumerate(lines) if line.startswith(anchor)]
    if len(found) != 1:
        raise ValueError(f"{where['file']} has {len(found)} lines that begin with {anchor!r}")
    at = found[0] + (where["side"] == "after")
    return "".join([*lines[:at], new, *lines[at:]])
