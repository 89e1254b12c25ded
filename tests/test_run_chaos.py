"""Runs of real processes that are killed, starved and misled come to what a clean run comes to.

The short part of `benchmarks.chaos`, whose record is `docs/chaos.md`.
"""

from __future__ import annotations

import math
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support import chaos_scenarios as happens
from tests.support.chaos import CODE, Bound, chaos, check_apart_from_values, models
from tests.support.classifiers import classifier

from willfit.errors import StageFailedError
from willfit.live.nvml import FakeCard, FakeNvml, LiveGpu, live_gpus
from willfit.runner.gpus import ScriptedProbe
from willfit.runner.run import run
from willfit.units import GIB, MIB


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run comes to that nothing happens to."""
    return happens.clean_run(tmp_path_factory.mktemp("clean") / "case")


def test_a_clean_run_comes_to_what_a_plain_loop_comes_to(clean: bytes) -> None:
    code: dict[str, object] = {}
    exec(CODE, code)
    texts = [{"text": f"row {number} " + "x " * (number * 7 % 31)} for number in range(120)]
    for row, line in enumerate(clean.decode().splitlines()[1:]):
        name, *found = line.split(",")
        expected = [0.0, 0.0, 0.0]
        for function, weight in (("first", 2 / 3), ("second", 1 / 3)):
            powers = [math.exp(x) for x in code[function](texts[row : row + 1])[0]]  # type: ignore[operator]
            expected = [e + weight * p / sum(powers) for e, p in zip(expected, powers, strict=True)]
        assert name == f"id{row:05d}"
        assert [float(value) for value in found] == pytest.approx(expected, rel=1e-6)


def test_drivers_that_are_killed_at_one_point_after_another_lose_nothing(
    tmp_path: Path, clean: bytes
) -> None:
    strikes = (
        "before:stage.json", "validated#2", "stage-ended", "taken#3", "before:done.json",
        "before:out.csv",
    )  # fmt: skip
    happens.drivers_killed_at(tmp_path / "case", clean, strikes)


def test_workers_that_are_killed_between_any_two_steps_lose_nothing(
    tmp_path: Path, clean: bytes
) -> None:
    outcome = happens.workers_killed_at(
        tmp_path / "case", clean, happens.WORKER_POINTS, 8, chance=0.3
    )
    assert outcome.worker_kills == 8


def test_workers_and_drivers_that_are_killed_at_random_lose_nothing(
    tmp_path: Path, clean: bytes
) -> None:
    outcome = happens.storm(tmp_path / "case", clean, random.Random(5), 6, pause=0.8)
    assert outcome.worker_kills + outcome.driver_kills > 0


def test_what_lives_on_below_workers_that_died_with_their_driver_is_ended_by_the_next(
    tmp_path: Path, clean: bytes
) -> None:
    happens.killed_together(tmp_path / "case", clean)


def test_a_second_driver_is_refused_and_the_first_does_not_notice(
    tmp_path: Path, clean: bytes
) -> None:
    happens.two_drivers(tmp_path / "case", clean)


def test_a_disk_that_is_full_stops_a_run_with_a_sentence_and_loses_nothing(
    tmp_path: Path, clean: bytes
) -> None:
    try:
        happens.full_disk(tmp_path / "case", clean, 56)
    except PermissionError:  # no disk of our own: the worker is told so
        happens.full_at_a_shard(tmp_path / "other", clean)


def test_a_folder_that_may_not_be_written_to_is_one_sentence(tmp_path: Path, clean: bytes) -> None:
    try:
        happens.read_only(tmp_path / "case", clean, ["validated#2"])
    except PermissionError:
        pytest.skip("no disk can be mounted here, and root may write everywhere else")


def test_broken_shards_are_computed_again_and_never_read(tmp_path: Path, clean: bytes) -> None:
    happens.broken_shards(tmp_path / "case", clean, random.Random(7))


def test_bad_rows_cost_themselves_alone(tmp_path: Path, clean: bytes) -> None:
    bad = {"poison": [33], "raise": [0, 77], "row-oom": [4]}
    happens.bad_rows(tmp_path / "case", clean, bad)


def test_a_worker_that_exits_with_137_may_have_lacked_memory_and_is_replaced(
    tmp_path: Path, clean: bytes
) -> None:
    happens.exits_137(tmp_path / "case", clean)


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, clean: bytes) -> None:
    happens.hangs(tmp_path / "case", clean, "before-compute", "stall_timeout: 1.5")


def test_batches_that_do_not_fit_become_smaller_in_the_same_process(
    tmp_path: Path, clean: bytes
) -> None:
    happens.out_of_memory(tmp_path / "case", clean, 1, tokens=6)


def test_a_file_is_there_when_time_is_out(tmp_path: Path) -> None:
    faults = "stuck:id00055;stuck:id00115"
    happens.deadline(tmp_path / "case", seconds=4, faults=faults, missing="error")


def test_memory_that_does_not_come_back_lets_nothing_start_and_the_file_is_written_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chaos(tmp_path, top="deadline: 5", ensemble="missing: available") as case:
        monkeypatch.chdir(tmp_path)
        text = case.pipeline.read_text()
        case.pipeline.write_text(text.replace(", device: cpu", ""))
        stage = sys.modules["willfit.runner.stages.run_stage"]
        monkeypatch.setattr(stage, "LAST_PATIENCE", 0.2)

        def cards(_: int) -> Sequence[LiveGpu]:
            used = 5 * GIB if case.shards("one") else 3 * MIB
            card = FakeCard(
                name="Tesla T4", total=15 * GIB, used=used, capability=(7, 5),
                processes=((4321, "someone", used),),
            )  # fmt: skip
            return live_gpus(FakeNvml(cards=(card,)))

        began = time.monotonic()
        with pytest.raises(StageFailedError, match="held by process 4321 someone") as error:
            run(case.pipeline, run_dir=case.run_dir, probe=ScriptedProbe(cards))
        assert "out.csv was written from what is there" in str(error.value)
        assert time.monotonic() - began <= 5 + happens.BUSY
        assert len(case.shards("one")) == 12 and not case.shards("two")
        assert len(case.rows()) == 120


def test_models_whose_driver_is_killed_come_to_what_a_plain_loop_comes_to(tmp_path: Path) -> None:
    settings = {**models(tmp_path), "rows": 60, "shards": 6, "replicas": 1}
    with chaos(tmp_path / "case", **settings) as case:
        assert case.run("validated#2")[0] == -signal.SIGKILL
        assert case.run()[0] == 0
        check_apart_from_values(case, Bound(drivers=1))
        expected = in_a_loop(tmp_path, case.folder / "data.parquet")
        found = [[float(value) for value in row[1:]] for row in case.rows()]
    assert np.abs(np.asarray(found) - expected).max() <= happens.BUDGET_DIFFERENCE


def in_a_loop(folder: Path, data: Path) -> Any:
    """Probabilities [rows, labels] of both classifiers, row by row."""
    import torch
    import transformers

    texts = pq.read_table(data).column("text").to_pylist()
    total = np.zeros((len(texts), 3))
    for family, weight, columns in (("gemma2", 2 / 3, [0, 1, 2]), ("llama", 1 / 3, [1, 0, 2])):
        path = classifier(family, folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        for row, text in enumerate(texts):
            tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt").input_ids
            with torch.inference_mode():
                logits = model(input_ids=tokens).logits[0].double()
            total[row] += weight * torch.softmax(logits, 0).numpy()[columns]
    return total
