"""What is trained: LoRA instead of all weights, its rank and targets, frozen embeddings."""

from __future__ import annotations

from typing import Final

from willfit.changes.change import Change, Guard, Quality, guarded
from willfit.changes.current import model_type
from willfit.changes.edit import lora_of, training_of, with_lora, with_training
from willfit.changes.guards import adapts, full, on_transformers, trains
from willfit.changes.numbers import powers
from willfit.formulas.training.freeze import EMBEDDINGS
from willfit.formulas.training.lora import default_targets
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Lora, ModelSpec, Scenario

RANK: Final = 16
"""Of a new adapter: all linear layers at a small rank match a large one (QLoRA, section 4)."""
HEADS: Final = ("score", "classifier")

_LORA: Final = (
    "an adapter learns less than full fine-tuning on large data and forgets less (Biderman et al. "
    "2024, LoRA Learns Less and Forgets Less); on small instruction sets they match"
)
_RANK: Final = (
    "rank matters little where all layers are adapted (Dettmers et al. 2023, QLoRA, figure 4; Hu "
    "et al. 2021, LoRA, table 6)"
)
_TARGETS: Final = (
    "adapters on attention alone did not reach full fine-tuning, adapters on every layer did "
    "(Dettmers et al. 2023, QLoRA, figure 2)"
)
_DROPOUT: Final = (
    "LoRA dropout helped small models a little (Dettmers et al. 2023, QLoRA, appendix A)"
)
_DORA: Final = "DoRA lies 1 to 4 points above LoRA on common sense in Liu et al. 2024 (DoRA)"
_FROZEN: Final = (
    "new tokens are not learned; else fine-tuning changes the top layers most (Merchant et al. "
    "2020, What Happens To BERT Embeddings During Fine-tuning?)"
)


def attention_modules(model: ModelSpec) -> tuple[str, ...]:
    """Names of linear modules that attention alone has, such as ``q_proj`` or ``c_attn``."""
    inside: dict[str, None] = {}
    outside: set[str] = set()
    for row in model.tensors:
        if row.module not in ("Linear", "Conv1D", "QuantizedLinear") or "weight" not in row.name:
            continue
        path = row.owner.lower()
        name = row.owner.rpartition(".")[2]
        if "attn" in path.rpartition(".")[0] or "attention" in path.rpartition(".")[0]:
            inside[name] = None
        else:
            outside.add(name)
    return tuple(name for name in inside if name not in outside)


def _new_adapter(scenario: Scenario) -> Scenario:
    """Every linear layer at a small rank; a classifier's new head is trained whole, as PEFT does.

    Experts that are one parameter stay as they are: attention is adapted.
    """
    model = scenario.model
    fused = any(len(row.shape) == 3 and "expert" in row.name for row in model.tensors)
    heads = tuple(name for name in HEADS if any(row.owner == name for row in model.tensors))
    lora = Lora(
        r=RANK,
        target_modules=attention_modules(model) if fused else ("all-linear",),
        modules_to_save=heads if model.classifier else (),
    )
    return with_training(scenario, method="lora", lora=lora, freeze=())


def _rank_over(value: int) -> Guard:
    def guard(scenario: Scenario) -> str | None:
        now = lora_of(scenario).r
        return None if now > value else f"the rank is {now}"

    return guard


def _rank(value: int) -> Change:
    return Change(
        id=f"lora_r={value}",
        setting="lora_r",
        title=f"Adapters of rank {value}",
        apply=guarded(
            lambda scenario: with_lora(scenario, r=value), trains, adapts, _rank_over(value)
        ),
        quality=Quality.SLIGHT,
        quality_reason=_RANK,
    )


def _only_attention(scenario: Scenario) -> Scenario:
    return with_lora(scenario, target_modules=attention_modules(scenario.model))


def _targets_more(scenario: Scenario) -> str | None:
    names = attention_modules(scenario.model)
    if not names:
        return "attention has no linear module with a name of its own"
    given = lora_of(scenario).target_modules
    now = default_targets(model_type(scenario)) if given is None else given
    if now is None:
        return f"PEFT's targets for {model_type(scenario)} are not known"
    if set(now) <= set(names):
        return f"adapters are on {', '.join(now)} alone"
    return None


def _no_dropout(scenario: Scenario) -> str | None:
    return None if lora_of(scenario).dropout else "adapters have no dropout"


def _no_dora(scenario: Scenario) -> str | None:
    return None if lora_of(scenario).use_dora else "the adapter is plain LoRA"


def _saves_embeddings(scenario: Scenario) -> str | None:
    saved = lora_of(scenario).modules_to_save
    if any(name in (*EMBEDDINGS, "lm_head") for name in saved):
        return None
    return "the adapter trains no copy of embeddings or head"


def _without_embeddings(scenario: Scenario) -> Scenario:
    saved = lora_of(scenario).modules_to_save
    kept = tuple(name for name in saved if name not in (*EMBEDDINGS, "lm_head"))
    return with_lora(scenario, modules_to_save=kept)


def input_embedding(model: ModelSpec) -> str:
    """Name of the module with the token embeddings; "" where none is known."""
    owners = [row.owner for row in model.tensors if row.module == "Embedding"]
    names = [owner.rpartition(".")[2] for owner in owners]
    return next((name for name in EMBEDDINGS if name in names), "")


def _embeds(scenario: Scenario) -> str | None:
    name = input_embedding(scenario.model)
    if not name:
        return "the model has no token embeddings that are known by name"
    training = training_of(scenario)
    if checkpointing_of(training) and training.use_reentrant:
        return "reentrant checkpointing needs an input with a gradient: use_reentrant=False first"
    return f"{name} is frozen" if name in training.freeze else None


def _freeze(scenario: Scenario) -> Scenario:
    frozen = training_of(scenario).freeze
    return with_training(scenario, freeze=(*frozen, input_embedding(scenario.model)))


METHODS: Final = (
    Change(
        id="method=lora",
        setting="method",
        title=f"Train a LoRA adapter of rank {RANK} on all linear layers, not the weights",
        apply=guarded(_new_adapter, trains, on_transformers, full),
        quality=Quality.REAL,
        quality_reason=_LORA,
        opens=True,
    ),
)
RANKS: Final = tuple(map(_rank, powers(4, 256)))
LORA: Final = (
    Change(
        id="lora_dropout=0",
        setting="lora_dropout",
        title="Adapters without dropout, which keeps a mask and a copy of each input",
        apply=guarded(lambda s: with_lora(s, dropout=0.0), trains, adapts, _no_dropout),
        quality=Quality.SLIGHT,
        quality_reason=_DROPOUT,
    ),
    *RANKS,
    Change(
        id="use_dora=False",
        setting="use_dora",
        title="Plain LoRA instead of DoRA",
        apply=guarded(lambda s: with_lora(s, use_dora=False), trains, adapts, _no_dora),
        quality=Quality.REAL,
        quality_reason=_DORA,
    ),
    Change(
        id="lora_target_modules=attention",
        setting="lora_target_modules",
        title="Adapters on attention alone",
        apply=guarded(_only_attention, trains, adapts, _targets_more),
        quality=Quality.REAL,
        quality_reason=_TARGETS,
    ),
    Change(
        id="modules_to_save=heads",
        setting="modules_to_save",
        title="Train no copies of embeddings and output head beside the adapter",
        apply=guarded(_without_embeddings, trains, adapts, _saves_embeddings),
        quality=Quality.REAL,
        quality_reason="tokens that were added are not learned",
    ),
)
FREEZE: Final = (
    Change(
        id="freeze=embeddings",
        setting="freeze",
        title="Leave the token embeddings as they are",
        apply=guarded(_freeze, trains, on_transformers, full, _embeds),
        quality=Quality.SLIGHT,
        quality_reason=_FROZEN,
    ),
)
