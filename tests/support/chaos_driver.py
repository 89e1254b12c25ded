"""``willfit run`` that ends itself with SIGKILL at a named point.

    python -m tests.support.chaos_driver PIPELINE RUN_DIR [POINT[#TIME]]

``before:NAME`` and ``after:NAME`` are the moments about the rename that makes a file of that name
appear; ``started``, ``taken``, ``validated`` and ``stage-ended`` are a worker's start, a shard
given out, a shard found true (and not yet noted), and the end of a stage.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

FILES: Final = (
    "run.json", "stage.json", "writable.json", "progress.json", "released.json", "done.json",
    "out.csv", "out.csv.json", "report.json",
)  # fmt: skip
"""What a driver writes, in about that order."""
POINTS: Final = (
    *(f"{side}:{name}" for name in FILES for side in ("before", "after")),
    "started", "taken", "validated", "stage-ended",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """The run's exit code, if it comes so far."""
    from willfit.cli.main import main as willfit

    pipeline, run_dir, strike = argv
    if strike:
        _arm(strike)
    return willfit(["run", pipeline, "--run-dir", run_dir, "--quiet"])


def _arm(strike: str) -> None:
    """Wrap what happens at the point; ``POINT#3`` strikes the third time."""
    from willfit.runner.atomic import Pending
    from willfit.runner.processes import LocalLauncher
    from willfit.runner.progress import Recording
    from willfit.runner.schedule import Schedule

    point, _, number = strike.partition("#")
    count = itertools.count(1)

    def reached(name: str) -> None:
        if name == point and next(count) == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    commit = Pending.commit

    def committing(self: Pending, final_name: str | None = None) -> Path:
        reached(f"before:{self.target.name}")
        path = commit(self, final_name)
        reached(f"after:{self.target.name}")
        return path

    Pending.commit = committing  # type: ignore[method-assign]
    _wrap(Schedule, "done", before=lambda: reached("validated"))
    _wrap(Schedule, "take", after=lambda: reached("taken"))
    _wrap(LocalLauncher, "start", after=lambda: reached("started"))
    _wrap(Recording, "stage_ended", after=lambda: reached("stage-ended"))


def _nothing() -> None:
    return


def _wrap(
    owner: type, method: str, *, before: Callable[[], None] = _nothing,
    after: Callable[[], None] = _nothing,
) -> None:  # fmt: skip
    original = getattr(owner, method)

    def called(*arguments: Any, **keywords: Any) -> Any:
        before()
        result = original(*arguments, **keywords)
        after()
        return result

    setattr(owner, method, called)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
