"""Sides of a comparison on the command line: models, settings in quotes, files, what is varied."""

from __future__ import annotations

import argparse
import difflib
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit.cli.options import add_scenario_options
from willfit.cli.parser import Parser, quoted_words
from willfit.cli.saved import SUFFIXES
from willfit.errors import InputError

MOST: Final = 26
"""Sides that are compared: each is called by a letter."""
OWN: Final = ("sides", "vary", "model")
"""What is no setting of a side."""
_TRUE: Final = ("yes", "true", "on")
_FALSE: Final = ("no", "false", "off", "none")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side as asked for."""

    label: str
    path: Path | None = None
    """A file with a saved estimate or measurement."""
    arguments: argparse.Namespace | None = None
    """Settings as ``willfit estimate`` has them; None where it is a file."""


def sides_of(arguments: argparse.Namespace, shared: Mapping[str, Any]) -> tuple[Side, ...]:
    """Every side with what all are given; a side's own settings win. Raises `InputError`."""
    given = list(arguments.sides) or ([""] if arguments.model else [])
    varied = [_varied(text, shared) for text in arguments.vary or ()]
    found = [side for text in given for side in _sides(text, varied, arguments.model, shared)]
    if len(found) < 2:
        raise InputError(
            f"{len(found) or 'nothing'} to compare: name two models or more, settings in quotes "
            "such as 'llama-3-8b --quantize nf4', or vary one: --vary quantize=int8,nf4,none"
        )
    if len(found) > MOST:
        raise InputError(f"{len(found)} sides are more than {MOST}: vary fewer settings at once")
    return tuple(found)


def _sides(
    text: str,
    varied: Sequence[Sequence[tuple[str, ...]]],
    model: str | None,
    shared: Mapping[str, Any],
) -> Iterator[Side]:
    """One side, or one for each combination of what is varied."""
    saved = saved_file(text)
    if saved is not None:
        yield Side(label=saved.name, path=saved)
        return
    own = _words(text)
    for combination in itertools.product(*varied):
        words = [*own, *itertools.chain.from_iterable(combination)]
        typed = _parsed(words, text)
        merged = {**typed, **shared, **{k: v for k, v in typed.items() if v is not None}}
        if not merged.get("model"):
            merged["model"] = model
        named = own if merged["model"] in own else [str(merged["model"] or ""), *own]
        label = shlex.join([*named, *words[len(own) :]]).strip("' ")
        yield Side(label=label, arguments=argparse.Namespace(**merged))


def saved_file(text: str) -> Path | None:
    """The file of a saved result; None for a model's ``config.json`` and for settings."""
    path = Path(text)
    try:
        if path.suffix not in SUFFIXES or not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(600)
        return path if b'"willfit.' in head[:200] or b'content="willfit ' in head else None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {text[:200]}: {error}") from None


def _words(text: str) -> list[str]:
    words = quoted_words(text)
    return words[1:] if words[:1] == ["estimate"] else words


def side_parser() -> Parser:
    """What a side may say for itself."""
    parser = Parser(prog="willfit compare", add_help=False)
    add_scenario_options(parser)
    parser.add_argument("--trace", action="store_true", default=None)
    return parser


def _parsed(words: list[str], text: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = vars(side_parser().parse_args(words))
    except InputError as error:
        raise InputError(f"in {text[:80]!r}: {error}") from None
    return parsed


def _varied(text: str, shared: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The words of each value of ``NAME=V1,V2``; ``none`` leaves the setting out."""
    name, equals, values = text.partition("=")
    flag = "--" + name.strip().lstrip("-").replace("_", "-")
    known = side_parser()._option_string_actions
    action = known.get(flag)
    if not equals or not values.strip():
        raise InputError(f"--vary {text[:60]} names no values: expected NAME=VALUE,VALUE")
    if action is None:
        near = difflib.get_close_matches(flag, known, n=1)
        hint = f"did you mean {near[0][2:]}?" if near else "'willfit compare --help' lists them"
        raise InputError(f"--vary knows no setting {name[:40]!r}: {hint}")
    if shared.get(action.dest) is not None:
        raise InputError(f"{flag} is both given to all and varied: leave one out")
    parts = list(dict.fromkeys(part.strip() for part in values.split(",")))
    return [_value(flag, action, part, known) for part in parts if part]


def _value(
    flag: str, action: argparse.Action, value: str, known: Mapping[str, argparse.Action]
) -> tuple[str, ...]:
    """A value's words; lists are joined by +, switches are yes or no."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        if value.lower() in _TRUE:
            return (flag,)
        if value.lower() in _FALSE:
            off = f"--no-{flag[2:]}"
            return (off,) if off in known and value.lower() != "none" else ()
        raise InputError(f"{flag} is a switch and cannot be {value[:40]!r}: expected yes or no")
    if value.lower() == "none":
        return ()
    return (flag, *value.split("+")) if action.nargs == "+" else (flag, value)


def shared_words(parser_actions: Sequence[argparse.Action], shared: Mapping[str, Any]) -> str:
    """The settings that all were given, as they are typed."""
    words: list[str] = []
    for action in parser_actions:
        value = shared.get(action.dest)
        if value is None or not action.option_strings:
            continue
        flag = action.option_strings[0]
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
