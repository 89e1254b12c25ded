"""`isolated`: functions called in a process of their own, whose GPUs are seen to come back."""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import linecache
import math
import os
import pickle
import queue
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, TypeVar

import cloudpickle  # type: ignore[import-untyped]  # it has no stubs

from willfit.errors import GpuNotReleasedError, InputError, StageFailedError
from willfit.runner import protocol
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.gpus import GpuProbe, NvmlProbe, Sampler, visible
from willfit.runner.processes import GRACE, Ended, LocalLauncher, Said, tail
from willfit.runner.release import PATIENCE, Contract, Release
from willfit.units import MIB

MOST_LOG: Final = 16 * MIB
"""Bytes of output that `Caller.log` keeps: the end."""
SHOWN_EVERY: Final = 0.1
"""Seconds between two looks at what a function printed."""
_LOG_LINES: Final = 15
"""Lines of output that the error of a dead process quotes."""
_NO_FILE: Final = "<dynamic-code>"
"""What cloudpickle from 3.1 writes for every function's file."""

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=protocol.Event)


class CallTimeoutError(StageFailedError, TimeoutError):
    """A call took longer than it may; its process was ended."""


class RemoteTraceback(Exception):  # noqa: N818 - what it shows, as in the standard library
    """The cause of an exception that came from another process: its traceback, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@contextlib.contextmanager
def isolated(
    gpu: int | Sequence[int] | Literal["cpu"] | None = None,
    *,
    timeout: float | None = None,
    patience: float = PATIENCE,
    probe: GpuProbe | None = None,
) -> Iterator[Caller]:
    """Call functions in a fresh process; after the block their GPU's memory is measured back.

        with willfit.isolated(gpu=0) as call:
            call(load)
            scores = call(predict, rows, batch_size=8)

    All calls of a block run in one process, so what a function keeps in a global is there for the
    next one. Functions and classes of a notebook or script go by value: nothing is imported again.
    What they print is shown here; an exception is raised here, with the process's own traceback as
    its cause, and the process lives on. Tensors of a GPU come back on the CPU.

    ``gpu``: the GPUs that the process sees, by their place in ``CUDA_VISIBLE_DEVICES`` if that is
    set: a number, several, ``"cpu"`` for none, or None to leave it all as it is. ``timeout``:
    seconds that a call may take. ``patience``: seconds to wait for memory. ``probe`` reads the
    GPUs.

    When the block ends, however it does, every process below the caller's is gone. Raises
    `GpuNotReleasedError` naming the holders where memory is not back in time, `CallTimeoutError`
    and `StageFailedError` (with the end of the output) where a call's process was ended or died,
    and `InputError` on what cannot be used or sent. An interrupt (Ctrl-C) ends the process at once.
    """
    _require_seconds("timeout", timeout)
    _require_seconds("patience", patience)
    probe = probe or NvmlProbe()
    devices, numbers = _devices(gpu, probe)
    contract = Contract.now(probe, numbers, patience=patience)
    with contextlib.ExitStack() as stack:
        sampler = Sampler(probe=probe)
        if numbers:
            stack.enter_context(sampler)
        folder = tempfile.TemporaryDirectory(prefix="willfit-call-", ignore_cleanup_errors=True)
        caller = Caller(Path(stack.enter_context(folder)), devices, timeout)
        interrupted = False
        try:
            caller.wait_until_ready()
            yield caller
        except Exception:
            raise
        except BaseException:
            interrupted = True
            raise
        finally:
            try:
                _look(probe, sampler, numbers)
            finally:
                caller.end(0.0 if interrupted else GRACE)
            caller.release = _released(contract, sampler, numbers, interrupted=interrupted)


def _released(
    contract: Contract, sampler: Sampler, numbers: Sequence[int], *, interrupted: bool
) -> Release | None:
    """The memory's return; an interrupt that is on its way is not replaced by its absence."""
    if not numbers:
        return Release(gpus=(), seconds=0.0)
    try:
        return contract.wait(numbers, sampler.highest)
    except GpuNotReleasedError as error:
        if not interrupted:
            raise
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return None


def _look(probe: GpuProbe, sampler: Sampler, numbers: Sequence[int]) -> None:
    """One reading while the process still holds what it took: a call may be over in no time."""
    found = probe.read() if numbers else ()
    for number in numbers:
        if number < len(found):
            used = found[number].used_bytes
            sampler.highest[number] = max(sampler.highest.get(number, 0), used)


class Caller:
    """Calls functions in the process of a block of `isolated`."""

    release: Release | None = None
    """What the GPUs gave back, once the block is over: bytes before, at most, and after."""

    def __init__(self, folder: Path, devices: str | None, timeout: float | None) -> None:
        self._folder, self._timeout = folder, timeout
        self._said: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self._numbers, self._busy = itertools.count(), threading.Lock()
        self._gone, self._fatal, self._kills = "", "", host_kills()
        self._output = _Output(folder / "output.txt")
        job = protocol.Job(
            kind="call", name="isolated", parent=os.getpid(),
            dies_with_parent_thread=threading.current_thread() is threading.main_thread(),
        )  # fmt: skip
        self._worker = LocalLauncher(folder=folder).start(
            job, devices=devices, log=self._output.path, listener=self._said.put
        )

    def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, called in the process; raises what it raises."""
        name = _name(function)
        with self._busy:
            if self._gone:
                raise StageFailedError(f"{name} cannot be called: {self._gone}")
            number = next(self._numbers)
            call, answer = self._folder / f"{number}.call", self._folder / f"{number}.answer"
            _write_call(call, function, args, kwargs)
            try:
                self._worker.send(protocol.Call(call=str(call), answer=str(answer)))
                told = self._next(protocol.Answered, self._timeout, name)
                result = _read_answer(answer, name)
            except InputError:
                raise
            except BaseException as error:
                self.end(0.0, f"its process was ended by {type(error).__name__} in a call")
                raise
            finally:
                for path in (call, answer):
                    path.unlink(missing_ok=True)
        if told.ok:
            return result  # type: ignore[no-any-return]  # what the function says it returns
        raise _error(result, name)

    @property
    def log(self) -> str:
        """What the process printed so far, or in the block: the end of it, `MOST_LOG` bytes."""
        return self._output.text()

    def wait_until_ready(self) -> None:
        """Return when the process takes calls; raises `StageFailedError` where it does not come."""
        try:
            self._next(protocol.Loaded, None, "the first function")
        except StageFailedError as error:
            self._gone = str(error)
            raise

    def end(self, grace: float, why: str = "its block is over: open another") -> None:
        """Its process and all below it are gone when this returns; its output is shown."""
        try:
            self._worker.end(grace)
        except BaseException:  # a second interrupt: no more patience
            self._worker.end(0.0)
            raise
        finally:
            self._gone = self._gone or why
            self._output.keep()

    def _next(self, wanted: type[E], limit: float | None, name: str) -> E:
        """The next event of a kind, while what is printed meanwhile is shown."""
        began = time.monotonic()
        while True:
            left = math.inf if limit is None else limit - (time.monotonic() - began)
            with contextlib.suppress(queue.Empty):
                said = self._said.get(timeout=max(0.0, min(SHOWN_EVERY, left)))
                if isinstance(said, wanted):
                    self._output.show()
                    return said
                if isinstance(said, protocol.Fatal):
                    self._fatal = said.message
                if isinstance(said, Ended):
                    raise self._died(said, name)
            self._output.show()
            if left <= 0:
                raise CallTimeoutError(
                    f"{name} took longer than {limit:g} s, so its process was ended: give a "
                    "longer timeout, or none"
                )

    def _died(self, ended: Ended, name: str) -> StageFailedError:
        self._output.show()
        why = self._fatal or why_ended(ended, self._kills)
        self._gone = f"its process is gone ({why}): open another block"
        lines = ended.log.rstrip().splitlines()[-_LOG_LINES:]
        printed = "; the end of its output:\n" + "\n".join(lines) if lines else ""
        return StageFailedError(f"the process of {name} died: {why}{printed}")


class _Output:
    """A log that grows, shown as it does."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept: str | None = None

    def show(self) -> None:
        """Write what is new to the caller's output."""
        while not self._file.closed and (data := self._file.read(1 << 16)):
            _write(self._decoder.decode(data))

    def keep(self) -> None:
        """Show the rest and keep the text, since the file goes."""
        if self._kept is None:
            self.show()
            self._kept = self.text()
            self._file.close()

    def text(self) -> str:
        """What was printed."""
        return tail(self.path, MOST_LOG) if self._kept is None else self._kept


def _write(text: str) -> None:
    """To ``sys.stdout``, with what it cannot encode replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if sys.stdout is not None:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


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


def _write_call(path: Path, function: Any, arguments: Any, keywords: Any) -> None:
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
        raise InputError(
            f"the call of {_name(function)} cannot be sent to its process ({_what(error)}): what "
            "it is given and what it uses must be plain data, so make the rest inside of it"
        ) from None


def _sources(names: set[str]) -> dict[str, list[str]]:
    """Source lines that are in no file, such as those of a notebook's cells."""
    found = {name: linecache.getlines(name) for name in names if not Path(name).is_file()}
    return {name: lines for name, lines in found.items() if lines}


def _read_answer(path: Path, name: str) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except Exception as error:
        raise InputError(
            f"what {name} returned cannot be read here ({_what(error)}): return plain data, such "
            "as numbers, text and arrays"
        ) from None


def _error(failure: Any, name: str) -> BaseException:
    """What the function raised; or that its result cannot be sent."""
    if failure["kind"] == "unpicklable":
        return InputError(
            f"what {name} returned cannot be sent back ({failure['what']}): return plain data, "
            "such as numbers, text and arrays"
        )
    error: BaseException = RuntimeError(failure["what"])
    if failure["error"] is not None:
        with contextlib.suppress(Exception):  # it may lack what it needs here
            error = _Unpickler(io.BytesIO(failure["error"])).load()
    error.__cause__ = RemoteTraceback(failure["traceback"])
    return error


def _devices(gpu: Any, probe: GpuProbe) -> tuple[str | None, list[int]]:
    """``CUDA_VISIBLE_DEVICES`` of the process (None: as it is), and its GPUs' numbers in NVML."""
    if isinstance(gpu, str) and gpu == "cpu":
        return "", []
    found = visible(probe)
    if gpu is None:
        return None, list(found.nvml_index.values())
    asked = [gpu] if isinstance(gpu, int) else list(gpu) if isinstance(gpu, Sequence) else []
    numbers = [number for number in asked if type(number) is int]
    if not numbers or len(set(numbers)) < len(asked) or isinstance(gpu, str):
        raise InputError(
            f"gpu={gpu!r} was given: expected a GPU's number, a list of different ones, 'cpu' for "
            "none, or None to leave CUDA_VISIBLE_DEVICES as it is"
        )
    for number in numbers:
        if number not in found.gpus:
            there = ", ".join(map(str, found.gpus))
            raise InputError(
                f"gpu={number} was given and "
                f"{f'the GPUs that can be seen are {there}' if there else 'no GPU can be seen'}: "
                "name one that is there, or 'cpu'"
            )
    return (
        ",".join(found.names[number] for number in numbers),
        [found.nvml_index[number] for number in numbers],
    )


def _require_seconds(name: str, seconds: Any) -> None:
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
        raise InputError(f"{name}={seconds!r} was given: expected seconds, more than 0")


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
