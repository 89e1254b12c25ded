"""modelscope/ms-swift ``examples``: "22GB" in a shell script's first lines, and its arguments.

Whole GB of a card, usually the largest GPU of nvidia-smi, of data sets whose rows are mostly short:
the longest row is a range up to ``max_length``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np

from benchmarks.ledger.growth import Shape, Steps, shape_of
from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.errors import WillfitError
from willfit.estimator import estimate
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
from willfit.scenario.stack import TESTED
from willfit.sources.heads import with_auto_class
from willfit.units import MIB

ABOUT: Final = About(
    title="modelscope/ms-swift, first lines of its examples",
    unknowns={
        "longest row": "256 tokens to max_length (2048 where none is given); packed ones are full",
        "counter": "not said: from reserved to the card's use with a context, and half a GB of "
        "rounding either way",
        "order of the rows": "nothing kept, to the most that the allocator keeps in three orders "
        "of lengths up to max_length (simulated)",
        "pictures": "tokens of the row like others; what their encoder keeps is not counted",
        "GPU": "A100 of 80 GB, the usual one there; its verdicts are not counted",
    },
    misses=(
        Miss(
            why="a whole number of GB in a comment, of a run whose row lengths and card are not "
            "said; scripts were edited later than their first line",
        ),
    ),
)
_GPU: Final = find_gpu("A100-SXM4-80GB")
_STACK: Final = Stack(versions={**TESTED, "transformers": "4.50.3", "torch": "2.6.0"})
"""Of early 2025, when most of the scripts were written: AdamW by default is not the fused one."""
_SHORTEST, _USUAL = 256, 2048
_STEPS, _ORDERS = 40, 3
_ROUNDING: Final = 512 * MIB
_OWNERS: Final = {
    "LLM-Research": ("meta-llama",), "openai-mirror": ("openai",), "ZhipuAI": ("zai-org",),
    "AI-ModelScope": ("google", "mistralai"), "deepseek-ai": ("deepseek-ai",),
}  # fmt: skip
"""ModelScope's owners of copies, and the Hub's."""
_SAME_SHAPES: Final = {
    "Qwen/Qwen3-Reranker-4B": "Qwen/Qwen3-4B", "Qwen/Qwen3-Embedding-4B": "Qwen/Qwen3-4B",
    "Qwen/Qwen3-Reranker-8B": "Qwen/Qwen3-8B", "Qwen/Qwen3-Embedding-8B": "Qwen/Qwen3-8B",
    "Qwen/Qwen3-Embedding-0.6B": "Qwen/Qwen3-0.6B", "Qwen/Qwen3-Reranker-0.6B": "Qwen/Qwen3-0.6B",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B-Base": "Qwen/Qwen3-30B-A3B",
}  # fmt: skip
_PICTURES: Final = ("Omni", "Audio", "InternVL", "GLM-4.6V", "Ovis", "diffusion", "vision")
_KINDS: Final = ("dpo", "kto", "ppo", "grpo", "gkd", "rm", "simpo", "orpo", "cpo")


def express(row: PublishedRow) -> Iterator[Result]:
    """The amount of the fullest GPU, from short rows to the longest that are let through."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        obstacle = _obstacle(row, entry.get("bytes"))
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        longest = _longest(row)
        whole, short = _scenario(row, longest), _scenario(row, min(longest, _SHORTEST))
        packed = _arguments(row).get("packing") == "true"
        headless = _is_headless(row)
        kept = 0 if headless else min(_kept(whole.model, longest, _batch(row)), _room(whole))
        yield Expressed(
            kind=kind,
            scenario=whole if packed else _scenario(row, (longest + min(longest, _SHORTEST)) // 2),
            low_scenario=None if packed else short,
            high_scenario=whole,
            reading=Reading(amount="reserved"),
            unknown_bytes=(-_ROUNDING, (_GPU.context_bytes or 0) + _ROUNDING + kept),
            card_known=False,
        )


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """Integers of GB are not worth a run of the real classes."""
    for entry in row["measured"]:
        yield NotExpressed(
            kind=str(entry["kind"]), reason="whole GB of unstated lengths: the formulas say as much"
        )


def _arguments(row: PublishedRow) -> Mapping[str, Any]:
    given: Mapping[str, Any] = row.get("args") or {}
    return given


def _obstacle(row: PublishedRow, num_bytes: Any) -> str | None:
    arguments, path = _arguments(row), str(row["repo_path"]).partition(":")[2]
    parallelism = str(row["parallelism"])
    if "megatron" in path or parallelism == "megatron" or "mcore" in path:
        return "Megatron-LM's own layers and states"
    if any(part.lower() in str(row["model"]).lower() for part in _PICTURES):
        return "sound or diffusion: sizes of the inputs are not in the script"
    if any(part in path for part in ("vit", "mixed")):
        return "what is trained of the encoder has no closed formula"
    if any(f"/{part}" in path or arguments.get("rlhf_type") == part for part in _KINDS):
        return "preference or reinforcement learning, which has no scenario"
    if "export/" in path or "sequence_parallel" in path or "device_map" in path:
        return "exporting, sequence parallelism or layers spread by device_map"
    if "unsloth" in path or "hqq" in path or "awq" in path or "gptq" in path:
        return "Unsloth's, HQQ's, AWQ's or GPTQ's kernels in training have no formula"
    if str(row["peft"].get("type") or "full") not in ("lora", "full"):
        return f"{row['peft']['type']} has no closed formula"
    if any(part in path for part in ("galore", "lisa", "muon")):
        return "the optimizer, or what is trained, has no closed formula"
    if row["n_gpu"] > 1 and parallelism == "see args" and "ddp" not in path and "fsdp" not in path:
        return "how several GPUs are used is not in the row"
    if _model(str(row["model"])) is None:
        return f"no config of {row['model']} is known here"
    if num_bytes and num_bytes > _GPU.capacity_bytes * 1.3:
        return "more than a card has: not an amount of one GPU"
    return None


def _model(name: str) -> ModelSpec | None:
    owner, _, bare = name.partition("/")
    names = [_SAME_SHAPES.get(name, name), *(f"{o}/{bare}" for o in _OWNERS.get(owner, ()))]
    for candidate in names:
        try:
            found = published_model(candidate)
        except WillfitError:
            continue
        return _dequantised(found)
    return None


def _dequantised(model: ModelSpec) -> ModelSpec:
    """MXFP4 experts are trained as bfloat16."""
    config = dict(model.config)
    if (config.get("quantization_config") or {}).get("quant_method") != "mxfp4":
        return model
    del config["quantization_config"]
    return from_config(model.id, config)


def _is_headless(row: PublishedRow) -> bool:
    """Embeddings, classifiers and rerankers make no logits; generative rerankers do."""
    task, path = _arguments(row).get("task_type"), str(row["repo_path"])
    if task is not None:
        return task in ("embedding", "seq_cls", "reranker")
    return any(part in path for part in ("reranker", "embedding", "seq_cls"))


def _batch(row: PublishedRow) -> int:
    return int(row["batch"]) if str(row["batch"]).isdigit() else 1


def _room(scenario: Scenario) -> int:
    """What a card has beside the estimate: what is kept is given back before memory runs out."""
    found = estimate(scenario, search_limits=False)
    return max(_GPU.capacity_bytes - max(gpu.phases[-1].device_bytes for gpu in found.gpus), 0)


def _kept(model: ModelSpec, longest: int, batch: int) -> int:
    """The most that the allocator keeps of other lengths, bytes; 0 for configs of other names."""
    try:
        shape = shape_of(model)
    except (KeyError, TypeError):
        return 0
    return _most_kept(shape, longest, batch)


@lru_cache
def _most_kept(shape: Shape, longest: int, batch: int) -> int:
    steps = Steps(shape=shape, checkpointing=True)
    orders = (np.random.default_rng(seed) for seed in range(_ORDERS))
    return max(
        steps.growth(
            tuple(
                batch * int(n) for n in order.integers(min(_SHORTEST, longest), longest + 1, _STEPS)
            )
        )
        for order in orders
    )


def _longest(row: PublishedRow) -> int:
    seq = str(row["seq"])
    return int(seq) if seq.isdigit() else _USUAL


def _scenario(row: PublishedRow, length: int) -> Scenario:
    model = _model(str(row["model"]))
    assert model is not None
    peft: Mapping[str, Any] = row["peft"]
    quantization = None
    if row["quant"] == "bnb":
        quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=BFLOAT16)
    lora = None
    if peft.get("type") == "lora":
        lora = Lora(
            r=int(peft.get("r") or 8), target_modules=("all-linear",), dropout=0.05,
            use_dora="/dora/" in str(row["repo_path"]),
        )  # fmt: skip
    path, parallelism = str(row["repo_path"]), str(row["parallelism"])
    strategy: Any = None
    if row["n_gpu"] > 1:
        strategy = parallelism if parallelism.startswith("zero") else None
        strategy = "fsdp" if "fsdp" in path else strategy
    training = Training(
        method="full" if lora is None else "qlora" if quantization else "lora",
        lora=lora,
        micro_batch_size=_batch(row),
        gradient_accumulation_steps=16,
        max_length=length,
        gradient_checkpointing=True,
        bf16=True,
    )
    return Scenario(
        model=with_auto_class(model, "AutoModelForSequenceClassification", 2)
        if _is_headless(row)
        else model,
        workload=Workload(
            loading=Loading(
                dtype=BFLOAT16,
                quantization=quantization,
                strategy=strategy,
                num_labels=2 if _is_headless(row) else None,
            ),
            training=training,
        ),
        machine=Machine(gpus=(_GPU,) * int(row["n_gpu"])),
        stack=_STACK,
    )
