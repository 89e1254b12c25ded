"""Templates such as ``{prompt}{response_a}``: names of columns in braces, nothing to evaluate."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from willfit.errors import InputError
from willfit.runner.pipeline.values import Text, cut, fault

_EXPECTED: Final = "names of columns in braces, such as '{prompt}{response_a}'"
_NO_NAME: Final = ".[]{"
"""What a name may not hold: attributes, indices, further braces."""


def template_fields(template: str) -> tuple[str, ...]:
    """Columns that a template names, each once, in its order; ``{{`` and ``}}`` are braces.

    Raises `InputError` where it is no template: braces that do not pair, anything but a name within
    them, or no name at all.
    """
    return tuple(dict.fromkeys(name for _, name in _parts(template) if name is not None))


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """A row's text: its values in place of their names, null as nothing."""
    parts = _parts(template)
    return "".join(
        literal if name is None or (value := row[name]) is None else f"{literal}{value}"
        for literal, name in parts
    )


@lru_cache(maxsize=64)
def _parts(template: str) -> tuple[tuple[str, str | None], ...]:
    """Literal texts, each with the name of the column that follows it."""
    problem = _problem(template)
    if problem:
        raise InputError(f"template {cut(repr(template))}: expected {_EXPECTED}: {problem}")
    return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(template))


def _problem(template: str) -> str:
    try:
        fields = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return "a brace has no partner, write {{ or }} for one that is meant"
    if not fields:
        return "it names none, all rows would be the same"
    return next(filter(None, (_wrong_name(*field) for field in fields)), "")


def _wrong_name(name: str | None, spec: str | None, conversion: str | None) -> str:
    if not name:
        return "{} has no name"
    if spec or conversion or any(sign in name for sign in _NO_NAME):
        return f"{{{cut(name)}}} has more than a name in it"
    return "" if name.strip() == name else f"{{{cut(name)}}} has spaces about the name"


def _validated(template: str) -> str:
    problem = _problem(template)
    if problem:
        raise fault(f"{_EXPECTED}: {problem}")
    return template


Template = Annotated[Text, AfterValidator(_validated)]
"""Text that `fill_template` takes."""
