"""Whether a page is true: its commands run, its code runs, its outputs are those printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from tools.pages import Block, Output, blocks, code, commands, outputs, part, same
from tools.reference.cli import parser_of
from tools.typed import Desk

from willfit.cli.parser import with_dashes
from willfit.runner.pipeline import pipeline_from

NOT_RUN: Final = (
    (r"pip install|-m venv|bin/pip|^git clone", "the network; benchmarks/newcomer.py does it"),
    (
        r"lmsys-ensemble/(?:make_models.py|pipeline.yaml(?: --dry-run)?)$",
        "test_examples.py does it",
    ),
    (r"pytest", "a test run in a test run; test_gate*.py starts it in a project of its own"),
    (r"^willfit serve", "goes on until it is stopped; the page's own tests start it"),
    (r"--live\b", "a GPU"),
    (r"--measure\b", "a GPU of that size; test_compare_measured.py runs it with tiny models"),
    (r"\./my-model\b", "a model of the reader's"),
    (r"\borg/name\b", "a Hub id that is not there: the network"),
    (r"^willfit bundle", "downloads wheels; test_run_bundle.py makes one from a folder of them"),
)
"""Patterns of lines that the tests do not run, each with the reason."""
MAY_END_WITH: Final = (
    (r"--check", (0, 3)),  # a check is shown where it fails, too
    (r"^willfit measure", (0, 3)),  # out of memory is an answer
)
"""Exit codes of commands beside 0."""


def troubles(page: Path, desk: Desk) -> list[str]:
    """What is not true on a page, a line each."""
    found = blocks(page)
    shown = dict(outputs(found))
    return [
        f"{block.name}: {said}"
        for block in found
        for said in _of_block(block, shown.get(block), desk)
    ]


def _of_block(block: Block, output: Output | None, desk: Desk) -> Iterator[str]:
    if output is not None:
        yield from _of_output(block, output, desk)
    elif block.language == "bash":
        for line in commands(block):
            yield from _of_command(line, desk)
    elif block.language == "python":
        yield from _of_code(block, desk)
    elif block.language in ("yaml", "json"):
        yield from _of_settings(block, desk)


def why_not_run(line: str) -> str | None:
    """The reason why a line is not run; None where it is."""
    return next((why for pattern, why in NOT_RUN if re.search(pattern, line)), None)


def _of_command(line: str, desk: Desk) -> Iterator[str]:
    if why_not_run(line) is not None:
        yield from _of_unrun(line)
    elif line.startswith("python ") and "|" not in line:
        script = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(script, cwd=desk.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{line}: exit code {done.returncode}: {done.stderr[-300:]}"
    elif "willfit " in line:
        yield from _of_willfit(line, desk)
    else:
        yield f"nobody runs {line!r}: give it a row in NOT_RUN with the reason"


def _of_willfit(line: str, desk: Desk) -> Iterator[str]:
    printed = desk.run(line)
    allowed = next((codes for mark, codes in MAY_END_WITH if re.search(mark, line)), (0,))
    if printed.code not in allowed:
        yield f"{line}: exit code {printed.code}: {printed.err[-300:]}"
    elif not printed.out and ">" not in line:
        yield f"{line}: printed nothing"


def _of_unrun(line: str) -> Iterator[str]:
    """Its settings are known, even so."""
    words = shlex.split(line)
    if words[0] == "willfit":
        try:
            parser_of(words[1]).parse_args(with_dashes(words[2:]))
        except Exception as error:
            yield f"{line}: {error}"


def _of_code(block: Block, desk: Desk) -> Iterator[str]:
    try:
        desk.run(code(block))
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _of_output(block: Block, output: Output, desk: Desk) -> Iterator[str]:
    try:
        now = part(desk.run(output.source).out, output)
    except Exception as error:
        yield f"{output.source}: {type(error).__name__}: {error}"
        return
    if not same(now, block.text, output):
        yield f"not what {output.source!r} prints; python -m tools.build_shown writes it:\n{now}"
    if max(map(len, block.text.splitlines()), default=0) > 80:
        yield "wider than 80 columns"


def _of_settings(block: Block, desk: Desk) -> Iterator[str]:
    try:
        content: Any = yaml.safe_load(block.text)
        if isinstance(content, dict) and "stages" in content:
            pipeline_from(content, desk.folder)
        if block.language == "json":
            json.loads(block.text)
    except Exception as error:
        yield f"{type(error).__name__}: {error}"
        return
    for line in _steps(content):
        yield from _of_command(line, desk)


def _steps(content: Any) -> Iterator[str]:
    """The commands of willfit in a workflow's ``run``."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == "run" and isinstance(value, str):
                yield from (line for line in value.splitlines() if line.startswith("willfit "))
            else:
                yield from _steps(value)
    elif isinstance(content, list):
        for each in content:
            yield from _steps(each)
