"""Commands as people type them, run in this process, in a folder that has what they name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

from tools.pages import ROOT

FAILURE: Final = "examples/doctor/error.log"
SCRIPT: Final = "examples/doctor/finetune.py"
COPIES: Final = {
    "error.log": FAILURE,
    "train.py": SCRIPT,
    "src/train.py": SCRIPT,
    **{
        name: f"examples/own-function/{name}"
        for name in ("pipeline.yaml", "rules.py", "reviews.jsonl")
    },
}
"""Files that the pages name as a reader's own, and what stands for them."""
_PURE: Final = re.compile(
    r"willfit (?:estimate|plan|where|diff|compare|measure|gpus|models) (?:[^>.]|\.(?=\d))*$"
)
"""Names no file: a dot is that of a number."""
_EXIT: Final = re.compile(r";\s*echo \"exit code \$\?\"$")
_INTO: Final = re.compile(r"\s>\s*(\S+)$")
_LORA: Final = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}  # fmt: skip

_LLAMA: Final = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


@dataclass(kw_only=True)
class Desk:
    """A folder with the examples and a reader's files; every command is run in it once."""

    folder: Path
    anywhere: dict[str, Printed] = field(default_factory=dict)
    """Commands that read no file of the folder and write none; desks may share them."""
    here: dict[str, Printed] = field(default_factory=dict)
    """The others, and Python code."""

    def run(self, source: str) -> Printed:
        """Output of a command or of Python code, from before where it was run before."""
        done = self.anywhere if _PURE.match(source) else self.here
        if source not in done:
            done[source] = self._python(source) if "\n" in source else self._typed(source)
        return done[source]

    def _python(self, text: str) -> Printed:
        out, err = io.StringIO(), io.StringIO()
        with _inside(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exec(compile(text, "<page>", "exec"), {"__name__": "__page__"})
        return Printed(code=0, out=out.getvalue(), err=err.getvalue())

    def _typed(self, typed: str) -> Printed:
        command, echoed = _EXIT.subn("", typed)
        into = _INTO.search(command)
        command = _INTO.sub("", command)
        piped, _, last = command.rpartition("| ")
        given = (ROOT / FAILURE).read_bytes() if piped else b""
        with _inside(self.folder), _stdin(given):
            printed = _ended(_called(_words(last)), echoed=bool(echoed))
            if into is not None:
                Path(into[1]).write_text(printed.out, encoding="utf-8")
        return printed


def set_up(folder: Path, anywhere: dict[str, Printed] | None = None) -> Desk:
    """A desk in an empty folder, with what other desks have run already."""
    shutil.copytree(
        ROOT / "examples",
        folder / "examples",
        ignore=shutil.ignore_patterns("models", "model", "runs"),
    )
    for name, source in COPIES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / name)
    (folder / "notebook.ipynb").write_text(json.dumps(_notebook()), encoding="utf-8")
    (folder / "adapter_config.json").write_text(json.dumps(_LORA), encoding="utf-8")
    (folder / "my-model").mkdir()
    (folder / "my-model" / "config.json").write_text(json.dumps(_LLAMA), encoding="utf-8")
    for name in ("gemma-lora", "llama-lora"):
        (folder / name).mkdir()
        shutil.copy(folder / "adapter_config.json", folder / name)
    return Desk(folder=folder, anywhere={} if anywhere is None else anywhere)


def _notebook() -> dict[str, object]:
    """The example's script and its failure as a notebook."""
    lines = (ROOT / SCRIPT).read_text(encoding="utf-8").splitlines(keepends=True)
    failure = (ROOT / FAILURE).read_text(encoding="utf-8").splitlines()
    error = {"output_type": "error", "ename": "OutOfMemoryError", "evalue": failure[-1],
             "traceback": failure}  # fmt: skip
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": lines,
            "outputs": [error]}  # fmt: skip
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def _words(command: str) -> list[str]:
    """Split as a shell would, with names of files that hold a star filled in."""
    words = shlex.split(command)
    assert words[0] == "willfit", command
    return [name for word in words[1:] for name in (_filled(word) or [word])]


def _filled(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if word.endswith((".py", ".md")) else []


def _called(words: list[str]) -> Printed:
    from willfit.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return Printed(code=code, out=out.getvalue(), err=err.getvalue())


def _ended(printed: Printed, *, echoed: bool) -> Printed:
    """With the line that ``; echo "exit code $?"`` adds."""
    if not echoed:
        return printed
    return Printed(code=0, out=f"{printed.out}exit code {printed.code}\n", err=printed.err)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _stdin(content: bytes) -> Iterator[None]:
    with mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(content))):
        yield
