"""Why two peaks differ, component by component: the facts that decide it, with the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from willfit.comparing.cache import cache_words, tokens_words
from willfit.comparing.facts import facts_of
from willfit.comparing.parts import FACTS, part_sentences
from willfit.comparing.result import Moved
from willfit.comparing.words import signed
from willfit.results import Estimate

NOTABLE: Final = 50
"""A component is explained where it moved by more than a 50th of the largest movement."""
MOST: Final = 4
"""Components that are explained; the table has the rest."""
SHAPE: Final[dict[str, tuple[str, ...]]] = {
    "activations": ("layers", "hidden size", "intermediate size", "heads", "KV heads"),
    "temporaries": ("heads", "KV heads", "head size", "hidden size", "intermediate size"),
    "logits": ("vocabulary",),
    "gradients": ("parameters",),
    "optimizer_states": ("parameters",),
    "adapters": ("layers", "hidden size", "intermediate size", "KV heads"),
    "quantization_state": ("layers", "hidden size", "intermediate size"),
}
"""Facts of a model that decide the components without arithmetic of their own."""


def reasons(a: Estimate, b: Estimate, components: Sequence[Moved]) -> tuple[str, ...]:
    """A sentence for each component that moved notably between two models."""
    largest = max((abs(part.change_bytes) for part in components), default=0)
    notable = [part for part in components if abs(part.change_bytes) * NOTABLE > largest]
    return tuple(s for part in notable[:MOST] for s in _sentences(a, b, part, largest // NOTABLE))


def _sentences(a: Estimate, b: Estimate, part: Moved, least: int) -> Iterator[str]:
    head = f"{part.name} {signed(part.change_bytes)}"
    if part.name == "weights":
        yield from _weights(a, b, head, least)
    elif part.name == "kv_cache":
        yield f"{head}: {_cache(a, b)}"
    else:
        why = [*_notes(a, b, part.name), *_shapes(a, b, SHAPE.get(part.name, ()))]
        yield f"{head}: {'; '.join(why)}" if why else head


def _weights(a: Estimate, b: Estimate, head: str, least: int) -> Iterator[str]:
    """A sentence for the parts that differ most."""
    found = list(part_sentences(a.scenario, b.scenario, least))
    if not found:
        yield head
    for number, (name, amounts) in enumerate(found[:2]):
        facts = "; ".join(_shapes(a, b, FACTS.get(name, ())))
        begin = f"{head}, {name}" if number == 0 else f"weights, {name}"
        yield f"{begin}: {amounts}{f' ({facts})' if facts else ''}"


def _cache(a: Estimate, b: Estimate) -> str:
    old, new = cache_words(a.scenario), cache_words(b.scenario)
    tokens = tokens_words(a.scenario), tokens_words(b.scenario)
    said = [] if old == new else [f"{new or 'no cache'} against {old or 'no cache'}"]
    said += [] if tokens[0] == tokens[1] else [f"{tokens[1]} against {tokens[0]}"]
    return "; ".join(said) or "held otherwise"


def _notes(a: Estimate, b: Estimate, name: str) -> Iterator[str]:
    """How each came about, where that differs in words."""
    old, new = (_note(side, name) for side in (a, b))
    if old != new and old and new:
        yield f"{new}, against {old}"


def _note(side: Estimate, name: str) -> str:
    parts = side.binding.peak.components
    return next((part.note for part in parts if part.name == name), "")


def _shapes(a: Estimate, b: Estimate, names: Sequence[str]) -> Iterator[str]:
    old, new = facts_of(a.scenario.model), facts_of(b.scenario.model)
    for name in names:
        if old.get(name) != new.get(name):
            yield f"{name} {new.get(name, 'none')} against {old.get(name, 'none')}"
