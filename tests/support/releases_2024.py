"""The libraries of autumn 2024 beside today's: folders made once with pip, put first on the path."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ledger.releases import side_directory

AUTUMN_2024 = {
    "torch": "2.5.1",
    "transformers": "4.46.3",
    "trl": "0.12.1",
    "peft": "0.13.2",
    "accelerate": "1.1.1",
}
"""What a notebook's image had then."""
_DATASETS = "4.4.1"
"""The newest that works with the Hub client of that transformers and the pyarrow of today."""


def autumn_2024() -> list[Path] | str:
    """Folders for ``PYTHONPATH``; why there are none."""
    wanted = {**AUTUMN_2024, "datasets": _DATASETS}
    found = [side_directory(f"{name}=={v}") for name, v in wanted.items() if name != "torch"]
    missing = [path for path in found if isinstance(path, str)]
    return missing[0] if missing else [path for path in found if isinstance(path, Path)]
