"""The generated reference is current and complete, and the JSON Schemas say yes and no."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import json
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tools.build_reference import documents, stale
from tools.pages import DOCS, ROOT
from tools.reference import cli, formulas
from tools.reference.sources import parsed
from tools.schemas import CONTRACTS

import willfit
from willfit.cli.main import COMMANDS, main

SCHEMAS = DOCS / "reference" / "schemas"
FAILURE = str(ROOT / "examples/doctor/error.log")
SCRIPT = str(ROOT / "examples/doctor/finetune.py")
LLAMA = "llama-3-8b"

PRINTED = {
    "estimate": [
        [LLAMA],
        [LLAMA, "--gpu", "T4", "--quantize", "nf4"],
        [LLAMA, "--gpu", "T4x2", "--train", "full", "--strategy", "zero3"],
        [LLAMA, "--gpu", "A100-80GB", "--train", "lora", "--ram", "64GB"],
        ["bert-base-cased", "--gpu", "24GiB:sm_86", "--batch-size", "8"],
        ["timm/resnet50.a1_in1k"],
        ["mistral-7b", "--gpu", "L4", "--engine", "vllm", "--context", "8192"],
        ["openai/gpt-oss-20b", "--gpu", "RTX 4090", "--task", "load"],
        ["t5-small", "--gpu", "T4", "--train", "full", "--optim", "adafactor"],
        ["bloom-3b", "--quantize", "nf4", "--gpu", "T4x2", "--max-memory", "0=600MB,1=1GB"],
    ],
    "plan": [
        [LLAMA, "--gpu", "T4", "--train", "qlora", "--samples", "100", "--time-limit", "9h"],
        ["gemma-2-9b-it", "--gpu", "T4x2", "--dtype", "float16", "--batch-size", "4"],
        ["gpt2", "--gpu", "T4", "--emit", "transformers"],
        ["deepseek-v3", "--gpu", "T4", "--top", "1"],
    ],
    "where": [
        [LLAMA, "--train", "qlora", "--samples", "9000", "--place", "kaggle", "l4", "h100"],
        [LLAMA, "--quantize", "nf4", "--place", "kaggle-tpu", "m4-max-64"],
    ],
    "diagnosis": [[FAILURE], [FAILURE, SCRIPT], [SCRIPT], [str(ROOT / "README.md")]],
    "diff": [[f"{LLAMA} --gpu T4 --quantize nf4", f"{LLAMA} --gpu L4"], ["gpt2", "gpt2 --train full"]],
    "compare": [
        ["mistral-7b", LLAMA, "--quantize", "int8", "--gpu", "T4", "--task", "load"],
        [LLAMA, "--gpu", "L4", "--vary", "quantize=int8,nf4"],
    ],
    "gpus": [[], ["h200"], ["no such card"]],
    "models": [[], ["qwen3"]],
}  # fmt: skip
"""Settings of the commands whose JSON is checked; doctor prints the diagnosis."""
COMMAND_OF = {"diagnosis": "doctor"}


@cache
def ran(*words: str) -> tuple[int, str]:
    """Exit code and output of a command, which is run once."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main(words)
    return code, out.getvalue()


def printed_json(*words: str) -> Any:
    code, out = ran(*words, "--json")
    assert code in (0, 3, 4), words
    return json.loads(out)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text()))


def test_the_reference_is_current() -> None:
    assert not (old := stale()), f"python -m tools.build_reference writes {old}"


def test_no_page_is_left_over() -> None:
    made = {str(path) for path in documents()}
    folders = (DOCS / "reference", DOCS / "formulas")
    there = {str(p) for folder in folders for p in folder.rglob("*") if p.is_file()}
    assert there <= made


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_of_a_command_is_on_the_page(name: str) -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    section = page.split(f"\n## willfit {name}\n")[1].split("\n## ")[0]
    for action in cli.parser_of(name)._actions:
        flags = set(action.option_strings) - {"-h", "--help"}
        assert all(f"`{flag}`" in section for flag in flags)


ENDS = [
    (1, "estimate"),
    (1, "estimate llama-3-8b --gpu nothing"),
    (1, "run no.yaml"),
    (1, "status no-run"),
    (3, "estimate llama-3-8b --gpu T4 --dtype float32 --check"),
    (4, "estimate llama-3-8b --gpu T4 --train lora --optim galore_adamw"),
    (3, "plan deepseek-v3 --gpu T4 --top 1 --json"),
    (3, "where llama-3-8b --dtype float32 --place colab-t4 --no-changes --check"),
    (3, f"doctor {FAILURE} --check"),
    (3, "diff gpt2 'gpt2 --train full' --check"),
    (3, "compare llama-3-8b gpt2 --gpu T4 --dtype float32 --check"),
]


@pytest.mark.parametrize(("code", "typed"), ENDS, ids=lambda value: str(value)[:40])
def test_exit_codes_are_those_of_the_page(code: int, typed: str) -> None:
    words = shlex.split(typed)
    assert ran(*words)[0] == code
    page = (DOCS / "reference" / "cli.md").read_text()
    section = page.split(f"\n## willfit {words[0]}\n")[1].split("\n## ")[0]
    assert f"\n| {code} | " in section
    assert set(cli.EXIT_CODES) <= set(COMMANDS)


def test_every_public_name_is_on_the_page() -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    for name in willfit.__all__:
        assert name == "__version__" or f"\n## {name}\n" in page, name


def public(path: Path) -> Iterator[str]:
    """Public functions of a module that have a docstring, as Python itself reads them."""
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and ast.get_docstring(node):
            yield node.name


def test_every_public_formula_is_on_a_page() -> None:
    on_pages = {
        path: (DOCS / "formulas" / f"{page}.md").read_text()
        for page, (_, names) in formulas.GROUPS.items()
        for path in formulas.modules(names)
    }
    there = {path for path in formulas.HOME.rglob("*.py") if path.name != "__init__.py"}
    assert set(on_pages) == there, "a module of willfit.formulas is in no group"
    for path, text in on_pages.items():
        section = text.split(
            f"\n## {'.'.join(path.relative_to(formulas.HOME).with_suffix('').parts)}\n"
        )[1]
        for name in public(path):
            assert f"### {name}\n" in section, f"{path.name}: {name}"


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_a_schema_is_a_schema(contract: Any) -> None:
    Draft202012Validator.check_schema(contract.document)
    assert contract.document["properties"]["schema"] == {"const": f"willfit.{contract.name}/1"}


def closed(schema: Any) -> Any:
    """The schema with no key but those that it names: what we print is all on the page."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        made |= {
            "properties": {name: closed(value) for name, value in schema["properties"].items()},
            "additionalProperties": False,
        }
    return made


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, words) for name, rows in PRINTED.items() for words in rows],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else value,
)
def test_what_is_printed_keeps_its_contract(name: str, words: list[str]) -> None:
    found = printed_json(COMMAND_OF.get(name, name), *words)
    check = Draft202012Validator(closed(validator(name).schema))
    assert not [(error.json_path, error.message[-300:]) for error in check.iter_errors(found)]


def test_a_key_that_is_not_on_the_page_is_seen() -> None:
    found = printed_json("diff", *PRINTED["diff"][0])
    check = Draft202012Validator(closed(validator("diff").schema))
    assert check.is_valid(found)
    assert not check.is_valid({**found, "components": [{**found["components"][0], "new": 1}]})


def test_a_traced_estimate_keeps_it_too() -> None:
    found = printed_json("estimate", "gpt2", "--gpu", "0.5GiB:sm_75", "--trace")
    assert found["level"] == "trace" and found["failure"] and found["largest_alive"]
    assert not list(validator("estimate").iter_errors(found))


def test_a_run_keeps_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(ROOT / "examples/own-function", tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    for name, words in (
        ("dry-run", ("run", "pipeline.yaml", "--dry-run")),
        ("run", ("run", "pipeline.yaml", "--quiet")),
        ("status", ("status", "pipeline.yaml")),
    ):
        assert not list(validator(name).iter_errors(printed_json(*words))), name


def test_a_measurement_keeps_it_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
             "max_position_embeddings": 128, "dtype": "float32"}  # fmt: skip
    named = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(named))
    found = printed_json("measure", str(tmp_path), "--device", "cpu", "--context", "64")
    assert found["readings"] and not found["failure"]
    assert not [error.message for error in validator("measurement").iter_errors(found)]


def test_a_suite_that_did_nothing_yet_keeps_it_too() -> None:
    from willfit.live.suite.case import load_suite
    from willfit.report.suite import summary_json

    suite = load_suite("cpu")
    found = summary_json(suite, [], [], [case.name for case in suite.cases])
    assert not list(validator("suite").iter_errors(found))


OF_LATE = {"willfit"}
"""Keys that estimates of earlier versions lack, which are read all the same."""


def broken(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """An estimate with one thing wrong each."""

    def change(*path: Any, value: Any) -> dict[str, Any]:
        made = copy.deepcopy(found)
        *way, last = path
        inner: Any = made
        for key in way:
            inner = inner[key]
        inner[last] = value
        return made

    for key in found.keys() - OF_LATE:
        yield f"without {key}", {name: value for name, value in found.items() if name != key}
    yield "bytes that are a float", change("peak", "device_bytes", value=1.5)
    yield "bytes that are a text", change("components", 0, "bytes", value="1 GiB")
    yield "fewer than no bytes", change("components", 0, "bytes", value=-1)
    yield "an unknown verdict", change("verdict", value="maybe")
    yield "an unknown component", change("components", 0, "name", value="magic")
    yield "an unknown level", change("level", value="guess")
    yield "another contract", change("schema", value="willfit.estimate/2")
    yield (
        "a card without a budget",
        change(
            "per_gpu",
            0,
            value={k: v for k, v in found["per_gpu"][0].items() if k != "budget_bytes"},
        ),
    )


def test_a_broken_estimate_is_refused_and_an_addition_is_not() -> None:
    found = printed_json("estimate", LLAMA, "--gpu", "T4", "--quantize", "nf4")
    check = validator("estimate")
    for what, wrong in broken(found):
        assert not check.is_valid(wrong), what
    assert check.is_valid({**found, "of_tomorrow": 1, "peak": {**found["peak"], "new": None}})


def test_a_broken_plan_is_refused() -> None:
    found = printed_json("plan", *PRINTED["plan"][0])
    check = validator("plan")
    assert check.is_valid(found)
    for key in found:
        assert not check.is_valid({name: value for name, value in found.items() if name != key})
    found["plans"][0]["estimate"]["peak"]["device_bytes"] = "12 GiB"
    assert not check.is_valid(found), "the estimate within is checked as well"
