"""The bundle's README, its notebook, and the comments of its cell."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from willfit.runner.bundle.image import Image
from willfit.runner.bundle.sentences import kaggle
from willfit.runner.bundle.wheels import Wheel
from willfit.units import format_bytes

PAYLOAD: Final = Path(__file__).resolve().parent / "payload"


def cell(name: str, attached: Sequence[str]) -> str:
    """The one cell, which begins with what to attach."""
    source = (PAYLOAD / "cell.py").read_text(encoding="utf-8")
    body = source.partition('"""\n\n')[2]
    body = body.replace('BUNDLE = "NAME"', f"BUNDLE = {json.dumps(name, ensure_ascii=False)}")
    return f"{_header(name, attached)}{body}"


def _header(name: str, attached: Sequence[str]) -> str:
    lines = [
        f"willfit bundle {name}: this one cell is the whole notebook. Settings: GPU T4 x2, "
        "Internet off. Attach with Add Input:",
        f"- this bundle, as a dataset (wherever it is mounted, the folder with {name}'s "
        "bundle.json is found)",
        *(f"- what the pipeline reads at {path}" for path in attached),
        "- to go on after a crash or a time-out: the output of the notebook that ended (Add Input, "
        "Notebook Output); its shards are used again",
    ]
    wrapped = [
        textwrap.wrap(line, 97, subsequent_indent="  " if line[0] == "-" else "") for line in lines
    ]
    return "".join(f"# {line}\n" for part in wrapped for line in part)


def notebook(source: str) -> dict[str, Any]:
    """A notebook of the one cell, in nbformat 4.5."""
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "kaggle": {
                "accelerator": "nvidiaTeslaT4",
                "isGpuEnabled": True,
                "isInternetEnabled": False,
                "language": "python",
                "sourceType": "notebook",
            },
        },
        "cells": [
            {
                "cell_type": "code",
                "id": "willfit",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": source.splitlines(keepends=True),
            }
        ],
    }


def readme(
    name: str, *, attached: Sequence[str], wheels: Sequence[Wheel], sentences: Sequence[str],
    room: str, image: Image,
) -> str:  # fmt: skip
    """What to upload, how to attach it, how to resume, and what the limits are."""
    place = kaggle()
    inputs = "".join(f"- what the pipeline reads at `{path}`\n" for path in attached)
    table = "".join(
        f"| {wheel.name} {wheel.version} | {format_bytes(wheel.path.stat().st_size)} |\n"
        for wheel in wheels
    )
    lacking = "".join(f"- {sentence}\n" for sentence in sentences) or "- nothing that was seen\n"
    return f"""# {name}, to be run on Kaggle without internet

## Upload

Make a private dataset of this folder: on the site New Dataset, with the folder as a `.zip`, which
is unpacked there; or `kaggle datasets init -p .`, a title and an id in `dataset-metadata.json`, and
`kaggle datasets create -p . --dir-mode zip`.

## Attach and run

A notebook of one cell: `notebook.ipynb` (File, Import Notebook) or the text of `cell.py`. Settings:
GPU T4 x2, Internet off. Add Input:

- this dataset
{inputs}
The cell runs `install.py`, which installs from `wheels/` what the image lacks and changes no
version of anything; then `start.py`, which finds the inputs in either layout of `/kaggle/input` and
becomes `willfit run` with `--run-dir /kaggle/working/run`. It prints a line at least every 30
seconds, and fails the notebook where the run fails. The output is `/kaggle/working/submission.*`.

| in `wheels/` | |
|---|---|
{table}
The image is known to have the rest (Python {image.python}, looked up {image.checked}); `install.py`
asks the image itself, and says what does not suit in one sentence.

## After a crash or a time-out

What was computed lies in `/kaggle/working/run`. In the same session run the cell again. In another,
attach the output of the notebook that ended (Add Input, Notebook Output): shards of the same data,
model and settings are copied from it, and the run goes on from there. Only saved versions have
output, and a submission's rerun on hidden data has none to go on from.

## Limits

- {room}.
- A session has {place.session_hours:g} hours as a submission. `deadline:` in the pipeline ends
  the run in time with what it has; the file is written in any case.
- Files that the code opens by name are not seen here: put them in with `--include`.

## Seen when this was made

{lacking}"""
