"""What decides the memory of a model, as its specification has it: vocabulary, layers, heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from willfit.scenario import ModelSpec
from willfit.scenario.model import Architecture, Attention, LayerGroup


def facts_of(model: ModelSpec) -> dict[str, str]:
    """Facts by name; those that the model does not have are left out."""
    every = {
        "parameters": f"{model.num_params:,}",
        "stored as": model.quantization.method if model.quantization else model.stored_dtype.name,
    }
    if model.architecture is not None:
        every.update({name: read(model.architecture) for name, read in _SHAPES.items()})
    every["tied tables"] = _tied(model)
    return {name: text for name, text in every.items() if text}


def differing_facts(models: Sequence[ModelSpec]) -> dict[str, tuple[str, ...]]:
    """Facts that some of the models do not share."""
    return {name: values for name, values in _together(models) if len(set(values)) > 1}


def equal_facts(models: Sequence[ModelSpec]) -> dict[str, str]:
    """Facts that all of the models share."""
    return {name: values[0] for name, values in _together(models) if len(set(values)) == 1}


def _together(models: Sequence[ModelSpec]) -> Iterator[tuple[str, tuple[str, ...]]]:
    every = [facts_of(model) for model in models]
    for name in dict.fromkeys(name for facts in every for name in facts):
        yield name, tuple(facts.get(name, "–") for facts in every)


def _tied(model: ModelSpec) -> str:
    """Whether the output projection is the input table."""
    tables = [row for row in model.tensors if row.count == 1 and len(row.shape) == 2]
    return "yes" if any(row.tied_to is not None for row in tables) else ""


def _attentions(architecture: Architecture) -> list[tuple[int, Attention]]:
    groups = (*architecture.layers, *architecture.encoder_layers)
    return [(group.count, group.attention) for group in groups if group.attention is not None]


def _each(architecture: Architecture, read: Callable[[Attention], int]) -> str:
    """The value of every kind of attention layer: one number, or ``8 / 2`` where kinds differ."""
    return _joined(read(attention) for _, attention in _attentions(architecture))


def _joined(numbers: Iterator[int]) -> str:
    return " / ".join(f"{number:,}" for number in dict.fromkeys(numbers) if number)


def _window(architecture: Architecture) -> str:
    """``4,096 in 32 layers``."""
    windows: dict[int, int] = {}
    for count, attention in _attentions(architecture):
        if attention.window is not None:
            windows[attention.window] = windows.get(attention.window, 0) + count
    return ", ".join(f"{window:,} in {count} layers" for window, count in windows.items())


def _mlps(architecture: Architecture, read: Callable[[LayerGroup], int]) -> str:
    return _joined(read(group) for group in architecture.layers)


def _intermediate(group: LayerGroup) -> int:
    return group.mlp.intermediate_size if group.mlp is not None else 0


def _experts(group: LayerGroup) -> int:
    return group.mlp.num_experts if group.mlp is not None else 0


def _number(value: int | None) -> str:
    return f"{value:,}" if value else ""


_SHAPES: Final[dict[str, Callable[[Architecture], str]]] = {
    "vocabulary": lambda a: _number(a.vocab_size),
    "hidden size": lambda a: _number(a.hidden_size),
    "layers": lambda a: _number(a.num_layers),
    "encoder layers": lambda a: _number(a.all_layers - a.num_layers),
    "intermediate size": lambda a: _mlps(a, _intermediate),
    "experts": lambda a: _mlps(a, _experts),
    "heads": lambda a: _each(a, lambda attention: attention.num_heads),
    "KV heads": lambda a: _each(a, lambda attention: attention.num_kv_heads),
    "head size": lambda a: _each(a, lambda attention: attention.head_dim),
    "KV latent": lambda a: _each(a, lambda attention: attention.kv_lora_rank or 0),
    "window": _window,
    "recurrent layers": lambda a: _number(sum(g.count for g in a.layers if g.recurrent)),
    "longest context": lambda a: _number(a.max_context),
}
"""Facts of the shape by name; empty text where a model has none."""
