"""Calls of Python and of the usual libraries whose result is plain: paths, namespaces, argparse."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any, Final

from willfit.settings.code.expressions import value_of
from willfit.settings.code.operations import MAX_TEXT
from willfit.settings.code.reading import Reading
from willfit.settings.code.values import (
    KNOWN,
    Class,
    Dotted,
    Function,
    Made,
    Record,
    Site,
    Unknown,
    Written,
)


def _path(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    """``os.path.join`` and ``Path``."""
    if not positional or not all(isinstance(part, str) for part in positional):
        return Unknown("path")
    return "/".join(part.rstrip("/") for part in positional)[:MAX_TEXT]


def _device(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    first = positional[0] if positional else Unknown("device")
    if len(positional) > 1 and isinstance(positional[1], int):
        return f"{first}:{positional[1]}"
    return first


def _converted(kind: type) -> Callable[[Reading, Site, Sequence[Any]], Any]:
    def convert(_reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
        value = positional[0] if positional else Unknown()
        if not isinstance(value, (bool, int, float, str)) or len(str(value)) > 300:
            return Unknown(site.last)
        try:
            return kind(value)
        except (ValueError, OverflowError):
            return Unknown(site.last)

    return convert


def _extreme(pick: Callable[[Sequence[Any]], Any]) -> Callable[..., Any]:
    def find(_reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
        numbers = all(isinstance(value, (int, float)) for value in positional)
        return pick(positional) if numbers and len(positional) > 1 else Unknown(site.last)

    return find


def _length(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    sized = positional and isinstance(positional[0], (list, tuple, Record))
    return len(positional[0]) if sized else Unknown("len")


def _namespace(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    """``dict(a=1)``, ``SimpleNamespace(a=1)``, ``EasyDict({…})``."""
    reading.pay(len(positional[0]) if positional and isinstance(positional[0], Record) else 0)
    record = positional[0].copy() if positional and isinstance(positional[0], Record) else Record()
    record.of = "" if site.last == "dict" else site.last
    for name, item in site.given.items():
        record[name] = item.value
        record.written[name] = item.written
    return record


def _field(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
    """``dataclasses.field``."""
    factory = site.value("default_factory")
    if isinstance(factory, Function) and isinstance(factory.node, ast.Lambda):
        return value_of(reading, factory.node.body)
    return site.value("default", Unknown("field"))


def _getattr(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    owner, name = (*positional, None, None)[:2]
    if isinstance(owner, Dotted) and isinstance(name, str):
        return Dotted(f"{owner.name}.{name}"[:200])
    fields = owner.fields if isinstance(owner, Class) else owner
    if isinstance(fields, Record):
        return fields.get(name, positional[2] if len(positional) > 2 else Unknown(str(name)))
    return positional[2] if len(positional) > 2 else Unknown(str(name))


def _environ_get(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    """A variable of the environment counts as not set."""
    if "environ" not in site.name and site.last != "getenv":
        return Unknown(site.last)
    default = positional[1] if len(positional) > 1 else site.value("default", Unknown("environ"))
    if isinstance(default, KNOWN) and default is not None:
        reading.note(f"{str(site.first)[:40]} is not set in the environment, as far as known")
    return default


def _set_default(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    if "environ" in site.name and len(positional) > 1:
        reading.add("environment", site.node, value=tuple(positional[:2]))
    return Unknown(site.last)


def _update(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    if "environ" in site.name and positional and isinstance(positional[0], Record):
        for pair in list(positional[0].items())[:100]:
            reading.add("environment", site.node, value=pair)
    return None


def _add_argument(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    """``parser.add_argument("--model_name", default="…")``."""
    flags = [name for name in positional if isinstance(name, str)]
    name = next((flag for flag in flags if flag.startswith("--")), flags[0] if flags else "")
    name = str(site.known("dest") or name.lstrip("-").replace("-", "_"))
    stores = site.known("action") == "store_true"
    default = site.value("default", False if stores else Unknown(f"--{name}"))
    reading.arguments[name] = default
    if "default" in site.given:
        reading.arguments.written[name] = site.given["default"].written
    else:
        reading.arguments.written[name] = Written(site.cell, site.node)
    return Unknown(name)


def _parse_args(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
    if reading.arguments:
        reading.note("the command line's arguments have their defaults, as far as known")
    found = reading.arguments.copy()
    found.of = "Namespace"
    return (found, []) if site.last == "parse_known_args" else found


def _true(_reading: Reading, _site: Site, _positional: Sequence[Any]) -> Any:
    return True


def _partial(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    return positional[0] if positional and isinstance(positional[0], (Function, Dotted)) else (
        Unknown("partial"))  # fmt: skip


def _made(_reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
    return Made(site)


PLAIN: Final[dict[str, Callable[[Reading, Site, Sequence[Any]], Any]]] = {
    "join": _path,
    "Path": _path,
    "device": _device,
    "str": _converted(str),
    "int": _converted(int),
    "float": _converted(float),
    "bool": _converted(bool),
    "len": _length,
    "min": _extreme(min),
    "max": _extreme(max),
    "dict": _namespace,
    "SimpleNamespace": _namespace,
    "Namespace": _namespace,
    "EasyDict": _namespace,
    "AttrDict": _namespace,
    "Box": _namespace,
    "DictConfig": _namespace,
    "field": _field,
    "getattr": _getattr,
    "getenv": _environ_get,
    "get": _environ_get,
    "setdefault": _set_default,
    "update": _update,
    "add_argument": _add_argument,
    "parse_args": _parse_args,
    "parse_known_args": _parse_args,
    "is_available": _true,
    "partial": _partial,
    "ArgumentParser": _made,
}
"""By the last name of what is called."""
