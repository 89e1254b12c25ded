"""Settings that people already have: Trainer and TRL files, adapters, vllm commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.cli.main import main
from willfit.errors import InputError, WillfitError
from willfit.settings import read_settings


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


TRL = """
model_name_or_path: meta-llama/Meta-Llama-3-8B
use_peft: true
lora_r: 32
lora_target_modules: q_proj, v_proj
load_in_4bit: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
max_seq_length: 2048
packing: true
optim: paged_adamw_8bit
bf16: true
learning_rate: 2.0e-4
num_train_epochs: 3
some_new_setting: 7
"""


def test_a_trl_file(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, "sft.yaml", TRL))
    assert settings.model == "meta-llama/Meta-Llama-3-8B"
    assert settings.flags == {
        "train": "qlora", "trainer": "trl", "quantize": "nf4", "lora_r": 32,
        "lora_target_modules": ["q_proj", "v_proj"], "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8, "gradient_checkpointing": True, "use_reentrant": False,
        "max_length": 2048, "packing": True, "optim": "paged_adamw_8bit", "bf16": True,
    }  # fmt: skip
    assert settings.ignored == (
        "some_new_setting: not a setting that willfit knows",
        "memory does not depend on learning_rate, num_train_epochs",
    )


def test_training_arguments_as_json(tmp_path: Path) -> None:
    content = {"per_device_train_batch_size": 4, "fp16": True, "deepspeed": {
        "zero_optimization": {"stage": 3}}, "output_dir": "x"}  # fmt: skip
    settings = read_settings(written(tmp_path, "args.json", json.dumps(content)))
    assert settings.flags == {
        "train": "full", "per_device_train_batch_size": 4, "fp16": True, "strategy": "zero3",
    }  # fmt: skip


def test_an_adapter(tmp_path: Path) -> None:
    content = {"peft_type": "LORA", "r": 64, "lora_dropout": 0.05, "target_modules": ["v", "q"],
               "base_model_name_or_path": "mistralai/Mistral-7B-v0.1"}  # fmt: skip
    settings = read_settings(written(tmp_path, "adapter_config.json", json.dumps(content)))
    assert settings.model == "mistralai/Mistral-7B-v0.1"
    assert settings.flags == {"lora_r": 64, "lora_dropout": 0.05, "lora_target_modules": ["q", "v"]}


@pytest.mark.parametrize(
    ("command", "model", "flags"),
    [
        (
            "vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 8k --max-num-seqs 16 "
            "--kv-cache-dtype fp8 --dtype bfloat16 --port 8000",
            "Qwen/Qwen2.5-7B-Instruct",
            {"context": 8000, "batch_size": 16, "kv_dtype": "float8_e4m3fn", "dtype": "bfloat16"},
        ),
        (
            "CUDA_VISIBLE_DEVICES=0,1 vllm serve meta-llama/Meta-Llama-3-8B -tp 2 --dtype=auto",
            "meta-llama/Meta-Llama-3-8B",
            {"strategy": "tp"},
        ),
        (
            "python -m vllm.entrypoints.openai.api_server --model gpt2 --max_model_len 1024",
            "gpt2",
            {"context": 1024},
        ),
    ],
)
def test_a_vllm_command(command: str, model: str, flags: dict[str, Any]) -> None:
    settings = read_settings(command)
    assert settings.model == model
    assert settings.flags == {"engine": "vllm", **flags}


AXOLOTL = """
base_model: mistralai/Mistral-7B-v0.1
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_target_linear: true
sequence_len: 4096
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: adamw_bnb_8bit
bf16: auto
gradient_checkpointing: true
flash_attention: true
datasets: [{path: x, type: alpaca}]
num_epochs: 3
deepspeed: deepspeed_configs/zero2.json
"""


def test_an_axolotl_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "qlora.yml", AXOLOTL)
    settings = read_settings(path)
    assert settings.model == "mistralai/Mistral-7B-v0.1"
    assert settings.flags == {
        "train": "qlora", "quantize": "nf4", "lora_r": 32, "lora_target_modules": ["all-linear"],
        "max_length": 4096, "packing": True, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4, "optim": "adamw_bnb_8bit", "bf16": True,
        "gradient_checkpointing": True, "attn": "flash_attention_2", "strategy": "zero2",
    }  # fmt: skip
    assert main(["estimate", "--from", path, "--gpu", "A100-80GB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] is True


@pytest.mark.parametrize(
    ("command", "model", "flags"),
    [
        ("llama-server -m ./m.gguf -c 8192 -ngl 99 --port 80", "./m.gguf", {"context": 8192}),
        (
            "/opt/bin/llama-cli -hf org/repo:Q4_K_M --ctx-size 4096 -ctk q8_0 -ctv q8_0",
            "org/repo:Q4_K_M",
            {"context": 4096, "kv_dtype": "q8_0"},
        ),
    ],
)
def test_a_llama_cpp_command(command: str, model: str, flags: dict[str, Any]) -> None:
    settings = read_settings(command)
    assert settings.model == model
    assert settings.flags == {"engine": "llama.cpp", **flags}


def test_flags_override_the_file_and_what_is_unused_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "sft.yaml", TRL)
    words = ["estimate", "--from", path, "--gpu", "T4", "--max-length", "512", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    training = result["scenario"]["workload"]["training"]
    assert training["max_length"] == 512
    assert training["lora"]["r"] == 32
    assert result["model"]["id"] == "meta-llama/Meta-Llama-3-8B"
    assert any("some_new_setting" in item for item in result["ignored_settings"])


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join(['*' + previous] * 9)}]"
    for previous, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("bomb.yaml", BOMB, "unfolds to more than|YAML aliases"),
        ("list.yaml", "- a\n- b\n", "holds a list"),
        ("bad.yaml", "a: [1,", "not valid YAML"),
        ("bad.json", "{", "not valid JSON"),
        ("tag.yaml", "a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("big.yaml", "a: " + "x" * 2**21, "larger than 1 MiB"),
        ("deep.json", "[" * 100_000, "not valid JSON"),
        ("other.yaml", "fruit: apple\n", "no setting that is known"),
        ("adapter.json", '{"peft_type": "LORA", "r": "many"}', "expected a whole number"),
        ("args.yaml", "per_device_train_batch_size: -1\n", "at least 1"),
    ],
)
def test_strange_files_get_a_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_settings(written(tmp_path, name, text))


@pytest.mark.parametrize("source", ["/nonexistent.yaml", "rm -rf /", "vllm serve 'unclosed"])
def test_what_is_neither_file_nor_command(source: str) -> None:
    with pytest.raises(InputError):
        read_settings(source)


@given(st.binary(max_size=400))
def test_any_bytes_give_settings_or_a_sentence(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "x.yaml"
    path.write_bytes(content)
    try:
        read_settings(str(path))
    except WillfitError:
        return


SHARDED = {
    "deepspeed: {zero_optimization: {stage: 2}}": "zero2",
    "deepspeed: configs/ds_z3_config.json": "zero3",
    'fsdp: "full_shard auto_wrap"': "fsdp",
    "fsdp: [shard_grad_op]": "zero2",
    'fsdp: ""': None,
}


@pytest.mark.parametrize(("line", "strategy"), SHARDED.items())
def test_how_a_trainer_file_shards(tmp_path: Path, line: str, strategy: str | None) -> None:
    text = f"per_device_train_batch_size: 2\n{line}\n"
    assert read_settings(written(tmp_path, "ta.yaml", text)).flags.get("strategy") == strategy


def test_a_deepspeed_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "ds.json", json.dumps({"zero_optimization": {"stage": 1}}))
    text = "per_device_train_batch_size: 2\ndeepspeed: ds.json\n"
    assert read_settings(written(tmp_path, "ta.yaml", text)).flags["strategy"] == "zero1"


def test_a_deepspeed_file_that_is_not_here_is_listed(tmp_path: Path) -> None:
    text = "per_device_train_batch_size: 2\ndeepspeed: ds.json\n"
    settings = read_settings(written(tmp_path, "ta.yaml", text))
    assert any("tells no ZeRO stage" in line for line in settings.ignored)
    assert "strategy" not in settings.flags


def test_another_adapter_is_handed_on_as_it_is(tmp_path: Path) -> None:
    content = {"peft_type": "IA3", "target_modules": ["k_proj"], "base_model_name_or_path": "gpt2"}
    settings = read_settings(written(tmp_path, "adapter_config.json", json.dumps(content)))
    assert settings.flags["adapter_config"] == content and settings.flags["train"] == "lora"
    assert settings.model == "gpt2"
