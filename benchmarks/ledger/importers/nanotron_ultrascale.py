"""The Ultra-Scale Playbook's runs of nanotron: Llama-like models over data, tensor and pipeline.

Each row is a rank: the first pipeline stage's layers by nanotron's own partition, with as many
micro-batches alive as one-forward-one-backward keeps there. willfit has no such scenario, so what
its layers keep is the formula's for the stage (tokens over the tensor-parallel ranks, as with
``REDUCE_SCATTER``), and the rest is arithmetic over the stage's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.models import from_config
from benchmarks.ledger.moments import step_of
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import cublas_workspace_bytes, find_gpu
from willfit.dtypes import BFLOAT16
from willfit.results import Estimate
from willfit.scenario import Loading, Machine, ModelSpec, Scenario, Stack, Training, Workload
from willfit.scenario.model import Attention
from willfit.scenario.stack import TESTED
from willfit.units import ceil_div

_GPU: Final = find_gpu("H100")
_SETTING: Final = "tp_recompute_allgather"
_WIDE: Final = 4
"""Bytes a token and hidden unit that a layer keeps at full width where the gathered inputs of its
two column-parallel products are not gathered anew (``tp_recompute_allgather`` off)."""
_NORMS: Final = 8
"""Bytes a token and hidden unit that a layer's two Triton norms keep less than transformers' (their
bfloat16 input alone, not a float32 copy and the normalised tensor: 2 instead of 6, twice)."""
_FUSED: Final = 4
"""Queries are rotated in place, as a view of the projected q, k and v of all heads, which keeps
those too beside the copies of k and v (nanotron models/llama.py, flash_attn layers/rotary.py)."""
_LOGITS: Final = 10
"""Bytes a logit: bfloat16 2, float32 4, softmax 4 (nanotron functional.py
`_ShardedCrossEntropy`)."""
_LOGITS_BEFORE: Final = 4
"""Of the micro-batch before, still held: pairs of rows with and without accumulation (1B, tp 1,
ZeRO-1, micro-batch 1 and 2) lie 2.0 and 4.0 GiB apart, 4 bytes a logit."""
_GATHERED: Final = 8
"""Full-width bfloat16 tensors of one tensor-parallel layer in backward: its gathered input, the
gathered gradient of its output, the gradient of its input and its partial sums, 2 bytes each."""
_KEPT_APART: Final = 4
"""The same without tensor parallel: the gradients of a layer's input and output."""

ABOUT: Final = About(
    title="nanotron, Ultra-Scale Playbook benchmarks",
    stack="other",
    unknowns={
        "tp_recompute_allgather": (
            "Both runs are among the rows and none says which it was: the low end gathers the "
            "inputs of column-parallel products anew (the default), the high end keeps them at "
            "full width. The likeliest is the one that most rows are nearer to: kept without "
            "pipeline stages, gathered anew with them."
        ),
        "pipeline partition": (
            "Where the stages' costs divide evenly, releases differ in which stage the layer at "
            "the border goes to: one layer more in the first stage is the high end."
        ),
        "counter": "Allocated or reserved is not said: allocated is taken.",
    },
    misses=(
        Miss(
            where=lambda row: row["parallelism"]["pp"] > row["arch"]["layers"],
            why="More stages than layers: the partition leaves the first rank without a layer.",
        ),
        Miss(
            where=lambda row: row["parallelism"]["tp"] >= 16 and row["parallelism"]["pp"] == 1,
            why="1B over 16 and 32 tensor-parallel ranks lies above even the kept gathered inputs: "
            "what is whole on every rank (embedding output, final norm, the head's gathered input "
            "and float32 gradients) outweighs the layers' 1/32; all-reduce instead of "
            "reduce-scatter, which keeps 8 bytes a token and hidden unit whole, fits some of them.",
        ),
        Miss(
            why="Micro-batches that compete with freed blocks of other shapes: neighbours that "
            "differ in data-parallel degree alone lie 5 to 15 % apart, so that the counter or the "
            "code changed within the sweep; which run had which is not recorded."
        ),
    ),
    notes=(
        "The plotted figure is the first stage's: it grows with the number of micro-batches alive "
        "there, min(pp, accumulation), and not with logits.",
        "The partition counts the output head as V/(4h + 3I) layers (1B: 4 of 20, so that two "
        "stages have 10 and 6 layers and the head).",
        "A layer keeps 20h + 8I bytes a token (1B: 52h), as its code says: the slope over the "
        "micro-batch of two and four stages without tensor parallel is 51.8h.",
        "One rank alone (dp 1) lies 2 bytes a parameter lower: DDP's bfloat16 buckets.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """The fullest moment of the plotted rank, of a scenario that is its stage."""

    row: PublishedRow

    def __call__(self, estimate: Estimate) -> int:
        arch, parallel = self.row["arch"], self.row["parallelism"]
        hidden, inner, vocab = int(arch["hidden"]), int(arch["inter"]), int(self.row["vocab"])
        tp, dp = int(parallel["tp"]), int(parallel["dp"])
        tokens = int(self.row["batch"]) * int(self.row["seq"])
        narrow = _KEPT_APART if tp == 1 else _GATHERED
        layer = tokens * (6 * inner / tp + narrow * hidden) + 2 * vocab * hidden / tp
        logits = 0.0
        if parallel["pp"] == 1:
            before = _LOGITS_BEFORE if self.row["grad_accum"] > 1 else 0
            logits = (_LOGITS + before) * tokens * vocab / tp
        static = _parameters(estimate) / tp * _bytes_per_parameter(parallel["zero"], dp)
        moment = max(logits, layer) + 2 * cublas_workspace_bytes(_GPU)
        return round(static + self._kept(estimate.scenario) + moment)

    def _kept(self, scenario: Scenario) -> float:
        """What the stage's layers keep of all micro-batches alive."""
        wide = 0 if scenario.stack.versions[_SETTING] == "true" else _WIDE
        tp = int(self.row["parallelism"]["tp"])
        architecture = scenario.model.architecture
        assert architecture is not None
        step = step_of(scenario)
        grouped = any(
            group.attention and _is_grouped(group.attention) for group in step.all_groups()
        )
        fused = 0 if grouped else _FUSED
        here = step.settings.tokens * architecture.num_layers * architecture.hidden_size
        return step.saved_bytes() + here * (fused - _NORMS - wide + wide * tp)


def _is_grouped(attention: Attention) -> bool:
    """Fewer key heads than query heads: q, k and v are then split and copied."""
    return attention.num_kv_heads != attention.num_heads


def _parameters(estimate: Estimate) -> int:
    """Of the stage, whole: half of its bfloat16 weights."""
    phase = estimate.gpus[0].phases[0]
    return sum(part.num_bytes for part in phase.components if part.name == "weights") // 2


def _bytes_per_parameter(zero: int, dp: int) -> float:
    """Weights 2, float32 gradients 4, masters and two states 12 (ZeRO-1: over dp), DDP bucket 2."""
    return 6 + 12 / (dp if zero else 1) + (2 if dp > 1 else 0)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One figure per row."""
    obstacle = _obstacle(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        yield _expressed(row, kind)


def express_by_trace(row: PublishedRow) -> Iterator[NotExpressed]:
    """Nanotron's own classes are not traced."""
    for entry in row["measured"]:
        yield NotExpressed(kind=entry["kind"], reason="nanotron's classes are not transformers'")


def _obstacle(row: PublishedRow) -> str | None:
    parallel = row["parallelism"]
    if parallel["zero"] not in (0, 1):
        return f"ZeRO stage {parallel['zero']} of nanotron is not known"
    if row["task"] != "train" or row["grad_ckpt"]:
        return "neither inference nor recomputation of nanotron is known"
    if row["seq"] % parallel["tp"]:
        return "tokens that the tensor-parallel ranks do not divide"
    extra = {"dp", "pp", "tp", "zero", "nodes"}
    if any(degree not in (None, 1) for name, degree in parallel.items() if name not in extra):
        return "context or expert parallel of nanotron is not known"
    return None


def _expressed(row: PublishedRow, kind: str) -> Expressed:
    """The likeliest: gathered anew with pipeline stages, kept without; at the ends either."""
    fewest, most = _first_stage(row), _first_stage(row, border=True)
    pipelined = row["parallelism"]["pp"] > 1
    return Expressed(
        kind=kind,
        scenario=_scenario(row, fewest, anew=pipelined),
        low_scenario=_scenario(row, fewest, anew=True),
        high_scenario=_scenario(row, most, anew=False),
        reading=_Rank(row=row),
        card_known=False,
    )


def _scenario(row: PublishedRow, layers: int, *, anew: bool) -> Scenario:
    """The stage with the tokens of every micro-batch alive on it, over the ranks of a layer."""
    parallel = row["parallelism"]
    training = Training(
        method="full",
        optimizer="adamw_torch_fused",
        micro_batch_size=row["batch"] * min(parallel["pp"], row["grad_accum"]),
        max_length=row["seq"] // parallel["tp"],
        gradient_checkpointing=False,
        attn="flash_attention_2",
    )
    tied = row["arch"]["tie"] or parallel["pp"] > 1
    return Scenario(
        model=_stage(row["vocab"], layers, tied=tied, **_shape(row["arch"])),
        workload=Workload(loading=Loading(dtype=BFLOAT16), training=training),
        machine=Machine(gpus=(_GPU,)),
        stack=Stack(versions={**TESTED, _SETTING: str(anew).lower()}),
    )


def _first_stage(row: PublishedRow, *, border: bool = False) -> int:
    """Layers of the first stage: blocks until their cost is a stage's share of the whole.

    nanotron models/base.py `build_model`, models/llama.py `get_block_compute_costs`; ``border``:
    the layer after one that reaches the share exactly comes too.
    """
    arch, stages = row["arch"], row["parallelism"]["pp"]
    if stages == 1:
        return int(arch["layers"])
    cost = arch["hidden"] * (4 * arch["hidden"] + 3 * arch["inter"])
    share, rest = divmod(arch["layers"] * cost + row["vocab"] * arch["hidden"], stages)
    layers = max(1, ceil_div(share, cost))
    layers += bool(border and not rest and layers * cost == share)
    return min(layers, int(arch["layers"]))


def _shape(arch: Mapping[str, Any]) -> dict[str, int]:
    heads = arch["heads"]
    return {
        "hidden_size": arch["hidden"],
        "intermediate_size": arch["inter"],
        "num_attention_heads": heads,
        "num_key_value_heads": arch.get("kv_heads", heads),
    }


@lru_cache
def _stage(vocab: int, layers: int, *, tied: bool, **shape: int) -> ModelSpec:
    """``LlamaForCausalLM`` of so many layers; a first stage has one table, a tied one's bytes."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
        **shape,
    }
    return from_config(f"llama of {shape['hidden_size']}", config)
