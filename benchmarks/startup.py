"""Start-up, side by side in one run: willfit's first answer against accelerate's own command.

``python -m benchmarks.startup [--runs N] [--python PY] [--peer-python PY]`` times whole processes
in turn (A B A B …), prints the median of each and the ratio, and fails where a promise is broken:
``estimate`` ≤ 0.4 s and ≤ 1/8 of the peer, ``--help`` ≤ 0.25 s. ``--python`` may be an environment
with only the core; ``--peer-python`` needs accelerate and transformers.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

ESTIMATE_SECONDS: Final = 0.4
HELP_SECONDS: Final = 0.25
PEER_RATIO: Final = 1 / 8

_WILLFIT: Final = ["-m", "willfit", "estimate", "meta-llama/Meta-Llama-3-8B", "--gpu", "T4"]
_HELP: Final = ["-m", "willfit", "--help"]
_PEER: Final = """
from accelerate.commands import estimate
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
from transformers import AutoModel, LlamaConfig
config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
with init_empty_weights():
    model = AutoModel.from_config(config)
print(calculate_maximum_sizes(model))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Time the three commands in turn; 0 where every promise holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--peer-python", default=sys.executable)
    arguments = parser.parse_args(argv)
    commands = {
        "estimate": [arguments.python, *_WILLFIT],
        "help": [arguments.python, *_HELP],
        "accelerate": [arguments.peer_python, "-c", _PEER],
    }
    medians = _medians(commands, arguments.runs)
    ratio = medians["estimate"] / medians["accelerate"]
    for name, seconds in medians.items():
        print(f"{name:12} {seconds:6.3f} s (median of {arguments.runs})")
    print(f"estimate / accelerate = {ratio:.3f} (promised: at most {PEER_RATIO:.3f})")
    kept = (
        medians["estimate"] <= ESTIMATE_SECONDS
        and medians["help"] <= HELP_SECONDS
        and ratio <= PEER_RATIO
    )
    print("promises kept" if kept else "a promise is broken")
    return 0 if kept else 1


def _medians(commands: dict[str, list[str]], runs: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
