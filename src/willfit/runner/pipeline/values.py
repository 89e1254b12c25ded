"""Types of the values in a pipeline file, each of which says in words what it expects."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

_SHOWN: Final = 40
"""Characters of a value that a message repeats."""
_NUMBER: Final = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.I)


class Whole(int):
    """A whole number that remembers how it was written: ``007``."""

    spelt: str


class Decimals(float):
    """A number that remembers how it was written: ``1.10``, ``12e4567``."""

    spelt: str


def fault(words: str) -> PydanticCustomError:
    """What was expected instead, as pydantic carries it."""
    return PydanticCustomError("expected", "{words}", {"words": words})


def shown(value: Any) -> str:
    """A value as its writer knows it: ``'int-8'``, ``true``, ``empty``, ``[0, 'a']``."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return cut("[" + ", ".join(shown(item) for item in value[:_SHOWN]) + "]")
    spelt = getattr(value, "spelt", None)
    return cut(spelt) if spelt else cut(repr(value) if isinstance(value, str) else str(value))


def cut(text: str) -> str:
    """At most some 40 characters."""
    return text if len(text) <= _SHOWN + 2 else text[:_SHOWN] + "…"


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The known word that a typo was meant to be."""
    words = {word.lower(): word for word in known}
    found = difflib.get_close_matches(str(given).lower(), words, n=1, cutoff=0.5)
    return words[found[0]] if found else None


def listed(words: Iterable[str], last: str = "or") -> str:
    """``a, b or c``."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end


def expecting(words: str, fix: Callable[[Any], str] = lambda _: "") -> WrapValidator:
    """A type's one sentence, in place of pydantic's several."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise fault(words + fix(value)) from None

    return WrapValidator(check)


def _quote(value: Any) -> str:
    """A number, a date, a word that is no text or braces become text in quotes."""
    other = value is None or isinstance(value, (str, list, tuple))
    return "" if other else ": put it in quotes"


def _unquote(value: Any) -> str:
    """A number in quotes is text."""
    number = isinstance(value, str) and _NUMBER.fullmatch(value)
    return ": remove the quotes" if number else ""


def _as_text(value: Any) -> Any:
    """A number as it was written, a path as text; everything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return getattr(value, "spelt", value)


def _as_flag(value: Any) -> Any:
    """YAML's older words for true and false, which newer YAML reads as text."""
    words = {"yes": True, "on": True, "no": False, "off": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def as_tuple(value: Any) -> Any:
    """A list as a tuple: what a frozen model can hold."""
    return tuple(value) if isinstance(value, list) else value


def one_of(words: Any, also: str = "") -> WrapValidator:
    """The words of a ``Literal``; the nearest is named for a typo."""
    known = get_args(words)

    def fix(value: Any) -> str:
        near = nearest(value, known) if isinstance(value, str) else None
        return f": did you mean {near}?" if near else ""

    return expecting(listed((*known, also) if also else known), fix)


Text = Annotated[str, Field(min_length=1), BeforeValidator(_as_text), expecting("text", _quote)]
Flag = Annotated[bool, BeforeValidator(_as_flag), expecting("true or false")]
Count = Annotated[int, Field(ge=1), expecting("a whole number of at least 1", _unquote)]
Seed = Annotated[int, Field(ge=0), expecting("a whole number of at least 0", _unquote)]
Positive = Annotated[
    float, Field(gt=0, allow_inf_nan=False), expecting("a number above 0", _unquote)
]
Weight = Annotated[
    float, Field(ge=0, allow_inf_nan=False), expecting("a number of at least 0", _unquote)
]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    BeforeValidator(_as_text),
    expecting("1 to 64 letters, digits, '_', '.' or '-', beginning with a letter or digit"),
]
Texts = Annotated[
    tuple[Text, ...],
    Field(min_length=1),
    BeforeValidator(as_tuple, json_schema_input_type=list[str]),
    expecting("a list of texts, such as [a, b]"),
]
Order = Annotated[
    tuple[int, ...],
    Field(min_length=1),
    BeforeValidator(as_tuple, json_schema_input_type=list[int]),
    expecting("every label's number once, such as [1, 0, 2]"),
]
Gpus = Annotated[
    Literal["all", "none"] | tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(as_tuple, json_schema_input_type=Literal["all", "none"] | list[int]),
    expecting("all, none or a list of GPU numbers such as [0, 1]"),
]
Auto = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1)],
    expecting("auto or a whole number of at least 1", _unquote),
]
Choices = Annotated[
    Text | Annotated[tuple[Text, ...], Field(min_length=2)],
    BeforeValidator(as_tuple, json_schema_input_type=str | list[str]),
    expecting("two or more texts, or the name of the column that has them"),
]
_One = bool | int | float | str | None
Plain = Annotated[
    _One | tuple[_One, ...],
    BeforeValidator(as_tuple, json_schema_input_type=_One | list[_One]),
    expecting("a plain value: text, a number, true, false or a list of these"),
]
"""An argument of ``generate``."""
