"""The command line as a page: each command's settings and exit codes, from its own parser."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from typing import Any, Final

from tools.reference.markdown import GENERATED, plain, table
from willfit.cli.main import COMMANDS
from willfit.cli.parser import Parser

ALWAYS: Final = (
    ("0", "done"),
    ("1", "the input is wrong: one sentence on stderr says what was given and expected"),
    ("130", "interrupted"),
)
EXIT_CODES: Final = {
    "estimate": (
        ("3", "with `--check`: it does not fit (`--strict`: tight is not enough)"),
        ("4", "no trustworthy number: a part is not supported and cannot be bounded"),
    ),
    "plan": (
        ("3", "no plan fits"),
        ("4", "no trustworthy number"),
    ),
    "where": (
        ("3", "with `--check`: it fits nowhere"),
        ("4", "no number for any place"),
    ),
    "doctor": (("3", "with `--check`: something was found"),),
    "diff": (
        ("3", "with `--check`: a component or the peak grew"),
        ("4", "no trustworthy number"),
    ),
    "compare": (
        ("3", "with `--check`: a side does not fit, or ran out of memory"),
        ("4", "a side has no trustworthy number"),
    ),
    "measure": (
        ("3", "it ran out of memory"),
        ("5", "the run failed for another reason"),
    ),
    "run": (("5", "a stage failed, or its memory did not come back"),),
}
"""Beside those of every command; the contract of other people's scripts."""
_INTRO: Final = """# Command line

`willfit COMMAND --help` prints the same. Settings carry the names that Hugging Face gives them;
`--batch_size` and `--batch-size` are the same. A setting that is not given takes the default of the
library that would decide it, and the output says so. The result goes to stdout, progress and
messages to stderr. GiB are 2³⁰ bytes; `GB` is accepted where an amount is read.

`MODEL` is a catalogue name or alias, a Hub id, a local folder, a `config.json`, a `.safetensors`
file, an index, a `.gguf`, or `timm/NAME`. A GPU is a name (`T4`, `T4x2`, `RTX 4090`), a name with
its capacity (`T4:14.75GiB`) or any card by its size and compute capability (`24GiB:sm_86`).

"""


def page() -> str:
    """The whole page."""
    names = [name for name in COMMANDS if _module(name) is not None]
    overview = table(
        ("command", "what it does"),
        ((f"[`willfit {name}`](#willfit-{name})", plain(COMMANDS[name])) for name in names),
    )
    sections = "\n".join(_section(name) for name in names)
    return f"{GENERATED}{_INTRO}{overview}\n{sections}"


def parser_of(name: str) -> Parser:
    """A command's own parser; raises `ModuleNotFoundError` where it has no module."""
    module = _module(name)
    if module is None:
        raise ModuleNotFoundError(f"no module willfit.cli.{name}", name=f"willfit.cli.{name}")
    parser = Parser(prog=f"willfit {name}", description=f"{module.__doc__}")
    module.configure(parser)
    return parser


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"willfit.cli.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"willfit.cli.{name}":
            raise
        return None


def _section(name: str) -> str:
    parser = parser_of(name)
    parts = [f"## willfit {name}", plain(" ".join((parser.description or "").split()))]
    parts.append(f"```text\n{_usage(parser)}\n```")
    for group in parser._action_groups:
        rows = list(_rows(group))
        if rows:
            title = {"positional arguments": "given", "options": "settings"}.get(
                group.title or "", group.title or ""
            )
            parts.append(table((title, "value", "meaning"), rows).rstrip())
    codes = sorted((*ALWAYS, *EXIT_CODES.get(name, ())), key=lambda row: int(row[0]))
    parts.append(table(("exit code", "when"), codes).rstrip())
    return "\n\n".join(parts) + "\n"


def _usage(parser: Parser) -> str:
    given = [
        argparse.HelpFormatter(parser.prog)._format_args(action, _name(action))
        for action in parser._actions
        if not action.option_strings
    ]
    return " ".join([parser.prog, *given, "[settings]"])


def _rows(group: argparse._ArgumentGroup) -> Iterator[tuple[str, str, str]]:
    for action in group._group_actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        flags = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{_name(action)}`"
        yield flags, _value(action), _meaning(action)


def _name(action: argparse.Action) -> str:
    name = action.metavar or action.dest
    return name if isinstance(name, str) else name[0]


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0 or not action.option_strings:
        return ""
    several = " …" if action.nargs in ("+", "*") else ""
    return f"`{_name(action)}`{several}"


def _meaning(action: argparse.Action) -> str:
    text = plain((action.help or "").replace("%(default)s", str(action.default)))
    if action.default in (None, False, argparse.SUPPRESS, []) or "default" in text:
        return text
    return f"{text} (default: {action.default})".strip()
