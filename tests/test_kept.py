"""Kept answers: the same question is answered from disk, and nothing on that disk is trusted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from willfit.cli import kept
from willfit.cli.main import main

QUESTION = ["estimate", "gpt2", "--gpu", "T4", "--context", "64", "--trace", "--json"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "willfit" / "traces"


def asked(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict[str, Any], str]:
    assert main([*QUESTION, *more]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_the_same_question_is_answered_without_the_libraries(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = asked(capsys)
    assert first["level"] == "trace" and "traced before" not in said
    monkeypatch.setitem(sys.modules, "willfit.trace.trace", None)  # an import would fail now
    second, said = asked(capsys)
    assert second == first and "traced before (--no-cache" in said


def test_another_question_is_not(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = asked(capsys)
    second, said = asked(capsys, "--batch-size", "2")
    assert "traced before" not in said and second["peak"] != first["peak"]
    assert len(list(cache.glob("*.json"))) == 2
    _, said = asked(capsys, "--no-cache")
    assert "traced before" not in said


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"gpus": 3}', "null", '{"gpus": [{"phases": 1}]}']
)
def test_a_broken_file_is_traced_again(
    cache: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    first, _ = asked(capsys)
    (path,) = cache.glob("*.json")
    path.write_text(content)
    second, said = asked(capsys)
    assert second == first and "traced before" not in said


def test_a_folder_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert asked(capsys)[0]["level"] == "trace"


def test_the_oldest_go_first(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    for batch in ("1", "2", "3"):
        asked(capsys, "--batch-size", batch)
    assert len(list(cache.glob("*.json"))) == 2


def test_what_cannot_be_traced_is_answered_by_formula_and_said(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    monkeypatch.setattr(GPT2MLP, "forward", lambda _, x: x[x > 0])
    assert main(QUESTION) == 4
    result = json.loads(capsys.readouterr().out)
    assert result["level"] == "formula" and result["peak"]["device_bytes"] > 0
    assert any("transformer.h.0.mlp" in text for text in result["unsupported"])
    assert not list(cache.glob("*.json"))


def test_another_engine_is_not_traced_as_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "gpt2", "--gpu", "T4", "--engine", "vllm", "--trace", "--json"]) == 4
    result = json.loads(capsys.readouterr().out)
    assert result["level"] == "formula"
    assert any("not vllm's" in text for text in result["unsupported"])
