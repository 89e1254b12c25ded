"""Defaults into stages: a stage's own settings win, and a default holds where it has a meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from willfit.runner.pipeline.stage import StageDefaults, StageFile, Task

Kind = Task | Literal["run"]
"""A stage's task, or that it is a function."""

MAX_NEW_TOKENS: Final = 256
"""Tokens that a stage generates where it says nothing."""

_MODELS: Final[frozenset[Kind]] = frozenset({"classify", "generate", "embed", "choose"})
_LABELLED: Final[frozenset[Kind]] = frozenset({"classify", "choose", "run"})

MEANT_FOR: Final[Mapping[str, frozenset[Kind]]] = {
    **dict.fromkeys(
        (
            "model", "adapter", "tokenizer", "task", "engine", "quantize", "dtype", "attn",
            "revision", "trust_remote_code", "template", "chat", "system", "max_length",
            "truncate", "add_special_tokens", "batch_tokens",
        ),
        _MODELS,
    ),
    "run": frozenset({"run"}),
    "labels": frozenset({"classify", "run"}),
    "columns": _LABELLED,
    "temperature": _LABELLED,
    "max_new_tokens": frozenset({"generate"}),
    "generation": frozenset({"generate"}),
    "choices": frozenset({"choose"}),
    "normalize": frozenset({"choose"}),
    "pooling": frozenset({"embed"}),
    "normalize_embeddings": frozenset({"embed"}),
}  # fmt: skip
"""Settings that mean something to some stages only; every other means something to all."""


def merged(own: StageFile, defaults: StageDefaults | None) -> StageFile:
    """The stage with its defaults; ``task`` stays None where nothing says it, and for functions."""
    kind = kind_of(own, defaults)
    update: dict[str, Any] = {} if defaults is None else _inherited(own, defaults, kind)
    if kind != "run":
        update["task"] = kind
    if kind == "generate" and own.max_new_tokens is None:
        update.setdefault("max_new_tokens", MAX_NEW_TOKENS)
    return own.model_copy(update=update)


def kind_of(own: StageFile, defaults: StageDefaults | None) -> Kind | None:
    """What a stage is by its own settings, else by the defaults."""
    said = _kind(own)
    if said is not None or defaults is None:
        return said
    inherited = _kind(defaults)
    if inherited == "run" and own.model is not None:
        return _kind(defaults.model_copy(update={"run": None}))
    return inherited


def means(name: str, kind: Kind | None) -> bool:
    """Whether a setting has a meaning for such a stage."""
    return kind is None or name not in MEANT_FOR or kind in MEANT_FOR[name]


def _kind(stage: StageFile) -> Kind | None:
    if stage.run is not None:
        return "run"
    if stage.task is not None or (stage.labels is None) == (stage.choices is None):
        return stage.task
    return "classify" if stage.labels is not None else "choose"


def _inherited(own: StageFile, defaults: StageDefaults, kind: Kind | None) -> dict[str, Any]:
    return {
        name: getattr(defaults, name)
        for name in StageFile.model_fields
        if name in defaults.model_fields_set - own.model_fields_set and means(name, kind)
    }
