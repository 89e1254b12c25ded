"""Rewriting scripts and notebooks in place, each with its original kept beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from willfit.cli.given import Given
from willfit.errors import InputError
from willfit.runner.atomic import writing

if TYPE_CHECKING:
    from willfit.doctor.lint import Finding


def mend(arguments: argparse.Namespace, files: Sequence[Given]) -> Iterator[str]:
    """Correct what can be corrected safely; says what was done, a sentence a file."""
    chosen = [one for one in files if one.kind in ("script", "notebook")]
    if not chosen:
        raise InputError("--fix rewrites scripts and notebooks: name a .py or .ipynb file")
    for one in chosen:
        if one.path is None:
            raise InputError("--fix rewrites files in place: name the file instead of a pipe")
        _refuse_bytes(one)
        text, settled = _mended(arguments, one)
        if not settled:
            yield f"{one.name}: nothing to correct"
            continue
        kept = _write(one.path, one.content, text)
        lines = ", ".join(dict.fromkeys(_place(finding) for finding in settled))
        yield f"{one.name}: corrected {lines}; the original is {kept}"


def _mended(arguments: argparse.Namespace, one: Given) -> tuple[str, list[Finding]]:
    from willfit.cli.examined import stack_of
    from willfit.doctor.lint import fix_notebook, fix_python

    stack = stack_of(arguments)
    if one.kind == "notebook":
        return fix_notebook(one.text, stack=stack)
    return fix_python(one.text, stack=stack, gpu=arguments.gpu or "")


def _refuse_bytes(one: Given) -> None:
    """What is not UTF-8 would be written back with other bytes."""
    try:
        one.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{one.name} is not UTF-8 (byte {error.start}): save it as UTF-8, then correct it"
        ) from None


def _place(finding: Finding) -> str:
    cell = "" if finding.cell is None else f"cell {finding.cell} "
    return f"{cell}line {finding.line} ({finding.rule})"


def _write(path: Path, before: bytes, text: str) -> str:
    """Write at once or not at all, the original first beside it; gives the original's name."""
    kept = path.with_name(path.name + ".orig")
    number = 1
    while kept.exists():
        kept = path.with_name(f"{path.name}.orig{number}")
        number += 1
    mode = path.stat().st_mode
    for target, content in ((kept, before), (path, text.encode())):
        with writing(target) as pending:
            pending.path.write_bytes(content)
            pending.path.chmod(mode)
    return str(kept)
