"""pytorch/torchtune: its README's tables and tutorials, in pure bfloat16 on one GPU.

Another model's code, compiled, with a loss in eight chunks of logits. What its layers keep is the
formulas' (as with fused norms and MLPs), the loss is arithmetic over the chunks. The counter is
what torch calls active.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.moments import step_of
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.formulas.training import static
from willfit.formulas.training.step import Step
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)

_CHUNKS: Final = 8
"""``CEWithChunkedOutputLoss``: bfloat16 logits in chunks, of which one has its gradient."""
_WHOLE: Final = 12
"""Bytes a logit of the plain cross-entropy, in float32."""
_STAGES: Final = (
    "baseline", "+compile", "+chunked", "+AC", "+optim", "+activation offload", "+8bit",
)  # fmt: skip
"""The README's table in its order: each line adds one technique."""
_OPTIMIZERS: Final = {
    "pagedadamw8bit": "paged_adamw_8bit",
    "adamw8bit": "adamw_bnb_8bit",
    "adamw": "adamw_torch_fused",
}
_ADAPTERS: Final = {
    "8B": Lora(
        r=8,
        target_modules=("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        dtype=BFLOAT16,
    ),
    "3B": Lora(
        r=64,
        target_modules=("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        dtype=BFLOAT16,
    ),
}
"""recipes/configs/llama3_1/8B_lora_single_device.yaml, llama3_2/3B_lora_single_device.yaml."""
_LOADED: Final = Reading(phases=("step",), components=("weights", "adapters"))

ABOUT: Final = About(
    title="pytorch/torchtune, README and tutorials",
    stack="other",
    misses=(
        Miss(
            ids=("torchtune:15",),
            why="The 8-bit optimizer that steps within backward works on float32 copies of the "
            "largest parameter, the tied embedding (394M): which library's it was, and so how "
            "many copies, is not said.",
        ),
        Miss(
            where=lambda row: not row["grad_ckpt"],
            why="Without checkpointing the compiler decides which activations of a block are kept "
            "and which computed again.",
        ),
    ),
    notes=(
        "With the chunked loss the logits' gradients are made chunk by chunk: 2.25 bytes a logit, "
        "and of a trained head its gradient and its next summand.",
        "A step within backward holds no gradients but the last: 2 bytes a parameter less.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Rows whose lengths and settings are known."""
    for entry in row["measured"]:
        kind = entry["kind"]
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
        elif row["task"] == "inference":
            yield Expressed(kind=kind, scenario=_generation(row), reading=Reading())
        elif row["task"] == "load":
            yield Expressed(
                kind=kind, scenario=_training(row, 1), reading=_LOADED, card_known=False
            )
        else:
            yield Expressed(
                kind=kind,
                scenario=_training(row, row["seq"]),
                reading=_Peak(
                    chunked=_reached(row, "+chunked"),
                    offloaded=_reached(row, "+activation offload"),
                    in_backward="in backward" in _words(row) or "optimizer_in_bwd" in _words(row),
                ),
                card_known=False,
            )


def express_by_trace(row: PublishedRow) -> Iterator[NotExpressed]:
    """Torchtune's own model is not traced."""
    reason = "torchtune's model is not transformers'"
    return (NotExpressed(kind=entry["kind"], reason=reason) for entry in row["measured"])


def _words(row: PublishedRow) -> str:
    """What is said of optimizer and configuration."""
    peft = row["peft"]
    config = peft.get("config", "") if isinstance(peft, dict) else ""
    return f"{row['optimizer'] or ''} {config}"


def _kind(row: PublishedRow) -> str:
    """``full``, ``lora``, ``qlora`` or another."""
    peft = row["peft"] or {}
    return str(peft.get("type", "full")).partition(" ")[0].lower()


def _obstacle(row: PublishedRow) -> str | None:
    """In the order of what is asked first."""
    if row["task"] == "inference":
        return None if row["quant"] is None else "torchao's tensors have no formula in generation"
    if row["n_gpu"] not in (None, 1) or row["parallelism"] not in (None, "none"):
        return "several GPUs: its FSDP wraps other modules than the formulas know"
    if _kind(row) not in ("full", "lora", "qlora"):
        return f"{_kind(row)} of torchtune's has no formula"
    if row["task"] == "load":
        return "the peak is of quantising on the GPU" if row["quant"] else None
    if not isinstance(row["seq"], int):
        return "Alpaca's longest batch in torchtune's template is not recorded"
    if "does not name" in _words(row) or "(?)" in _words(row):
        return "the overrides of the configuration are not said"
    if _kind(row) != "full" and _adapter(row) is None:
        return "the adapter's configuration is not known"
    if _kind(row) == "full" and _optimizer(row) is None:
        return "the optimizer is not known"
    return None


def _reached(row: PublishedRow, technique: str) -> bool:
    """Whether a line of the cumulative table, or another run, has a technique of the table."""
    said = re.match(r"cumulative technique table: (.*?);", str(row["notes"]))
    if said is None:  # the table by card: its configurations chunk the loss and offload nothing
        return technique != "+activation offload"
    index = next((n for n, name in enumerate(_STAGES) if said[1].startswith(name)), len(_STAGES))
    return index >= _STAGES.index(technique)


def _optimizer(row: PublishedRow) -> str | None:
    words = _words(row).lower()
    return next((name for said, name in _OPTIMIZERS.items() if said in words), None)


def _adapter(row: PublishedRow) -> Lora | None:
    peft = row["peft"]
    if isinstance(peft.get("target"), list):
        names = (name.replace("output_proj", "o_proj") for name in peft["target"])
        return Lora(r=peft["r"], target_modules=tuple(names), dtype=BFLOAT16)
    said = re.search(r"(\d+B)_q?lora", f"{peft.get('config', '')} {peft.get('target', '')}")
    return _ADAPTERS.get(said[1]) if said else None


def _training(row: PublishedRow, length: int) -> Scenario:
    lora = None if _kind(row) == "full" else _adapter(row)
    quantization = None
    if row["quant"] is not None:
        quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=BFLOAT16)
    training = Training(
        method="full" if lora is None else "lora" if quantization is None else "qlora",
        trainer="loop",
        lora=lora,
        optimizer=_optimizer(row) or "adamw_torch_fused",
        micro_batch_size=row["batch"] or 1,
        max_length=length,
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=False,
        use_liger_kernel=True,
        attn="flash_attention_2",
    )
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization), training=training
        ),
        machine=Machine(gpus=(find_gpu("A100-80GB"),)),
    )


def _generation(row: PublishedRow) -> Scenario:
    """The recipe makes a cache as long as the model's longest context."""
    model = published_model(row["model"])
    longest = model.architecture.max_context if model.architecture is not None else None
    inference = Inference(
        batch_size=row["batch"], context_len=longest, max_new_tokens=300, cache="static"
    )
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=BFLOAT16), inference=inference),
        machine=Machine(gpus=(find_gpu("A100-80GB"),)),
    )


@dataclass(frozen=True, kw_only=True)
class _Peak:
    """The loss, or the end of backward with all gradients."""

    chunked: bool
    offloaded: bool
    in_backward: bool

    def __call__(self, estimate: Estimate) -> int:
        step = step_of(estimate.scenario)
        held = step.weight_bytes + step.weights.state_allocated_bytes + step.adapter_bytes
        held += step.optimizer_state_bytes[0]
        kept = 0 if self.offloaded else step.saved_bytes()
        gradients = 0 if self.in_backward else static.total_bytes(step.trainables)
        return held + max(kept + self._loss(step), gradients + step.first_layer_kept())

    def _loss(self, step: Step) -> int:
        vocab, hidden = step.architecture.vocab_size, step.architecture.hidden_size
        logits = step.settings.tokens * vocab
        loss = 2 * logits * (_CHUNKS + 1) // _CHUNKS if self.chunked else _WHOLE * logits
        head = 2 * vocab * hidden if step.adapter is None else 0
        return loss + (2 * head if self.chunked else 0)
