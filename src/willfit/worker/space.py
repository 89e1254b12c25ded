"""The globals of functions that arrive by value, which outlive the call that brought them."""

from __future__ import annotations

import hashlib
import pickle
import types
from collections.abc import Mapping
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it has no stubs


class Space:
    """Globals by module, for as long as the process lives.

    cloudpickle gives every function that it unpickles globals of its own, so that what one call
    sets with ``global`` the next would not find. Here functions of one module share them: a value
    keeps what functions made of it until the caller's own value changes.
    """

    def __init__(self) -> None:
        self._names: dict[str, dict[str, Any]] = {"__main__": {}}
        self._marks: dict[str, dict[str, str | None]] = {}

    def main(self) -> types.ModuleType:
        """``__main__`` as pickle looks into it; no file that another process would run again."""
        module, names = types.ModuleType("__main__"), self._names["__main__"]

        def find(name: str) -> Any:
            if name.startswith("__") or name not in names:
                raise AttributeError(f"module '__main__' has no attribute {name!r}")
            return names[name]

        module.__getattr__ = find  # type: ignore[method-assign]  # PEP 562
        return module

    def globals_of(self, brought: Mapping[str, Any]) -> dict[str, Any]:
        """Where a function lives that comes with these facts of its module."""
        names = self._names.setdefault(str(brought.get("__name__")), {})
        for name, value in brought.items():
            names.setdefault(name, value)
        return names

    def news(self, names: Mapping[str, Any], brought: Mapping[str, Any]) -> dict[str, Any]:
        """Of the globals that a function brings, those that its caller has changed."""
        marks = self._marks.setdefault(str(names.get("__name__")), {})
        found = {}
        for name, value in brought.items():
            mark = _mark(value)
            if name not in names or mark is None or mark != marks.get(name):
                found[name] = value
            marks[name] = mark
        return found


class Unpickler(pickle.Unpickler):
    """Unpickles functions into a `Space`; with a cloudpickle of other parts, as that does."""

    def __init__(self, file: Any, space: Space) -> None:
        super().__init__(file)
        self._space = space

    def find_class(self, module: str, name: str) -> Any:
        """As it is, but for what makes functions."""
        found, space = super().find_class(module, name), self._space
        if not module.startswith("cloudpickle."):
            return found
        if name == "_make_function":
            return lambda code, names, *rest: found(code, space.globals_of(names), *rest)
        if name == "_function_setstate":

            def set_state(function: Any, state: Any) -> Any:
                own, slots = state
                news = space.news(function.__globals__, slots.get("__globals__", {}))
                return found(function, (own, {**slots, "__globals__": news}))

            return set_state
        return found


def _mark(value: object) -> str | None:
    """A digest of a value; None for what is always taken anew, since nothing is lost with it."""
    if isinstance(value, (types.FunctionType, type, types.ModuleType)):
        return None
    digest = _Digest()
    try:
        _Marker(digest).dump(value)
    except Exception:  # whatever an object does that is pickled
        return None
    return digest.hash.hexdigest()


class _Digest:
    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


class _Marker(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles to be compared only: a function without its globals, which calls may change."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            code = obj.__code__
            cells = [cell.cell_contents for cell in obj.__closure__ or ()]
            return (
                str,
                (obj.__qualname__,),
                (code.co_code, code.co_consts, code.co_names, obj.__defaults__, cells),
            )
        return super().reducer_override(obj)
