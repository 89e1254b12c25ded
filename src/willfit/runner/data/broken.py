"""One sentence for whatever Arrow finds wrong with a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import BrokenFileError, InputError
from willfit.sources.limits import unreadable


@contextmanager
def reading(path: Path, kind: str, fix: str = "write it again") -> Iterator[None]:
    """Errors within as `InputError`: the file is not a readable ``kind``, or cannot be opened."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, ValueError, OSError, TypeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        fix = "save it as UTF-8" if "UTF8" in str(error) else fix
        raise BrokenFileError(f"{path} is not {kind} ({_reason(error)}): {fix}") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "…"
