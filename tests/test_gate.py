"""The gate for other people's tests, in test runs of its own: fails, names, records, accepts."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools.pages import ROOT, blocks

from willfit._version import __version__
from willfit.testing.gate import MemoryGate
from willfit.testing.records import record_path

PLUGIN = "willfit.testing.plugin"
CI = ROOT / "docs" / "ci.md"
EXAMPLE = ROOT / "examples" / "ci"


class Project:
    """A project with tests of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tests").mkdir(parents=True)

    def write(self, name: str, text: str) -> None:
        (self.folder / "tests" / name).write_text(text, encoding="utf-8")

    def test(self, *words: str) -> tuple[int, str]:
        """Without the plugins of this environment, which take longer to load than the tests."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", PLUGIN, *words]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def record(self, name: str) -> Path:
        return self.folder / "tests" / "memory" / f"{name}.json"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def page_test() -> str:
    """The first test that the page shows."""
    return next(b.text for b in blocks(CI) if b.language == "python")


def failure_shown() -> str:
    return next(b.text for b in blocks(CI) if b.mark == "failure")


def test_the_pages_fixture_fails_records_passes_and_names_what_grew(project: Project) -> None:
    project.write("test_memory.py", page_test())
    code, out = project.test()
    assert code == 1
    assert "nothing is recorded for this test" in out
    accept = "pytest --willfit-record tests/test_memory.py::test_fine_tuning"
    assert accept in out and "Traceback" not in out

    code, out = project.test("--willfit-record", "tests/test_memory.py::test_fine_tuning")
    assert code == 0 and "recorded tests/memory/test_memory.test_fine_tuning.json" in out
    record = project.record("test_memory.test_fine_tuning")
    text = record.read_text()
    content = json.loads(text)
    assert content["willfit"] == __version__ and len(text) < 4096
    assert sum(content["components"].values()) == content["peak_bytes"]
    assert str(project.folder) not in text

    assert project.test()[0] == 0
    assert project.test("--willfit-record")[0] == 0
    assert record.read_text() == text  # the same, byte for byte

    project.write("test_memory.py", page_test().replace("--max-length 512", "--max-length 1024"))
    code, out = project.test()
    assert code == 1
    for line in failure_shown().splitlines():
        assert line in out
    assert record.read_text() == text  # a failing gate changes nothing

    project.write("test_memory.py", page_test().replace("--max-length 512", "--max-length 256"))
    code, out = project.test()
    assert code == 0 and "is more than is needed now: logits -" in out


def test_below_the_root_of_a_repository_the_command_works_where_one_stands(
    project: Project,
) -> None:
    (project.folder.parent / "pytest.ini").write_text("[pytest]\n")
    project.write("test_a.py", 'def test_it(memory_gate):\n    memory_gate("gpt2 --gpu T4")\n')
    out = project.test("tests")[1]
    said = re.search(r"\((\S+)\).*; record it: pytest (--willfit-record \S+)", out)
    assert said is not None and said[1] == "tests/memory/test_a.test_it.json"
    assert project.test(*said[2].split())[0] == 0
    assert (project.folder / said[1]).is_file()


IN_A_CLASS = """
import unittest, pytest

class TestIt(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, memory_gate):
        self.memory_gate = memory_gate

    def test_it(self):
        with self.subTest("one of two"):
            self.memory_gate("gpt2 --gpu T4")
        self.memory_gate("gpt2 --gpu T4 --context 512")
"""


def test_a_unittest_class_has_the_gate_and_each_record_is_told_once(project: Project) -> None:
    project.write("test_a.py", IN_A_CLASS)
    code, out = project.test("--willfit-record")
    assert code == 0 and out.count("recorded tests/memory/") == 2
    assert {p.name for p in project.record("").parent.iterdir()} == {
        "test_a.TestIt.test_it.json", "test_a.TestIt.test_it.2.json",
    }  # fmt: skip
    assert project.test()[0] == 0


def test_where_willfit_moved_the_number_it_says_so(project: Project) -> None:
    project.write("test_a.py", 'def test_it(memory_gate):\n    memory_gate("gpt2 --gpu T4")\n')
    assert project.test("--willfit-record")[0] == 0
    record = project.record("test_a.test_it")
    content = json.loads(record.read_text())
    content["components"]["activations"] -= 2**20
    content["peak_bytes"] -= 2**20
    content["willfit"] = "0.0.1"
    record.write_text(json.dumps(content))
    code, out = project.test()
    assert code == 1 and "grew: activations +1.0 MiB" in out
    assert f"no setting of yours: willfit 0.0.1 → {__version__} finds another" in out


MANY = """
import pytest
import willfit
from willfit.scenario import Scenario

@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_sizes(memory_gate, n):
    memory_gate(f"gpt2 --batch-size {n}", allow="1%")

class TestKinds:
    @pytest.mark.parametrize("name", ["a/b ü", "a b-ü"])
    def test_names(self, memory_gate, name):
        first = memory_gate(Scenario(model=willfit.find_model("gpt2")))
        second = memory_gate(first, name="as an estimate")
        third = memory_gate("willfit estimate gpt2")
        assert first.fits is None and second is first and third.level == "formula"
"""


def test_workers_write_and_read_each_its_own(project: Project) -> None:
    """Two processes at once, names that no file system takes, several gates in a test."""
    pytest.importorskip("xdist")
    project.write("test_many.py", MANY)
    workers = ("-p", "xdist", "-n", "2")
    code, out = project.test(*workers, "--willfit-record")
    assert code == 0 and out.count("recorded tests/memory/") == 4 + 2 * 3
    assert len(list((project.folder / "tests" / "memory").iterdir())) == 4 + 2 * 3
    project.write("test_many.py", MANY.replace("--batch-size {n}", "--batch-size {n + 1}"))
    code, out = project.test(*workers)
    assert code == 1 and "4 failed, 2 passed" in out
    assert len(re.findall("^memory grew past", out, re.MULTILINE)) == 4
    assert "changed: --batch-size 8 → 9" in out


BAD = """
import pytest

def test_typo(memory_gate):
    memory_gate("gpt2 --batch-sise 4")

def test_model(memory_gate):
    memory_gate("gpt3")

def test_kind(memory_gate):
    memory_gate(42)

def test_allowance(memory_gate):
    memory_gate("gpt2", allow="some")

def test_no_number(memory_gate):
    memory_gate("timm/resnet50.a1_in1k --gpu T4")

def test_twice(memory_gate):
    memory_gate("gpt2", name="x")
    memory_gate("gpt2", name="x")
"""
SAID = (
    "did you mean --batch-size?", "no model known offline is called 'gpt3'",
    "memory_gate was given a int", "cannot allow 'some'", "no trustworthy number",
    "two gates of this test are called 'x'",
)  # fmt: skip


def test_what_is_wrong_is_one_sentence_and_no_traceback(project: Project) -> None:
    project.write("test_bad.py", BAD)
    code, out = project.test("--willfit-record")
    assert code == 1 and "6 failed" in out
    for said in SAID:
        assert said in out
    assert "src/willfit" not in out


BROKEN = ("", "[]", '{"schema": "willfit.record/1"}', "[" * 100_000, " " * 2**21)
NUMBERED = """
import pytest

@pytest.mark.parametrize("n", range(5))
def test_it(memory_gate, n):
    memory_gate("gpt2")
"""


def test_a_broken_record_is_named_and_recorded_again(project: Project) -> None:
    project.write("test_a.py", NUMBERED)
    for number, content in enumerate(BROKEN):
        record = project.record(f"test_a.test_it[{number}]")
        record.parent.mkdir(exist_ok=True)
        record.write_text(content)
    code, out = project.test()
    assert code == 1 and "5 failed" in out and "Traceback" not in out
    assert len(re.findall("^test_a.*: record it again$", out, re.MULTILINE)) == len(BROKEN)
    assert project.test("--willfit-record")[0] == 0 and project.test()[0] == 0


def test_the_example_is_what_the_page_shows(project: Project) -> None:
    """A step of real code, counted on the host; and the tests and the workflow as they are."""
    torch = pytest.importorskip("torch")
    shutil.copytree(EXAMPLE / "tests", project.folder / "tests", dirs_exist_ok=True)
    assert project.test("--willfit-record")[0] == 0
    block = json.loads(project.record("test_step.test_a_step_takes_what_it_took").read_text())
    # what is left behind: the gradients of 64 × 256 + 256 + 256 × 8 + 8 float32 weights
    assert block["components"]["left_behind"] == 4 * (64 * 256 + 256 + 256 * 8 + 8)
    assert block["components"]["rise"] > block["components"]["left_behind"]

    names: dict[str, Any] = runpy.run_path(str(project.folder / "tests" / "test_step.py"))
    names["test_a_step_takes_what_it_took"](gate_of(project))
    kept = []
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8))

    def keeping() -> None:
        with gate_of(project).block():
            names["step"](model, torch.randn(32, 64))
            kept.append(torch.zeros(10, 1024))

    with pytest.raises(pytest.fail.Exception, match=r"grew: left_behind \+40.0 KiB") as failed:
        keeping()
    assert "changed: the code, no setting" in str(failed.value)

    shown = next(b.text for b in blocks(CI) if b.language == "yaml")
    workflow = re.sub(r" +#.*|^#.*\n", "", (EXAMPLE / "memory.yml").read_text(), flags=re.MULTILINE)
    assert workflow == shown
    tests = (EXAMPLE / "tests" / "test_memory.py").read_text()
    assert page_test().partition("\n\n\n")[2] in tests


def gate_of(project: Project) -> MemoryGate:
    """The fixture of the example's step, in this process."""
    file = project.folder / "tests" / "test_step.py"
    test_id = "tests/test_step.py::test_a_step_takes_what_it_took"
    return MemoryGate(test_file=file, test_id=test_id, recording=False, say=lambda _: None)


def test_loading_the_plugin_costs_nothing() -> None:
    """It is imported into every test run of an environment that has willfit."""
    code = (
        "import sys, pytest; before = set(sys.modules); import willfit.testing.plugin; "
        "new = set(sys.modules) - before; "
        "allowed = {'willfit', 'willfit._version', 'willfit.testing', 'willfit.testing.plugin'}; "
        "print(sorted(n for n in new if n.split('.')[0] in ('willfit', 'torch', 'numpy', 'yaml') "
        "and n not in allowed))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("test_id", "name", "file"),
    [
        ("t/test_a.py::test_it", "", "test_a.test_it.json"),
        ("t/test_a.py::test_it[8-nf4]", "", "test_a.test_it[8-nf4].json"),
        ("t/test_a.py::TestX::test_it", "2", "test_a.TestX.test_it.2.json"),
    ],
)
def test_a_record_is_called_like_its_test(test_id: str, name: str, file: str) -> None:
    assert record_path(Path("t/test_a.py"), test_id, name) == Path("t/memory") / file


def test_names_that_look_alike_after_cleaning_stay_apart() -> None:
    odd = ["a/b", "a b", "a\\b", "a\n", "../../a", "x" * 300, "x" * 301]
    paths = [record_path(Path("t/test_a.py"), f"t/test_a.py::test[{name}]", "") for name in odd]
    assert len(set(paths)) == len(odd)
    assert all(path.parent == Path("t/memory") and len(path.name) < 200 for path in paths)
