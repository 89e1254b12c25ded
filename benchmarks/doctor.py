"""How fast the doctor reads a log of any size, and how much memory that takes.

    python -m benchmarks.doctor [--gib 1] [--only WORD]

Writes each log to a temporary file, reads it in a process of its own, and prints seconds, the peak
of its resident memory and what it found; then twice as much of each, and how many times as long
that took. Fails where the realistic log of 1 GiB takes 30 s or 200 MiB, or where twice the text
takes more than three times as long.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from willfit.units import GIB, MIB

SECONDS: Final = 30.0
"""Promised for 1 GiB."""
PEAK_MIB: Final = 200
RATIO: Final = 3.0
"""Of the times of twice and of once a log: 2 is linear, 4 a square."""
OOM: Final = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {} MiB. GPU {} has a total "
    "capacity of 79.15 GiB of which 11.06 MiB is free. Including non-PyTorch memory, this process "
    "has 79.10 GiB memory in use. Of the allocated memory 77.04 GiB is allocated by PyTorch, and "
    "509.85 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.\n"
)
_WORKER: Final = """
import json, resource, sys, time
from pathlib import Path
from willfit.doctor.find import reports_in
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, cpu = time.perf_counter(), time.process_time()
reports = reports_in(Path(sys.argv[1]))
print(json.dumps({
    "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu,
    "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "reports": len(reports), "times": sum(report.times for report in reports),
}))
"""


@dataclass(frozen=True)
class Read:
    """What reading one log took."""

    seconds: float
    cpu: float
    peak_kib: int
    reports: int
    times: int


def training(num_bytes: int) -> Iterator[str]:
    """Steps, progress bars, requests, evaluations; failures in the middle and at the end."""
    dice = random.Random(1)
    written = 0
    for step in count():
        clock = f"2026-01-05 {step // 3600 % 24:02}:{step // 60 % 60:02}:{step % 60:02},123"
        lines = [
            f"{{'loss': {dice.random():.4f}, 'grad_norm': {dice.random() * 9:.6f}, "
            f"'learning_rate': {dice.random() * 1e-4:.3e}, 'epoch': {step / 1e5:.2f}}}\n",
            f"\r{step % 100:3}%|{'█' * (step % 10):10}| {step}/999999 [12:01<3:12, 1.31it/s]",
            f"{clock} - INFO - trainer - step {step} memory allocated {dice.random() * 70:.2f} "
            "GB\n",
            f"INFO 01-05 12:{step % 60:02}:00 [loggers.py:118] Engine 000: Avg generation "
            f"throughput: {dice.random() * 999:.1f} tokens/s, GPU KV cache usage: 71.3%\n",
            f"[rank{step % 8}]: checkpoint shard {dice.randrange(10**12):x} written\n",
            f'10.0.{step % 255}.7:{step % 60000} - "POST /v1/completions HTTP/1.1" 200 OK\n',
        ]
        text = "".join(dice.sample(lines, 4))
        if step % 400_000 == 399_999:
            text += "Traceback (most recent call last):\n" + OOM.format(dice.randrange(999), 0)
        yield text
        written += len(text) + 20
        if written >= num_bytes:
            yield "".join(f"[rank{rank}]: {OOM.format('224.00', rank)}" for rank in range(8))
            return


def repeated(num_bytes: int) -> Iterator[str]:
    """A loop that tries again and again."""
    for number in range(num_bytes // 560):
        yield f"ERROR 01-05 12:{number // 60 % 60:02}:{number % 60:02} [core.py:3] " + OOM.format(
            2, 0
        )


def different(num_bytes: int) -> Iterator[str]:
    """The same with other numbers each time."""
    for number in range(num_bytes // 535):
        yield OOM.format(f"{number}.00", 0)


def words(num_bytes: int) -> Iterator[str]:
    """Lines of which none is like another."""
    dice = random.Random(2)
    known = ["".join(dice.choices("eeaoitnsrlhdcumpfg", k=dice.randint(2, 9))) for _ in range(9999)]
    for _ in range(num_bytes // 64):
        yield " ".join(dice.choices(known, k=9)) + "\n"


def killed(num_bytes: int) -> Iterator[str]:
    """One word a line, and each time the word."""
    for _ in range(num_bytes // 7000):
        yield "Killed\n" * 1000


def long_lines(num_bytes: int) -> Iterator[str]:
    """Lines of 5 MiB, a failure in each."""
    for _ in range(num_bytes // (5 * MIB)):
        yield "step 1 loss 0.25 " * (5 * MIB // 17) + OOM.format(7, 0)


def one_line(num_bytes: int) -> Iterator[str]:
    """No newline at all; failures all over."""
    for number in range(num_bytes // (64 * 1024)):
        yield "step 1 loss 0.25 " * (64 * 1024 // 17) + (
            OOM.format(7, 0)[:-1] if number % 9 == 0 else ""
        )


def nuls(num_bytes: int) -> Iterator[str]:
    """Holes of a rotated log, and one failure."""
    for number in range(num_bytes // MIB):
        yield "\0" * MIB + (OOM.format(7, 0) if number == 9 else "")


LOGS: Final[tuple[tuple[Callable[[int], Iterator[str]], float], ...]] = (
    (training, 1), (words, 1 / 4), (repeated, 1 / 4), (different, 1 / 4), (killed, 1 / 4),
    (long_lines, 1 / 4), (one_line, 1 / 4), (nuls, 1 / 4),
)  # fmt: skip
"""Logs, and the part of ``--gib`` that each takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read them all; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the realistic log")
    parser.add_argument("--only", default="", metavar="WORD", help="logs whose name has it")
    arguments = parser.parse_args(argv)
    broken = []
    for make, share in LOGS:
        if arguments.only not in make.__name__:
            continue
        size = round(arguments.gib * share * GIB)
        half, whole = _read(make, size // 2), _read(make, size)
        ratio = whole.cpu / max(half.cpu, 0.05)
        print(
            f"{make.__name__:10} {size / MIB:6.0f} MiB {whole.seconds:6.1f} s ({whole.cpu:.1f} s "
            f"of CPU) {whole.peak_kib / 1024:5.0f} MiB resident, {whole.reports} reports of "
            f"{whole.times:,}; {ratio:.1f} × half of it",
            flush=True,
        )
        slow = make is training and whole.seconds > SECONDS * arguments.gib
        if slow or whole.peak_kib > PEAK_MIB * 1024 or ratio > RATIO:
            broken.append(make.__name__)
    print(f"broken: {', '.join(broken)}" if broken else "promises kept")
    return 1 if broken else 0


def _read(make: Callable[[int], Iterator[str]], num_bytes: int) -> Read:
    with tempfile.TemporaryDirectory(prefix="willfit-doctor-") as folder:
        path = Path(folder) / "log"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(make(num_bytes))
        done = subprocess.run(
            [sys.executable, "-c", _WORKER, str(path)], check=True, capture_output=True, text=True
        )
    return Read(**json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
