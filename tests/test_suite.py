"""Suites of measurements: what they hold, how they go on, and what a machine without network gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from willfit.cli.main import main
from willfit.cli.suite import scenario_of, work_of
from willfit.devices import find_gpu
from willfit.errors import InputError
from willfit.estimator import estimate
from willfit.live.beside import Line
from willfit.live.rows import append_row, read_rows
from willfit.live.suite.case import Case, Suite, load_suite, suites
from willfit.live.suite.run import run_suite
from willfit.live.suite.summary import Judged, errors_of, look_next

CASES = [(name, case) for name in ("cpu", "h200", "t4") for case in load_suite(name).cases]


@pytest.mark.parametrize("name", suites())
def test_a_suite_is_done_in_the_time_that_it_promises(name: str) -> None:
    suite = load_suite(name)
    names = [case.name for case in suite.cases]
    assert len(names) == len(set(names))
    assert sum(case.seconds for case in suite.cases) <= suite.budget_seconds
    assert all(case.seconds < case.limit for case in suite.cases)
    if name in ("h200", "t4"):
        assert suite.budget_seconds <= 480
        assert all(case.settles.endswith((".", "?")) for case in suite.cases)


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n} {c.name}" for n, c in CASES])
def test_every_case_is_a_probe_or_a_scenario(name: str, case: Case) -> None:
    work = work_of(case, load_suite(name).gpu)
    assert work.refused == ""
    assert (work.scenario is None) == bool(case.probe)


def test_every_probe_is_there() -> None:
    pytest.importorskip("torch")
    from willfit.live.suite.probes import PROBES

    wanted = {case.probe for name in suites() for case in load_suite(name).cases if case.probe}
    assert wanted <= set(PROBES)


T4 = [case for case in load_suite("t4").cases if not case.probe]


@pytest.mark.parametrize("case", T4, ids=[case.name for case in T4])
def test_a_t4_is_asked_for_what_it_can_do(case: Case) -> None:
    """What is to run fits, be it tight; what is to run out does not; flash needs a later card."""
    scenario = scenario_of(case, "T4")
    found = estimate(scenario, search_limits=False)
    assert (found.verdict == "does_not_fit") == case.name.startswith("oom/")
    words = case.arguments
    assert "flash" not in words
    assert ("bfloat16" in words) == (case.name == "infer/llama1 bf16"), "emulated on sm_75"
    assert "--bf16" not in words
    assert find_gpu("T4").compute_capability == (7, 5)


# ---- running


def test_a_suite_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "rows.jsonl"
    command = ["measure", "--suite", "cpu", "--out", str(out), "--only", "infer/llama1", "softmax"]
    assert main(command) == 0
    rows = list(read_rows(out))
    assert [row["name"] for row in rows] == ["infer/llama1", "probe/softmax"]
    assert len(rows[1]["rows"]) == 3, "three types"
    assert "formula, allocated" in capsys.readouterr().out

    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1][:-200])  # a writer that died
    assert main(command) == 0
    said = capsys.readouterr()
    assert "1 of 2" not in said.err, "the first case has its row"
    assert "2 of 2  probe/softmax" in said.err
    assert [row["name"] for row in read_rows(out)] == ["infer/llama1", "probe/softmax"]

    before = out.read_bytes()
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert out.read_bytes() == before, "nothing was left to do"
    assert summary["errors"][0]["num_cases"] == 1


class Silent:
    def __init__(self) -> None:
        self.late: list[str] = []

    def begins(self, *_: Any) -> None: ...

    def ended(self, *_: Any) -> None: ...

    def left_out(self, cases: Any) -> None:
        self.late += [case.name for case in cases]


def test_a_case_that_fails_or_hangs_does_not_end_the_suite(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cases = [
        Case(name="unknown", probe="no such probe", tiny=True),
        Case(name="hangs", probe="softmax", tiny=True, limit=1e-6),
        Case(name="too long", probe="softmax", tiny=True, seconds=1e6),
        Case(name="well", probe="softmax", tiny=True),
    ]
    out, watching = tmp_path / "rows.jsonl", Silent()
    tally = run_suite(
        [work_of(case, "") for case in cases],
        device="cpu",
        out=out,
        budget=300,
        row_of=lambda work, answer: {"name": work.case.name, **answer},
        watching=watching,
    )
    rows = {row["name"]: row for row in read_rows(out)}
    assert rows["unknown"]["kind"] == "refused"
    assert rows["hangs"]["kind"] == "not_done"
    assert len(rows["well"]["result"]["rows"]) == 3
    assert (tally.ran, tally.left, watching.late) == (3, ("too long",), ["too long"])


def test_a_case_that_the_budget_ends_has_no_row_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limit was not reached: a row would keep it from ever being run whole."""
    pytest.importorskip("torch")
    from willfit.live.suite import run

    monkeypatch.setattr(run, "GRACE", 0.0)
    case = Case(name="slow", probe="softmax", tiny=True, seconds=0.0)
    given: dict[str, Any] = {
        "device": "cpu", "out": tmp_path / "rows.jsonl",
        "row_of": lambda work, answer: {"name": work.case.name, **answer},
    }  # fmt: skip
    watching = Silent()
    began = time.monotonic()
    tally = run_suite([work_of(case, "")], budget=0.3, watching=watching, **given)
    assert time.monotonic() - began < 20, "the import of libraries ends with the budget, too"
    assert (tally.ran, tally.left, watching.late) == (0, ("slow",), ["slow"])
    tally = run_suite([work_of(case, "")], budget=60, watching=Silent(), **given)
    assert (tally.ran, tally.left) == (1, ())


def test_a_grid_for_a_gpu_is_not_run_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--suite", "t4", "--device", "cpu"]) == 1
    assert "--suite cpu has small ones" in capsys.readouterr().err


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    with pytest.raises(InputError, match=r"No space left on device.*make room"):
        append_row(Path("/dev/full"), {"name": "a"})


def test_a_case_may_load_from_files_which_are_gone_afterwards() -> None:
    pytest.importorskip("torch")
    from willfit.live.measured.here import measure_here
    from willfit.live.suite.saved import saved

    case = Case(name="load", arguments="llama-3.2-1b --task load --dtype bfloat16", tiny=True)
    scenario = scenario_of(case)
    with saved(scenario) as folder:
        assert (Path(folder) / "model.safetensors").is_file()
        found = measure_here(scenario, device="cpu", checkpoint=folder)
    assert (found.failure, found.notes) == ("", ())
    assert found.readings[-1].held_bytes > 0
    assert not Path(folder).exists()


def test_rows_are_whole_after_a_torn_one(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.jsonl"
    append_row(file, {"name": "a"})
    with file.open("ab") as torn:
        torn.write(b'{"name": "b", "rows": [1, 2')
    append_row(file, {"name": "c"})
    append_row(file, {"name": "d"})
    assert [row["name"] for row in read_rows(file)] == ["a", "c", "d"]
    assert list(read_rows(tmp_path / "absent.jsonl")) == []


# ---- the summary


def line(phase: str, measured: int, formula: int | None, trace: int | None = None) -> Line:
    return Line(
        gpu_index=0, phase=phase, kind="allocated", measured_bytes=measured,
        formula_bytes=formula, trace_bytes=trace,
    )  # fmt: skip


def test_the_summary_s_arithmetic() -> None:
    """Errors of the peaks: +10, −2 and 0 % by formula, −1 % by trace."""
    judged = [
        Judged(name="a", settles="", lines=(line("peak", 100, 110), line("step", 100, 110))),
        Judged(name="b", settles="", lines=(line("peak", 100, 98, 99), line("step", 100, 98, 99))),
        Judged(name="c", settles="", lines=(line("peak", 100, 100), line("step", 100, 100))),
    ]
    formula, trace = errors_of(judged)
    assert (formula.num_cases, formula.worst_name) == (3, "a")
    assert (formula.median, formula.worst) == (pytest.approx(0.02), pytest.approx(0.1))
    assert (trace.num_cases, trace.worst) == (1, pytest.approx(-0.01))
    looks = look_next(judged)
    assert [(look.name, look.level) for look in looks] == [
        ("a", "formula"), ("b", "trace"), ("c", "formula"),
    ]  # fmt: skip


def test_a_phase_of_little_memory_is_not_what_to_look_at() -> None:
    """Twice 10 bytes is no matter beside 100."""
    judged = [Judged(name="c", settles="", lines=(line("step", 100, 101), line("load", 10, 20)))]
    assert [look.line.phase for look in look_next(judged)] == ["step"]


# ---- the bundle


def test_a_bundle_runs_without_network_in_an_empty_folder(tmp_path: Path) -> None:
    """In a fresh environment that has the libraries and nothing else; the network is off."""
    pytest.importorskip("torch")
    packed, folder = tmp_path / "b.zip", tmp_path / "there"
    assert main(["measure", "--suite", "cpu", "--bundle", str(packed)]) == 0
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "run.sh", "prepare.py", "bundle.json", "wheels"}
    assert "http" not in (folder / "run.sh").read_text()

    python = _environment(tmp_path / "venv")
    run = [*_offline(tmp_path), "sh", "run.sh", "--only", "infer/llama1"]
    done = subprocess.run(
        run, cwd=folder, env={**_without_network(tmp_path), "PYTHON": str(python)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(read_rows(folder / "cpu.jsonl"))
    assert [row["name"] for row in rows] == ["infer/llama1"]
    assert rows[0]["failure"] == ""
    where = [str(python), "-c", "import willfit; print(willfit.__file__)"]
    path = {**os.environ, "PYTHONPATH": str(folder / "site")}
    found = subprocess.run(where, env=path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(folder / "site")), "the bundle's own, not the one installed here"


def _environment(folder: Path) -> Path:
    """A virtual environment that sees the packages of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "here.pth").write_text("\n".join(sorted(paths)) + "\n")
    return folder / "bin" / "python"


def _offline(folder: Path) -> list[str]:
    """A network of its own with nothing in it, where the system lets us make one."""
    command = ["unshare", "-rn"]
    if shutil.which("unshare") is None:
        return []
    probe = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if probe.returncode == 0 else []


def _without_network(folder: Path) -> dict[str, str]:
    """Python that refuses to connect, whether or not the network is there."""
    block = folder / "block"
    block.mkdir()
    (block / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(self, address):\n"
        "    raise OSError(f'the network is off: {address}')\n"
        "socket.socket.connect = refuse\n"
        "socket.socket.connect_ex = refuse\n"
    )
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "HOME": str(folder), "PYTHONPATH": str(block)}


def test_a_wheel_that_cannot_be_had_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "wheels"
    empty.mkdir()
    command = [
        "measure",
        "--suite",
        "t4",
        "--bundle",
        str(tmp_path / "out"),
        "--wheels",
        str(empty),
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "bitsandbytes is not in it" in shown
    assert "cases that need it are refused" in " ".join(shown.split())
    facts = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert [wheel["name"] for wheel in facts["wheels"]] == ["willfit"]


def test_another_folder_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["measure", "--suite", "cpu", "--bundle", str(tmp_path)]) == 1
    assert "has other files in it" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_suites_name_the_packages_that_they_need() -> None:
    for name in suites():
        suite: Suite = load_suite(name)
        text = " ".join(case.arguments for case in suite.cases)
        assert ("trl" in suite.needs) == ("--trainer trl" in text)
        assert ("liger-kernel" in suite.needs) == ("--use-liger-kernel" in text)
