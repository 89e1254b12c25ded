"""What makes sides hard to compare: levels, libraries, cards, and defaults nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from willfit.comparing.result import Compared
from willfit.comparing.words import gpu_words
from willfit.formulas.weights import loading_dtype
from willfit.results import Estimate
from willfit.scenario import Scenario


def letter(index: int) -> str:
    """A for the first side; AA after Z."""
    rest, last = divmod(index, len(ascii_uppercase))
    return (letter(rest - 1) if rest else "") + ascii_uppercase[last]


def remarks(entries: Sequence[Compared]) -> tuple[str, ...]:
    """A sentence for each thing that is not the same and that nobody need have meant."""
    made = [(letter(i), e.estimate) for i, e in enumerate(entries) if e.estimate is not None]
    return tuple(
        sentence
        for found in (_levels, _stacks, _cards, _defaults, _contexts)
        for sentence in found(made)
    )


Sides = Sequence[tuple[str, Estimate]]


def same_assumptions(entries: Sequence[Compared]) -> tuple[str, ...]:
    """Assumptions that every estimate makes."""
    made = [entry.estimate.assumptions for entry in entries if entry.estimate is not None]
    return tuple(text for text in made[0] if all(text in said for said in made)) if made else ()


def _levels(made: Sides) -> Iterator[str]:
    levels = _grouped((name, estimate.level) for name, estimate in made)
    if len(levels) > 1:
        yield (
            f"not the same evidence: {_listed(levels, 'by ')}; a part of the difference is the "
            "method's: give all sides the same, --trace or none"
        )


def _stacks(made: Sides) -> Iterator[str]:
    stacks = _grouped(
        (name, _versions(estimate.scenario, [other.scenario for _, other in made]))
        for name, estimate in made
    )
    if len(stacks) > 1:
        yield f"not the same libraries: {_listed(stacks)}"


def _versions(scenario: Scenario, others: Sequence[Scenario]) -> str:
    """Those libraries whose version is not the same everywhere."""
    versions = scenario.stack.versions
    told = [
        f"{name} {version}"
        for name, version in versions.items()
        if any(other.stack.versions.get(name) != version for other in others)
    ]
    return " ".join(told) or "the usual ones"


def _cards(made: Sides) -> Iterator[str]:
    cards = _grouped((name, _card(estimate.scenario)) for name, estimate in made)
    if len(cards) > 1:
        yield f"not the same GPU: {_listed(cards, 'on ')}"


def _card(scenario: Scenario) -> str:
    return gpu_words(scenario.machine.gpus) if scenario.machine is not None else "no named GPU"


def _defaults(made: Sides) -> Iterator[str]:
    """Types that nobody asked for and that differ because the checkpoints are stored so."""
    unasked = [
        (name, loading_dtype(e.scenario.model, e.scenario.workload.loading, e.scenario.stack)[0])
        for name, e in made
        if e.scenario.workload.loading.dtype is None and e.scenario.model.tensors
    ]
    types = _grouped((name, dtype.name) for name, dtype in unasked)
    if len(types) > 1:
        yield (
            f"not the same default: {_listed(types, 'loads ', 'load ')}, as their checkpoints are "
            "stored: --dtype gives all the same"
        )


def _contexts(made: Sides) -> Iterator[str]:
    """Lengths that nobody asked for and that differ because a model's own maximum is shorter."""
    from willfit.changes.current import context_of

    unasked = [
        (name, f"{context_of(e.scenario):,} tokens")
        for name, e in made
        if e.scenario.workload.inference is not None
        and e.scenario.workload.inference.context_len is None
    ]
    lengths = _grouped(unasked)
    if len(lengths) > 1:
        yield (
            f"not the same default: {_listed(lengths, 'takes ', 'take ')}, as far as each model "
            "goes: --context gives all the same"
        )


def _grouped(pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by what is said of them."""
    groups: dict[str, list[str]] = {}
    for name, said in pairs:
        groups.setdefault(said, []).append(name)
    return groups


def _listed(groups: dict[str, list[str]], one: str = "", many: str | None = None) -> str:
    """``A and B load bfloat16, C loads float16``."""
    return ", ".join(
        f"{' and '.join(names)} {one if many is None or len(names) == 1 else many}{said}"
        for said, names in groups.items()
    )
