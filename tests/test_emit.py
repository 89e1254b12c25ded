"""What emitted texts look like, what they refuse, and the configs as their own tools read them."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from willfit.changes import changes_for
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, DTYPES, FLOAT16, FLOAT32
from willfit.emitting import TARGETS, arguments, emit, lines_to_change
from willfit.emitting.accelerate_config import accelerate_config, deepspeed_config
from willfit.errors import InputError
from willfit.estimator import estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.settings import read_settings
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve

LLAMA = resolve("meta-llama/Meta-Llama-3-8B")
GEMMA = resolve("google/gemma-2-9b")
NF4 = Quantization(scheme="nf4", compute_dtype=FLOAT16)
INT8 = Quantization(scheme="int8")
THREAD = Training(
    method="qlora",
    lora=Lora(r=64, target_modules=("all-linear",)),
    optimizer="paged_adamw_32bit",
    max_length=1024,
    micro_batch_size=1,
    fp16=True,
)
"""The fine-tuning that dies on a T4."""


def scenario(
    model: Any = LLAMA, gpu: str = "T4", *, stack: str = "", labels: int | None = None, **parts: Any
) -> Scenario:
    versions = dict(pair.split("=") for pair in stack.split(",") if pair)
    return Scenario(
        model=with_auto_class(model, None, labels),
        machine=Machine(gpus=parse_machine(gpu).gpus),
        workload=Workload(**parts),
        stack=Stack(versions={**Stack().versions, **versions}),
    )


def classifier(training: Training = THREAD, **parts: Any) -> Scenario:
    loading = Loading(num_labels=3, dtype=FLOAT16, quantization=NF4)
    return scenario(labels=3, loading=loading, training=training, **parts)


def chat(gpu: str = "T4x2", strategy: Any = None, **settings: Any) -> Scenario:
    loading = Loading(dtype=FLOAT16, quantization=settings.pop("quantization", INT8))
    return scenario(
        GEMMA,
        gpu,
        loading=replace(loading, strategy=strategy),
        inference=Inference(**{"context_len": 2048, "max_new_tokens": 64, **settings}),
    )


PYTHON: list[tuple[str, Scenario]] = [
    ("peft", classifier()),
    ("kaggle", classifier(gpu="T4x2")),
    ("trl", scenario(gpu="L4", loading=Loading(quantization=NF4), training=THREAD)),
    (
        "transformers",
        scenario(
            gpu="L4", loading=Loading(), training=Training(method="full", freeze=("lm_head",))
        ),
    ),
    ("transformers", chat(sdpa_kernel="math", lora=Lora(r=4), merge_adapter=True, batch_size=4)),
    ("transformers", chat(strategy="replicas", cache="quantized", padded=True)),
    ("transformers", chat(gpu="T4", cache="offloaded", prefill_chunk_size=512)),
    ("kaggle", chat(strategy="replicas")),
    (
        "peft",
        scenario(
            gpu="L4",
            loading=Loading(dtype=BFLOAT16),
            training=Training(
                method="lora",
                lora=Lora(target_modules=tuple(f"model.layers.{i}.mlp.up_proj" for i in range(9))),
                prepare_kbit=True,
                gradient_checkpointing=True,
                offload_activations=True,
                sdpa_kernel="efficient",
            ),
        ),
    ),
]


@pytest.mark.parametrize(("target", "made"), PYTHON)
def test_python_is_laid_out_as_a_formatter_would(target: str, made: Scenario) -> None:
    text = emit(made, target)
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 100 or target == "kaggle"
    command = [sys.executable, "-m", "ruff", "format", "--line-length", "100", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert done.stdout == text


@pytest.mark.parametrize(("target", "made"), PYTHON)
def test_no_name_is_unused_or_missing(target: str, made: Scenario) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,B,UP", "-"]
    text = emit(made, target)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


STRANGE = 'a"b\\c\n"""\nprint(1)\n\'\'\' {x}'


@pytest.mark.parametrize("target", ["transformers", "peft", "trl", "kaggle"])
def test_a_stranger_s_model_name_stays_a_string(target: str) -> None:
    model = replace(LLAMA, id=STRANGE)
    training = target in ("peft", "trl")
    made = scenario(model, **({"training": THREAD} if training else {"inference": Inference()}))
    tree = ast.parse(emit(made, target))
    assert "print(1)" not in [ast.unparse(node) for node in ast.walk(tree)]
    if target != "kaggle":  # which names the folder that the model is attached as
        assert "MODEL = " + repr(STRANGE) in [ast.unparse(node) for node in tree.body]


BY_RELEASE = [
    # stack, target, what the text says, what it does not
    ("transformers=4.46.3,torch=2.5", "torch_dtype=", "    dtype="),
    ("transformers=4.55.4", "torch_dtype=", "    dtype="),
    ("transformers=4.56.0", "    dtype=", "torch_dtype="),
    ("transformers=4.40.2", 'evaluation_strategy="no"', "eval_strategy="),
    ("transformers=4.41.0", 'eval_strategy="no"', "evaluation_strategy="),
    ("transformers=5.1.0", "group_by_length=True", "train_sampling_strategy"),
    ("transformers=5.2.0", 'train_sampling_strategy="group_by_length"', "group_by_length=True"),
    ("trl=0.15.2", "max_seq_length=1024", "max_length=1024"),
    ("trl=0.16.1", "    max_length=1024", "max_seq_length"),
    ("trl=0.11.4", "    tokenizer=tokenizer,", "processing_class"),
    ("trl=0.12.1", "processing_class=tokenizer,", "    tokenizer=tokenizer,"),
]


@pytest.mark.parametrize(("stack", "said", "unsaid"), BY_RELEASE)
def test_names_are_those_of_the_stack_s_release(stack: str, said: str, unsaid: str) -> None:
    training = replace(THREAD, trainer="trl", group_by_length=True)
    text = emit(scenario(stack=stack, loading=Loading(dtype=FLOAT16), training=training), "trl")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("    tokens"))
    assert said in lines
    assert unsaid not in lines


def test_versions_given_to_emit_replace_the_stack_s() -> None:
    made = chat(gpu="L4")
    assert "torch_dtype" in emit(made, "transformers", versions={"transformers": "4.46.3"})
    assert "torch_dtype" not in emit(made, "transformers")


REFUSED: list[tuple[str, Scenario, str]] = [
    ("nowhere", chat(), "unknown target 'nowhere': expected one of transformers"),
    ("trl", chat(), "needs|none: add --train"),
    ("peft", classifier(replace(THREAD, packing=True)), "packing is TRL's"),
    ("peft", classifier(replace(THREAD, optimizer="lorafa")), "PEFT's own"),
    ("peft", classifier(replace(THREAD, optimizer="stable_adamw"), stack="transformers=4.46.3"),
     "stable_adamw came with transformers 4.55 and the stack has 4.46.3"),
    ("peft", classifier(replace(THREAD, method="full", lora=None)), "through an adapter only"),
    ("peft", classifier(replace(THREAD, attn="flash_attention_2")), "compute capability 8.0"),
    ("peft", classifier(replace(THREAD, bf16=True)), "bf16 and fp16 are both set"),
    ("peft", scenario(gpu="L4", loading=Loading(dtype=FLOAT16),
                      training=Training(method="full", fp16=True)), "cannot train float16 weights"),
    ("trl", scenario(gpu="L4", stack="trl=0.8.6", loading=Loading(), training=THREAD), "trl 0.9"),
    ("trl", scenario(gpu="L4", stack="trl=0.16.1", loading=Loading(),
                     training=replace(THREAD, offload_activations=True)), "activation_offloading"),
    ("transformers", scenario(resolve("facebook/dinov2-base"), inference=Inference()),
     "Dinov2Model reads more than text"),
    ("trl", scenario(resolve("google-bert/bert-base-uncased"), loading=Loading(auto_class="AutoModel"),
                     training=Training(method="full")), "has no training script here"),
    ("transformers", chat(attn="sdpa"), "the class has no SDPA path"),
    ("transformers", replace(chat(prefill_chunk_size=64), stack=Stack(
        versions={**Stack().versions, "transformers": "4.46.3"})), "came with transformers 4.51"),
    ("transformers", chat(kv_dtype=DTYPES["q8_0"]), "holds no dynamic cache in q8_0"),
    ("transformers", chat(quantization=replace(INT8, double_quant=True)), "no bnb_8bit_"),
    ("transformers", chat(quantization=replace(INT8, compute_dtype=FLOAT16)), "no bnb_8bit_"),
    ("transformers", chat(engine="vllm"), "emit vllm instead"),
    ("vllm", chat(), "to nf4 alone, not to int8"),
    ("vllm", chat(quantization=replace(NF4, double_quant=True)), "not to nf4 twice"),
    ("vllm", chat(gpu="T4", quantization=None), "does not fit there in vLLM"),
    ("vllm", scenario(gpu="T4", loading=Loading(dtype=BFLOAT16), inference=Inference()),
     "bfloat16 from compute capability 8.0"),
    ("vllm", chat(gpu="L4x3", quantization=None), "do not divide by 3 GPUs"),
    ("llama-server", chat(), "reads GGUF files and google/gemma-2-9b is none"),
    ("axolotl", classifier(), "causal language models"),
    ("accelerate", chat(), "launches training"),
    ("kaggle", replace(chat(), machine=None), "name them with --gpu"),
    ("kaggle", replace(classifier(gpu="T4x2"), workload=Workload(
        loading=Loading(num_labels=3, strategy="zero3"), training=THREAD)), "emit accelerate"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "made", "reason"), REFUSED)
def test_what_a_library_cannot_do_is_refused_with_the_reason(
    target: str, made: Scenario, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        emit(made, target)


def test_ddp_does_not_look_for_unused_adapters() -> None:
    made = distributed("ddp", "qlora", quantization=NF4)
    lora = replace(made.workload, training=replace(THREAD, fp16=False))
    call = arguments(replace(made, workload=lora)).training
    assert call is not None and call.arguments["ddp_find_unused_parameters"] is False
    alone = arguments(classifier()).training
    assert alone is not None and "ddp_find_unused_parameters" not in alone.arguments


def test_arguments_are_there_before_the_model_so_that_zero_3_shards_while_loading() -> None:
    text = emit(distributed("zero3"), "transformers")
    assert text.index("arguments = TrainingArguments(") < text.index(".from_pretrained(\n    MODEL")


def test_bettertransformer_s_name_is_what_it_became() -> None:
    made = scenario(inference=Inference(attn="bettertransformer"))
    assert arguments(made).load.arguments["attn_implementation"] == "sdpa"


def test_the_thread_s_change_is_these_lines() -> None:
    training = replace(THREAD, gradient_checkpointing=True)
    assert lines_to_change(classifier(), classifier(training)) == (
        "gradient_checkpointing=True,  # keeps layer inputs, computes the rest again",
        'gradient_checkpointing_kwargs={"use_reentrant": False},',
        "model.enable_input_require_grads()  # the embeddings are frozen",
    )


CHANGED = [
    (chat(gpu="T4", quantization=None), chat(gpu="T4", quantization=NF4),
     ["load_in_4bit=True", 'bnb_4bit_quant_type="nf4"', "BitsAndBytesConfig("]),
    (classifier(), classifier(replace(THREAD, optimizer="paged_adamw_8bit")),
     ['optim="paged_adamw_8bit"']),
    (classifier(), classifier(replace(THREAD, max_length=512)), ["MAX_LENGTH = 512"]),
    (classifier(replace(THREAD, gradient_checkpointing=True)), classifier(),
     ["gradient_checkpointing=False,", "# without: model.enable_input_require_grads()"]),
    (chat(), chat(batch_size=2), ["BATCH_SIZE = 2"]),
    (classifier(), replace(classifier(), stack=Stack(alloc_conf="expandable_segments:True")),
     ['os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")']),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "parts"), CHANGED)
def test_lines_to_change_name_what_a_change_sets(
    before: Scenario, after: Scenario, parts: list[str]
) -> None:
    lines = lines_to_change(before, after)
    for part in parts:
        assert any(part in line for line in lines), lines
    assert len(lines) <= len(parts) + 4


BASES = {
    "classifier": classifier(gpu="T4x2"),
    "chat": chat(),
    "SFT": scenario(gpu="L4", loading=Loading(), training=Training(method="full", trainer="trl")),
    "LoRA": scenario(gpu="L4", loading=Loading(), training=Training(method="lora")),
    "loop": scenario(
        gpu="L4x2", loading=Loading(), training=Training(method="full", trainer="loop")
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_every_change_has_lines_of_code(name: str) -> None:
    """A remedy that code cannot say would be advice that nobody can follow."""
    applied = {change.id: change.apply(BASES[name]) for change in changes_for(BASES[name])}
    made = {k: after for k, after in applied.items() if isinstance(after, Scenario)}
    assert len(made) >= 5
    silent = [k for k, after in made.items() if not lines_to_change(BASES[name], after)]
    assert silent == []


def test_nothing_changes_between_equals() -> None:
    assert lines_to_change(classifier(), classifier()) == ()


def test_a_vllm_command_says_what_the_scenario_says() -> None:
    made = chat(quantization=NF4, batch_size=4, kv_dtype=DTYPES["float8_e4m3fn"])
    text = emit(made, "vllm")
    settings = read_settings("".join(text.splitlines(keepends=True)[2:]))
    assert settings.model == "google/gemma-2-9b"
    assert {key: settings.flags[key] for key in ("batch_size", "context", "strategy", "dtype")} == {
        "batch_size": 4, "context": 2048, "strategy": "tp", "dtype": "float16",
    }  # fmt: skip
    assert settings.flags["kv_dtype"] == "float8_e4m3fn"
    assert "--quantization bitsandbytes" in text


def test_vllm_gets_the_part_of_the_card_that_the_estimate_takes() -> None:
    small = resolve("Qwen/Qwen2.5-0.5B")
    made = scenario(small, "T4", loading=Loading(dtype=FLOAT16), inference=Inference(engine="vllm"))
    gpu = estimate(made).binding
    assert gpu.capacity_bytes is not None
    words = emit(made, "vllm").split()
    share = float(words[words.index("--gpu-memory-utilization") + 1])
    assert share - 0.01 < gpu.high_device_bytes / gpu.capacity_bytes <= share


def test_axolotl_reads_back_as_the_same_run(tmp_path: Path) -> None:
    training = replace(THREAD, trainer="trl", bf16=False, gradient_checkpointing=True)
    made = scenario(loading=Loading(quantization=NF4), training=training)
    file = tmp_path / "axolotl.yaml"
    file.write_text(emit(made, "axolotl"), encoding="utf-8")
    settings = read_settings(str(file))
    expected = {
        "train": "qlora", "quantize": "nf4", "optim": "paged_adamw_32bit", "max_length": 1024,
        "per_device_train_batch_size": 1, "gradient_checkpointing": True, "fp16": True,
        "lora_r": 64, "lora_target_modules": ["all-linear"],
    }  # fmt: skip
    assert settings.model == LLAMA.id
    assert {key: settings.flags[key] for key in expected} == expected


def launched(made: Scenario, folder: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The arguments that ``accelerate launch`` ends up with, by its own code."""
    pytest.importorskip("accelerate")
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    text = emit(made, "accelerate")
    *files, command = text.strip().splitlines()
    subprocess.run(["bash", "-c", "\n".join(files)], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    given = launch_command_parser().parse_args(command.split()[2:])
    return _validate_launch_command(given)[0]  # type: ignore[no-any-return]


def distributed(strategy: str, method: str = "full", **loading: Any) -> Scenario:
    training = Training(method=method, bf16=True, max_length=512)  # type: ignore[arg-type]
    load = Loading(strategy=strategy, dtype=BFLOAT16, **loading)  # type: ignore[arg-type]
    return scenario(gpu="A100x4", loading=load, training=training)


def test_accelerate_launches_ddp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = launched(distributed("ddp"), tmp_path, monkeypatch)
    assert (given.multi_gpu, given.use_fsdp, given.use_deepspeed) == (True, False, False)
    assert (given.num_processes, given.mixed_precision) == (4, "bf16")


FSDP = [
    ("full", {}, {"fsdp_version": 2, "fsdp_reshard_after_forward": True}),
    ("qlora", {"quantization": NF4}, {"fsdp_version": 1, "fsdp_sharding_strategy": "FULL_SHARD",
                                      "fsdp_use_orig_params": "false"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "loading", "expected"), FSDP)
def test_accelerate_launches_fsdp(
    method: str, loading: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = distributed("fsdp", method, **loading)
    given = launched(made, tmp_path, monkeypatch)
    assert given.use_fsdp and given.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    for name, value in expected.items():
        assert str(getattr(given, name)).lower() == str(value).lower()
    flags = {f"--{name}" for name in accelerate_config(made)["fsdp_config"]}
    from accelerate.commands.launch import launch_command_parser

    assert not flags - set(launch_command_parser()._option_string_actions)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_accelerate_launches_zero(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = launched(distributed(f"zero{stage}"), tmp_path, monkeypatch)
    assert given.use_deepspeed and given.deepspeed_config_file == "zero.json"
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    config = HfDeepSpeedConfig(given.deepspeed_config_file)
    assert config.config == deepspeed_config(stage)
    assert (config.is_zero2(), config.is_zero3()) == (stage == 2, stage == 3)
    assert not config.is_offload()


def test_fsdp_of_an_older_accelerate_has_no_version() -> None:
    made = distributed("fsdp")
    old = replace(made, stack=Stack(versions={**made.stack.versions, "accelerate": "1.1.1"}))
    section = yaml.safe_load(yaml.safe_dump(accelerate_config(old)["fsdp_config"]))
    assert "fsdp_version" not in section
    assert section["fsdp_sharding_strategy"] == "FULL_SHARD"


def test_quantised_weights_of_fsdp_are_stored_in_a_floating_type() -> None:
    made = distributed("fsdp", "qlora", quantization=NF4)
    call = arguments(made).load.arguments["quantization_config"]
    assert call.arguments["bnb_4bit_quant_storage"] == BFLOAT16


def test_every_target_writes_or_refuses() -> None:
    for target in TARGETS:
        for made in (chat(), classifier()):
            with suppress(InputError):  # another error is a defect
                assert emit(made, target).endswith("\n")


def test_a_default_type_is_spelled_out() -> None:
    made = scenario(stack="transformers=4.57.6", inference=Inference())
    assert arguments(made).load.arguments["dtype"] == FLOAT32
