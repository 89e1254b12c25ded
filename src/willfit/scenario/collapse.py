"""Fold the tensors of repeated layers into rows: ``layers.0.w`` … ``layers.31.w`` is one row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.dtypes import DTYPES
from willfit.scenario.model import TensorKind, TensorRow

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")


@dataclass(frozen=True, kw_only=True)
class NamedTensor:
    """One tensor as a module tree or a file header names it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    module: str = ""
    kind: TensorKind = TensorKind.PARAMETER
    tied_to: str | None = None


def collapse(tensors: Iterable[NamedTensor]) -> tuple[TensorRow, ...]:
    """Rows in the order of first appearance; expanding them gives back exactly the tensors."""
    groups: dict[tuple[object, ...], list[tuple[int, ...]]] = {}
    samples: dict[tuple[object, ...], tuple[str, NamedTensor]] = {}
    for tensor in tensors:
        template = _NUMBER.sub("{}", tensor.name)
        key = (template, tensor.shape, tensor.dtype, tensor.module, tensor.kind, tensor.tied_to)
        groups.setdefault(key, []).append(tuple(map(int, _NUMBER.findall(tensor.name))))
        samples.setdefault(key, (template, tensor))
    return tuple(
        TensorRow(
            name=pattern,
            shape=tensor.shape,
            dtype=DTYPES[tensor.dtype],
            module=tensor.module,
            kind=tensor.kind,
            tied_to=tensor.tied_to,
        )
        for key, (template, tensor) in samples.items()
        for pattern in patterns(template, groups[key])
    )


def collapse_names(names: Iterable[str]) -> tuple[str, ...]:
    """Patterns that stand for exactly these names."""
    groups: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        template = _NUMBER.sub("{}", name)
        groups.setdefault(template, []).append(tuple(map(int, _NUMBER.findall(name))))
    return tuple(
        pattern for template, numbers in groups.items() for pattern in patterns(template, numbers)
    )


def split_row(
    row: TensorRow, chosen: Callable[[str], bool], *, by_layer: bool
) -> list[tuple[TensorRow, bool]]:
    """The row with whether its tensors are chosen; in two where only some layers are.

    ``chosen`` gets a tensor name. Without ``by_layer`` the first layer speaks for all.
    """
    names = list(row.names()) if by_layer and row.count > 1 else [next(row.names())]
    kept = [name for name in names if chosen(name)]
    if len(kept) in (0, len(names)):
        return [(row, bool(kept))]
    rest = sorted(set(names) - set(kept), key=names.index)
    return [
        (replace(row, name=pattern), flag)
        for flag, group in ((True, kept), (False, rest))
        for pattern in collapse_names(group)
    ]


def patterns(template: str, numbers: Sequence[tuple[int, ...]]) -> list[str]:
    """Patterns that put exactly these number tuples into the template's ``{}``."""
    depth = template.count("{}")
    if depth == 0:
        return [template]
    return [
        template.format(*(f"{{{ranges(values)}}}" for values in combination))
        for combination in _products(sorted(set(numbers)), depth)
    ]


def _products(numbers: Sequence[tuple[int, ...]], depth: int) -> list[tuple[tuple[int, ...], ...]]:
    """Number tuples as a union of products of sets: equal tails share their heads."""
    if depth == 1:
        return [(tuple(number for (number,) in numbers),)]
    tails: dict[int, list[tuple[int, ...]]] = {}
    for head, *tail in numbers:
        tails.setdefault(head, []).append(tuple(tail))
    heads: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for head, rest in tails.items():
        heads.setdefault(tuple(rest), []).append(head)
    return [
        (tuple(same), *product)
        for rest, same in heads.items()
        for product in _products(rest, depth - 1)
    ]


def ranges(numbers: Iterable[int]) -> str:
    """These numbers as a pattern writes them: ``0-2,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def row_json(row: TensorRow) -> list[object]:
    """A row as a short JSON list: name, shape, dtype, module, then what is not the usual."""
    extra: dict[str, str] = {}
    if row.kind is not TensorKind.PARAMETER:
        extra["kind"] = row.kind.value
    for field in ("tied_to", "since", "until"):
        if getattr(row, field) is not None:
            extra[field] = getattr(row, field)
    short: list[object] = [row.name, list(row.shape), row.dtype.name, row.module]
    return [*short, extra] if extra else short


def row_from_json(cells: Sequence[object]) -> TensorRow:
    """The row of `row_json`."""
    name, shape, dtype, module, *rest = cells
    extra: Mapping[str, str] = rest[0] if rest else {}  # type: ignore[assignment]  # our own data
    return TensorRow(
        name=str(name),
        shape=tuple(shape),  # type: ignore[arg-type]  # our own data file
        dtype=DTYPES[str(dtype)],
        module=str(module),
        kind=TensorKind(extra.get("kind", "parameter")),
        tied_to=extra.get("tied_to"),
        since=extra.get("since"),
        until=extra.get("until"),
    )
