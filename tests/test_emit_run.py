"""Every emitted Python text is run on tiny models, on today's libraries and on those of 2024.

What is looked at is the object that came out: a keyword that a library ignores fails here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.releases_2024 import AUTUMN_2024, autumn_2024
from tests.support.tiny_models import tiny_folder

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, DTYPES, FLOAT16, FLOAT32
from willfit.emit import arguments, emit
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
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve

pytest.importorskip("trl")
pd = pytest.importorskip("pandas")

RUNNER = Path(__file__).parent / "support" / "run_emitted.py"
NF4 = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
DOUBLE = Quantization(scheme="nf4", compute_dtype=FLOAT16, double_quant=True)
INT8 = Quantization(scheme="int8")
ALL = Lora(r=4, target_modules=("all-linear",))
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
STACKS = {"today": {}, "2024": AUTUMN_2024}


def scenario(
    folder: Path, stack: str, *, labels: int | None = None, gpu: str = "L4", **workload: Any
) -> Scenario:
    return Scenario(
        model=with_auto_class(resolve(str(folder)), None, labels),
        machine=Machine(gpus=parse_machine(gpu).gpus),
        workload=Workload(**workload),
        stack=Stack(
            versions={**Stack().versions, **STACKS[stack]}, alloc_conf="expandable_segments:True"
        ),
    )


def tuned(method: str, **settings: Any) -> Training:
    given = {"max_length": 48, "micro_batch_size": 2, "optimizer": "adamw_torch", **settings}
    return Training(method=method, **given)  # type: ignore[arg-type]


JOBS: dict[str, tuple[str, str, int | None, dict[str, Any], dict[str, Any]]] = {
    # family, target, labels, workload, what comes out
    "classifier in nf4": (
        "llama", "peft", 3,
        {"loading": Loading(num_labels=3, dtype=FLOAT16, quantization=DOUBLE),
         "training": tuned("qlora", lora=ALL, fp16=True, gradient_checkpointing=True,
                           group_by_length=True, gradient_accumulation_steps=2)},
        {"class": "LlamaForSequenceClassification", "dtype": "torch.float32", "num_labels": 3,
         "quant_type": "nf4", "nested": True, "compute_dtype": "torch.float16", "use_cache": False,
         "r": 4, "ranks": [4], "target_modules": LINEAR, "task_type": "SEQ_CLS",
         "head_trained": True, "checkpointing": True, "reentrant": ["False"],
         "input_requires_grad": True, "trainer": "Trainer", "collator": "DataCollatorWithPadding",
         "optimizer": "AdamW", "longest_row": 48, "probability_sums": [1.0], "steps": 2,
         "device": "cpu",
         "args.gradient_accumulation_steps": 2, "args.per_device_train_batch_size": 2,
         "args.per_device_eval_batch_size": 2, "args.gradient_checkpointing": True},
    ),
    "language model in bfloat16": (
        "qwen2", "peft", None,
        {"loading": Loading(dtype=BFLOAT16),
         "training": tuned("lora", lora=Lora(r=2, target_modules=("q_proj", "v_proj"), dropout=0.1),
                           bf16=True, gradient_checkpointing=True, use_reentrant=True,
                           optimizer="adafactor")},
        {"class": "Qwen2ForCausalLM", "quant_type": None, "r": 2, "lora_dropout": 0.1,
         "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "head": "Linear",
         "head_trained": False, "checkpointing": True, "reentrant": ["True"],
         "input_requires_grad": True, "trainer": "Trainer", "optimizer": "Adafactor",
         "collator": "DataCollatorForLanguageModeling", "args.bf16": True, "args.fp16": False},
    ),
    "SFT in nf4": (
        "llama", "trl", None,
        {"loading": Loading(dtype=BFLOAT16, quantization=NF4),
         "training": tuned("qlora", trainer="trl", lora=ALL, gradient_checkpointing=False)},
        {"class": "LlamaForCausalLM", "dtype": "torch.bfloat16", "quant_type": "nf4",
         "nested": False, "compute_dtype": "torch.bfloat16", "target_modules": LINEAR,
         "trainer": "SFTTrainer", "checkpointing": False, "longest_row": 48, "args.bf16": True,
         "args.gradient_checkpointing": False, "args.packing": False, "use_cache": False},
    ),
    "SFT, packed, whole": (
        "qwen2", "trl", None,
        {"loading": Loading(dtype=BFLOAT16),
         "training": tuned("full", trainer="trl", packing=True, bf16=False, max_grad_norm=None,
                           optimizer="sgd", attn="eager", freeze=("embed_tokens",))},
        {"class": "Qwen2ForCausalLM", "dtype": "torch.bfloat16", "attention": "eager",
         "trainer": "SFTTrainer", "args.packing": True, "args.bf16": False,
         "args.max_grad_norm": 0.0, "optimizer": "SGD", "checkpointing": True,
         "frozen": ["embed_tokens"], "args.gradient_checkpointing_kwargs": {"use_reentrant": False}},
    ),
    "prepared for k bits": (
        "llama", "peft", None,
        {"loading": Loading(dtype=BFLOAT16, quantization=NF4),
         "training": tuned("qlora", lora=Lora(r=2), prepare_kbit=True, gradient_checkpointing=True)},
        {"dtype": "torch.float32", "quant_type": "nf4", "target_modules": ["q_proj", "v_proj"],
         "checkpointing": True, "input_requires_grad": True},
    ),
    "adapters in bfloat16": (
        "llama", "peft", None,
        {"loading": Loading(dtype=BFLOAT16),
         "training": tuned("lora", lora=Lora(r=2, dtype=BFLOAT16, use_dora=True), bf16=True,
                           offload_activations=True)},
        {"trained_dtypes": ["torch.bfloat16"], "use_dora": True, "checkpointing": False},
    ),
    "encoder, whole": (
        "bert", "peft", 2,
        {"loading": Loading(num_labels=2), "training": tuned("full", sdpa_kernel="math")},
        {"class": "BertForSequenceClassification", "dtype": "torch.float32", "num_labels": 2,
         "collator": "DataCollatorWithPadding", "checkpointing": False},
    ),
    "masked language model": (
        "bert", "transformers", None,
        {"loading": Loading(), "training": tuned("full")},
        {"class": "BertForMaskedLM", "collator": "DataCollatorForLanguageModeling"},
    ),
    "sequence to sequence": (
        "t5", "peft", None,
        {"loading": Loading(), "training": tuned("lora", lora=Lora(r=2))},
        {"class": "T5ForConditionalGeneration", "task_type": "SEQ_2_SEQ_LM",
         "collator": "DataCollatorForSeq2Seq", "target_modules": ["q", "v"]},
    ),
    "generate in int8": (
        "gemma2", "transformers", None,
        {"loading": Loading(dtype=BFLOAT16, quantization=INT8),
         "inference": Inference(batch_size=2, context_len=64, max_new_tokens=4)},
        {"class": "Gemma2ForCausalLM", "linears": {"Linear8bitLt": 14, "Linear": 1},
         "dtype": "torch.bfloat16", "results": 2, "environment": True, "device": "cpu"},
    ),
    "generate, sequence to sequence": (
        "t5", "transformers", None,
        {"loading": Loading(dtype=BFLOAT16),
         "inference": Inference(batch_size=2, context_len=64, max_new_tokens=4)},
        {"class": "T5ForConditionalGeneration", "results": 2},
    ),
    "classify with a merged adapter": (
        "llama", "transformers", 3,
        {"loading": Loading(num_labels=3, dtype=FLOAT16),
         "inference": Inference(batch_size=2, context_len=64, lora=Lora(r=2), merge_adapter=True)},
        {"class": "LlamaForSequenceClassification", "num_labels": 3, "results": 2,
         "dtype": "torch.float16"},
    ),
    "embed": (
        "bert", "transformers", None,
        {"loading": Loading(auto_class="AutoModel"), "inference": Inference(batch_size=2)},
        {"class": "BertModel", "results": 2},
    ),
    "logits of every position": (
        "qwen2", "transformers", None,
        {"loading": Loading(), "inference": Inference(context_len=64, full_logits=True)},
        {"class": "Qwen2ForCausalLM", "results": 2},
    ),
    "a replica": (
        "llama", "transformers", None,
        {"loading": Loading(strategy="replicas"), "gpu": "T4x2",
         "inference": Inference(context_len=64, max_new_tokens=4)},
        {"results": 1},
    ),
    "split by layers": (
        "llama", "transformers", None,
        {"loading": Loading(dtype=BFLOAT16, max_memory={"cpu": 2**30}), "gpu": "T4x2",
         "inference": Inference(context_len=64, max_new_tokens=4)},
        {"results": 2, "dtype": "torch.bfloat16"},
    ),
}  # fmt: skip
ONLY_TODAY: dict[str, tuple[str, str, int | None, dict[str, Any], dict[str, Any]]] = {
    "language model in int8": (
        "qwen2", "peft", None,
        {"loading": Loading(dtype=BFLOAT16, quantization=INT8),
         "training": tuned("lora", lora=Lora(r=2, target_modules=("q_proj", "v_proj"), dropout=0.1),
                           bf16=True, gradient_checkpointing=True, use_reentrant=True,
                           optimizer="adafactor")},
        {"class": "Qwen2ForCausalLM", "quant_type": None, "r": 2, "lora_dropout": 0.1,
         "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "head": "Linear",
         "head_trained": False, "checkpointing": True, "reentrant": ["True"],
         "input_requires_grad": True, "trainer": "Trainer", "optimizer": "Adafactor",
         "collator": "DataCollatorForLanguageModeling", "args.bf16": True, "args.fp16": False},
    ),
    "generate, static cache": (
        "llama", "transformers", None,
        {"loading": Loading(dtype=FLOAT32), "inference": Inference(
            batch_size=1, context_len=64, max_new_tokens=4, cache="static", attn="sdpa",
            sdpa_kernel="math")},
        {"attention": "sdpa", "dtype": "torch.float32", "results": 2},
    ),
    "generate in chunks": (
        "llama", "transformers", None,
        {"loading": Loading(), "inference": Inference(
            batch_size=1, context_len=64, max_new_tokens=4, prefill_chunk_size=8)},
        {"results": 2},
    ),
}  # fmt: skip
TODAY = {
    "args.eval_strategy": "no",
    "args.train_sampling_strategy": "group_by_length",
    "args.max_length": 48,
}
IN_2024 = {"args.eval_strategy": "no", "args.group_by_length": True, "args.max_seq_length": 48}
RENAMED = {
    "classifier in nf4": ("args.eval_strategy", "args.train_sampling_strategy", "args.group_by_length"),
    "SFT in nf4": ("args.eval_strategy", "args.max_length", "args.max_seq_length"),
}  # fmt: skip
"""Settings whose names changed between the two, by the run that has them."""


def jobs_of(stack: str) -> dict[str, Any]:
    return {**JOBS, **ONLY_TODAY} if stack == "today" else JOBS


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers of one process a stack, made on first use."""
    folders, answers = tmp_path_factory.mktemp("tiny"), {}

    def of(stack: str) -> dict[str, Any]:
        if stack not in answers:
            place = tmp_path_factory.mktemp(f"runs-{stack}")
            answers[stack] = run(jobs_for(folders, stack), place, stack)
        return answers[stack]

    return of


def jobs_for(folders: Path, stack: str) -> list[dict[str, Any]]:
    jobs = []
    for name, (family, target, labels, workload, _) in jobs_of(stack).items():
        made = scenario(tiny_folder(family, folders), stack, labels=labels, **workload)
        jobs.append({"name": name, "text": emit(made, target)})
        jobs.append({"name": f"keywords of {name}", "calls": calls_of(made, target)})
    llama = tiny_folder("llama", folders)
    for name, (made, target) in on_a_gpu_only(llama, stack).items():
        jobs.append({"name": f"alone: {name}", "calls": calls_of(made, target)})
    return jobs + (rows_read(folders, stack) if stack == "today" else [])


def rows_read(folders: Path, stack: str) -> list[dict[str, Any]]:
    """The classifier's script with the variable set, once a format."""
    frame = pd.DataFrame({"text": ["one", "two", "three"], "label": [0, 1, 0]})
    frame.to_csv(folders / "rows.csv", index=False)
    frame.to_parquet(folders / "rows.parquet")
    frame.to_json(folders / "rows.jsonl", orient="records", lines=True)
    made = scenario(
        tiny_folder("bert", folders), stack, labels=2,
        loading=Loading(num_labels=2), training=tuned("full"),
    )  # fmt: skip
    text = emit(made, "peft")
    return [
        {"name": f"rows of {kind}",
         "text": text.replace("DATA = None", f"DATA = {str(folders / f'rows.{kind}')!r}")}
        for kind in ("csv", "jsonl", "parquet")
    ]  # fmt: skip


def calls_of(made: Scenario, target: str) -> list[dict[str, Any]]:
    given = arguments(made, trainer="trl" if target == "trl" else None)
    calls = [given.load, given.prepare, given.adapter, given.training, given.generate]
    calls += [given.load.arguments.get("quantization_config")]
    return [
        {"library": call.library, "name": call.name, "arguments": plain(call)}
        for call in calls
        if call is not None
    ]


def plain(call: Any) -> dict[str, Any]:
    """Arguments as JSON; of what is no JSON only the name matters."""
    return dict(json.loads(json.dumps(dict(call.arguments), default=str)))


def run(jobs: list[dict[str, Any]], place: Path, stack: str) -> dict[str, Any]:
    paths = autumn_2024() if stack == "2024" else []
    if isinstance(paths, str):
        pytest.skip(paths)
    file = place / "jobs.json"
    file.write_text(json.dumps(jobs), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RUNNER), str(file)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


NAMES = [(stack, name) for stack in STACKS for name in jobs_of(stack)]


@pytest.mark.parametrize(("stack", "name"), NAMES)
def test_what_a_script_leaves_has_every_setting_of_its_scenario(
    stack: str, name: str, ran: Any
) -> None:
    answer = ran(stack)[name]
    assert "error" not in answer, answer["error"]
    expected = dict(jobs_of(stack)[name][4])
    if expected.get("environment") is True:
        setting = "PYTORCH_ALLOC_CONF" if stack == "today" else "PYTORCH_CUDA_ALLOC_CONF"
        expected["environment"] = {setting: "expandable_segments:True"}
    changed = TODAY if stack == "today" else IN_2024
    expected |= {key: changed[key] for key in RENAMED.get(name, ()) if key in changed}
    assert {key: looked_up(answer, key) for key in expected} == expected


def looked_up(answer: dict[str, Any], key: str) -> Any:
    head, _, rest = key.partition(".")
    return answer[head][rest] if rest else answer[head]


@pytest.mark.parametrize(("stack", "name"), NAMES)
def test_every_keyword_is_one_that_the_library_has(stack: str, name: str, ran: Any) -> None:
    answer = ran(stack)[f"keywords of {name}"]
    assert "error" not in answer, answer["error"]
    assert answer["unknown"] == []


OPTIMIZERS: dict[str, dict[str, Any]] = {
    # what the Trainer makes of the name, without a GPU to run it on
    "paged_adamw_32bit": {"optimizer": "AdamW", "is_paged": True, "optim_bits": 32},
    "paged_adamw_8bit": {"optimizer": "AdamW", "is_paged": True, "optim_bits": 8},
    "adamw_8bit": {"optimizer": "AdamW", "is_paged": False, "optim_bits": 8},
    "lion_8bit": {"optimizer": "Lion", "is_paged": False, "optim_bits": 8},
    "adamw_torch_fused": {"optimizer": "AdamW", "fused": True},
    "adafactor": {"optimizer": "Adafactor"},
    "sgd": {"optimizer": "SGD"},
}


def on_a_gpu_only(folder: Path, stack: str) -> dict[str, tuple[Scenario, str]]:
    """What needs a GPU, or a package beside: its keywords and arguments are looked up alone."""
    half = Loading(dtype=FLOAT16, quantization=DOUBLE)
    made = {
        f"optim {name}": (
            scenario(folder, stack, loading=half,
                     training=tuned("qlora", optimizer=name, fp16=True, use_liger_kernel=True,
                                    group_by_length=True)), "peft")
        for name in OPTIMIZERS
    }  # fmt: skip
    for cache in ("quantized", "offloaded", "static"):
        given = Inference(context_len=64, cache=cache, attn="flash_attention_2")
        loading = Loading(dtype=FLOAT16, max_memory={0: 2**30, "cpu": 2**30})
        made[f"{cache} cache"] = (
            scenario(folder, stack, gpu="L4x2", loading=loading, inference=given),
            "transformers",
        )
    if stack == "today":
        given = Inference(context_len=64, kv_dtype=DTYPES["float8_e4m3fn"], prefill_chunk_size=8)
        made["8-bit cache"] = (
            scenario(folder, stack, gpu="L4x2", loading=Loading(strategy="tp", dtype=FLOAT16),
                     inference=given), "transformers")  # fmt: skip
        offloaded = tuned("full", trainer="trl", offload_activations=True)
        made["offloaded activations"] = (
            scenario(folder, stack, loading=Loading(), training=offloaded),
            "trl",
        )
    return made


@pytest.mark.parametrize("stack", STACKS)
def test_what_needs_a_gpu_is_known_to_the_library_too(stack: str, ran: Any) -> None:
    answers = {k: v for k, v in ran(stack).items() if k.startswith("alone: ")}
    assert len(answers) >= 10
    for name, answer in answers.items():
        assert "error" not in answer, (name, answer["error"])
        assert answer["unknown"] == [], name
        expected = OPTIMIZERS.get(name.rpartition(" ")[2], {})
        assert {key: answer[key] for key in expected} == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_user_s_rows_are_read(kind: str, ran: Any) -> None:
    answer = ran("today")[f"rows of {kind}"]
    assert "error" not in answer, answer["error"]
    assert (answer["rows"], answer["probability_sums"]) == (3, [1.0])


def test_a_notebook_cell_runs_its_replicas_and_gathers_them(tmp_path: Path) -> None:
    """Two processes of their own, each with half of the texts; the results are in their order."""
    made = scenario(
        tiny_folder("llama", tmp_path), "today", gpu="T4x2",
        loading=Loading(strategy="replicas"),
        inference=Inference(context_len=64, max_new_tokens=4),
    )  # fmt: skip
    cell = emit(made, "kaggle") + 'print("GATHERED", len(results))\n'
    (tmp_path / "cell.py").write_text(cell, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "cell.py"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert "GATHERED 2" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert [
        len((tmp_path / f"results-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)
    ] == [1, 1]
