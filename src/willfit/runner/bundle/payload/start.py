"""Starts the run of the bundle beside this file: finds the inputs, then becomes ``willfit run``.

``python start.py /kaggle/input /kaggle/working``. What is attached to a notebook has lain in two
layouts, ``/kaggle/input/NAME`` and ``/kaggle/input/datasets/OWNER/NAME`` (or ``competitions/NAME``,
``models/OWNER/NAME``, ``notebooks/OWNER/NAME``), so that a path of the pipeline is looked for in
both. The pipeline with the paths as they are here is written to ``/kaggle/working/pipeline.yaml``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MOUNT = "/kaggle/input"
"""What the paths of a pipeline begin with."""
DEPTH = 6
"""Folders below the inputs that are looked into: notebooks/OWNER/NAME/run and two more."""
MOST = 2000
"""Entries of a folder that are looked at: a folder of images has no run in it."""
LEADS = {"competitions": 1, "datasets": 2, "models": 2, "notebooks": 2}
"""Parts before the NAME of what is attached, in the layout that has them."""


class RefusedError(Exception):
    """Nothing is started; the message says why in one sentence."""


def prepared(inputs: Path, working: Path) -> list[str] | None:
    """Write the pipeline; returns its command, or None where something is not attached."""
    bundle = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    try:
        places = {path: str(located(path, inputs)) for path in bundle["refers"]}
    except RefusedError as error:
        say(f"start.py: {error}")
        return None
    for path, place in places.items():
        if path != place:
            say(f"start.py: {path} is at {place}")
    pipeline = working / "pipeline.yaml"
    pipeline.write_text(text_of(bundle["pipeline"], places), encoding="utf-8")
    command = command_of(pipeline, working, earlier_run(inputs))
    say(f"willfit {' '.join(command[3:])}")
    return command


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def text_of(pieces: list[str | dict[str, str]], places: dict[str, str]) -> str:
    """The pipeline's text, its paths as they are here."""
    return "".join(piece if isinstance(piece, str) else _quoted(piece, places) for piece in pieces)


def _quoted(piece: dict[str, str], places: dict[str, str]) -> str:
    found = places[piece["input"]] if "input" in piece else str(HERE / piece["bundle"])
    return json.dumps(found, ensure_ascii=False)


def command_of(pipeline: Path, working: Path, earlier: Path | None) -> list[str]:
    """``willfit run`` of the pipeline, going on from an earlier run where one is attached."""
    command = [sys.executable, "-m", "willfit.cli.main", "run", str(pipeline)]
    command += ["--run-dir", str(working / "run")]
    return command if earlier is None else [*command, "--resume-from", str(earlier)]


def located(path: str, inputs: Path) -> Path:
    """Where a path under /kaggle/input is; raises `RefusedError` where it is nowhere, or twice."""
    parts = Path(path).relative_to(MOUNT).parts
    if inputs.joinpath(*parts).exists():
        return inputs.joinpath(*parts)
    for first, *rest in (parts, parts[LEADS.get(parts[0], 0) :]):
        places = [place.joinpath(*rest) for place in named(first, inputs)]
        found = [place for place in places if place.exists()]
        if len(found) > 1:
            raise RefusedError(
                f"the pipeline reads {path}, and there are {' and '.join(map(str, found))}: make "
                "the bundle again with --map and the one that is meant"
            )
        if found:
            return found[0]
    attached = sorted(str(folder) for folder, _, depth in walked(inputs) if 0 < depth <= 2)
    raise RefusedError(
        f"the pipeline reads {path}, which is not attached: add it with Add Input, or make the "
        f"bundle again with --map and where it is (attached are {', '.join(attached) or 'none'})"
    )


def named(name: str, inputs: Path) -> Iterator[Path]:
    """What is attached under a name, in either layout."""
    for folder, entries, depth in walked(inputs):
        if name in entries and depth <= max(LEADS.values()):
            yield folder / name


def walked(top: Path) -> Iterator[tuple[Path, list[str], int]]:
    """Folders, the nearest first, with the names in them and how deep they lie."""
    waiting = [(top, 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        try:
            with os.scandir(folder) as scanned:
                entries = list(itertools.islice(scanned, MOST))
        except OSError:
            continue
        yield folder, [entry.name for entry in entries], depth
        if depth < DEPTH:
            inner = sorted(entry.name for entry in entries if entry.is_dir())
            waiting += [(folder / name, depth + 1) for name in inner]


def earlier_run(inputs: Path) -> Path | None:
    """The run folder that is attached, as output of another notebook; the latest of several."""
    found = [
        (float(_facts(folder).get("began", 0)), folder)
        for folder, entries, _ in walked(inputs)
        if "run.json" in entries and "stages" in entries
    ]
    return max(found)[1] if found else None


def _facts(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    starting = prepared(Path(sys.argv[1]), Path(sys.argv[2]))
    if starting is None:
        sys.exit(1)
    os.chdir(sys.argv[2])
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.execve(starting[0], starting, offline)  # so that who interrupts this interrupts the run
