"""Frames: the local variables of functions that run now, read so that nothing more is kept."""

from __future__ import annotations

import inspect
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from willfit.live.memory.notebook import cell_of

_OURS: Final = __name__.rpartition(".")[0]
WATCHED: Final = ("watched", "run_watched")
"""Functions of ours around a user's own code, whose local ``returned`` is what that gives."""
_LIBRARIES: Final = tuple(
    str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")
)


@dataclass(frozen=True, kw_only=True)
class Local:
    """A local variable of a function that has not returned."""

    name: str
    function: str
    where: str
    """``line 12 of train.py``, ``cell In[5]``."""
    thread: str
    """Its thread's name; empty for the thread that asks."""
    is_library: bool
    """Whether the function belongs to an installed package."""
    is_returned: bool = False
    """Whether it is what a function that is watched gives its caller."""


def is_ours(frame: FrameType) -> bool:
    """Whether a frame belongs to this search."""
    name = str(frame.f_globals.get("__name__", ""))
    return name == _OURS or name.startswith(f"{_OURS}.")


def locals_of(frame: FrameType) -> dict[str, Any]:
    """Names and values of a frame.

    Up to Python 3.12 the frame keeps the dictionary that ``f_locals`` makes, and with it every
    value beyond a ``del`` of the name; it is emptied here. A debugger writes it back into the
    frame, so that one's frames are left alone.
    """
    values = dict(frame.f_locals)
    if sys.version_info < (3, 13) and _has_fast_locals(frame) and frame.f_trace is None:
        frame.f_locals.clear()
    return values


def _has_fast_locals(frame: FrameType) -> bool:
    """False for modules and class bodies, whose ``f_locals`` are the variables themselves."""
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def running() -> Iterator[tuple[FrameType, str]]:
    """Frames of all threads, innermost first, with the thread's name where it is another."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    for number, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None:
            yield frame, "" if number == here else names.get(number, f"thread {number}")
            frame = frame.f_back


def running_locals() -> dict[int, list[Local]]:
    """Local variables of every function that runs now, by the identity of their values.

    Those of this search are left out; so are modules and cells, whose variables are no locals.
    """
    found: dict[int, list[Local]] = {}
    for frame, thread in running():
        if is_ours(frame) or not _has_fast_locals(frame):
            _add_returned(found, frame)
            continue
        for name, value in locals_of(frame).items():
            found.setdefault(id(value), []).append(_local(frame, thread, name))
    return found


def _add_returned(found: dict[int, list[Local]], frame: FrameType) -> None:
    """The one local of ours that is a holder: the result of a function that is watched."""
    if not is_ours(frame) or frame.f_code.co_name not in WATCHED:
        return
    values = locals_of(frame)
    if "returned" in values:
        function = str(getattr(values.get("function"), "__name__", "the cell"))
        local = Local(
            name="returned",
            function=function,
            where="",
            thread="",
            is_library=False,
            is_returned=True,
        )
        found.setdefault(id(values["returned"]), []).append(local)


def _local(frame: FrameType, thread: str, name: str) -> Local:
    return Local(
        name=name,
        function=function_of(frame),
        where=where_of(frame),
        thread=thread,
        is_library=is_library(frame.f_code.co_filename),
    )


def function_of(frame: FrameType) -> str:
    """Name of the function, as its definition has it."""
    return frame.f_code.co_name


def where_of(frame: FrameType) -> str:
    """``cell In[5]`` or ``line 12 of train.py``."""
    name = frame.f_code.co_filename
    cell = cell_of(name)
    return cell or f"line {frame.f_lineno} of {Path(name).name}"


def is_library(file: str) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    return file.startswith((*_LIBRARIES, "<frozen"))
