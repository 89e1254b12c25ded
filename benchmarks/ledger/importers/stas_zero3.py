"""stas00/ml-engineering, "when to upgrade GPUs": Llama-3.1-8B on eight GPUs with ZeRO-3.

``benchmark.py``: bfloat16, AdamW's states on the host, non-reentrant checkpointing, Liger 0.8.0
with its fused loss, one dense sequence of random ids, DeepSpeed 0.19.2 with its own default
buckets. The counter is reserved memory of the worst rank over loading and all steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.moments import step_of
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.formulas.training.loss import liger_loss_bytes
from willfit.results import Estimate
from willfit.scenario import Loading, Machine, Scenario, Stack, Training, Workload
from willfit.scenario.stack import TESTED

_BUCKET: Final = 2 * 500_000_000
"""DeepSpeed's ``reduce_bucket_size`` in bfloat16 (runtime/zero/config.py)."""
_EVENTS: Final = 2
"""Reduced buckets that may wait for their copy to the host before backward does
(``max_param_reduce_events``, runtime/zero/stage3.py): their gradients stay."""
_KIND: Final = "max_memory_reserved"
_HELD: Final = (
    "weights", "quantization_state", "gradients", "activations", "logits", "temporaries",
    "communication", "workspaces",
)  # fmt: skip
"""What a rank has on the GPU: optimizer states and, after their bucket, gradients are not there."""

ABOUT: Final = About(
    title="stas00/ml-engineering, DeepSpeed ZeRO-3 at long context",
    unknowns={
        "gradients behind": (
            "Gradients are copied to the host on a stream of their own while backward goes on; up "
            "to two buckets (0.93 GiB each) may wait. None do where the sequence makes backward "
            "slow, which is the likeliest; both is the high end."
        ),
    },
    misses=(
        Miss(
            where=lambda row: isinstance(row["seq"], int) and row["seq"] <= 32768,
            why="Reserved memory of short sequences: gathered weights, gradients on their way and "
            "buffers of the loss are of three streams and sizes (0.98, 0.41, 0.11 GiB), whose "
            "freed segments do not serve one another; what is allocated explains the rest.",
        ),
    ),
    notes=(
        "On top of what a rank shares: DeepSpeed's bucket of 5·10⁸ elements, its copy for the "
        "reduce-scatter and a flat buffer for the all-gather of the largest weight, in the pools "
        "of two more streams.",
        "Per token the formula has 476 kB, as measured from 64 Ki to 256 Ki tokens (477 kB).",
        "Liger before 0.8.5 sums the head's gradient through a bfloat16 product and its float32 "
        "copy, 6·V·h more than today at the loss.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The peak; the ratios have no bytes."""
    obstacle = _obstacle(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        if not kind.startswith(_KIND):
            yield NotExpressed(kind=kind, reason="a ratio, not bytes")
        elif obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
        else:
            yield Expressed(
                kind=kind,
                scenario=_scenario(row),
                reading=_worst_rank,
                unknown_bytes=(0, _EVENTS * _BUCKET),
                card_known=False,
            )


def express_by_trace(row: PublishedRow) -> Iterator[NotExpressed]:
    """A trace is of one GPU: what ZeRO-3 does to it, and the offload, is formula again."""
    reason = "ZeRO-3 with optimizer states on the host is known by formula alone"
    return (NotExpressed(kind=entry["kind"], reason=reason) for entry in row["measured"])


def _obstacle(row: PublishedRow) -> str | None:
    parallel = str(row["parallelism"])
    if "zero3" not in parallel:
        return f"{parallel}: this importer knows the settings of the ZeRO-3 runs alone"
    if "offload" not in parallel:
        return "whether optimizer states stay on the GPU is not said"
    if not isinstance(row["seq"], int):
        return "length not recorded"
    return None


def _scenario(row: PublishedRow) -> Scenario:
    name, _, rest = row["model"].partition(" (")
    training = Training(
        method="full",
        trainer="loop",
        optimizer="adamw_torch",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=False,
        use_liger_kernel="Liger" in rest,
        attn="flash_attention_2",
    )
    gpu = find_gpu(row["gpu"].partition("-")[0])
    return Scenario(
        model=published_model(name),
        workload=Workload(loading=Loading(dtype=BFLOAT16, strategy="zero3"), training=training),
        machine=Machine(gpus=(gpu,) * row["n_gpu"]),
        stack=Stack(versions={**TESTED, "transformers": "5.14.1"}),
    )


def _worst_rank(estimate: Estimate) -> int:
    """A layer's backward, or the loss with Liger 0.8.0; and DeepSpeed's buffers."""
    phase = next(p for p in estimate.gpus[0].phases if p.name == "backward")
    layer = sum(part.num_bytes for part in phase.components if part.name in _HELD)
    scenario = estimate.scenario
    training, machine = scenario.workload.training, scenario.machine
    assert training is not None
    assert machine is not None
    step = step_of(scenario, "zero3", len(machine.gpus))
    layer -= step.sharded.gradients  # whose place is on the host with the states
    table = step.architecture.vocab_size * step.architecture.hidden_size
    fused = liger_loss_bytes(
        step.architecture, tokens=step.settings.tokens, dtype=BFLOAT16, weight_dtype=BFLOAT16,
        trained=True,
    )  # fmt: skip
    loss = step.saved_bytes() + fused + 6 * table
    loss += 2 * 2 * step.settings.tokens * step.architecture.hidden_size  # the last norm's
    assert step.live is not None
    loss += step.sharded.weights + step.live.everything
    gathered = 2 * table
    liger = training.use_liger_kernel
    return max(layer, loss if liger else 0) + 2 * _BUCKET + gathered
