"""Lightning-AI/litgpt: tables of its own model code, ``max_memory_allocated`` in GB of 10⁹.

Two parts: tutorials' resource tables (A100 of 40 GB, Alpaca, longest row stated) and READMEs of
``config_hub`` (24 GB, Alpaca2k cut at 512 tokens). No checkpointing on one GPU; the loss goes in
chunks of 128 tokens, LoRA is in bfloat16; the bitsandbytes copies have no head in 4 bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, RanOut, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
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
from willfit.scenario.model import LayerGroup
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="Lightning-AI/litgpt, its tables (own model code)",
    stack="other",
    unknowns={
        "longest row of Alpaca2k": "256 to 512 tokens, where it is cut",
        "the recipes' card": "24 GB, not named: its verdicts are not counted",
        "settings of the Llama-3.2 recipes": "not in the rows: those of the other recipes",
        "full fine-tuning": "not the committed AdamW: weights, gradients and its states are 31 GB "
        "for Phi-3 on a card of 24 GB, and without checkpoints the activations alone would fill it "
        "(litgpt:42). States outside torch (paged) and checkpoints are taken, for all of them",
    },
    misses=(
        Miss(
            why="units that FSDP gathers and cuts one after the other lie beside model and shards",
            where=lambda row: row["n_gpu"] > 1 and "config_hub" not in row["source"],
        ),
        Miss(
            why="litgpt's own code differs from transformers' in what a layer keeps: rotary's "
            "halves are put together again for q and k, q, k and v are copies out of one product",
            where=lambda row: row["task"] == "train",
        ),
        Miss(
            why="what Lightning's bitsandbytes layers hold while weights are quantised one by one",
            where=lambda row: row["task"] == "inference",
        ),
    ),
    notes=(
        "The recipes' README says that all its runs were on one GPU: rows of four are one GPU's.",
        "With FSDP the whole model is on every GPU while it is cut in shards: weights · (1 + 1/n). "
        "Two rows that ran out there (litgpt:97, litgpt:99) are said to fit, as the steps would.",
        "bitsandbytes 0.42 keeps the inputs of its 4-bit products.",
    ),
)
_MODELS: Final = {
    "falcon-7b": "tiiuae/falcon-7b", "gemma-2b": "google/gemma-2b", "gemma-7b": "google/gemma-7b",
    "gemma2-2b": "google/gemma-2-2b", "gemma2-9b": "google/gemma-2-9b",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf", "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B", "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B", "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-v0.2": "mistralai/Mistral-7B-v0.1", "phi-2": "microsoft/phi-2",
    "phi-3": "microsoft/Phi-3-mini-4k-instruct", "tiny-llama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "stablelm-base-alpha-3b": "stabilityai/stablelm-base-alpha-3b",
}  # fmt: skip
"""Folders of ``config_hub/finetune`` and their checkpoints; Mistral 0.2 has 0.1's shapes."""
_STABLELM: Final[dict[str, dict[str, Any]]] = {
    "stabilityai/stablelm-base-alpha-3b": {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": 4096,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "intermediate_size": 16_384,
        "vocab_size": 50_688,
        "max_position_embeddings": 4096,
        "rotary_pct": 0.25,
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
"""stabilityai/stablelm-base-alpha-3b config.json."""
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "full": {},
    "lora": {"lora_r": 32, "lora_dropout": 0.05, "lora_query": True, "lora_value": True},
    "qlora": {"lora_r": 32, "lora_dropout": 0.05, "lora_query": True, "lora_value": True},
}
_STACK: Final = Stack(versions={**TESTED, "bitsandbytes": "0.42.0"})
_PROMPT, _NEW = 20, 50
"""``litgpt generate``: a short prompt and 50 new tokens."""
_CUT: Final = 512
_ACCUMULATED: Final = 16
"""Micro-batches of a step: 64 rows by 4 in the recipes whose settings the rows lack."""

_WHOLE_BEFORE_SHARDS: Final = (
    "every GPU holds the whole model until it is cut in shards, which no strategy here does: no "
    "verdict"
)


def express(row: PublishedRow) -> Iterator[Result]:
    """Allocated peaks; cells that say OOM on a card of known size."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        whole = _scenario(row, 1.0)
        shorter = None if _length(row)[1] else _scenario(row, 0.5)
        if kind == "OOM" and int(row["n_gpu"]) > 1:
            yield NotExpressed(kind=kind, reason=_WHOLE_BEFORE_SHARDS)
            continue
        if kind == "OOM":
            yield RanOut(scenario=whole, low_scenario=shorter)
            continue
        known = "A100" in str(row["gpu"])
        yield Expressed(
            kind=kind,
            scenario=whole,
            low_scenario=shorter,
            reading=_reading(row),
            card_known=known,
        )


def _reading(row: PublishedRow) -> Reading | _CutInShards:
    """Beside 4-bit layers the head is there twice, 2·V·h (found from litgpt:107, used for all)."""
    model = _model(row)
    if _is_sharded(row):
        whole = 2 * sum(t.num_elements * t.count for t in model.tensors)
        return _CutInShards(num_gpus=row["n_gpu"], whole_bytes=whole)
    config = model.config
    head = 2 * int(config["vocab_size"]) * int(config["hidden_size"])
    return Reading(plus_bytes=head if _quant(row) else 0)


def _is_sharded(row: PublishedRow) -> bool:
    """The README: all its runs are on one GPU, also where the machine it names has four."""
    return row["n_gpu"] > 1 and "config_hub" not in row["source"]


def _quant(row: PublishedRow) -> str:
    recipe_quantised = row["dtype"] is None and _recipe(row) == "qlora"
    return str(row["quant"] or ("bnb.nf4" if recipe_quantised else ""))


@dataclass(frozen=True, kw_only=True)
class _CutInShards:
    """Allocated: the whole model and a GPU's shard of it at once, or the step where it is more."""

    num_gpus: int
    whole_bytes: int

    def __call__(self, estimate: Estimate) -> int:
        step = max(p.allocated_bytes for gpu in estimate.gpus for p in gpu.phases)
        return max(self.whole_bytes + self.whole_bytes // self.num_gpus, step)


def _obstacle(row: PublishedRow) -> str | None:
    method = _peft(row).get("method")
    if method in ("adapter", "adapter_v2"):
        return f"LLaMA-Adapter ({method}) has no formula"
    if _name(row) is None:
        return f"no config of {row['model']} is known here"
    return None


def _name(row: PublishedRow) -> str | None:
    if "/" in str(row["model"]):
        return str(row["model"])
    parts = str(row["repo_path"]).split("/")
    folder = next((part for part in parts if part in _MODELS), None)
    return _MODELS.get(folder or str(row["model"]).lower())


def _model(row: PublishedRow) -> ModelSpec:
    """Every product is torch's own ``Linear`` there, and gelu is one kernel.

    In training keys and values of a group are repeated for each of its heads before attention.
    """
    name = _name(row)
    assert name is not None
    if name in _STABLELM:
        return from_config(name, _STABLELM[name])
    found = published_model(name)
    architecture = found.architecture
    if architecture is not None and row["task"] == "train":
        layers = tuple(map(_repeated, architecture.layers))
        architecture = replace(architecture, layers=layers)
    if architecture is not None and architecture.hidden_act == "gelu_new":
        architecture = replace(architecture, hidden_act="gelu")
    linear = [replace(t, module="Linear") if "Linear" in t.module else t for t in found.tensors]
    return replace(found, architecture=architecture, tensors=tuple(linear))


def _repeated(group: LayerGroup) -> LayerGroup:
    attention = group.attention
    if attention is None:
        return group
    return replace(group, attention=replace(attention, num_kv_heads=attention.num_heads))


def _peft(row: PublishedRow) -> Mapping[str, Any]:
    """The adapter; of a recipe whose file is not in the row, the usual one of its kind."""
    given: Mapping[str, Any] | None = row["peft"]
    if not given and row["dtype"] is None:
        return _DEFAULTS.get(_recipe(row), {})
    return given or {}


def _recipe(row: PublishedRow) -> str:
    return str(row["repo_path"]).rpartition("/")[2].partition(".")[0]


def _length(row: PublishedRow) -> tuple[int, bool]:
    """Longest row in tokens, and whether the source states it."""
    seq = str(row["seq"])
    return (int(seq), True) if seq.isdigit() else (_CUT, row["task"] == "inference")


def _scenario(row: PublishedRow, share: float) -> Scenario:
    quant = _quant(row)
    quantization = None
    if quant:
        quantization = Quantization(
            scheme="fp4" if "fp4" in quant else "int8" if "int8" in quant else "nf4",
            double_quant=quant.endswith("-dq"),
            compute_dtype=BFLOAT16,
        )
    model = _model(row)
    gpu = find_gpu("A100-SXM4-40GB" if "A100" in str(row["gpu"]) else "A10G")
    work: dict[str, Any] = {}
    if row["task"] == "inference":
        work["inference"] = Inference(context_len=_PROMPT + _NEW, max_new_tokens=_NEW)
    else:
        work["training"] = _training(row, model, share, quantised=quantization is not None)
    strategy: Any = "fsdp" if _is_sharded(row) else None
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization, strategy=strategy), **work
        ),
        machine=Machine(gpus=(gpu,) * (row["n_gpu"] if strategy else 1)),
        stack=_STACK,
    )


def _training(row: PublishedRow, model: ModelSpec, share: float, *, quantised: bool) -> Training:
    peft = _peft(row)
    length, _ = _length(row)
    micro = row["batch"] or row.get("table_micro_batch") or 1
    checkpointing = row["grad_ckpt"] is True or not peft
    return Training(
        method=("qlora" if quantised else "lora") if peft else "full",
        trainer="loop",
        lora=_lora(peft, model) if peft else None,
        optimizer="adamw_torch" if peft else "paged_adamw_32bit",
        micro_batch_size=int(micro),
        gradient_accumulation_steps=int(row["grad_accum"] or _ACCUMULATED),
        max_length=max(int(length * share), 1),
        gradient_checkpointing=checkpointing,
        max_grad_norm=None,
        attn=None if "gemma-2-" in model.id else "sdpa",
    )


_PARTS: Final = {
    "lora_query": ("q_proj",), "lora_key": ("k_proj",), "lora_value": ("v_proj",),
    "lora_projection": ("o_proj", "dense"),
    "lora_mlp": ("gate_proj", "up_proj", "down_proj", "fc1", "fc2", "gate_up_proj"),
    "lora_head": ("lm_head",),
}  # fmt: skip
_FUSED: Final = ("query_key_value", "qkv_proj")


def _lora(peft: Mapping[str, Any], model: ModelSpec) -> Lora:
    """Targets by the names that the model's modules have; litgpt's q, k and v are one product."""
    wanted = [name for key, names in _PARTS.items() if peft.get(key) for name in names]
    if "target" in peft:
        wanted = ["q_proj", "v_proj"]
    wanted += _FUSED if "q_proj" in wanted else ()
    there = {row.name.split(".")[-2] for row in model.tensors if row.name.count(".")}
    targets = tuple(name for name in wanted if name in there and name != "lm_head")
    return Lora(
        r=int(peft.get("lora_r") or peft.get("r") or 8),
        target_modules=targets or ("all-linear",),
        dropout=float(peft.get("lora_dropout", 0.05)),
        dtype=BFLOAT16,
    )
