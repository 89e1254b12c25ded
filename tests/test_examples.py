"""The example pipelines run as they are, copied to a folder of their own."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from willfit.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    folder = tmp_path / request.param
    shutil.copytree(
        EXAMPLES / request.param, folder, ignore=shutil.ignore_patterns("models", "model", "runs")
    )
    monkeypatch.chdir(folder)
    for script in folder.glob("make_model*.py"):
        subprocess.run([sys.executable, script], check=True, capture_output=True)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        "lmsys-ensemble", "own-function", "choose-and-generate",
        "doctor",  # a failure and its script, which test_doctor.py and test_docs.py examine
        "compare", "ci",  # test_compare.py and test_gate.py
    }  # fmt: skip


@pytest.mark.parametrize("example", ["lmsys-ensemble"], indirect=True)
def test_the_lmsys_ensemble(example: Path, capsys: Any) -> None:
    assert main(["run", "pipeline.yaml", "--dry-run"]) == 0
    assert "gemma" in capsys.readouterr().out and not Path("submission.csv").exists()
    assert main(["run", "pipeline.yaml", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "gemma: 120 rows" in said and "llama: 120 rows" in said and "padding:" in said
    rows = read_csv(Path("submission.csv"))
    asked = read_csv(Path("test.csv"))
    assert [row["id"] for row in rows] == [row["id"] for row in asked]
    labels = ("winner_model_a", "winner_model_b", "winner_tie")
    for row in rows:
        assert sum(float(row[label]) for label in labels) == pytest.approx(1, abs=1e-12)
    assert len({row["winner_tie"] for row in rows}) > 100


@pytest.mark.parametrize("example", ["own-function"], indirect=True)
def test_a_function_of_ones_own(example: Path) -> None:
    assert main(["run", "pipeline.yaml", "--quiet"]) == 0
    rows = read_csv(Path("scores.csv"))
    assert [float(row["good"]) > float(row["bad"]) for row in rows] == [True, False, True, False]


@pytest.mark.parametrize("example", ["choose-and-generate"], indirect=True)
def test_choosing_and_generating_side_by_side(example: Path) -> None:
    assert main(["run", "pipeline.yaml", "--quiet"]) == 0
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q1", "q2", "q3"]
    for row in rows:
        scores = [row[f"pick_score_{i}"] for i in range(3)]
        assert row["pick_choice"] == scores.index(max(scores))
        assert 0 < row["say_num_new_tokens"] <= 12
