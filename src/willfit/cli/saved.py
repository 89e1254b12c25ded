"""Files that willfit itself wrote: read within bounds, checked for their schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError

MAX_FILE_BYTES: Final = 16 * 2**20
"""Bound on a saved result; a real one has some ten kilobytes."""


SUFFIXES: Final = (".json", ".html", ".htm")
"""Ends of the names of files that hold a result: JSON, and pages that carry it."""


def read_saved(path: Path, schemas: Sequence[str]) -> dict[str, Any]:
    """The object in a file; raises `InputError` where it is none of these schemas."""
    expected = " or ".join(_PLAIN.get(schema, schema) for schema in schemas)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BrokenFileError(f"{path} is larger than 16 MiB: expected {expected}")
        content = _content(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BrokenFileError(f"{path} is not JSON: expected {expected}") from None
    if not isinstance(content, dict) or content.get("schema") not in schemas:
        raise InputError(
            f"{path} is not {expected} (schema {' or '.join(schemas)}): "
            "save one with 'willfit estimate … --json'"
        )
    return content


def _content(path: Path) -> Any:
    """What a file of JSON holds, or the JSON in a page that ``--html`` wrote."""
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    from willfit.report.html.reading import embedded_json

    return embedded_json(path.read_text(encoding="utf-8", errors="replace"), str(path))


_PLAIN: Final = {
    "willfit.estimate/1": "a saved estimate",
    "willfit.measurement/1": "a saved measurement",
}
