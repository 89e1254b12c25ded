"""The weights of a model by part, and the arithmetic that gives each part's bytes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.formulas.weights import LoadedRow, load_weights
from willfit.scenario import Scenario
from willfit.scenario.model import TensorRow
from willfit.units import format_bytes

MOST_TERMS: Final = 2
"""Different shapes of a part for which its arithmetic is still readable."""
_ATTENTION: Final = ("att", "query", "key_value", "qkv")
_TOWERS: Final = ("vision", "visual", "image", "audio")

FACTS: Final[dict[str, tuple[str, ...]]] = {
    "vocabulary tables": ("vocabulary", "hidden size", "tied tables"),
    "attention": ("layers", "encoder layers", "hidden size", "heads", "KV heads", "head size"),
    "MLP": ("layers", "encoder layers", "hidden size", "intermediate size"),
    "experts": ("layers", "experts", "intermediate size", "hidden size"),
    "mixers": ("layers", "recurrent layers", "hidden size"),
}
"""Facts of a model that decide the bytes of each part."""


@dataclass(frozen=True, kw_only=True)
class WeightPart:
    """One part: attention, MLP, the vocabulary's tables."""

    name: str
    num_bytes: int
    arithmetic: str
    """``2 × 128,256 × 4,096 × 2 B``; empty where it has more shapes than one can read."""


def weight_parts(scenario: Scenario) -> dict[str, WeightPart]:
    """The parts by name, quantisation states left out; they add up to the weights."""
    weights = load_weights(scenario.model, scenario.workload.loading, scenario.stack)
    rows: dict[str, list[LoadedRow]] = {}
    for row in weights.rows:
        if row.weight_bytes:
            rows.setdefault(part_of(row.row), []).append(row)
    return {
        name: WeightPart(
            name=name,
            num_bytes=sum(row.row.count * row.weight_bytes for row in part),
            arithmetic=_arithmetic(part),
        )
        for name, part in rows.items()
    }


def part_of(row: TensorRow) -> str:
    """The part that a tensor belongs to, by its place and its shape."""
    path = row.name.lower()
    if any(word in path for word in _TOWERS):
        return "other towers"
    if len(row.shape) < 2:
        return "norms and biases"
    if "expert" in path or "moe" in path:
        return "experts"
    if len(row.shape) > 2:
        return "convolutions"
    if row.count == 1 and "{" not in row.name:
        return "vocabulary tables" if _is_table(path) else "single matrices"
    if any(word in path for word in _ATTENTION):
        return "attention"
    return "mixers" if "mixer" in path or "mamba" in path else "MLP"


def _is_table(path: str) -> bool:
    """Whether it has a row for each token of the vocabulary, in or out."""
    named = any(word in path for word in ("embed", "wte", "lm_head", "shared"))
    return named and not any(word in path for word in ("pos", "patch", "type", "time"))


def _arithmetic(rows: list[LoadedRow]) -> str:
    """Σ count × shape × bytes an element, where that is exact and short."""
    terms: dict[tuple[tuple[int, ...], str], int] = {}
    for row in rows:
        size = _element(row)
        key = (tuple(sorted(row.row.shape, reverse=True)), size)
        terms[key] = terms.get(key, 0) + row.row.count
    sizes = {size for _, size in terms}
    if len(terms) > MOST_TERMS or len(sizes) != 1 or "" in sizes:
        return ""
    products = [_product(count, shape) for (shape, _), count in terms.items()]
    joined = products[0] if len(products) == 1 else f"({' + '.join(products)})"
    return f"{joined} × {sizes.pop()}"


def _product(count: int, shape: tuple[int, ...]) -> str:
    numbers = [count, *shape] if count > 1 else list(shape)
    return " × ".join(f"{number:,}" for number in numbers)


def _element(row: LoadedRow) -> str:
    """``2 B``, or ``½ B`` where two share a byte; empty where it is neither."""
    elements = row.row.num_elements
    if row.weight_bytes % elements == 0:
        return f"{row.weight_bytes // elements} B"
    return "½ B" if row.weight_bytes * 2 == elements else ""


def part_sentences(a: Scenario, b: Scenario, least: int) -> Iterator[tuple[str, str]]:
    """A phrase for each part that differs by at least so much, with its name, the largest first."""
    old, new = weight_parts(a), weight_parts(b)
    nothing = WeightPart(name="", num_bytes=0, arithmetic="")
    pairs = {name: (old.get(name, nothing), new.get(name, nothing)) for name in {**old, **new}}
    changes = {name: y.num_bytes - x.num_bytes for name, (x, y) in pairs.items()}
    for name in sorted(pairs, key=lambda name: -abs(changes[name])):
        if abs(changes[name]) >= max(least, 1):
            x, y = pairs[name]
            yield name, f"{_amount(y)} against {_amount(x)}"


def _amount(part: WeightPart) -> str:
    if not part.num_bytes:
        return "none"
    total = format_bytes(part.num_bytes)
    return f"{part.arithmetic} = {total}" if part.arithmetic else total
