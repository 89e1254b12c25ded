"""Functions of a notebook or script, called in this process: `willfit.isolated`."""

from __future__ import annotations

import faulthandler
import gc
import io
import linecache
import os
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it has no stubs

from willfit.errors import StorageError
from willfit.runner.atomic import cannot_write
from willfit.runner.protocol import Answered, Call, Loaded
from willfit.worker.channel import LEFT_TO_US, Channel
from willfit.worker.space import Space, Unpickler


def answer_calls(channel: Channel) -> None:
    """Answer one call after the other; an exception is an answer too.

    A call's file holds three pickles: the caller's ``sys.path``; the function, its arguments and
    keywords, made with cloudpickle; sources that are in no file. The answer is the pickled result,
    or a mapping that says why there is none. Both files are the caller's own, in a folder that only
    its user can read.
    """
    faulthandler.enable(all_threads=False)  # a crash in native code shows where Python was
    os.environ.pop("PYTHONSAFEPATH", None)  # ours alone: not for scripts that a function starts
    space = Space()
    sys.modules["__main__"] = space.main()
    channel.tell(Loaded(seconds=0.0, host=channel.host_bytes()))
    for command in channel.commands():
        if isinstance(command, Call):
            LEFT_TO_US.add(Path(command.call).parent)
            ok = _answer(Path(command.call), Path(command.answer), space)
            channel.tell(Answered(answer=command.answer, ok=ok))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, with tensors of a GPU carried to the CPU, and of a view no more than it shows.

    Unpickled as they are they would take the caller's GPU, which is what isolation prevents; and
    torch writes all that lies behind a view: 20 GiB for four numbers of it.
    """

    def reducer_override(self, obj: Any) -> Any:
        """How an object is taken apart."""
        torch = sys.modules.get("torch")
        if torch is not None and type(obj) is torch.Tensor and _shows_little(obj):
            return obj.detach().clone().requires_grad_(obj.requires_grad).__reduce_ex__(4)
        if torch is not None and isinstance(obj, torch.storage.TypedStorage):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch means to rename the class
                return obj.cpu().__reduce__()
        return super().reducer_override(obj)


def _shows_little(tensor: Any) -> bool:
    """Whether a tensor is a view of more than twice what it shows."""
    strided = str(tensor.layout) == "torch.strided"
    return strided and int(tensor.untyped_storage().nbytes()) > 2 * int(tensor.nbytes)


def _answer(call: Path, answer: Path, space: Space) -> bool:
    """Whether the function returned; the answer's file says what, or why not."""
    failure = _compute(call, answer, space)
    _flush()
    if failure is None:
        return True
    gc.collect()  # an exception that its own frame holds would keep the frame's tensors
    answer.write_bytes(pickle.dumps(failure))
    return False


def _compute(call: Path, answer: Path, space: Space) -> dict[str, Any] | None:
    try:
        function, arguments, keywords = _read(call, space)
        result = function(*arguments, **keywords)
    except Exception as error:
        return _failure(error, "raised")
    try:
        with answer.open("wb") as file:
            _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(result)
    except Exception as error:
        full = isinstance(error, OSError) and isinstance(cannot_write(answer, error), StorageError)
        return _failure(error, "full" if full else "unpicklable")
    return None


def _read(path: Path, space: Space) -> tuple[Any, Any, Any]:
    """The call; the process then finds modules and sources as its caller does."""
    with path.open("rb") as file:
        folders = pickle.load(file)
        sys.path[:] = [*folders, *(folder for folder in sys.path if folder not in folders)]
        function, arguments, keywords = Unpickler(file, space).load()
        for name, lines in pickle.load(file).items():
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    path.unlink()
    return function, arguments, keywords


def _failure(error: Exception, kind: str) -> dict[str, Any]:
    """All that the caller is told; nothing of it holds a frame."""
    trace = error.__traceback__
    own = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    text = "".join(traceback.format_exception(type(error), error, own))
    return {
        "kind": kind,
        "what": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}",
        "traceback": text,
        "error": _portable(error),
    }


def _portable(error: Exception) -> bytes | None:
    """The exception, pickled; None where it cannot be."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(error)
    except Exception:
        return None
    return file.getvalue()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # a function may have closed or replaced it
            continue
