"""What an expression of a script is known to be; nothing is ever called."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unknown:
    """A value that the text does not tell."""

    text: str = ""
    """The expression, cut."""


@dataclass(frozen=True)
class Dotted:
    """A name that the script did not bind to a literal: ``torch.bfloat16``."""

    name: str

    @property
    def last(self) -> str:
        """``bfloat16``."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Written:
    """An expression and the cell where it stands."""

    cell: int | None
    node: ast.expr
    exact: bool = True
    """Whether it is the value alone; False where the value is somewhere within it."""


@dataclass(frozen=True)
class Given:
    """The value of an argument, and where it is written."""

    value: Any
    written: Written


class Record(dict[Any, Any]):
    """Names with values: a dict, a config class or an instance, with where each is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.written: dict[Any, Written] = {}
        self.of: str = ""
        """Class of an instance, "" for a dict."""

    def copy(self) -> Record:
        """The same names, to be changed apart."""
        other = Record(self)
        other.written, other.of = dict(self.written), self.of
        return other


@dataclass(eq=False, kw_only=True)
class Site:
    """A call in the user's text, with its arguments as far as they are known."""

    name: str
    """Dotted name of what is called: ``transformers.AutoModel.from_pretrained``."""
    cell: int | None
    node: ast.Call
    statement: ast.stmt
    """That holds it."""
    order: int
    """Position in the order of reading."""
    given: dict[str, Given] = field(default_factory=dict)
    """By keyword; arguments by position have the keyword that they stand for."""
    first: Any = None
    """The first argument by position; None without one."""
    unread: tuple[str, ...] = ()
    """``**expressions`` that are not known."""

    @property
    def last(self) -> str:
        """``from_pretrained``, ``TrainingArguments``."""
        return self.name.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """``AutoModel`` of ``AutoModel.from_pretrained``."""
        return self.name.rpartition(".")[0].rpartition(".")[2]

    def value(self, name: str, default: Any = None) -> Any:
        """Value of an argument; ``default`` where it is not given."""
        return self.given[name].value if name in self.given else default

    def known(self, *names: str) -> Any:
        """The first of the arguments that is given with a known value."""
        for name in names:
            value = self.value(name)
            if value is not None and not isinstance(value, (Unknown, Dotted)):
                return value
        return None


@dataclass(frozen=True, eq=False)
class Made:
    """What a library's call returned."""

    site: Site


@dataclass(frozen=True, eq=False)
class Bound:
    """A method of something known."""

    owner: Any
    name: str


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the script."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    cell: int | None
    names: Mapping[str, Any]
    """What its free names mean."""
    owner: Any = None
    """``self`` of a method."""


@dataclass(frozen=True, eq=False)
class Class:
    """A class of the script."""

    name: str
    bases: tuple[str, ...]
    fields: Record
    """Class attributes; methods among them."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model, or a part of it such as ``config``."""

    load: Any
    path: str = ""


KNOWN = (bool, int, float, str, bytes, type(None), list, tuple, dict)
"""Kinds of values that a setting can have."""
