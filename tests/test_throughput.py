"""Published speeds: no source may get worse than what was reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.throughput import FILE, Judged, judge, judge_file, main, page, summarise, table

REACHED = {
    # (source, kind): (median error, least part in range), rounded up from what was reached
    ("qwen_speed_benchmark", "generate_tokens_per_s"): (0.10, 0.95),
    ("optimum_benchmark_history", "generate_tokens_per_s"): (0.16, 0.95),
    ("optimum_benchmark_history", "forward_seconds"): (0.15, 0.90),
    ("hf_sdpa_tables", "step_seconds"): (0.19, 0.95),
    ("hf_sdpa_tables", "forward_seconds"): (0.10, 0.95),
    ("peft_metamath", "step_seconds"): (0.08, 0.85),
    ("qwen_readme", "step_seconds"): (0.13, 0.65),
    ("ms_swift_benchmark", "train_samples_per_s"): (0.15, 0.80),
    ("nanotron_ultrascale", "step_seconds"): (0.12, 0.95),
    ("single_reports", "generate_tokens_per_s"): (0.10, 0.95),
}


@pytest.fixture(scope="module")
def judged(shared: Path) -> list[Judged]:
    path = shared / "measured" / FILE
    if not path.is_file():
        pytest.skip(f"no {path}: published speeds are not beside this checkout")
    return judge_file(path)


@pytest.mark.parametrize("key", sorted(REACHED))
def test_a_source_is_no_worse_than_it_was(judged: list[Judged], key: tuple[str, str]) -> None:
    summary = summarise(*key, [j for j in judged if (j.source, j.kind) == key])
    median, inside = REACHED[key]
    assert summary.expressed >= 3
    assert summary.median is not None
    assert summary.inside is not None
    assert summary.median <= median
    assert summary.inside >= inside


ROW = {
    "id": "x:1", "source": "qwen_speed_benchmark", "repo_path": "", "n_gpu": 1, "stack": {},
    "model": "Qwen/Qwen2.5-7B-Instruct", "gpu": "A100-80GB", "kind": "generate_tokens_per_s",
    "value": 40.38, "workload": {"task": "inference", "attn": "flash_attention_2", "batch": 1,
                                 "prompt": 1, "new_tokens": 2048},
}  # fmt: skip


def test_a_row_is_judged_in_its_own_unit() -> None:
    near = judge(ROW)
    assert near.error == pytest.approx(0, abs=0.25)
    assert near.inside
    far = judge({**ROW, "value": 400.0})
    assert far.error == pytest.approx(-0.9, abs=0.02)
    assert not far.inside
    assert "qwen_speed_benchmark" in table([near, far])


def test_what_cannot_be_expressed_and_what_cannot_be_is_said() -> None:
    unknown = judge({**ROW, "model": "nobody/no-such-model"})
    assert unknown.ours is None
    assert "no-such-model" in unknown.reason
    forward = {"task": "inference", "attn": "sdpa", "batch": 16, "prompt": 512}
    impossible = judge({**ROW, "kind": "forward_seconds", "value": 0.1, "workload": forward})
    assert impossible.too_fast
    assert "TFLOP/s" in impossible.reason
    written = page([judge(ROW), unknown, impossible], [("inference", 50.0)])
    assert "## Not expressed" in written
    assert "×1: nobody" in written


def test_without_rows_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "/nonexistent"]) == 1
    assert "--rows" in capsys.readouterr().err
