"""Settings that a log tells of the run that wrote it: what is certain, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.growth import ends_within

from willfit.settings.told import read_told

TRAINER = """
trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196
***** Running training *****
  Num examples = 51,760
  Num Epochs = 1
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 16
  Gradient Accumulation steps = 4
  Total optimization steps = 3,235
  Number of trainable parameters = 41,943,040
  0%|          | 0/3235 [00:00<?, ?it/s]Traceback (most recent call last):
  File "/opt/conda/lib/python3.10/site-packages/transformers/models/llama/modeling_llama.py", line 734, in forward
  File "/opt/conda/lib/python3.10/site-packages/transformers/modeling_utils.py", line 1, in f
"""
UNSLOTH = r"""
==((====))==  Unsloth 2024.8: Fast Llama patching. Transformers = 4.44.2.
   \\   /|    GPU: Tesla T4. Max memory: 14.748 GB. Platform = Linux.
O^O/ \_/ \    Pytorch: 2.4.0+cu121. CUDA = 7.5. CUDA Toolkit = 12.1.
==((====))==  Unsloth - 2x faster free finetuning | Num GPUs = 1
   \\   /|    Num examples = 51,760 | Num Epochs = 1
O^O/ \_/ \    Batch size per device = 2 | Gradient Accumulation steps = 4
 "-____-"     Trainable parameters = 41,943,040/8,072,204,288 (0.52% trained)
"""
PRINTED = """
Training/evaluation parameters TrainingArguments(
_n_gpu=1,
adafactor=False,
bf16=True,
deepspeed=None,
gradient_accumulation_steps=8,
gradient_checkpointing=True,
lr_scheduler_type=SchedulerType.COSINE,
optim=OptimizerNames.PAGED_ADAMW,
per_device_train_batch_size=2,
warmup_ratio=0.0,
)
"""
CONFIG = """
loading configuration file config.json from cache at /root/.cache/huggingface/hub/models--mistralai--Mistral-7B-v0.1/snapshots/26bca36/config.json
Model config MistralConfig {
  "_name_or_path": "mistralai/Mistral-7B-v0.1",
  "hidden_size": 4096,
  "quantization_config": {
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": true,
    "load_in_4bit": true,
    "load_in_8bit": false
  }
}
- `transformers` version: 4.36.2
- PyTorch version (GPU?): 2.1.2+cu121 (True)
"""
SMI = """
|   0  Tesla T4                       Off | 00000000:00:04.0 Off |                    0 |
| N/A   40C    P8              9W /  70W |      3MiB / 15360MiB |      0%      Default |
|   1  Tesla T4                       Off | 00000000:00:05.0 Off |                    0 |
"""
AXOLOTL = """
[2024-05-01 10:00:00,000] [INFO] config:
{
  "base_model": "NousResearch/Llama-2-7b-hf",
  "adapter": "qlora", "load_in_4bit": true, "micro_batch_size": 2, "sequence_len": 4096,
  "lora_r": 32, "lora_target_linear": true, "optimizer": "paged_adamw_32bit",
  "gradient_accumulation_steps": 4, "gradient_checkpointing": true, "sample_packing": true,
  "deepspeed": "/etc/passwd"
}
"""
VLLM = (
    "INFO 08-19 07:51:00 llm_engine.py:174] Initializing an LLM engine (v0.5.4) with config: "
    "model='meta-llama/Meta-Llama-3-8B-Instruct', speculative_config=None, tokenizer='x/y', "
    "dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=2, quantization=None)"
)
DEEPSPEED = """
[2024-01-01 00:00:00,000] [INFO] [config.py:988:print]   zero_optimization_stage ...... 3
[2024-01-01 00:00:00,000] [INFO] [config.py:988:print]   train_micro_batch_size_per_gpu  4
"""
TRL_COMMAND = (
    "+ accelerate launch --config_file zero3.yaml sft.py --model_name_or_path "
    "meta-llama/Llama-2-7b-hf --per_device_train_batch_size 4 --gradient_checkpointing True "
    "--bf16 True --use_peft --lora_r 16 --max_seq_length 2048 --deepspeed ds_zero3.json"
)
FACTORY = (
    "llamafactory-cli train --stage sft --model_name_or_path meta-llama/Meta-Llama-3-8B-Instruct "
    "--finetuning_type lora --quantization_bit 4 --lora_target all --cutoff_len 2048 "
    "--per_device_train_batch_size 1 --flash_attn fa2 --output_dir 'x y'"
)


@pytest.mark.parametrize(
    ("log", "model", "flags"),
    [
        (TRAINER, None, {"train": "lora", "per_device_train_batch_size": 4,
                         "gradient_accumulation_steps": 4}),
        (UNSLOTH, None, {"train": "lora", "trainer": "trl", "per_device_train_batch_size": 2,
                         "gradient_accumulation_steps": 4, "gpu": "Tesla T4",
                         "stack": "transformers=4.44.2,torch=2.4.0"}),
        (PRINTED, None, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
                         "bf16": True, "gradient_checkpointing": True, "optim": "paged_adamw"}),
        (CONFIG, "mistralai/Mistral-7B-v0.1", {
            "quantize": "nf4-double", "bnb_4bit_compute_dtype": "bfloat16",
            "stack": "transformers=4.36.2,torch=2.1.2"}),
        (TRAINER + CONFIG, "mistralai/Mistral-7B-v0.1", {
            "train": "qlora", "quantize": "nf4-double", "bnb_4bit_compute_dtype": "bfloat16",
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4,
            "stack": "transformers=4.36.2,torch=2.1.2"}),
        (SMI, None, {"gpu": "Tesla T4x2"}),
        ("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-12)", None, {"gpu": "NVIDIA A100-SXM4-40GB"}),
        ("  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes", None,
         {"gpu": "NVIDIA GeForce RTX 4090"}),
        (AXOLOTL, "NousResearch/Llama-2-7b-hf", {
            "train": "qlora", "quantize": "nf4", "per_device_train_batch_size": 2, "lora_r": 32,
            "max_length": 4096, "lora_target_modules": ["all-linear"], "packing": True,
            "optim": "paged_adamw_32bit", "gradient_accumulation_steps": 4,
            "gradient_checkpointing": True}),
        (VLLM, "meta-llama/Meta-Llama-3-8B-Instruct", {
            "engine": "vllm", "dtype": "bfloat16", "context": 8192, "strategy": "tp"}),
        (DEEPSPEED, None, {"strategy": "zero3", "per_device_train_batch_size": 4}),
        (TRL_COMMAND, "meta-llama/Llama-2-7b-hf", {
            "train": "lora", "trainer": "trl", "per_device_train_batch_size": 4, "bf16": True,
            "gradient_checkpointing": True, "lora_r": 16, "max_length": 2048,
            "strategy": "zero3"}),
        (FACTORY, "meta-llama/Meta-Llama-3-8B-Instruct", {
            "train": "qlora", "quantize": "nf4", "lora_target_modules": ["all-linear"],
            "max_length": 2048, "per_device_train_batch_size": 1, "attn": "flash_attention_2"}),
        ("$ vllm serve Qwen/Qwen2.5-7B-Instruct --max-model-len 8k", "Qwen/Qwen2.5-7B-Instruct",
         {"engine": "vllm", "context": 8000}),
        ("./build/bin/llama-server -m models/x.gguf -c 8192 -ngl 99", "models/x.gguf",
         {"engine": "llama.cpp", "context": 8192}),
        ("args: Namespace(model_name_or_path='gpt2', per_device_train_batch_size=8, fp16=True)",
         "gpt2", {"per_device_train_batch_size": 8, "fp16": True}),
        ("torchrun --nproc_per_node 2 run_clm.py --model_name_or_path=gpt2 --block_size=512 "
         "--per_device_train_batch_size=3", "gpt2",
         {"train": "full", "max_length": 512, "per_device_train_batch_size": 3}),
        ("!pip install -q transformers==4.41.2 peft==0.11.1 pandas==2.0.0", None,
         {"stack": "transformers=4.41.2,peft=0.11.1"}),
        ("llama_model_loader: loaded meta data with 22 key-value pairs and 291 tensors from "
         "/models/llama-2-7b.Q4_K_M.gguf (version GGUF V2)", "/models/llama-2-7b.Q4_K_M.gguf",
         {"engine": "llama.cpp"}),
    ],
)  # fmt: skip
def test_what_logs_tell(log: str, model: str | None, flags: dict[str, Any]) -> None:
    told = read_told(log.splitlines())
    assert (told.model, dict(told.flags)) == (model, flags)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (TRAINER, "a model of the llama family"),
        (TRAINER, "41,943,040 of 8,072,204,288 parameters are trained"),
        ("NVIDIA A100-SXM4-40GB\nGPU 1: NVIDIA GeForce RTX 3090 (UUID: x)", "names several GPUs"),
        ("GPU 0: NVIDIA Z9999 (UUID: x)", "not in the catalogue"),
    ],
)
def test_what_is_not_certain_is_a_sentence(log: str, said: str) -> None:
    told = read_told(log.splitlines())
    assert any(said in line for line in told.assumptions)
    assert told.model is None
    assert "gpu" not in told.flags


@pytest.mark.parametrize(
    "log",
    [
        "Epoch 1: loss 0.3\nmodel saved\n# python is fun -- really\nI loaded a model",
        "the torch was 2.4 metres long, accelerate to 100",
        "see modeling utils; {'loss': 1.2, 'epoch': 0.1}",
        "python train.py --help\npython -c 'print(1)'",
    ],
)
def test_other_lines_tell_nothing(log: str) -> None:
    told = read_told(log.splitlines())
    assert (told.model, dict(told.flags), told.assumptions, told.ignored) == (None, {}, (), ())


def test_a_later_run_counts_over_an_earlier() -> None:
    again = TRAINER.replace("per device = 4", "per device = 1")
    assert read_told((TRAINER + again).splitlines()).flags["per_device_train_batch_size"] == 1


def test_the_corpus_tells_what_stands_in_it(shared: Path) -> None:
    """Two of the messages carry settings; nothing is read into the others."""
    told = {}
    for path in sorted((shared / "oom_corpus" / "raw").iterdir()):
        read = read_told(path.read_text(encoding="utf-8", errors="replace").splitlines())
        assert read.model is None, path.name
        if read.flags:
            told[path.name] = dict(read.flags)
    assert told == {
        "062_unsloth_18k_ctx_t4.log": {  # "Batch size per device = 2 | Gradient Accumulation …= 4"
            "trainer": "trl", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "258_smi_null_gpustat.log": {"gpu": "NVIDIA A100 80GB PCIe"},
    }  # fmt: skip


PIECES = [*"\n".join([TRAINER, UNSLOTH, PRINTED, CONFIG, SMI, AXOLOTL, VLLM, DEEPSPEED,
                      TRL_COMMAND, FACTORY]).splitlines()]  # fmt: skip


@given(lines=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=40)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_log_makes_it_raise(lines: list[str]) -> None:
    told = read_told(lines)
    assert told.flags.get("per_device_train_batch_size", 1) >= 1


@pytest.mark.parametrize(
    "line",
    ["x {", "{" * 300, "TrainingArguments(", "python " + "--a b " * 2000, "NVIDIA " * 2000,
     "a=" * 5000, "transformers==" * 1000, "models--a" * 1000, 'cfg {"a": ' * 50,
     "python 'unclosed --model_name_or_path", "GPU 0: NVIDIA " + "A" * 9000],
    ids=range(11),
)  # fmt: skip
def test_hostile_lines_take_linear_time(line: str) -> None:
    copies = max(10, 600_000 // len(line))
    # 600 kB; a real log of that size takes 0.1 s
    assert ends_within(lambda: read_told([line] * copies), 6)
