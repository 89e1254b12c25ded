"""YAML as data: the words of YAML 1.2, numbers as they were written, no repeated name.

YAML 1.1, PyYAML's, takes ``no`` for false, ``12:30:00`` for 45000, ``010`` for 8, ``2024-01-01``
for a date and ``1e-5`` for text; of two equal names it takes the last. Its loader composes here,
safely, and only these few types of scalars are made of what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

from willfit.errors import BrokenFileError
from willfit.runner.pipeline.values import Decimals, Whole, cut, shown
from willfit.settings.files import MAX_NODES

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)
"""Plain scalars by their text (YAML 1.2.2, section 10.3.2), and their first characters."""


class _Words(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


for _name, _pattern, _first in _SCALARS:
    _starts = ["" if character == "\0" else character for character in _first]
    _Words.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _starts)


def read(text: str, where: str) -> Any:
    """The value of a document; ``where`` names its file in errors.

    Raises `BrokenFileError` with line and column where it is not YAML, repeats a name, has tags of
    other types, or unfolds without end.
    """
    try:
        node = yaml.compose(text, Loader=_Words)
        return None if node is None else _Values(where).of(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BrokenFileError(
            f"{where} is not valid YAML at line {line}: it has the unprintable character "
            f"#x{int(error.character):04x}, take it out"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise BrokenFileError(_broken(error, where)) from None
    except RecursionError:
        raise BrokenFileError(_endless(where)) from None


class _Values:
    """Values of nodes, counted as aliases unfold."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._num_values = 0

    def of(self, node: yaml.Node) -> Any:
        self._num_values += 1
        if self._num_values > MAX_NODES:
            raise BrokenFileError(_endless(self._where))
        make = _MAKERS.get(node.tag.removeprefix(_TAG))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.of(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and make is not None:
            return self._scalar(node, make)
        raise self._error(node, f"has the tag {shown(node.tag)}", "leave it out")

    def _scalar(self, node: yaml.ScalarNode, make: Callable[[str], Any]) -> Any:
        try:
            return make(node.value)
        except ValueError:  # !!int abc
            what = f"has {shown(node.value)} as a number"
            raise self._error(node, what, "leave out its tag") from None

    def _mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                name = self._key(key)
                if name in found:
                    raise self._error(key, f"has {shown(name)} twice", "keep one of them")
                found[name] = self.of(value)
        for name, value in self._merged(node):
            found.setdefault(name, value)
        return found

    def _key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "has a list or a mapping for a name", "write text")
        return self.of(node)

    def _merged(self, node: yaml.MappingNode) -> Iterator[tuple[Any, Any]]:
        """What ``<<: *other`` brings in."""
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                given = self.of(value)
                for other in given if isinstance(given, list) else [given]:
                    if not isinstance(other, dict):
                        raise self._error(value, "merges what is no mapping", "write <<: *name")
                    yield from other.items()

    def _error(self, node: yaml.Node, what: str, fix: str) -> BrokenFileError:
        at = f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
        return BrokenFileError(f"{self._where} {what} at {at}: {fix}")


def _whole(text: str) -> Whole:
    value = Whole(text, 0 if text[:2] in ("0o", "0x") else 10)
    value.spelt = text
    return value


def _decimals(text: str) -> Decimals:
    word = text.lower()
    value = Decimals(word.replace(".", "") if word.lstrip("+-") in (".inf", ".nan") else word)
    value.spelt = text
    return value


_MAKERS: Final[dict[str, Callable[[str], Any]]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _whole,
    "float": _decimals,
    "str": str,
}


def _broken(error: yaml.MarkedYAMLError, where: str) -> str:
    mark = error.problem_mark or error.context_mark
    at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    reason = " ".join((error.problem or error.context or "not YAML").split())
    return (
        f"{where} is not valid YAML{at} ({cut(reason)}): check the indentation and brackets "
        "there, and put text with braces or ': ' in quotes"
    )


def _endless(where: str) -> str:
    return (
        f"{where} unfolds to more than {MAX_NODES:,} values or nests too deep: expected a "
        "pipeline of some stages"
    )
