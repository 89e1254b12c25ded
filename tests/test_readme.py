"""The README is true: its output is what is printed, its commands run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from willfit.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("./my-model", "org/name", "--live", "adapter_config.json", "willfit bundle",
             "snapshot.pickle")  # fmt: skip
"""Marks of commands that need a file, the network or a GPU that a test does not have."""
README = (ROOT / "README.md").read_text()


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[str]:
    section = README.split("## What you can ask")[1].split("## How far")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("willfit ")]


@pytest.mark.parametrize("number", [1, 2])
def test_the_output_shown_is_the_output_printed(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in block("command 1").splitlines() if "bin/willfit" in line]
    assert main(shlex.split(lines[number - 1])[1:]) == 0
    assert capsys.readouterr().out == block(f"output {number}")


def test_the_diagnosis_shown_is_the_diagnosis_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    files = ["examples/doctor/error.log", "examples/doctor/finetune.py"]
    assert main(["doctor", *files]) == 0
    assert capsys.readouterr().out == block("output 3")


def test_the_python_shown_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "from_pretrained" in printed and "gradient_checkpointing" not in printed


def test_the_two_commands_set_up_all_they_need() -> None:
    assert "python3 -m venv" in block("command 1")
    assert "constraints.txt" in block("command 2")
    assert "pytest" in block("command 2")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, their models made."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("models", "runs")
    )
    script = folder / "examples/lmsys-ensemble/make_models.py"
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("command", commands())
def test_every_command_shown_runs(
    command: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    in_checkout = "examples/" in command and "bundle" not in command
    monkeypatch.chdir(request.getfixturevalue("examples") if in_checkout else tmp_path)
    if any(mark in command for mark in ELSEWHERE):
        assert main([shlex.split(command)[1], "--help"]) == 0
        return
    assert main(shlex.split(command)[1:]) == 0
    printed = capsys.readouterr().out
    assert printed
    if "--gpu T4x2" in command and "--trace" in command:
        (shown,) = re.findall(r"```text\n(would end.*?)```", README, re.DOTALL)
        assert shown in printed
