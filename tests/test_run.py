"""`willfit run` from the command line and from Python: what is computed, kept, refused and said."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from willfit.cli.main import main
from willfit.errors import DoesNotFitError, InputError, MissingLibraryError
from willfit.live.nvml import FakeCard, FakeNvml, LiveGpu
from willfit.runner.deadline import Deadline
from willfit.runner.forecast import Sizes, forecast
from willfit.runner.gpus import NvmlProbe, visible
from willfit.runner.pipeline import StageFile, pipeline_from
from willfit.runner.run import dry_run, run
from willfit.units import GIB, MIB

T4 = FakeCard(
    name="Tesla T4", total=int(14.75 * GIB), used=3 * MIB, capability=(7, 5), uuid="GPU-a"
)
GEMMA, LLAMA = "google/gemma-2-9b-it", "meta-llama/Meta-Llama-3-8B"
CODE = """
import os

def load():
    with open({log!r}, "a") as log:
        log.write("load\\n")

def predict(rows):
    with open({log!r}, "a") as log:
        log.write(f"{{len(rows)}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
    return [[row["x"] * {factor}, -row["x"]] for row in rows]
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 40 rows, a function, and a pipeline over both."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"r{i:02d}", "x": i / 10, "text": "w" * (i % 7)} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    write_code(tmp_path)
    (tmp_path / "p.yaml").write_text(
        "data: data.parquet\n"
        "defaults: {shards: 8, gpus: none, replicas: 2}\n"
        "stages: {mine: {run: 'code.py:predict'}}\n"
        "output: out.csv\n"
    )
    return tmp_path


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def write_code(folder: Path, factor: int = 1) -> None:
    (folder / "code.py").write_text(CODE.format(log=str(folder / "log.txt"), factor=factor))


def computed(folder: Path) -> int:
    """Rows that workers computed so far."""
    log = folder / "log.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(int(line.split()[0]) for line in lines if line != "load")


def probe(*cards: FakeCard) -> NvmlProbe:
    return NvmlProbe(nvml=FakeNvml(cards=cards))


def stage(**settings: Any) -> StageFile:
    return pipeline_from({"data": "d.csv", "stages": {"s": settings}}, Path.cwd()).stages["s"]


def gpus(*cards: FakeCard) -> list[LiveGpu]:
    return list(probe(*cards).read())


def test_a_run_writes_its_output_and_says_what_it_did(job: Path, capsys: Any) -> None:
    assert main(["run", "p.yaml"]) == 0
    said = capsys.readouterr()
    assert "mine: 40 rows" in said.out and "out.csv: 40 rows" in said.out
    assert "no GPU is found" in said.err
    rows = read_csv(job / "out.csv")
    assert [row["id"] for row in rows] == [f"r{i:02d}" for i in range(40)]
    assert [float(row["label_0"]) + float(row["label_1"]) for row in rows] == pytest.approx(
        [1] * 40
    )
    assert computed(job) == 40
    made_of = json.loads((job / "out.csv.json").read_text())
    assert made_of["rows"] == 40 and len(made_of["stages"]["mine"]["shards"]) == 8


def test_what_is_there_is_kept_and_fresh_computes_it_again(job: Path, capsys: Any) -> None:
    assert main(["run", "p.yaml", "--quiet"]) == 0
    first = (job / "out.csv").read_bytes()
    assert main(["run", "p.yaml", "--quiet"]) == 0
    assert computed(job) == 40
    assert "all kept" in capsys.readouterr().out
    assert main(["run", "p.yaml", "--quiet", "--fresh"]) == 0
    assert computed(job) == 80 and (job / "out.csv").read_bytes() == first


def test_what_is_computed_again_says_why(job: Path, capsys: Any) -> None:
    assert main(["run", "p.yaml", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["reasons"] == []
    write_code(job, factor=2)
    assert main(["status", "p.yaml"]) == 0
    assert "code.py" in capsys.readouterr().out
    assert main(["run", "p.yaml", "--quiet", "--dry-run"]) == 0
    assert "40 of 40 rows to compute in 8 shards" in capsys.readouterr().out
    assert computed(job) == 40
    assert main(["run", "p.yaml", "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "willfit.run/1" and report["complete"] is True
    assert "code.py" in report["stages"][0]["reasons"][0]
    write_code(job, factor=1)  # the first results are still there
    assert main(["run", "p.yaml", "--quiet"]) == 0
    assert computed(job) == 80


def test_more_replicas_and_other_batches_compute_nothing_again(job: Path) -> None:
    settings = {"run": "code.py:predict", "shards": 8, "gpus": "none"}
    whole = {"data": "data.parquet", "stages": {"mine": settings}, "output": "out.csv"}
    run(whole)
    again = {**settings, "replicas": 3, "batch_size": 2, "shards": 3, "stall_timeout": "1m"}
    report = run({**whole, "stages": {"mine": again}})
    assert report.stages[0].num_computed == 0 and computed(job) == 40


def test_a_shard_that_is_gone_is_the_only_one_computed_again(job: Path) -> None:
    run("p.yaml")
    before = (job / "out.csv").read_bytes()
    shards = sorted((job / "runs/p/stages/mine").glob("*/shards/*.parquet"))
    assert len(shards) == 8
    shards[3].unlink()
    report = run("p.yaml")
    assert report.stages[0].num_computed == 5 and report.stages[0].num_rows == 40
    assert (job / "out.csv").read_bytes() == before


def test_each_replica_sees_its_own_gpu(job: Path) -> None:
    mine = {"run": "code.py:predict", "shards": 40}
    whole = {"data": "data.parquet", "stages": {"mine": mine}}
    report = run(whole, probe=probe(T4, T4, T4, T4))
    seen = {line.split()[1] for line in (job / "log.txt").read_text().splitlines() if " " in line}
    assert seen <= {"0", "1", "2", "3"} and len(seen) > 1
    assert [gpu.index for gpu in report.stages[0].release.gpus] == [0, 1, 2, 3]
    (job / "log.txt").unlink()
    pairs = {**whole, "stages": {"mine": {**mine, "gpus": [3, 1, 0], "gpus_per_replica": 2}}}
    run(pairs, probe=probe(T4, T4, T4, T4), fresh=True)
    lines = (job / "log.txt").read_text().splitlines()
    assert {line.split()[1] for line in lines if " " in line} == {"3,1"}


VISIBLE = [
    (None, {0: "0", 1: "1"}, {0: 0, 1: 1}),
    ("1", {0: "1"}, {0: 1}),
    ("1,0", {0: "1", 1: "0"}, {0: 1, 1: 0}),
    ("GPU-b", {0: "GPU-b"}, {0: 1}),
    ("0,7,1", {0: "0"}, {0: 0}),
    ("", {}, {}),
]


@pytest.mark.parametrize(("asked", "names", "numbers"), VISIBLE)
def test_the_users_own_visible_devices_hold(
    asked: str | None, names: Mapping[int, str], numbers: Mapping[int, int]
) -> None:
    """Names are handed on as they are; CUDA stops at the first device that is not there."""
    other = FakeCard(name="Tesla T4", total=T4.total, capability=(7, 5), uuid="GPU-b")
    environ = {} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}
    found = visible(probe(T4, other), environ)
    assert (found.names, found.nvml_index) == (names, numbers)


def test_a_batch_begins_with_what_the_estimate_says_fits() -> None:
    """The next row would not fit any more, so this is not a guess."""
    sizes = Sizes(longest=2048)
    for model, packing in ((GEMMA, "int8"), (LLAMA, "nf4")):
        asked = stage(model=model, labels=3, quantize=packing)
        found = forecast(asked, sizes, gpus(T4))
        assert found.refused is None and found.batch_tokens is not None
        assert found.batch_tokens % 2048 == 0 and found.batch_tokens >= 4 * 2048
        assert found.device_bytes[0] <= 14.56 * GIB
        rows = found.batch_tokens // 2048
        least = forecast(asked, Sizes(longest=2048, most_rows=rows - 1), gpus(T4))
        row = found.device_bytes[0] - least.device_bytes[0]
        assert 0 < 14.56 * GIB - found.device_bytes[0] < 4 * row


def test_a_refusal_names_settings_of_the_pipeline_that_fit() -> None:
    found = forecast(stage(model=GEMMA, labels=3), Sizes(longest=2048), gpus(T4), gpus(T4, T4))
    assert found.refused is not None
    assert "does not fit on NVIDIA T4" in found.refused
    assert "quantize: int8" in found.refused and "gpus_per_replica: 2" in found.refused
    for settings, cards in (
        ({"quantize": "int8"}, gpus(T4)),
        ({"gpus_per_replica": 2}, gpus(T4, T4)),
    ):
        asked = stage(model=GEMMA, labels=3, **settings)
        assert forecast(asked, Sizes(longest=2048), cards).refused is None


def test_memory_that_others_hold_is_not_there() -> None:
    held = FakeCard(name="Tesla T4", total=T4.total, used=9 * GIB, capability=(7, 5))
    asked, sizes = stage(model=LLAMA, labels=3, quantize="int8"), Sizes(longest=512)
    assert forecast(asked, sizes, gpus(T4)).refused is None
    refused = forecast(asked, sizes, gpus(held)).refused
    assert refused is not None and "5.56 GiB usable" in refused


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama classifier, and rows that it reads."""
    import torch
    import transformers
    from tests.support.tiny_models import CONFIGS, _write_tokenizer

    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("llama", **CONFIGS["llama"], num_labels=3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder / "llama")
    _write_tokenizer(folder / "llama")
    rows = [{"id": i, "text": "abc " * (1 + i % 9)} for i in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    return folder


def test_a_stage_that_cannot_fit_is_refused_before_any_stage_computes(
    job: Path, classifier: Path
) -> None:
    small = FakeCard(name="Tesla T4", total=100 * MIB, capability=(7, 5))
    stages = {
        "mine": {"run": "code.py:predict", "shards": 4},
        "big": {"model": str(classifier / "llama"), "labels": 3},
    }
    with pytest.raises(DoesNotFitError, match=r"stage big: .*does not fit"):
        run({"data": "data.parquet", "stages": stages}, probe=probe(small))
    assert computed(job) == 0
    assert DoesNotFitError.exit_code == 3


SCRIPT = """
import json, sys
{first}
from willfit.runner.run import run
report = run(json.loads(sys.argv[1]), run_dir=sys.argv[2])
print(report.complete, [name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.mark.parametrize(("first", "there"), [("", []), ("import torch", ["torch"])])
def test_the_driver_never_imports_torch(
    classifier: Path, tmp_path: Path, first: str, there: list[str]
) -> None:
    """Nor does estimating, preparing or ensembling; the second row shows that it would be seen."""
    model = {"model": str(classifier / "llama"), "labels": 3}
    whole = {
        "data": str(classifier / "data.parquet"), "stages": {"s": model},
        "output": str(tmp_path / "out.csv"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first), json.dumps(whole), str(tmp_path / "r")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == f"True {there}", done.stderr


def test_stages_without_scores_stand_side_by_side(job: Path) -> None:
    (job / "words.py").write_text(
        "def length(rows): return {'n': [len(r['text']) for r in rows]}\n"
        "def shout(rows): return [r['text'].upper() for r in rows]\n"
    )
    stages = {"a": {"run": "words.py:length"}, "b": {"run": "words.py:shout"}}
    run({"data": "data.parquet", "stages": stages, "output": "out.jsonl"})
    rows = [json.loads(line) for line in (job / "out.jsonl").read_text().splitlines()]
    assert rows[6] == {"id": "r06", "a_n": 6, "b_text": "WWWWWW"}


def test_the_data_may_be_made_by_a_function_and_is_made_once(job: Path) -> None:
    (job / "prep.py").write_text(
        "import pyarrow.parquet as pq\n"
        "def build(path):\n"
        "    open('built.txt', 'a').write('x')\n"
        "    return pq.read_table(path).slice(10)\n"
    )
    whole = {
        "data": "data.parquet", "prepare": "prep.py:build", "output": "out.csv",
        "stages": {"mine": {"run": "code.py:predict"}},
    }  # fmt: skip
    assert run(whole).output_rows == 30
    assert run(whole).stages[0].num_computed == 0
    assert (job / "built.txt").read_text() == "x"


BAD = [
    ({"data": "none.parquet", "stages": {"m": {"run": "code.py:predict"}}}, "none.parquet"),
    ({"data": "data.parquet", "id": "key", "stages": {"m": {"run": "code.py:predict"}}}, "'key'"),
    ({"data": "data.parquet", "stages": {"m": {"run": "code.py:nothing"}}}, "nothing"),
    ({"data": "data.parquet", "stages": {"m": {"run": "code.py:predict", "gpus": [0]}}}, "GPU 0"),
    ({"data": "data.parquet", "stages": {"m": {"model": "no/where", "labels": 3}}}, "no/where"),
    (
        {"data": "data.parquet", "stages": {"m": {"run": "code.py:predict"}}, "output": "o.xls"},
        "o.xls",
    ),
]


@pytest.mark.parametrize(("given", "named"), BAD)
def test_bad_input_is_one_sentence_that_names_it(job: Path, given: Any, named: str) -> None:
    with pytest.raises(InputError) as raised:
        run(given)
    message = str(raised.value)
    assert named in message and "\n" not in message and len(message) < 500
    assert computed(job) == 0


def test_a_function_that_returns_too_few_rows_is_told_so(job: Path) -> None:
    (job / "short.py").write_text("def predict(rows): return [1.0]\n")
    with pytest.raises(InputError, match="1 results came back"):
        run({"data": "data.parquet", "stages": {"m": {"run": "short.py:predict", "shards": 4}}})


def test_one_score_a_row_is_averaged_as_it_is(job: Path) -> None:
    (job / "score.py").write_text(
        "def one(rows): return [r['x'] for r in rows]\ndef two(rows): return [9.0] * len(rows)\n"
    )
    stages = {"a": {"run": "score.py:one"}, "b": {"run": "score.py:two"}}
    weights = {"weights": {"a": 2, "b": 1}}
    run({"data": "data.parquet", "stages": stages, "ensemble": weights, "output": "out.csv"})
    rows = read_csv(job / "out.csv")
    assert float(rows[12]["score"]) == pytest.approx((2 * 1.2 + 9) / 3, abs=1e-6)


def test_a_library_that_a_stage_needs_is_asked_for_first(job: Path) -> None:
    with pytest.raises(MissingLibraryError, match="pip install vllm"):
        run(
            {"data": "data.parquet", "stages": {"m": {"model": "m", "labels": 2, "engine": "vllm"}}}
        )


def test_a_dry_run_leaves_everything_to_be_done(job: Path) -> None:
    (ready,) = dry_run("p.yaml")
    assert (ready.num_missing, len(ready.shards())) == (40, 8)
    assert computed(job) == 0 and not (job / "out.csv").exists()


def test_status_of_what_is_no_run_is_one_sentence(job: Path, capsys: Any) -> None:
    assert main(["status", "."]) == 1
    assert "is no run" in capsys.readouterr().err


def test_status_while_it_runs_names_its_process(job: Path, capsys: Any) -> None:
    (job / "slow.py").write_text(
        "import time\ndef predict(rows):\n    time.sleep(0.4)\n    return [1.0] * len(rows)\n"
    )
    (job / "slow.yaml").write_text(
        "data: data.parquet\nstages: {m: {run: 'slow.py:predict', shards: 20}}\noutput: o.parquet\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "willfit", "run", "slow.yaml", "--quiet"], stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 120  # a busy machine starts slowly
        while time.monotonic() < until:
            capsys.readouterr()
            if main(["status", "slow.yaml", "--json"]) == 0:
                found = json.loads(capsys.readouterr().out)
                if found["stages"][0]["done"] > 0:
                    break
            assert process.poll() is None, "the run was over before it was seen"
            time.sleep(0.1)
        assert found["pid"] == process.pid and found["complete"] is False
        assert 0 < found["stages"][0]["done"] < 40
        assert main(["run", "slow.yaml", "--quiet"]) == 1
        assert f"process {process.pid}" in capsys.readouterr().err
    finally:
        process.terminate()
    assert process.wait(timeout=30) == 130
    assert main(["run", "slow.yaml", "--quiet"]) == 0


def test_a_deadline_keeps_time_for_the_end() -> None:
    now = [0.0]
    deadline = Deadline(seconds=100.0, clock=lambda: now[0], began=0.0)
    assert deadline.remaining == 90.0  # a tenth, where that is less than half a minute
    now[0] = 80.0
    assert deadline.allows(10.0) and not deadline.allows(10.1)
    assert Deadline(seconds=7200.0, clock=lambda: 0.0, began=0.0).remaining == 7170.0
    assert Deadline().allows(1e12)
