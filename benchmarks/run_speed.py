"""What `willfit run` costs over a plain loop, and how many trivial rows it moves.

    python -m benchmarks.run_speed overhead [--seconds 60] [--rounds 3]
    python -m benchmarks.run_speed rows [--rows 1000000]

``overhead`` runs the same batches of a random Llama classifier in a loop in one process and
through the runner, in turns, and prints the ratio of the medians with start-up apart. ``rows``
prints rows a second and the driver's highest resident memory, for two table sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.runner.batching import Budget
from willfit.runner.prepared import INPUT_IDS, open_rows
from willfit.runner.run import run
from willfit.runner.shards import Range

CONFIG: Final[dict[str, Any]] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3,
}  # fmt: skip
BATCH: Final = 16
COLUMN_CODE: Final = """
import numpy as np
def predict(rows):
    x = rows.table["x"].to_numpy()
    return np.stack([x, -x], axis=1)
"""
DICT_CODE: Final = "def predict(rows):\n    return [[row['x'], -row['x']] for row in rows]\n"
DRIVER: Final = """
import json, resource, sys
from willfit.runner.run import run
report = run(json.loads(sys.argv[1]), run_dir=sys.argv[2])
stage, peak = report.stages[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([stage.rows_per_second, stage.num_rows / report.seconds, peak / 1024]))
"""


def main() -> None:
    """Run what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("overhead", "rows"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="willfit-bench-") as folder:
        if given.what == "overhead":
            overhead(Path(folder), given.seconds, given.rounds)
        else:
            trivial_rows(Path(folder), given.rows)


# ---- the runner against a loop


def overhead(folder: Path, seconds: float, rounds: int) -> None:
    """Print the seconds of both, start-up apart, and their ratio."""
    make_model(folder / "model")
    write_texts(folder / "data.parquet", 64)
    probe = loop(folder, prepare(folder, "probe"))
    rows = max(256, int(64 * seconds / probe / BATCH) * BATCH)
    write_texts(folder / "data.parquet", rows)
    prepared = prepare(folder, "loop")
    pairs = []
    for number in range(rounds):
        alone = loop(folder, prepared)
        report = run(pipeline(folder), run_dir=folder / f"run{number}")
        stage = report.stages[0]
        computing = stage.seconds - stage.start_seconds
        pairs.append((alone, computing))
        print(
            f"round {number + 1}: loop {alone:.2f} s, runner {computing:.2f} s "
            f"({computing / alone - 1:+.1%}) and {stage.start_seconds:.1f} s of start-up",
            flush=True,
        )
    ratio = statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)
    print(f"{rows:,} rows, median of {rounds}: {ratio - 1:+.1%}")


def pipeline(folder: Path) -> dict[str, Any]:
    """One replica on the CPU, batches of `BATCH` rows."""
    stage = {
        "model": str(folder / "model"), "labels": 3, "gpus": "none", "batch_size": BATCH,
        "batch_tokens": 1 << 20,
    }  # fmt: skip
    return {"data": str(folder / "data.parquet"), "stages": {"s": stage}}


def make_model(folder: Path) -> None:
    """A random classifier and a tokenizer of single bytes."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("llama", **CONFIG)
    build: Any = transformers.AutoModelForSequenceClassification
    build.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """One token a byte."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def write_texts(path: Path, rows: int) -> None:
    """Texts with lengths like those of chat logs."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(4.6, 0.6, rows), 8, 500).astype(int)
    pq.write_table(pa.table({"id": np.arange(rows), "text": ["x" * n for n in lengths]}), path)


def prepare(folder: Path, name: str) -> Path:
    """The prepared rows, as a run makes them."""
    from willfit.runner.run import dry_run

    dry_run(pipeline(folder), run_dir=folder / name)
    return next((folder / name / "prepared").glob("*/rows.arrow"))


def loop(folder: Path, prepared: Path) -> float:
    """Seconds of the plain loop over the same batches, in a process of its own, model loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run_loop", str(folder / "model"), str(prepared)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def batches(
    prepared: Path, most_rows: int = BATCH, cuts: Sequence[Range] | None = None
) -> list[list[Any]]:
    """Token ids by batch, as the runner makes them: none goes over the end of a shard."""
    rows = open_rows(prepared)
    made = []
    for start, stop in cuts or [Range(0, rows.num_rows)]:
        budget, at = Budget(tokens=1 << 20, most_rows=most_rows), start
        while at < stop:
            lengths, sequences = rows.sizes(Range(at, stop))
            count = budget.rows(lengths, sequences)
            made.append(rows.table(Range(at, at + count)).column(INPUT_IDS).to_pylist())
            at += count
    return made


# ---- trivial rows


def trivial_rows(folder: Path, rows: int) -> None:
    """Print rows a second and the driver's memory, by column and by dict, for two sizes."""
    (folder / "by_column.py").write_text(COLUMN_CODE)
    (folder / "by_dict.py").write_text(DICT_CODE)
    for count in (rows // 4, rows):
        data = folder / f"data{count}.parquet"
        x = np.random.default_rng(0).normal(size=count)
        pq.write_table(pa.table({"id": np.arange(count), "x": x}), data)
        for name in ("by_column", "by_dict"):
            stage = {"run": f"{folder / name}.py:predict", "gpus": "none"}
            whole = {
                "data": str(data), "stages": {"s": stage}, "output": str(folder / "out.parquet"),
            }  # fmt: skip
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", DRIVER, json.dumps(whole), str(folder / f"{name}{count}")],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            computing, whole_run, peak = json.loads(done.stdout)
            print(
                f"{count:>9,} rows {name}: {computing:,.0f} rows/s while computing, "
                f"{whole_run:,.0f} rows/s from start to output, driver {peak:.0f} MiB, "
                f"{time.perf_counter() - began:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
