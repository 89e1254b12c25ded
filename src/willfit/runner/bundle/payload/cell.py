"""The cell of a notebook that runs a bundle: installs, runs, and fails where the run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

BUNDLE = "NAME"
INPUT = Path("/kaggle/input")
WORKING = Path("/kaggle/working")
INCOMPLETE = 5
"""What ``willfit run`` leaves with where a stage failed."""


def bundle() -> Path:
    """The folder of the bundle, wherever it is mounted; the newest of several."""
    for depth in range(1, 7):  # NAME/…, datasets/OWNER/NAME/…
        found = []
        for file in INPUT.glob("/".join(["*"] * depth + ["bundle.json"])):
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts.get("name") == BUNDLE:
                found.append((facts["made"], file.parent))
        if found:
            return max(found)[1]
    raise RuntimeError(f"the bundle {BUNDLE} is not attached: Add Input, Datasets")


def run(*command: object) -> int:
    """Run a command and show what it says as it says it: a silent cell gets killed."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
    except BaseException:  # the cell was interrupted: the run ends and keeps what it has
        process.terminate()
        process.wait()
        raise
    return process.wait()


def failed(script: str, code: int) -> RuntimeError:
    """What ends the cell."""
    return RuntimeError(f"{script} failed ({code}), see above")


def output_since(moment: float) -> str | None:
    """The file that the run has written since then; None where there is none."""
    report = WORKING / "run/report.json"
    if not report.is_file() or report.stat().st_mtime < moment:
        return None
    found: str | None = json.loads(report.read_text(encoding="utf-8")).get("output")
    return found


def main() -> None:
    """Install, run; a stage that failed does not cost the file that was written without it."""
    began = time.time()
    code = run(bundle() / "install.py")
    if code:
        raise failed("install.py", code)
    code = run(bundle() / "start.py", INPUT, WORKING)
    output = output_since(began) if code == INCOMPLETE else None
    if code and output is None:
        raise failed("start.py", code)
    if code:
        print(f"A stage failed, see above: {output} was made from what there is.", flush=True)


if __name__ == "__main__":
    main()
