"""`isolated`: functions called in a process of their own, whose GPUs are seen to come back."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import math
import os
import queue
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, ParamSpec, TypeVar

from willfit.errors import GpuNotReleasedError, InputError, StageFailedError
from willfit.runner import protocol
from willfit.runner.calls import error_of, name_of, read_answer, write_call
from willfit.runner.ending import host_kills, why_ended
from willfit.runner.gpus import GpuProbe, NvmlProbe, Sampler, visible
from willfit.runner.processes import GRACE, Ended, LocalLauncher, Said, tail
from willfit.runner.release import PATIENCE, Contract, Release
from willfit.units import MIB

MOST_LOG: Final = 16 * MIB
"""Bytes of output that `Caller.log` keeps: the end."""
SHOWN_EVERY: Final = 0.1
"""Seconds between two looks at what a function printed."""
_LOG_LINES: Final = 20
"""Lines of output that the error of a dead process quotes."""
_REMEDY: Final = "end those processes before more is put on the GPU"

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=protocol.Event)


class CallTimeoutError(StageFailedError, TimeoutError):
    """A call took longer than it may; its process was ended."""


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
    if timeout is not None:
        _require_seconds("timeout", timeout)
    _require_seconds("patience", patience)
    probe = probe or NvmlProbe()
    devices, numbers = _devices(gpu, probe)
    contract = Contract.now(probe, numbers, patience=patience, remedy=_REMEDY)
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
        self._gone, self._fatal, self._ended, self._kills = "", "", False, host_kills()
        self._output = _Output(folder / "output.txt")
        job = protocol.Job(
            kind="call", name="isolated", parent=os.getpid(),
        )  # fmt: skip
        self._worker = LocalLauncher(folder=folder).start(
            job, devices=devices, log=self._output.path, listener=self._said.put
        )

    def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, called in the process; raises what it raises."""
        name = name_of(function)
        with self._busy:
            if self._gone:
                raise StageFailedError(f"{name} cannot be called: {self._gone}")
            number = next(self._numbers)
            call, answer = self._folder / f"{number}.call", self._folder / f"{number}.answer"
            write_call(call, function, args, kwargs)
            try:
                self._worker.send(protocol.Call(call=str(call), answer=str(answer)))
                told = self._next(protocol.Answered, self._timeout, name)
                result = read_answer(answer, name)
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
        raise error_of(result, name)

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
        self._gone = self._gone or why
        if self._ended:
            return
        try:
            self._worker.end(grace)
        except BaseException:  # a second interrupt: no more patience
            self._worker.end(0.0)
            raise
        finally:
            self._ended = True
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
    if not (isinstance(seconds, (int, float)) and seconds > 0):
        raise InputError(f"{name}={seconds!r} was given: expected seconds, more than 0")
