"""Files that commands write: whole or not at all, and one sentence where they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from willfit.errors import InputError, StorageError

if TYPE_CHECKING:
    from willfit.report.drawing import Drawing


def write_drawing(name: str, drawing: Drawing) -> None:
    """As SVG or PNG, by the file's name; raises `InputError` where that cannot be done."""
    from willfit.report.bitmap import png
    from willfit.report.drawing import svg

    if name.lower().endswith(".png"):
        write_file(name, png(drawing))
    else:
        write_text(name, svg(drawing))


def write_text(name: str, text: str) -> None:
    """Text as UTF-8, whatever it holds; raises `InputError` where it cannot be written."""
    write_file(name, text.encode("utf-8", errors="replace"))


def write_file(name: str, content: bytes) -> None:
    """The whole file or none of it, in place of what was there.

    Raises `InputError` where it cannot be written.
    """
    from willfit.runner.atomic import write_bytes

    path = _target(Path(name))
    try:
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            path.write_bytes(content)
        else:
            write_bytes(path, content)
    except StorageError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"cannot write {name}: {error.strerror}") from None


def check_place(name: str | None) -> None:
    """Refuse, before hours of work, a file that could not be written after them."""
    if name is not None:
        _target(Path(name))


def _target(path: Path) -> Path:
    """Where the file lies, links followed; raises `InputError` where there is no place for it."""
    try:
        path = path.resolve()
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder, name a file in it")
        if not path.parent.is_dir():
            raise InputError(
                f"cannot write {path}: there is no folder {path.parent}, make it first"
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot write {str(path)[:80]}: {error}") from None
    return path
