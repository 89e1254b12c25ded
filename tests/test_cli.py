"""The command line: exit codes, sentences, formats, and what it must not import."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from willfit.cli.main import COMMANDS, main
from willfit.cli.values import parse_max_memory
from willfit.errors import InputError


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_main_job_prints_a_table_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "estimate", "meta-llama/Meta-Llama-3-8B", "--gpu", "T4")
    assert code == 0 and err == ""
    assert max(map(len, out.splitlines())) <= 80
    assert "8,030,261,248 parameters" in out
    assert "verdict: does not fit" in out
    assert "published safetensors total" in out
    assert " GB" not in out.replace("GB)", "")


def test_without_a_workload_it_is_the_table_that_accelerates_users_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "estimate", "bert-base-cased", "--auto-class", "AutoModel")
    assert code == 0
    assert "largest layer" in out and "training with Adam" in out
    assert "413.2 MiB" in out and "86.5 MiB" in out
    assert "verdict" not in out


def test_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "estimate", "llama-3-8b", "--gpu", "T4x2", "--json")
    assert code == 0 and err == ""
    assert json.loads(out)["schema"] == "willfit.estimate/1"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["llama-3-8b", "--gpu", "T4"], 0),
        (["llama-3-8b", "--gpu", "T4", "--check"], 3),
        (["llama-3-8b", "--gpu", "A100-80GB", "--check"], 0),
        (["llama-3-8b", "--gpu", "A100-80GB", "--check", "--strict"], 0),
        (["llama-3-8b", "--check"], 1),
        (["timm/resnet50.a1_in1k", "--batch-size", "4"], 4),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], words: list[str], code: int) -> None:
    assert run(capsys, "estimate", *words)[0] == code


def test_activations_that_no_formula_knows_are_no_trustworthy_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "estimate", "timm/resnet50.a1_in1k", "--gpu", "T4")
    assert code == 4 and "not supported: loading only" in out
    assert run(capsys, "estimate", "timm/resnet50.a1_in1k", "--gpu", "T4", "--task", "load")[0] == 0


def test_a_stored_4_bit_checkpoint_is_the_base_of_qlora(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unsloth/llama-3-8b-bnb-4bit", "--gpu", "T4", "--gradient-checkpointing", "--json"]
    code, out, _ = run(capsys, "estimate", *words, "--train", "qlora", "--batch-size", "1")
    assert code == 0
    assert json.loads(out)["model"]["num_trainable_params"] == 3_407_872


def test_an_adapter_without_a_formula_is_traced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    adapter = {
        "peft_type": "IA3", "target_modules": ["c_attn"], "feedforward_modules": [],
        "fan_in_fan_out": True,
    }  # fmt: skip
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(adapter))
    words = ["gpt2", "--train", "lora", "--peft-config", str(path), "--max-length", "64", "--json"]
    code, _, err = run(capsys, "estimate", *words)
    assert code == 4 and "--trace" in err
    code, out, _ = run(capsys, "estimate", *words, "--trace")
    assert code == 0
    assert json.loads(out)["model"]["num_trainable_params"] == 12 * 3 * 768


def test_a_traced_answer_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gpt2", "--gpu", "T4", "--train", "full", "--max-length", "64", "--batch-size", "1"]
    code, out, err = run(capsys, "estimate", *words, "--trace", "--json")
    assert code == 0 and err == ""
    answer = json.loads(out)
    assert answer["level"] == "trace" and answer["verdict"] == "fits"
    assert sum(part["bytes"] for part in answer["components"]) == answer["peak"]["device_bytes"]


def test_tight_passes_a_check_and_not_a_strict_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "estimate", "llama-3-8b", "--gpu", "L4", "--json")
    spread = json.loads(out)["range"]
    middle = (spread["low_device_bytes"] + spread["high_device_bytes"]) // 2
    card = ["estimate", "llama-3-8b", "--gpu", f"L4:{middle}B", "--check"]
    assert run(capsys, *card)[0] == 0
    assert run(capsys, *card, "--strict")[0] == 3


BAD = {
    "misspelt model": (["meta-lama/Meta-Lama-3-8B"], "Meta-Llama-3-8B"),
    "unknown GPU": (["llama-3-8b", "--gpu", "T44"], "did you mean NVIDIA T4"),
    "unknown dtype": (["llama-3-8b", "--dtype", "bfloat17"], "expected one of"),
    "integer dtype": (["llama-3-8b", "--dtype", "int8"], "--quantize"),
    "unknown optimizer": (["llama-3-8b", "--train", "lora", "--optim", "adamx"], "did you mean"),
    "negative batch": (["llama-3-8b", "--batch-size", "-1"], "whole number"),
    "zero batch": (["llama-3-8b", "--batch-size", "0"], "at least 1"),
    "batch below zero": (["llama-3-8b", "--batch-size", "-1"], "at least 1"),
    "unknown flag": (["llama-3-8b", "--gpux", "T4"], "did you mean --gpu"),
    "training flag alone": (["llama-3-8b", "--optim", "sgd"], "add --train"),
    "inference flag in training": (["llama-3-8b", "--train", "full", "--context", "9"], "leave one"),
    "both half types": (["llama-3-8b", "--train", "lora", "--bf16", "--fp16"], "--fp16"),
    "full training of 4 bit": (["llama-3-8b", "--train", "full", "--quantize", "nf4"], "lora"),
    "qlora in int8": (["llama-3-8b", "--train", "qlora", "--quantize", "int8"], "--train lora"),
    "quantised twice": (["Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "--quantize", "nf4"], "already"),
    "qlora on a GPTQ checkpoint": (
        ["Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "--train", "qlora"], "use --train lora",
    ),
    "allocator setting that is none": (["gpt2", "--alloc-conf", "foo:bar"], "has no setting 'foo'"),
    "type that nothing loads in": (["gpt2", "--dtype", "float8_e4m3fn"], "use one of float32"),
    "cache in fp8 with transformers": (["gpt2", "--kv-dtype", "fp8"], "--engine vllm"),
    "new tokens without room": (["gpt2", "--max-new-tokens", "5000"], "room for 1024"),
    "products in int8": (
        ["gpt2", "--quantize", "nf4", "--bnb-4bit-compute-dtype", "int8"], "use one of",
    ),
    "reentrant what": (["gpt2", "--train", "full", "--use-reentrant"], "--gradient-checkpointing"),
    "padded loading": (["gpt2", "--task", "load", "--padded"], "--padded"),
    "more in use than there is": (["gpt2", "--gpu", "T4", "--in-use", "30GB"], "give less"),
    "module that is not there": (
        ["gpt2", "--quantize", "int8", "--llm-int8-skip-modules", "foo"], "no such module",
    ),
    "saved module that is not there": (
        ["gpt2", "--train", "lora", "--modules-to-save", "foo"], "no such module",
    ),
    "static cache of vLLM": (["gpt2", "--engine", "vllm", "--cache", "static"], "--engine vllm"),
    "compute capability that is none": (["gpt2", "--gpu", "24GiB:sm_999"], "sm_999"),
    "timeline without a trace": (["gpt2", "--timeline", "t.html"], "add --trace"),
    "timeline of another kind": (["gpt2", "--trace", "--timeline", "t.gif"], ".html, .svg or .png"),
    "more tokens than positions": (["bert-base-cased", "--context", "600"], "512 positions"),
    "new tokens over context": (["llama-3-8b", "--context", "5", "--max-new-tokens", "9"], "more"),
    "map of GPUs that are not there": (
        ["llama-3-8b", "--gpu", "T4", "--max-memory", "{3: '1GB'}"], "names GPU 3",
    ),
    "unreadable map": (["llama-3-8b", "--gpu", "T4", "--max-memory", "{0: [}"], "expected a map"),
    "reserve without GPU": (["llama-3-8b", "--reserve", "1GB"], "needs --gpu"),
    "odd amount": (["llama-3-8b", "--gpu", "T4", "--reserve", "lots"], "600MB"),
    "unknown library in the stack": (["llama-3-8b", "--stack", "numpy=2"], "transformers=4.57"),
    "flash on a T4": (["llama-3-8b", "--gpu", "T4", "--attn", "flash_attention_2"], "use sdpa"),
    "unknown attention": (["llama-3-8b", "--attn", "magic"], "expected one of"),
    "unknown auto class": (["llama-3-8b", "--auto-class", "AutoMagic"], "expected AutoModel"),
    "labels of a causal LM": (
        ["llama-3-8b", "--auto-class", "AutoModelForCausalLM", "--num-labels", "3"], "leave one",
    ),
    "no target module": (
        ["llama-3-8b", "--train", "lora", "--lora-target-modules", "nope"], "q_proj",
    ),
    "no model": ([], "no model given"),
    "missing file": (["/nonexistent/config.json"], "no file or folder"),
    "folder without a model": (["{folder}"], "{folder}"),
    "not JSON": (["{broken}"], "JSON"),
    "config without the needed keys": (["{empty}"], "config"),
    "lengths that are no numbers": (
        ["llama-3-8b", "--train", "lora", "--lengths", "{broken}"], "whole number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_gets_one_sentence_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.json").write_text("{not json")
    (tmp_path / "empty.json").write_text("{}")
    places = {
        "{folder}": str(tmp_path / "folder"),
        "{broken}": str(tmp_path / "broken.json"),
        "{empty}": str(tmp_path / "empty.json"),
    }
    words, expected = BAD[case]
    code, out, err = run(capsys, "estimate", *[places.get(word, word) for word in words])
    assert code == 1, (out, err)
    assert out == ""
    assert err.startswith("willfit: ") and err.count("\n") == 1
    assert places.get(expected, expected) in err
    assert "Traceback" not in err


def test_no_permission_is_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    folder.chmod(0)
    try:
        program = (  # what is needed is imported before the rights to read it are dropped
            "import os, sys; from willfit.cli.main import main; main(['estimate', '/nonexistent']); "
            "os.setuid(65534) if os.geteuid() == 0 else None; "
            "sys.exit(main(['estimate', sys.argv[1]]))"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        folder.chmod(stat.S_IRWXU)
    assert result.returncode == 1
    assert str(folder) in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


def test_underscores_are_accepted_for_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    dashed = run(capsys, "estimate", "gpt2", "--max-new-tokens", "5", "--batch-size", "2", "--json")
    under = run(capsys, "estimate", "gpt2", "--max_new_tokens", "5", "--batch_size=2", "--json")
    assert dashed == under and dashed[0] == 0


def test_batch_size_under_train_is_the_per_device_one(capsys: pytest.CaptureFixture[str]) -> None:
    short = run(capsys, "estimate", "gpt2", "--train", "full", "--batch-size", "3", "--json")
    long = run(
        capsys,
        "estimate",
        "gpt2",
        "--train",
        "full",
        "--per-device-train-batch-size",
        "3",
        "--json",
    )
    assert short == long and short[0] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{0: "600MB", 1: "1GB"}', {0: 600_000_000, 1: 10**9}),
        ('{"cuda:0": "1GiB", "cpu": "30GB"}', {0: 2**30, "cpu": 30 * 10**9}),
        ("0=600MB,1=1GB", {0: 600_000_000, 1: 10**9}),
    ],
)
def test_max_memory_as_people_write_it(text: str, expected: dict[Any, int]) -> None:
    assert parse_max_memory(text) == expected


@pytest.mark.parametrize("text", ["", "{}", "{0: __import__('os')}", "{'x': '1GB'}", "(" * 5000])
def test_max_memory_executes_nothing(text: str) -> None:
    with pytest.raises(InputError):
        parse_max_memory(text)


def test_diff_names_the_component_that_moved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "a.json"
    saved.write_text(run(capsys, "estimate", "gpt2", "--gpu", "T4", "--json")[1])
    code, out, _ = run(capsys, "diff", str(saved), "gpt2 --gpu T4 --batch-size 8", "--json")
    difference = json.loads(out)
    assert code == 0
    assert (
        sum(part["change_bytes"] for part in difference["components"])
        == (difference["change_bytes"])
    )
    moved = {part["name"]: part["change_bytes"] for part in difference["components"]}
    assert moved["weights"] == 0 and difference["change_bytes"] > 0
    code, out, _ = run(capsys, "diff", str(saved), str(saved))
    assert code == 0 and "device" in out


@pytest.mark.parametrize("content", ["{}", "[1]", "nonsense", '{"schema": "willfit.estimate/1"}'])
def test_diff_of_something_else_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    saved = tmp_path / "a.json"
    saved.write_text(content)
    code, _, err = run(capsys, "diff", str(saved), str(saved))
    assert code == 1 and err.startswith("willfit: ")


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "gpus", "4090")
    assert code == 0 and "RTX 4090" in out and "23.64 GiB" in out
    code, out, _ = run(capsys, "models", "llama-3-8b", "--json")
    assert code == 0 and json.loads(out)["models"][0]["num_params"] == 8_030_261_248


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_setting(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, *([command] if command else []), "--help")
    assert code == 0 and "usage: willfit" in out


HEAVY = ("torch", "transformers", "numpy", "huggingface_hub", "gguf", "yaml", "requests")


def imported(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running a program."""
    script = program + "; import sys; print('\\n'.join(m.split('.')[0] for m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_formula_level_imports_nothing_heavy() -> None:
    job = "from willfit.cli.main import main; main(['estimate', 'llama-3-8b', '--gpu', 'T4'])"
    assert not imported(job) & set(HEAVY)
    assert not imported("import willfit") & set(HEAVY)


def test_that_test_can_fail() -> None:
    assert "torch" in imported("import torch")


def test_public_names() -> None:
    import willfit

    assert sorted(willfit.__all__) == sorted(
        [
            "Diagnosis", "Estimate", "InputError", "Loaded", "Machine", "ModelSpec", "Pipeline", "Scenario",
            "Stack", "UnsupportedError", "WillfitError", "Workload", "__version__", "estimate",
            "Job", "emit", "find_gpu", "find_model", "isolated", "load", "parse_machine", "plan",
            "run", "FirstStepCallback", "release", "watch", "diagnose", "measure", "Measurement",
        ]
    )  # fmt: skip
    for name in willfit.__all__:
        assert getattr(willfit, name) is not None
    with pytest.raises(AttributeError):
        willfit.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_python_face_gives_the_same_answer_as_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import willfit
    from willfit.scenario import Inference, Workload

    scenario = willfit.Scenario(
        model=willfit.find_model("llama-3-8b"),
        workload=Workload(inference=Inference()),
        machine=willfit.Machine(gpus=willfit.parse_machine("T4").gpus),
    )
    ours = willfit.estimate(scenario, search_limits=False)
    _, out, _ = run(capsys, "estimate", "llama-3-8b", "--gpu", "T4", "--json")
    assert json.loads(out)["peak"]["device_bytes"] == ours.binding.peak.device_bytes
