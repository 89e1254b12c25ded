"""pytorch/torchtitan benchmarks: Llama-3.1-8B over 8 to 128 GPUs with FSDP2.

Another model's code: what its layers keep under "op" selective checkpointing is arithmetic over
the products that the policy saves; everything else is the formulas'. The counter is the largest
reserved memory over the GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.ledger.models import published_model
from benchmarks.ledger.moments import step_of
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT32
from willfit.formulas.training.step import Step
from willfit.results import Estimate
from willfit.scenario import Loading, Machine, Scenario, Training, Workload

Checkpointing = Literal["none", "half", "op", "full"]
MODES: Final[dict[str, Checkpointing]] = {
    "none": "none",
    "selective every 2nd layer": "half",
    "selective (op)": "op",
    "per-op SAC": "op",
    "full": "full",
}
"""By the words of the rows."""
_LOGITS: Final = 14
"""Bytes a logit under FSDP2 (two pairs of rows of ``trl_sft_benchmark`` show the same): bfloat16 2,
its float32 copy 4, log-softmax 4, its gradient 4."""
_LOGITS_COMPILED: Final = 4
"""The loss compiled too: bfloat16 logits and their gradient alone."""

ABOUT: Final = About(
    title="pytorch/torchtitan, benchmarks",
    stack="other",
    unknowns={
        "allocator": (
            "Reserved memory is published, allocated is estimated with the pools of FSDP2's "
            "streams."
        ),
    },
    misses=(
        Miss(
            why="Eager blocks reserve 5 GiB more than compiled ones at the same settings (82.4 and "
            "77.0, 67.0 and 62.0 GiB), which the policy's kept products do not tell apart."
        ),
    ),
    notes=(
        "Context parallel is expressed as the tokens that one rank has; weights are sharded over "
        "both degrees.",
        "Selective checkpointing by operator saves every second product: of a layer its input, "
        "attention's output, q, v, gate and the down projection's result.",
        "From 2025 on the loss is compiled with the model: runs lie 14 GiB below those of 2024.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The peak."""
    obstacle = obstacle_of(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
        else:
            compiled = "202506" in row["repo_path"] or "2025-06" in row["repo_path"]
            yield titan(row, kind, published_model(row["model"]).id, compiled_loss=compiled)


def express_by_trace(row: PublishedRow) -> Iterator[NotExpressed]:
    """Torchtitan's own model is not traced."""
    reason = "torchtitan's model is not transformers'"
    return (NotExpressed(kind=entry["kind"], reason=reason) for entry in row["measured"])


def obstacle_of(row: PublishedRow) -> str | None:
    """Why a row of torchtitan's cannot be expressed."""
    parallel = row["parallelism"]
    if not re.fullmatch(r"fsdp\d+( cp\d+)?", parallel):
        return f"{parallel}: tensor, pipeline or expert parallel training has no formula"
    if row["grad_ckpt"] not in MODES:
        return f"checkpointing {row['grad_ckpt']} is not known"
    return None


def titan(row: PublishedRow, kind: str, model: str, *, compiled_loss: bool) -> Expressed:
    """A run of torchtitan's over FSDP2."""
    return Expressed(
        kind=kind,
        scenario=_scenario(row, model),
        reading=_Rank(
            mode=MODES[row["grad_ckpt"]],
            logit_bytes=_LOGITS_COMPILED if compiled_loss else _LOGITS,
        ),
        card_known=False,
    )


def _scenario(row: PublishedRow, model: str) -> Scenario:
    """Mixed precision: what is gathered is bfloat16, shards, masters and states are float32."""
    cp = re.search(r"cp(\d+)", row["parallelism"])
    training = Training(
        method="full",
        trainer="loop",
        optimizer="adamw_torch_fused",
        micro_batch_size=row["batch"],
        max_length=row["seq"] // (int(cp[1]) if cp else 1),
        gradient_checkpointing=False,
        bf16=True,
        attn="flash_attention_2",
    )
    return Scenario(
        model=published_model(model),
        workload=Workload(loading=Loading(dtype=FLOAT32, strategy="fsdp"), training=training),
        machine=Machine(gpus=(find_gpu("H100"),) * row["n_gpu"]),
    )


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """The peak at the loss: all that is kept, logits and the pools of FSDP2's streams."""

    mode: Checkpointing
    logit_bytes: int

    def __call__(self, estimate: Estimate) -> int:
        scenario = estimate.scenario
        machine = scenario.machine
        assert machine is not None
        step = step_of(scenario, "fsdp", len(machine.gpus))
        architecture, sharded = step.architecture, step.sharded
        logits = self.logit_bytes * step.settings.tokens * architecture.vocab_size
        assert step.gathered is not None
        at_loss = next(step.gathered.at_moments(head=0, own=0, accumulated=0))
        held = sharded.weights + sharded.optimizer_states + at_loss.communication
        return held + at_loss.cached + self._kept(step) + logits

    def _kept(self, step: Step) -> int:
        everything, inputs = step.saved_bytes(), _inputs(step)
        if self.mode == "full":
            return inputs
        if self.mode == "half":
            return (everything + inputs) // 2
        return everything if self.mode == "none" else inputs + _saved_products(step)


def _inputs(step: Step) -> int:
    """2·h a token and layer."""
    architecture = step.architecture
    return 2 * step.settings.tokens * architecture.num_layers * architecture.hidden_size


def _saved_products(step: Step) -> int:
    """Attention's output and log-sum-exp, and products 1, 3, 5 and 7 of a layer: q, v, gate, down.

    torchtitan parallelisms/parallelize_llama.py, the list of operators that selective checkpointing
    saves and its count of matrix products.
    """
    per_token = 0
    for group in step.architecture.layers:
        attention, mlp = group.attention, group.mlp
        if attention is None or mlp is None:
            continue
        heads = attention.num_heads * attention.head_dim
        values = attention.num_kv_heads * attention.v_head_dim
        products = heads + values + mlp.intermediate_size + step.architecture.hidden_size
        kept = 2 * (products + attention.num_heads * attention.v_head_dim)
        per_token += group.count * (kept + 4 * attention.num_heads)
    return step.settings.tokens * per_token
