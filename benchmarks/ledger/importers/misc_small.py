"""Small sources: a course's TinyLlama snapshot, TRL's comments, GPT-2 by hand, a table of ms-swift.

Each kind of row has its own builder; what is written by hand (Raschka's GPT-2) is taken as the
transformers class of the same shapes, with what the hand-written parts keep besides as range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.older_kernels import older_bytes
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.scenario import (
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.model import TensorRow
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="Small sources (a course, TRL's comments, GPT-2 by hand, Megatron-SWIFT)",
    unknowns={
        "prepare_model_for_kbit_training (TRL's comments)": "TRL of 2025 called it, today's does "
        "not: from without it to with it",
        "longest row (TRL's comments)": "max_length, 1024, from half of it",
        "micro-batch (Megatron-SWIFT)": "1, as in the document's commands",
    },
    misses=(
        Miss(
            why="the recorded stream has, a layer, the 22.5 MB and two 8.2 MB of inputs that "
            "bitsandbytes kept for backward until 0.43.2 (by formula at both levels), and "
            "one more float32 tensor a norm, 0.36 GB in all, that lives until the mean's backward: "
            "transformers 4.40's code has none; reserved adds what earlier cells left behind",
            where=lambda row: row["source"] == "ftcourse_tinyllama",
        ),
        Miss(
            why="the figure is a whole number of GB of a card, method not said: NCCL, DeepSpeed's "
            "buckets and what the allocator keeps are in it",
            where=lambda row: row["source"] == "ms_swift_megatron_table",
        ),
        Miss(
            why="figures written into a comment, to 0.1 GB, after runs of rows of many lengths: "
            "what the allocator keeps of them is in it",
            where=lambda row: row["source"] == "trl_notebooks_vram_comments",
        ),
    ),
    notes=(
        "TRL's comments: float32 copies of the tables leave the 16-bit ones' room inside the one "
        "block that the loader warmed up, where nothing as large comes again: 2·V·h each.",
        "GPT-2 by hand: its loss is in bfloat16, which is 6·B·S·V less than the class's.",
    ),
)
_QKVOGUD: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_COURSE: Final = Stack(versions={**TESTED, "transformers": "4.46.3", "peft": "0.13.2"})
"""The side directory nearest to the course's releases: no ``enable_gqa`` yet."""
_T4: Final = find_gpu("T4")
_A100: Final = find_gpu("A100-SXM4-80GB")


def express(row: PublishedRow) -> Iterator[Result]:
    """By the source of the row."""
    return _express(row, traced=False)


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """The same on the releases that are installed."""
    return _express(row, traced=True)


def _express(row: PublishedRow, *, traced: bool) -> Iterator[Result]:
    build = _BUILDERS.get(str(row["source"]))
    for entry in row["measured"]:
        kind = str(entry["kind"])
        result: Result = (
            build(row, kind)
            if build is not None
            else NotExpressed(kind=kind, reason=f"no builder reads {row['source']}")
        )
        yield _by_trace(row, result) if traced and isinstance(result, Expressed) else result


def _by_trace(row: PublishedRow, result: Expressed) -> Result:
    if row["source"] == "rasbt_gpt2_124m":
        return NotExpressed(kind=result.kind, reason="its model is written by hand: no class")
    stack = _COURSE if row["source"] == "ftcourse_tinyllama" else Stack()
    reading = result.reading
    if stack is _COURSE and isinstance(reading, Reading) and reading.moment is None:
        kept = older_bytes(result.scenario, Reading())
        reading = replace(reading, plus_bytes=reading.plus_bytes + kept)
    return replace(result, scenario=replace(result.scenario, stack=stack), reading=reading)


def _scenario(
    model: ModelSpec, loading: Loading, training: Training | None, **rest: Any
) -> Scenario:
    machine = rest.pop("machine", Machine(gpus=(_A100,)))
    return Scenario(
        model=model, workload=Workload(loading=loading, training=training), machine=machine, **rest
    )


def _course(row: PublishedRow, kind: str) -> Result:
    """A step of TinyLlama prepared for k-bit training; and the load of a small Llama."""
    if row["task"] == "load":
        scenario = _scenario(_small_llama(), Loading(dtype=FLOAT32), None)
        amount = "reserved" if "reserved" in kind else "allocated"
        before = 20_000_000 if amount == "allocated" else 0
        return Expressed(
            kind=kind,
            scenario=scenario,
            reading=Reading(amount=amount, plus_bytes=before),  # type: ignore[arg-type]
            card_known=False,
        )
    peft: Mapping[str, Any] = row["peft"]
    training = Training(
        method="qlora",
        trainer="loop",
        lora=Lora(r=peft["r"], target_modules=("q_proj", "v_proj"), dropout=peft["lora_dropout"]),
        optimizer="sgd",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        prepare_kbit=True,
        gradient_checkpointing=False,
        attn="sdpa",
        max_grad_norm=None,
    )
    quantization = Quantization(scheme="nf4", compute_dtype=FLOAT32)
    scenario = _scenario(
        published_model(row["model"]),
        Loading(dtype=FLOAT16, quantization=quantization),
        training,
        stack=Stack(versions={**TESTED, "transformers": "4.40.0", "bitsandbytes": "0.43.1"}),
    )
    readings = {
        "peak requested": Reading(without=("load", "step", "clip")),
        "peak reserved": Reading(amount="reserved"),
        "requested before": Reading(moment="loaded"),
    }
    found = next((r for start, r in readings.items() if kind.startswith(start)), None)
    if found is None:
        return NotExpressed(kind=kind, reason="what an earlier cell of the notebook had reserved")
    return Expressed(kind=kind, scenario=scenario, reading=found, card_known=False)


def _small_llama() -> ModelSpec:
    return from_config(
        "llama of 1024",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 1024,
            "num_hidden_layers": 12,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "intermediate_size": 4096,
            "vocab_size": 10_000,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    )


def _comment(row: PublishedRow, kind: str) -> Result:
    """TRL's supervised fine-tuning on a T4: Liger, offloaded activations, rank 32."""
    training = Training(
        method="qlora",
        trainer="trl",
        lora=Lora(r=row["peft"]["r"], target_modules=_QKVOGUD),
        optimizer=row["optimizer"],
        micro_batch_size=row["batch"],
        gradient_accumulation_steps=row["grad_accum"],
        max_length=1024,
        use_liger_kernel=True,
        offload_activations=True,
        fp16=True,
        attn="sdpa",
    )
    quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=FLOAT16)
    nominal = _scenario(
        published_model(row["model"]),
        Loading(dtype=FLOAT16, quantization=quantization),
        replace(training, prepare_kbit=True),
        machine=Machine(gpus=(_T4,)),
        stack=Stack(versions={**TESTED, "transformers": "4.57.6"}),
    )
    low = replace(
        nominal,
        workload=replace(
            nominal.workload, training=replace(training, max_length=512, prepare_kbit=False)
        ),
    )
    tables = 2 * sum(
        t.num_elements * t.count for t in nominal.model.tensors if _is_table(t, nominal.model)
    )
    return Expressed(
        kind=kind,
        scenario=nominal,
        low_scenario=low,
        reading=Reading(amount="reserved", plus_bytes=tables),
        unknown_bytes=(-tables, 0),
    )


def _is_table(row: TensorRow, model: ModelSpec) -> bool:
    """A matrix of the vocabulary: of a tied pair, the one that is stored."""
    vocab = int(model.config["vocab_size"])
    return row.shape[:1] == (vocab,) and len(row.shape) == 2 and row.tied_to is None


def _by_hand(row: PublishedRow, kind: str) -> Result:
    """GPT-2 of 124 million parameters, embeddings apart; the settings of its cells add up."""
    notes = str(row["notes"])
    if notes.startswith("compile"):
        return NotExpressed(kind=kind, reason="torch.compile decides what is kept")
    half = row["dtype"] == "bfloat16"
    fused = row["attn"] == "sdpa"
    usual = fused or notes.startswith("pytorch LayerNorm")
    training = Training(
        method="full",
        trainer="loop",
        optimizer="adamw_torch_fused" if not notes.startswith(("baseline", "causal")) else None,
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=False,
        attn="sdpa" if fused else "eager",
        max_grad_norm=None,
    )
    scenario = _scenario(
        _gpt2("50304" in notes, "gelu_pytorch_tanh" if usual else "gelu_new"),
        Loading(dtype=BFLOAT16 if half else FLOAT32),
        training,
        stack=Stack(versions={**TESTED, "torch": "2.6.0"}),
    )
    besides = _besides(row, half=half)
    return Expressed(
        kind=kind, scenario=scenario, reading=Reading(amount="reserved", plus_bytes=besides)
    )


def _besides(row: PublishedRow, *, half: bool) -> int:
    """bfloat16 logits go into the hand-written loss as they are: 8·B·S·V, not the class's 14."""
    return -6 * row["batch"] * row["seq"] * 50_257 if half else 0


def _gpt2(padded: bool, activation: str) -> ModelSpec:
    return from_config(
        "gpt2 by hand",
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50_304 if padded else 50_257,
            "activation_function": activation,
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    )


def _deepspeed(row: PublishedRow, kind: str) -> Result:
    """Qwen2.5-14B, all parameters, 8192 tokens on eight GPUs."""
    name = str(row["parallelism"]).lower()
    stages = {"zero2": "zero2", "zero3": "zero3"}
    stage: Any = next((stages[key] for key in stages if key in name), None)
    if stage is None:
        return NotExpressed(kind=kind, reason="Megatron-LM's own layers and states")
    if "dense" not in str(row["model"]):
        return NotExpressed(kind=kind, reason="experts of a model that the row does not name")
    training = Training(
        method="full",
        optimizer="adamw_torch_fused",
        micro_batch_size=1,
        max_length=8192,
        gradient_checkpointing=True,
        bf16=True,
        attn="flash_attention_2",
    )
    scenario = _scenario(
        published_model("Qwen/Qwen2.5-14B"),
        Loading(dtype=BFLOAT16, strategy=stage),
        training,
        machine=Machine(gpus=(_A100,) * row["n_gpu"]),
    )
    return Expressed(kind=kind, scenario=scenario, reading=Reading(amount="device"))


_BUILDERS: Final[dict[str, Callable[[PublishedRow, str], Result]]] = {
    "ftcourse_tinyllama": _course,
    "trl_notebooks_vram_comments": _comment,
    "rasbt_gpt2_124m": _by_hand,
    "ms_swift_megatron_table": _deepspeed,
}
"""How each source of the file is read."""
