"""pytorch/ao: its tables of low-precision training (torchtitan, a small loop) and of generation.

Generation is gpt-fast's model with a static cache of prompt and new tokens; its counter is reset
after warm-up. What torchao quantises has no formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from benchmarks.ledger.importers.torchtitan import obstacle_of, titan
from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, parse_dtype
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED

_NAMES: Final = {
    "Llama-3-8B (torchtitan)": "meta-llama/Meta-Llama-3-8B",
    "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
}
_PROMPT: Final = 6
"""Tokens of "Hello, my name is", the default prompt, with the first one."""
_NEW: Final = 200
_LOOP: Final = "Llama2-1B"
"""benchmarks/quantized_training/pretrain_llama2.py with TinyLlama's width, depth and inner size."""

ABOUT: Final = About(
    title="pytorch/ao, training and generation tables",
    stack="other",
    unknowns={
        "batch": "1 where the table of float8nocompile does not say, as elsewhere in its tables.",
        "loss compiled": "By the release: torch 2.9's runs compile it, earlier ones do not.",
    },
    misses=(
        Miss(
            where=lambda row: row["gpu"] == "B200",
            why="B200's runs reserve 33.4 and 33.9 GiB where MI300X's with the same release and "
            "settings reserve 39.1: another list of operators is saved, which no row says.",
        ),
        Miss(
            where=lambda row: row["task"] == "train" and row["parallelism"] is None,
            why="A compiled loop without float32 logits: the cross-entropy is of bfloat16 logits "
            "and fused, and so is the optimizer; the formulas have the eager loss of transformers.",
        ),
        Miss(
            where=lambda row: row["task"] == "train",
            why="Reserved memory of eager and compiled float8 runs, of which only the products "
            "that are saved are known.",
        ),
    ),
    notes=(
        "Float8 training keeps bfloat16 activations where products are recomputed from them: its "
        "rows lie within 1 % of bfloat16's.",
        "Compiled generation reserves 0.24 GB more than eager: the pool of its CUDA graphs.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per counter."""
    for entry in row["measured"]:
        kind = entry["kind"]
        if row["task"] == "inference":
            yield _generation(row, kind)
        elif row["parallelism"] is None:
            yield _loop(row, kind)
        else:
            yield _titan(row, kind)


def express_by_trace(row: PublishedRow) -> Iterator[NotExpressed]:
    """None of the models is transformers'."""
    reason = "torchao's tables are of other models than transformers'"
    return (NotExpressed(kind=entry["kind"], reason=reason) for entry in row["measured"])


def _titan(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    obstacle = obstacle_of(row)
    if obstacle is None and row["model"] not in _NAMES:
        obstacle = f"{row['model']} is not one of the models that are known here"
    if obstacle is not None:
        return NotExpressed(kind=kind, reason=obstacle)
    compiled = "torch2.9" in str(row["notes"])
    return titan(row, kind, _NAMES[row["model"]], compiled_loss=compiled)


def _generation(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    if row["quant"] is not None:
        reason = f"torchao's {str(row['quant']).partition('-')[0]} tensors have no formula"
        return NotExpressed(kind=kind, reason=reason)
    if row.get("kv_quant") not in (None, "False"):
        return NotExpressed(kind=kind, reason="a cache of 8 bits of gpt-fast's has no formula")
    if "200 new" not in str(row["seq"]):
        return NotExpressed(kind=kind, reason="length not recorded")
    name = str(row["model"])
    model = published_model(_NAMES.get(name, name))
    inference = Inference(
        batch_size=row["batch"], context_len=_PROMPT + _NEW, max_new_tokens=_NEW, cache="static"
    )
    dtype = parse_dtype(row["dtype"])
    scenario = Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=dtype), inference=inference),
        machine=Machine(gpus=(find_gpu("A100-80GB" if "A100" in row["gpu"] else row["gpu"]),)),
        stack=Stack(versions=TESTED),
    )
    reading = Reading(amount="reserved")
    if kind.startswith("model_size"):
        table = model.config["vocab_size"] * model.config["hidden_size"]
        reading = Reading(
            phases=("decode",), components=("weights",), plus_bytes=-dtype.num_bytes(table)
        )
    return Expressed(kind=kind, scenario=scenario, reading=reading)


def _loop(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    if row["quant"] is not None:
        return NotExpressed(kind=kind, reason="quantised training has no formula")
    if row["optimizer"] is None or not row["model"].startswith(_LOOP):
        return NotExpressed(kind=kind, reason="optimizer and accumulation not recorded")
    training = Training(
        method="full",
        optimizer="adamw_torch_fused",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=True,
        attn="flash_attention_2",
    )
    scenario = Scenario(
        model=_tiny_llama(),
        workload=Workload(loading=Loading(dtype=BFLOAT16), training=training),
        machine=Machine(gpus=(find_gpu("RTX 4070 Ti SUPER"),)),
        stack=Stack(versions=TESTED, alloc_conf="expandable_segments:True"),
    )
    return Expressed(kind=kind, scenario=scenario, reading=Reading(amount="allocated"))


@lru_cache
def _tiny_llama() -> ModelSpec:
    """TinyLlama's shapes with as many key heads as query heads, as the script's ``ModelArgs``."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    return from_config(_LOOP, config)
