"""Every change over a grid of scenarios: what it touches, that it settles, what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import pytest

from willfit.changes import (
    CHANGES,
    Change,
    NotApplicable,
    Quality,
    apply_all,
    changes_for,
    why_not,
)
from willfit.changes.batch import cut_share
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import UnsupportedError
from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.outcome import load
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
from willfit.scenario.stack import TESTED
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve

ROWS = {change.id: change for change in CHANGES}
LLAMA, GEMMA2 = "meta-llama/Meta-Llama-3-8B", "google/gemma-2-9b-it"
MODELS = (
    LLAMA, GEMMA2, "openai-community/gpt2-xl", "google-t5/t5-large", "Qwen/Qwen3-30B-A3B",
    "google-bert/bert-base-cased",
)  # fmt: skip
ALL = Lora(r=64, target_modules=("all-linear",), dropout=0.1)
NF4 = Quantization(scheme="nf4")
INT8 = Quantization(scheme="int8")
LENGTHS = (100, 300, 900, 1800)

TOUCHES: dict[str, set[str]] = {
    "dtype": {"loading.dtype", "training.bf16", "training.fp16"},
    "quantize": {"loading.quantization", "training.method"},
    "bnb_4bit_compute_dtype": {"loading.quantization.compute_dtype"},
    "attn": {"attn"},
    "sdpa_kernel": {"sdpa_kernel"},
    "strategy": {"loading.strategy", "loading.max_memory"},
    "max_memory": {"loading.max_memory"},
    "alloc_conf": {"stack.alloc_conf"},
    "batch_size": {"inference.batch_size"},
    "context": {"inference.context_len"},
    "cache": {"inference.cache"},
    "kv_dtype": {"inference.kv_dtype"},
    "logits_to_keep": {"inference.full_logits"},
    "use_cache": {"inference.use_cache"},
    "prefill_chunk_size": {"inference.prefill_chunk_size"},
    "merge_adapter": {"inference.merge_adapter"},
    "method": {"training.method", "training.lora", "training.freeze"},
    "lora_r": {"training.lora.r"},
    "lora_dropout": {"training.lora.dropout"},
    "use_dora": {"training.lora.use_dora"},
    "lora_target_modules": {"training.lora.target_modules"},
    "modules_to_save": {"training.lora.modules_to_save"},
    "freeze": {"training.freeze"},
    "per_device_train_batch_size": {
        "training.micro_batch_size", "training.gradient_accumulation_steps",
    },
    "max_length": {"training.max_length"},
    "packing": {"training.packing", "training.padded"},
    "group_by_length": {"training.group_by_length"},
    "gradient_checkpointing": {"training.gradient_checkpointing", "training.use_reentrant"},
    "use_reentrant": {"training.use_reentrant"},
    "prepare_kbit": {"training.prepare_kbit"},
    "autocast": {"training.bf16", "training.fp16"},
    "use_liger_kernel": {"training.use_liger_kernel"},
    "trainer": {
        "training.trainer", "training.gradient_checkpointing", "training.bf16", "training.fp16",
        "training.optimizer",
    },
    "activation_offloading": {"training.offload_activations"},
    "optim": {"training.optimizer"},
}  # fmt: skip
"""What a change of each setting may alter; ``training.`` or ``inference.`` where it says neither."""


def scenario(
    model: str, gpu: str = "T4x2", *, loading: Loading | None = None, stack: Stack | None = None,
    ram: int | None = None, labels: int | None = None, **work: Any,
) -> Scenario:  # fmt: skip
    machine = Machine(gpus=parse_machine(gpu).gpus, ram_bytes=ram)
    workload = Workload(loading=loading or Loading(), **work)
    return Scenario(
        model=with_auto_class(resolve(model), None, labels),
        workload=workload,
        machine=machine,
        stack=stack or Stack(),
    )


def loads(dtype: DType | None = None, quantization: Quantization | None = None) -> Loading:
    return Loading(dtype=dtype, quantization=quantization)


def grid() -> Iterator[Scenario]:
    """Every model with usual work on three machines, then what brings the rarer rows out."""
    step: dict[str, Any] = {"micro_batch_size": 8, "max_length": 2048}
    short = {**step, "max_length": 512}
    for model in MODELS:
        for gpu in ("T4x2", "A100-80GB"):
            yield scenario(
                model, gpu, loading=loads(FLOAT32),
                inference=Inference(batch_size=4, context_len=480, full_logits=True),
            )  # fmt: skip
        yield scenario(model, loading=loads(BFLOAT16), training=Training(method="full", **short))
    for model in (LLAMA, GEMMA2):
        loading = loads(quantization=NF4)
        yield scenario(model, "T4x2", loading=loading, inference=Inference(attn="eager"))
        yield scenario(
            model, "A100x2", loading=loading,
            training=Training(method="qlora", lora=ALL, prepare_kbit=True, fp16=True, **step),
        )  # fmt: skip
    special: dict[str, Any] = {"micro_batch_size": 4, "lengths": LENGTHS}
    dora = replace(ALL, use_dora=True, modules_to_save=("embed_tokens", "lm_head"))
    reentrant = {"gradient_checkpointing": True, "use_reentrant": False}
    trl: dict[str, Any] = {"trainer": "trl", "attn": "flash_attention_2"}
    for gpu, loading, training in (
        ("T4", loads(BFLOAT16, INT8), Training(method="lora", lora=dora, bf16=True, **reentrant)),
        ("A100x2", loads(FLOAT32), Training(method="full", optimizer="adamw_torch", **special)),
        ("T4", loads(FLOAT32), Training(method="lora", lora=ALL, **special)),
        ("A100x2", loads(BFLOAT16), Training(method="lora", lora=ALL, **trl, **special)),
        ("T4", loads(BFLOAT16), Training(method="lora", lora=ALL, bf16=True, **special)),
    ):
        yield scenario(LLAMA, gpu, loading=loading, training=training)
    yield scenario(
        LLAMA, "A100x2", loading=Loading(strategy="dp"), training=Training(method="full", **step)
    )
    for lora in (ALL, None):
        for quantization in (None, INT8):
            yield scenario(
                LLAMA, "A100x2",
                loading=Loading(quantization=quantization, strategy="replicas"),
                inference=Inference(lora=lora, context_len=4096),
            )  # fmt: skip
    for engine in ("vllm", "llama.cpp"):
        yield scenario(LLAMA, "A100", inference=Inference(engine=engine))
    for padded in (True, False):  # cuDNN's kernel is first on an H100
        yield scenario("microsoft/phi-2", "H100", inference=Inference(padded=padded))
    yield scenario("microsoft/phi-2", "T4", inference=Inference(context_len=2048))
    yield scenario(GEMMA2, "T4x2", labels=3, inference=Inference(context_len=2048))
    yield scenario(LLAMA, "T4", ram=10**10, loading=loads(FLOAT16), inference=Inference())
    yield scenario(GEMMA2, "T4x2", inference=Inference(context_len=1 << 13, batch_size=600))
    yield scenario(LLAMA, "T4x2", training=Training(method="full", micro_batch_size=512))
    yield scenario("Qwen/Qwen2.5-7B-Instruct", "A100", inference=Inference(context_len=1 << 20))
    yield scenario(
        "Qwen/Qwen2.5-7B-Instruct", "A100",
        training=Training(method="lora", lora=replace(ALL, r=512), max_length=1 << 18,
                          gradient_accumulation_steps=256, micro_batch_size=1),
    )  # fmt: skip


@cache
def scenarios() -> tuple[Scenario, ...]:
    return tuple(grid())


def changed(before: Any, after: Any, path: str = "") -> set[str]:
    """Dotted names of the fields that differ, workload's own name left out."""
    if is_dataclass(before) and type(before) is type(after):
        return set().union(
            *(
                changed(
                    getattr(before, field.name),
                    getattr(after, field.name),
                    f"{path}.{field.name}" if path else field.name,
                )
                for field in fields(before)
            )
        )
    return set() if before == after else {path.removeprefix("workload.")}


def is_inside(name: str, allowed: set[str]) -> bool:
    """Whether a changed field is one of these, or inside of one."""
    short = name.partition(".")[2]
    return any(
        part == other or part.startswith(other + ".") for part in (name, short) for other in allowed
    )


def test_ids_are_unique_and_every_cost_has_its_reason() -> None:
    assert len(ROWS) == len(CHANGES)
    for change in CHANGES:
        assert bool(change.quality_reason) is (change.quality is not Quality.NONE), change.id
        assert change.title and not change.title.endswith("."), change.id
        assert change.setting in TOUCHES, change.id
        assert not change.dominated_by or change.dominated_by in ROWS, change.id


def test_a_change_touches_what_it_names_and_nothing_else_and_settles() -> None:
    """Pure, no error, and the second time there is nothing left to do."""
    applied: set[str] = set()
    for before in scenarios():
        kept = copy.deepcopy(before.workload), before.machine, before.stack
        for change in CHANGES:
            after = change.apply(before)
            if isinstance(after, NotApplicable):
                assert after.reason and not after.reason.endswith("."), change.id
                continue
            applied.add(change.id)
            touched = changed(before, after)
            assert touched, change.id
            far = {name for name in touched if not is_inside(name, TOUCHES[change.setting])}
            assert not far, (change.id, far)
            assert isinstance(change.apply(after), NotApplicable), change.id
        assert (before.workload, before.machine, before.stack) == kept
    never = set(ROWS) - applied
    assert not never


def test_what_a_change_gives_can_be_estimated() -> None:
    """Nothing but `UnsupportedError`, and that rarely: a change that helps nobody is no change."""
    unsupported = total = 0
    for before in scenarios():
        for change in changes_for(before, spends=True, dominated=True):
            after = change.apply(before)
            assert isinstance(after, Scenario)
            if change.id.startswith("max_length=") or change.id.startswith("context="):
                continue  # the same formula for every value
            total += 1
            try:
                outcome_by_formula(after, load(after))
            except UnsupportedError:
                unsupported += 1
    assert total > 600
    assert unsupported < 0.1 * total


def test_a_step_has_as_many_rows_as_before() -> None:
    before = scenario(LLAMA, training=Training(method="full", gradient_accumulation_steps=3))
    for value, steps in ((4, 6), (1, 24), (8, None), (16, None)):
        after = ROWS[f"per_device_train_batch_size={value}"].apply(before)
        if steps is None:
            assert isinstance(after, NotApplicable)
            continue
        assert isinstance(after, Scenario) and after.workload.training is not None
        assert after.workload.training.micro_batch_size == value
        assert after.workload.training.gradient_accumulation_steps == steps
    larger = ROWS["per_device_train_batch_size=16:larger"]
    refusal = larger.apply(before)
    assert isinstance(refusal, NotApplicable) and "24 rows" in refusal.reason


def test_the_list_goes_from_cheap_to_dear_and_names_every_other_change() -> None:
    for before in scenarios()[::3]:
        found = changes_for(before, spends=True, dominated=True)
        costs = [(change.spends, change.quality, change.effort) for change in found]
        assert costs == sorted(costs)
        assert {change.id for change in found} | set(why_not(before)) == set(ROWS)
        plain = changes_for(before)
        assert not any(change.spends or change.dominated_by for change in plain)


def test_ahead_finds_what_another_change_opens() -> None:
    before = scenario(LLAMA, "A100", loading=loads(FLOAT32), inference=Inference())
    now = {change.id for change in changes_for(before)}
    ahead = {change.id for change in changes_for(before, ahead=True)}
    assert "attn=flash_attention_2" not in now and "attn=flash_attention_2" in ahead
    both = apply_all(before, [ROWS["attn=flash_attention_2"], ROWS["dtype=bfloat16"]])
    assert isinstance(both, Scenario)
    alone = apply_all(before, [ROWS["attn=flash_attention_2"]])
    assert isinstance(alone, NotApplicable) and "flash_attention_2" in alone.reason


def test_a_shorter_length_says_what_it_cuts() -> None:
    before = scenario(LLAMA, training=Training(method="full", lengths=LENGTHS))
    assert cut_share(512, before) == "it cuts 2 of 4 rows (50.0%) and drops 54.1% of the tokens"
    assert isinstance(ROWS["max_length=2048"].apply(before), NotApplicable)


def lora(quantization: Quantization | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "loading": loads(BFLOAT16, quantization),
        "training": Training(method="lora", lora=ALL, **facts),
    }


def infer(dtype: DType | None = BFLOAT16, **facts: Any) -> dict[str, Any]:
    return {"loading": loads(dtype), "inference": Inference(**facts)}


QUANTIZED_CHECKPOINT = "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"
BARE = Stack(versions={k: v for k, v in TESTED.items() if k != "bitsandbytes"})
OLD = Stack(versions={**TESTED, "transformers": "4.46"})


@pytest.mark.parametrize(
    ("change", "model", "gpu", "work", "says"),
    [
        ("attn=flash_attention_2", LLAMA, "T4", infer(FLOAT16), "8.0"),
        ("attn=flash_attention_2", LLAMA, "A100", infer(FLOAT32), "16 bit"),
        ("attn=flash_attention_2", "google-t5/t5-large", "A100", infer(), "takes no Flash"),
        ("attn=sdpa", GEMMA2, "A100", infer(), "no SDPA path"),
        ("sdpa_kernel=efficient", LLAMA, "T4", infer(FLOAT16), "grouped"),
        ("sdpa_kernel=flash", LLAMA, "A100", infer(padded=True), "takes no mask"),
        ("sdpa_kernel=flash", LLAMA, "A100", infer(), "taken already"),
        ("dtype=float16", GEMMA2, "T4", infer(), "overflow"),
        ("dtype=bfloat16", LLAMA, "T4", infer(FLOAT32), "emulated"),
        ("dtype=float16", LLAMA, "A100", infer(FLOAT32), "range"),
        ("quantize=nf4", QUANTIZED_CHECKPOINT, "T4", infer(None), "stored quantised"),
        ("quantize=nf4", LLAMA, "T4", {"training": Training(method="full")}, "LoRA first"),
        ("quantize=int8", LLAMA, "V100-16GB", infer(FLOAT16), "7.5"),
        ("quantize=nf4", LLAMA, "A100", infer(engine="vllm"), "--quantization"),
        ("quantize=nf4", LLAMA, "A100", infer(engine="llama.cpp"), "another file"),
        ("cache=static", LLAMA, "A100", infer(engine="vllm"), "vllm has no such setting"),
        ("cache=quantized", GEMMA2, "T4", infer(), "full attention"),
        ("cache=static", "state-spaces/mamba-2.8b-hf", "T4", infer(), "states"),
        ("kv_dtype=q8_0", LLAMA, "T4", infer(), "llama.cpp"),
        ("use_cache=False", LLAMA, "T4", infer(), "generates"),
        ("prefill_chunk_size=512", LLAMA, "T4", infer(full_logits=True), "generate"),
        ("merge_adapter", LLAMA, "T4", infer(), "no adapter"),
        ("strategy=zero3", LLAMA, "T4x2", lora(NF4), "zero3"),
        ("strategy=fsdp", LLAMA, "T4x2", lora(INT8), "fsdp"),
        ("strategy=tp", LLAMA, "T4x2", {"loading": loads(None, INT8), "inference": Inference()},
         "tensor parallel"),
        ("strategy=ddp", LLAMA, "T4", lora(), "one GPU"),
        ("max_memory=cpu", LLAMA, "T4", {"loading": loads(None, NF4), "inference": Inference()},
         "bitsandbytes refuses"),
        ("optim=adamw_8bit", LLAMA, "T4", lora(optimizer="sgd"), "sgd keeps no more"),
        ("optim=adamw_8bit", LLAMA, "A100x2", {
            "loading": Loading(strategy="fsdp"), "training": Training(method="full")}, "shards"),
        ("strategy=fsdp", LLAMA, "A100x2", {"training": Training(
            method="full", optimizer="paged_adamw_8bit")}, "shards"),
        ("optim=lomo", LLAMA, "A100", {"training": Training(
            method="full", gradient_accumulation_steps=4)}, "accumulate"),
        ("use_reentrant=True", LLAMA, "T4", lora(NF4, gradient_checkpointing=True), "LLM.int8"),
        ("fp16", LLAMA, "T4", {"training": Training(method="full")}, "computes in bfloat16"),
        ("fp16:native", LLAMA, "T4", {"loading": loads(BFLOAT16), "training": Training(
            method="full", bf16=True)}, "GradScaler"),
        ("fp16:native", LLAMA, "T4", lora(NF4, trainer="trl"), "TRL casts"),
        ("activation_offloading", LLAMA, "T4", lora(), "TRL"),
        ("packing", LLAMA, "T4", lora(trainer="trl"), "flash_attention_2"),
        ("use_liger_kernel", "openai-community/gpt2-xl", "A100", lora(), "Liger has no"),
        ("freeze=embeddings", LLAMA, "A100", {"training": Training(
            method="full", gradient_checkpointing=True, use_reentrant=True)}, "reentrant"),
        ("group_by_length", LLAMA, "T4", lora(), "not known"),
    ],
)  # fmt: skip
def test_what_libraries_refuse_is_refused_with_the_reason(
    change: str, model: str, gpu: str, work: dict[str, Any], says: str
) -> None:
    outcome = ROWS[change].apply(scenario(model, gpu, **work))
    assert isinstance(outcome, NotApplicable)
    assert says in outcome.reason


@pytest.mark.parametrize(
    ("change", "stack", "work", "says"),
    [
        ("optim=paged_adamw_8bit", BARE, lora(), "not in the stack"),
        ("quantize=nf4", BARE, infer(), "not in the stack"),
        ("prefill_chunk_size=512", OLD, infer(), "4.51"),
    ],
)
def test_what_a_stack_lacks_is_refused(
    change: str, stack: Stack, work: dict[str, Any], says: str
) -> None:
    outcome = ROWS[change].apply(scenario(LLAMA, "T4", stack=stack, **work))
    assert isinstance(outcome, NotApplicable) and says in outcome.reason


def saves(change: Change, before: Scenario) -> int:
    """Bytes of the binding GPU's allocated peak."""

    def peak(which: Scenario) -> int:
        return max(g.peak.allocated_bytes for g in outcome_by_formula(which, load(which)).gpus)

    after = change.apply(before)
    assert isinstance(after, Scenario)
    return peak(before) - peak(after)


def lora_on(micro_batch: int = 8) -> Scenario:
    training = Training(method="lora", lora=ALL, micro_batch_size=micro_batch, max_length=2048)
    return scenario(LLAMA, "A100-80GB", loading=loads(BFLOAT16), training=training)


@pytest.mark.parametrize(
    ("change", "expected", "tolerance"),
    [
        # 16,384 tokens; h 4,096, I 14,336, D 128, H 32 and 8; inputs of seven modules 38,912.
        # A layer keeps 8h + 6I + 2D·80 + 4·32 + 8 = 139,400 B a token, float32 inputs with their
        # masks 5·38,912 and 4·64·7; all but one recomputed layer of 32 are saved, inputs 2h stay.
        ("gradient_checkpointing", 16_384 * (31 * 335_752 - 32 * 8_192), 0.05),
        ("lora_dropout=0", 16_384 * 32 * 38_912, 0.01),  # one byte of mask an input
        ("quantize=nf4-double", 6_979_321_856 * (2 - 0.51587), 0.02),  # and a dequantised weight
        ("trainer=trl", 16_384 * 128_256 * 12, 0.1),  # but for a tile and hidden states
        ("optim=sgd", 167_772_160 * 8, 0.01),  # two float32 states a parameter of rank 64
    ],
)
def test_savings_are_what_arithmetic_gives(change: str, expected: float, tolerance: float) -> None:
    assert saves(ROWS[change], lora_on()) == pytest.approx(expected, rel=tolerance)


def test_halving_the_batch_saves_half_of_what_grows_with_it() -> None:
    from_16, from_8 = (
        saves(ROWS[f"per_device_train_batch_size={value // 2}"], lora_on(value))
        for value in (16, 8)
    )
    assert from_16 == pytest.approx(2 * from_8, rel=0.01)
