"""How a call is written for its process, and what comes back is read: cloudpickle, made safe."""

from __future__ import annotations

import contextlib
import io
import linecache
import pickle
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]  # it has no stubs

from willfit.errors import InputError, StorageError
from willfit.runner.atomic import cannot_write

_NO_FILE: Final = "<dynamic-code>"
"""What cloudpickle from 3.1 writes for every function's file."""


class RemoteTraceback(Exception):  # noqa: N818 - what it shows, as in the standard library
    """The cause of an exception that came from another process: its traceback, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle that keeps, and remembers, where functions come from: for their tracebacks."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.files: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        """As cloudpickle does it, but for the file's name, which it leaves out."""
        if not isinstance(obj, types.CodeType):
            return super().reducer_override(obj)
        name = obj.co_filename
        self.files.add(name)
        make, parts = self.dispatch_table[types.CodeType](obj)
        return make, tuple(name if part == _NO_FILE else part for part in parts)


class _Unpickler(pickle.Unpickler):
    """Unpickles answers; a class that went from here stays as it is here."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._ours = set(getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ()))

    def find_class(self, module: str, name: str) -> Any:
        """As it is, but for what fills a class with the process's copies of its methods."""
        found = super().find_class(module, name)
        if name == "_class_setstate" and module.startswith("cloudpickle."):
            return lambda kind, state: kind if kind in self._ours else found(kind, state)
        return found


def write_call(path: Path, function: Any, arguments: Any, keywords: Any) -> None:
    """The file of a call, as the worker reads it; raises `InputError` on what cannot be sent."""
    if not callable(function):
        raise InputError(
            f"call() was given {function!r}: expected a function and then its arguments, "
            "call(f, x, y=2)"
        )
    try:
        with path.open("wb") as file:
            pickle.dump([str(Path(folder).absolute()) for folder in sys.path], file)
            pickler = _Pickler(file)
            pickler.dump((function, arguments, keywords))
            pickle.dump(_sources(pickler.files), file)
    except Exception as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and isinstance(cannot_write(path, error), StorageError):
            raise _full(f"the call of {name_of(function)}", _what(error)) from None
        raise InputError(
            f"the call of {name_of(function)} cannot be sent to its process ({_what(error)}): what "
            "it is given and what it uses must be plain data, so make the rest inside of it"
        ) from None


def _full(what: str, error: str) -> StorageError:
    return StorageError(
        f"{what} cannot be written to {tempfile.gettempdir()} ({error}): free some space there, or "
        "set TMPDIR to a folder on another disk"
    )


def _sources(names: set[str]) -> dict[str, list[str]]:
    """Source lines that are in no file, such as those of a notebook's cells."""
    found = {name: linecache.getlines(name) for name in names if not Path(name).is_file()}
    return {name: lines for name, lines in found.items() if lines}


def read_answer(path: Path, name: str) -> Any:
    """What the process wrote; raises `InputError` on what this one cannot read."""
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except Exception as error:
        raise InputError(
            f"what {name} returned cannot be read here ({_what(error)}): return plain data, such "
            "as numbers, text and arrays"
        ) from None


def error_of(failure: Any, name: str) -> BaseException:
    """What the function raised; or that its result cannot be sent."""
    if failure["kind"] == "full":
        return _full(f"what {name} returned", failure["what"])
    if failure["kind"] == "unpicklable":
        return InputError(
            f"what {name} returned cannot be sent back ({failure['what']}): return plain data, "
            "such as numbers, text and arrays"
        )
    error: BaseException = RuntimeError(failure["what"])
    if failure["error"] is not None:
        with contextlib.suppress(Exception):  # it may lack what it needs here
            found = _Unpickler(io.BytesIO(failure["error"])).load()
            error = found if isinstance(found, BaseException) else error
    error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def name_of(function: Any) -> str:
    """What a message calls a function."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
