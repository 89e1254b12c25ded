"""Question: what a visitor asks, and its words as a command would be given them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from willfit.cli.build import Request, build_request
from willfit.cli.parser import Parser, with_dashes
from willfit.errors import InputError
from willfit.scenario import ModelSpec
from willfit.web.fields import FIELDS, FILTER
from willfit.web.form import Form, filled, flags, lines_of
from willfit.web.models import UPLOADED, finder

_ALLOWED: Final = frozenset({"model", "gpu", "train", "task"}) | {
    field.name for field in FIELDS if field.name not in FILTER
}
"""Settings that an answer may depend on; some of the others name files."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, with what came beside the form."""

    form: Form
    config: str = ""
    """Text of an uploaded ``config.json``."""
    pasted: str = ""
    """The doctor's text."""
    script: str = ""
    """The code that the text is about."""
    network: bool = False
    """Whether the Hub may be asked for the model that the form names."""

    @property
    def model(self) -> str:
        """The model's name on a command line."""
        return UPLOADED if self.config else self.form.model

    def find(self, name: str) -> ModelSpec:
        """What a model's name means here."""
        return finder(self.named, self.config, network=self.network)(name)

    @property
    def named(self) -> frozenset[str]:
        """Models that the visitor named, as against those that a pasted text tells of."""
        sides = lines_of(self.form) if self.form.tab == "compare" else []
        return frozenset((self.form.model, *(line.split()[0] for line in sides if line)))

    def words(self, *, gpu: str | None = None) -> list[str]:
        """Model, GPU and settings; raises `InputError` without a model."""
        if not self.model:
            raise InputError("no model is named: choose one, such as meta-llama/Meta-Llama-3-8B")
        if self.model.startswith("-"):
            raise InputError(f"{self.model[:40]!r} is no model's name: choose one of the list")
        named = self.form.gpu if gpu is None else gpu
        return [self.model, *([f"--gpu={named}"] if named else []), *flags(self.form)]

    def request(self, words: list[str]) -> Request:
        """The scenario of an estimate's words."""
        from willfit.cli import estimate

        return build_request(parsed(estimate, words), finding=self.find)


def question_of(asked: Mapping[str, Any]) -> Question:
    """The question of what the server handed on; raises `InputError` on what cannot be."""
    raw = asked.get("form")
    return Question(
        form=filled(raw if isinstance(raw, Mapping) else {}),
        config=str(asked.get("config") or ""),
        pasted=str(asked.get("pasted") or ""),
        script=str(asked.get("script") or ""),
        network=asked.get("network") is True,
    )


def parsed(command: ModuleType, words: list[str]) -> argparse.Namespace:
    """Words of a command line, parsed by the command itself; a setting that names files raises."""
    parser = Parser(prog=command.__name__.replace(".cli.", " "), add_help=False)
    command.configure(parser)
    arguments: argparse.Namespace = parser.parse_args(with_dashes(words))
    for name, value in vars(arguments).items():
        if value and value != parser.get_default(name) and name not in _ALLOWED:
            raise InputError(
                f"--{name.rstrip('_').replace('_', '-')} is for the command line: leave it out"
            )
    return arguments
