"""How long the linter takes for a file of 5,000 lines, and the search for holders among a million.

    python -m benchmarks.lint

The promises: a second for the file, two for the search, on an idle core. Prints both.
"""

from __future__ import annotations

import time
from typing import Final

LINES: Final = 5_000
OBJECTS: Final = 1_000_000


def lint_seconds() -> float:
    """Seconds of CPU for a script of `LINES` lines, the data files read before."""
    from willfit.doctor.lint import lint_python

    head = (
        "import torch\nfrom transformers import AutoModelForCausalLM\n\ndef step(batch, scale):\n"
    )
    body = "    return [x * scale for x in batch if x]\n\n"
    lines = (f"value_{i} = step([{i}], scale={i} / 7)" for i in range(LINES))
    lint_python(head + body)
    started = time.process_time()
    lint_python(head + body + "\n".join(lines))
    return time.process_time() - started


def search_seconds() -> float:
    """Seconds of CPU to find who holds a model of 600 parameters among `OBJECTS` others."""
    import torch

    from willfit.live.memory.holders import find_holders
    from willfit.live.memory.storages import storages_of

    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(300)])
    held = [torch.optim.SGD(model.parameters())]
    storages = storages_of(model.parameters())
    many = [[number] for number in range(OBJECTS)]
    started = time.thread_time()
    find_holders(storages.values())
    spent = time.thread_time() - started
    del many, held
    return spent


def main() -> None:
    """Print both."""
    print(f"linter: {lint_seconds():.2f} s for {LINES:,} lines")
    print(f"holders: {search_seconds():.2f} s among {OBJECTS:,} objects")


if __name__ == "__main__":
    main()
