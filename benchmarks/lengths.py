"""Time and memory of reading a data set's lengths: a million rows of each format.

``python -m benchmarks.lengths [ROWS]``
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "dogs", "and", "reads", "transformers")


def write(folder: Path, rows: int) -> list[Path]:
    """The same rows as text and, where pyarrow is installed, as Parquet; and counts alone."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 120))) for _ in range(1000)]
    paths = [folder / f"rows{suffix}" for suffix in (".jsonl", ".json", ".csv", ".txt", ".parquet")]
    with paths[0].open("w") as lines, paths[1].open("w") as listed:
        for i in range(rows):
            row = json.dumps({"text": texts[i % 1000]})
            lines.write(row + "\n")
            listed.write(("[" if i == 0 else ",") + row)
        listed.write("]")
    paths[2].write_text("text\n" + "".join(texts[i % 1000] + "\n" for i in range(rows)))
    paths[3].write_text("\n".join(str(rng.randint(1, 4000)) for _ in range(rows)))
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        return paths[:-1]
    table = pyarrow.table({"text": [texts[i % 1000] for i in range(rows)]})
    pyarrow.parquet.write_table(table, paths[4], use_dictionary=False)
    return paths


def read(path: Path) -> None:
    """Read one file in this process, and print what that took."""
    from willfit.settings.lengths import read_lengths

    before = _highest_mib()
    began = time.perf_counter()
    lengths = read_lengths(path).lengths
    seconds = time.perf_counter() - began
    grown = _highest_mib() - before
    size = path.stat().st_size / 2**20
    print(
        f"{path.suffix:9} {lengths.num_samples:>10,} rows {size:8.1f} MiB  {seconds:6.2f} s  "
        f"{grown:6.1f} MiB more memory"
    )


def _highest_mib() -> float:
    """Peak resident memory of this process (Linux; `getrusage` would tell its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Each file in a process of its own."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        for path in write(Path(name), rows):
            subprocess.run(
                [sys.executable, "-m", "benchmarks.lengths", "--read", str(path)], check=True
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]))
    else:
        main()
