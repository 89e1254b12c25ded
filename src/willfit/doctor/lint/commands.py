"""Command lines: launchers and servers with options that are misspelt or without effect."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.alloc_conf import conf_problems
from willfit.doctor.lint.finding import Finding, Severity
from willfit.doctor.lint.rules.environment import ALLOC, meant_variable
from willfit.doctor.lint.signatures import Signatures, here
from willfit.doctor.lint.spelling import near
from willfit.scenario.stack import Stack

MAX_COMMAND: Final = 64 * 2**10
"""Bound on one command line."""
_ASSIGNED: Final = re.compile(r"([A-Z_][A-Z0-9_]*)=(.*)", re.DOTALL)
_ENDS: Final = frozenset({"&&", "||", ";", "|", "&"})
_DEEP: Final = (
    "--kv-cache-memory-bytes", "--gpu-memory-utilization",
)  # fmt: skip


def lint_command(text: str, *, stack: Stack | None = None) -> list[Finding]:
    """Findings of one command line, as a shell or a notebook's ``!`` runs it; line 1."""
    found: list[Finding] = []
    for words in _commands(text):
        found += _environment(words)
        found += _vllm(words, Signatures(stack=stack or here()))
    return list(dict.fromkeys(found))


def lint_shell(text: str, *, stack: Stack | None = None) -> list[Finding]:
    """Findings of a shell script, by line; continued lines count as the first."""
    from dataclasses import replace

    found: list[Finding] = []
    start, held = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        start = number if not held else start
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        whole, held = held + line, ""
        if not whole.lstrip().startswith("#"):
            found += [replace(f, line=start) for f in lint_command(whole, stack=stack)]
    return found


def _commands(text: str) -> Iterator[list[str]]:
    """Words of each command of a line; a line that no shell could read gives none."""
    if len(text) > MAX_COMMAND:
        return
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return
    current: list[str] = []
    for word in words:
        if word in _ENDS or word.endswith(";"):
            current += [word[:-1]] if word not in _ENDS and word[:-1] else []
            yield current
            current = []
        else:
            current.append(word)
    yield current


def _environment(words: list[str]) -> Iterator[Finding]:
    for word in words if words[:1] in (["export"], ["env"]) else _leading(words):
        found = _ASSIGNED.fullmatch(word)
        if found is None:
            continue
        name, value = found.groups()
        meant = meant_variable(name)
        if meant is not None:
            yield _finding("environment-misspelt", "ignored", f"nobody reads {name}", meant)
        if (meant or name) in ALLOC and "$" not in value:
            for message, fix, severity in conf_problems(value):
                yield _finding("allocator-option", severity, message, fix)


def _leading(words: list[str]) -> Iterator[str]:
    for word in words:
        if _ASSIGNED.fullmatch(word) is None:
            return
        yield word


def _vllm(words: list[str], signatures: Signatures) -> Iterator[Finding]:
    """``vllm serve MODEL --option``: options that its release does not have."""
    at = next((i for i in range(len(words) - 1) if words[i : i + 2] == ["vllm", "serve"]), None)
    module = "vllm.entrypoints.openai.api_server"
    if at is None and module not in words:
        return
    engine = signatures.of("vllm.EngineArgs")
    assert engine is not None
    options = [w.partition("=")[0] for w in words if w.startswith("--") and len(w) > 2]
    for option in options:
        name = option[2:].replace("-", "_").removeprefix("no_")
        if "." in name or name in engine.parameters.names:
            continue
        meant = near(name, engine.parameters.names)
        gone = name in engine.ever and engine.certain
        abbreviates = any(one.startswith(name) for one in engine.parameters.names)
        if abbreviates or not (meant or gone):
            continue
        fix = f"--{meant.replace('_', '-')}" if meant and not gone else f"remove {option}"
        yield _finding(
            "unknown-engine-argument", "error", f"vllm serve does not take {option}", fix
        )
    if all(any(o.replace("_", "-") == one for o in options) for one in _DEEP):
        yield _finding(
            "engine-argument-overruled",
            "ignored",
            "--gpu-memory-utilization has no effect next to --kv-cache-memory-bytes",
            "remove one of them",
        )


def _finding(rule: str, severity: Severity, message: str, fix: str) -> Finding:
    return Finding(rule=rule, line=1, severity=severity, message=message, fix=fix)
