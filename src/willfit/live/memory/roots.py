"""Roots: where a search from an object upwards ends, because a person can see the place."""

from __future__ import annotations

import contextvars
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

from willfit.live.memory import last_error
from willfit.live.memory.frames import Local, is_library, running, running_locals
from willfit.live.memory.notebook import is_output, shell, user_variables

RootKind = Literal[
    "variable", "output", "local", "thread", "class", "last exception", "handled exception",
    "ipython", "returned", "context", "signal", "logger",
    "hidden",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Root:
    """A place that holds an object."""

    kind: RootKind
    name: str
    """Of the variable, the local, the class's attribute."""
    place: str
    """``in the notebook``, ``of module `loaders```, ``of `main` (line 3 of train.py)``."""
    expression: str | None
    """Python for what is held there; None where none can be written."""
    imports: str = ""
    """Module that the expression needs."""
    is_library: bool = False
    """Whether it is a place inside an installed library, where users do not look."""


class Roots:
    """The places of this process, as they were when the search began."""

    def __init__(self) -> None:
        self._modules = _namespaces()
        self._locals = running_locals()
        self._told = _elsewhere()
        self._shell = shell()
        self._running = {id(frame) for frame, _ in running()}

    def direct(self, value: Any) -> Iterator[Root]:
        """Places that hold a value without a referrer that the collector shows."""
        for local in self._locals.get(id(value), ()):
            yield _of_local(local)
        yield from self._told.get(id(value), ())

    def of(self, referrer: Any, value: Any) -> list[Root] | None:
        """Places that a referrer is; None where it is none, and the search goes on above it."""
        if referrer is self._shell:
            return [_IPYTHON]
        kind = type(referrer)  # isinstance would run the code of strangers' objects
        if issubclass(kind, dict):
            module = self._modules.get(id(referrer))
            if module is None and "__builtins__" in referrer and "__name__" in referrer:
                module = str(referrer["__name__"])
            return None if module is None else _of_variables(module, referrer, value)
        if issubclass(kind, logging.Logger):
            return [_of_logger(referrer, value)]
        if issubclass(kind, type):
            return _of_class(referrer, value)
        if id(referrer) in self._running:
            return []  # its locals were looked at; up to 3.10 the collector shows it too
        return [] if issubclass(kind, ModuleType) else None


def _namespaces() -> dict[int, str]:
    """Names of modules by the identity of their variables; the notebook's are `__main__`'s."""
    found = {
        id(vars(module)): name
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
    }
    found[id(user_variables())] = "__main__"
    found[id(getattr(shell(), "user_ns_hidden", None))] = "__main__"
    return found


def _elsewhere() -> dict[int, list[Root]]:
    """Places that the interpreter keeps in C, by the identity of what they hold."""
    found: dict[int, list[Root]] = {}
    for value, root in (*_handled(), *_context(), *_signals()):
        found.setdefault(id(value), []).append(root)
    return found


def _handled() -> Iterator[tuple[Any, Root]]:
    """Exceptions whose ``except`` block runs now, in any thread."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, found in sys._current_exceptions().items():
        error = found[1] if isinstance(found, tuple) else found
        thread = names.get(number, str(number))
        yield (
            error,
            Root(
                kind="handled exception",
                name=thread,
                place=f"in thread `{thread}`",
                expression=None,
            ),
        )


def _context() -> Iterator[tuple[Any, Root]]:
    for variable, value in contextvars.copy_context().items():
        yield value, Root(kind="context", name=variable.name, place="", expression=None)


def _signals() -> Iterator[tuple[Any, Root]]:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and isinstance(number, signal.Signals):
            yield handler, Root(kind="signal", name=number.name, place="", expression=None)


_IPYTHON: Final = Root(
    kind="ipython", name="the last result or error", place="kept by IPython",
    expression=None,
)  # fmt: skip


def _of_variables(module: str, variables: dict[Any, Any], value: Any) -> list[Root]:
    return [
        _of_variable(module, str(name)) for name, held in list(variables.items()) if held is value
    ]


def _of_variable(module: str, name: str) -> Root:
    if module == "sys" and name in last_error.NAMES:
        return Root(kind="last exception", name=f"sys.{name}", place="", expression=f"sys.{name}",
                    imports="sys")  # fmt: skip
    if module == "__main__":
        inside = shell() is not None
        return Root(
            kind="output" if inside and is_output(name) else "variable", name=name,
            place="in the notebook" if inside else "", expression=name,
        )  # fmt: skip
    return Root(
        kind="variable", name=name, place=f"of module `{module}`",
        expression=f"{module}.{name}", imports=module, is_library=is_library_module(module),
    )  # fmt: skip


def _of_class(owner: type, value: Any) -> list[Root]:
    """The class whose attribute this is; what it holds otherwise (bases, slots) leads nowhere."""
    names = [
        name for name, held in vars(owner).items() if held is value and not name.startswith("__")
    ]
    module = owner.__module__
    path = owner.__qualname__ if module == "__main__" else f"{module}.{owner.__qualname__}"
    known = "<locals>" not in owner.__qualname__
    return [
        Root(
            kind="class", name=name, place=f"of class `{owner.__qualname__}`",
            expression=f"{path}.{name}" if known else None,
            imports="" if module == "__main__" else module, is_library=is_library_module(module),
        )
        for name in names
    ]  # fmt: skip


def _of_logger(logger: logging.Logger, value: Any) -> Root:
    """All loggers hang on one manager, and through it on each library: the search ends here."""
    name = f"logging.getLogger({logger.name!r})"
    return Root(
        kind="logger", name=logger.name, place="of logging", imports="logging",
        expression=f"{name}.handlers" if value is logger.handlers else f"vars({name})",
    )  # fmt: skip


def _of_local(local: Local) -> Root:
    if local.is_returned:
        return Root(kind="returned", name=local.name, expression=None,
                    place=f"what `{local.function}` returns")  # fmt: skip
    if local.thread:
        return Root(
            kind="thread", name=local.name, expression=None, is_library=local.is_library,
            place=f"of `{local.function}` ({local.where}), which thread `{local.thread}` runs",
        )  # fmt: skip
    return Root(
        kind="local", name=local.name, expression=local.name, is_library=local.is_library,
        place=f"of `{local.function}`, which is running ({local.where})",
    )  # fmt: skip


def is_library_module(name: str) -> bool:
    """Whether a module is Python's own or an installed package's."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return is_library(str(file)) if file else name in sys.builtin_module_names
