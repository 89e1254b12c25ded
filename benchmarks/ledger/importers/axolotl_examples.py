"""axolotl's example READMEs: "this config uses about N GB", beside the config itself.

Plain transformers with PEFT and bitsandbytes. Cut cross entropy never makes the logits: Liger's
fused loss stands for it. Packed rows have the full length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
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

ABOUT: Final = About(
    title="axolotl-ai-cloud/axolotl, READMEs of its examples",
    unknowns={
        "counter": "allocated, reserved or nvidia-smi is not said: from allocated to reserved with "
        "a context",
        "card": "not said: an A100 of 80 GB is taken, its verdicts are not counted",
        "rows that are not packed": "a quarter of sequence_len to all of it",
        "prepare_model_for_kbit_training": "axolotl calls it and casts the tables back",
    },
    misses=(
        Miss(
            why="a statement in a README, rounded; cut cross entropy, pictures' encoders and what "
            "the loader held at its peak (README: while loading) are in it",
        ),
    ),
)
_STACK: Final = Stack(versions={**TESTED, "transformers": "4.55.4", "torch": "2.7.1"})
_GPU: Final = find_gpu("A100-SXM4-80GB")
_SAME_SHAPES: Final = {
    "mistralai/Devstral-Small-2505": "mistralai/Mistral-Small-24B-Instruct-2501",
    "mistralai/Devstral-Small-2507": "mistralai/Mistral-Small-24B-Instruct-2501",
    "mistralai/Magistral-Small-2506": "mistralai/Mistral-Small-24B-Instruct-2501",
    "mistralai/Magistral-Small-2507": "mistralai/Mistral-Small-24B-Instruct-2501",
}
"""Fine-tuned copies without another part, by their published configs."""
_MULTIMODAL: Final = ("Magistral-Small-2509", "Mistral-Small-3.1", "Voxtral", "gemma-3n", "VL")


def express(row: PublishedRow) -> Iterator[Result]:
    """The stated amount: reserved memory, from what is allocated to what nvidia-smi would show."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        context = _GPU.context_bytes or 0
        yield Expressed(
            kind=kind,
            scenario=_scenario(row, 1.0),
            low_scenario=None if _packed(row) else _scenario(row, 0.25),
            reading=Reading(amount="reserved"),
            unknown_bytes=(0, context),
            card_known=False,
        )


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """Cut cross entropy is not one of the trace's kernels, nor is Liger's fused loss installed."""
    for entry in row["measured"]:
        yield NotExpressed(
            kind=str(entry["kind"]), reason="cut cross entropy is no kernel that is traced"
        )


def _obstacle(row: PublishedRow) -> str | None:
    if not row.get("config"):
        return "the config that the statement is about is not in the row"
    if any(part in str(row["model"]) for part in _MULTIMODAL):
        return "pictures or sound: sizes of the inputs are not in the config"
    if row["n_gpu"] > 1:
        return "settings of several GPUs (FSDP, DeepSpeed) are in files that the row lacks"
    return None


def _model(row: PublishedRow) -> ModelSpec:
    name = str(row["model"])
    return published_model(_SAME_SHAPES.get(name, name))


def _packed(row: PublishedRow) -> bool:
    return bool(row["config"].get("sample_packing"))


def _scenario(row: PublishedRow, share: float) -> Scenario:
    config: Mapping[str, Any] = row["config"]
    quantization = None
    if config.get("load_in_4bit") or row["quant"] == "4bit":
        quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=BFLOAT16)
    elif config.get("load_in_8bit") or row["quant"] == "8bit":
        quantization = Quantization(scheme="int8")
    peft: Mapping[str, Any] = row["peft"] or {}
    lora = None
    if peft.get("type"):
        given = peft.get("target")
        targets = tuple(given) if isinstance(given, list) else ("all-linear",)
        lora = Lora(
            r=int(peft["r"]),
            target_modules=targets,
            dropout=float(config.get("lora_dropout") or 0),
        )
    cut = "CutCrossEntropy" in str(config.get("plugins")) or "liger" in str(config.get("plugins"))
    rows = row["batch"] if not _packed(row) else 1
    length = row["seq"] * (row["batch"] if _packed(row) else 1)
    training = Training(
        method="full" if lora is None else "qlora" if quantization else "lora",
        lora=lora,
        optimizer=row["optimizer"],
        micro_batch_size=rows,
        gradient_accumulation_steps=row["grad_accum"] or 1,
        max_length=max(int(length * share), 1),
        gradient_checkpointing=bool(row["grad_ckpt"]),
        bf16=True,
        attn=row["attn"] or "flash_attention_2",
        use_liger_kernel=cut,
    )
    return Scenario(
        model=_model(row),
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization), training=training
        ),
        machine=Machine(gpus=(_GPU,)),
        stack=_STACK,
    )
