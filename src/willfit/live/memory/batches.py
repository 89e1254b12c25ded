"""Batches: the shape of the batch that a model is given, and of the longest that will come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.live.memory.rows import Rows
from willfit.live.memory.timeline import Shape
from willfit.units import round_up

_NO_SIZE: Final = ("position", "length", "token_id")
"""Parts of names of settings whose numbers are no dimension of a tensor."""
_MOST: Final = 2**20


def shape_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Shape | None:
    """Of a batch of token ids (or of their vectors); None for other kinds of input."""
    given = kwargs.get("input_ids")
    if given is None:
        given = kwargs.get("inputs_embeds", args[0] if args else None)
    size: Sequence[Any] = getattr(given, "shape", ())
    return Shape(rows=int(size[0]), length=int(size[1])) if len(size) in (2, 3) else None


def is_padded(kwargs: Mapping[str, Any]) -> bool | None:
    """Whether a batch has padding; None where no mask of rows and tokens tells.

    transformers leaves the mask out where nothing is padded, and attention then takes another
    kernel: keys and values are not repeated, and there is no mask of length².
    """
    mask = kwargs.get("attention_mask")
    if len(getattr(mask, "shape", ())) != 2:
        return None
    return not bool(mask.all())  # type: ignore[union-attr]


def dimensions(model: Any) -> frozenset[int]:
    """Sizes that tensors have whatever the batch: of weights, of the config, and of heads."""
    found = {size for tensor in (*model.parameters(), *model.buffers()) for size in tensor.shape}
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    numbers = set(_numbers(settings))
    found |= numbers | {a // b for a in numbers for b in numbers if b > 1 and not a % b}
    return frozenset(found - {0, 1})


def _numbers(settings: Mapping[str, Any]) -> list[int]:
    found: list[int] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _numbers(value)
        elif any(part in str(name) for part in _NO_SIZE) or isinstance(value, bool):
            continue
        elif isinstance(value, int) and 1 < value <= _MOST:
            found.append(value)
    return found


@dataclass(frozen=True, kw_only=True)
class Longest:
    """The longest batch that the data can make."""

    shape: Shape
    row: int | None
    """The row that makes it so long."""


def longest_batch(first: Shape, rows: Rows, collator: Any, batch_size: int) -> Longest:
    """As the collator would pad it: to the longest row, to a multiple, to a fixed length.

    Where the batch of the first step was one row though more are asked for, the collator strings
    rows together and pads nothing: then it is the sum of the longest.
    """
    inner = getattr(collator, "data_collator", collator)
    length, row = rows.longest()
    if first.rows == 1 and batch_size > 1:
        length = rows.sum_of_longest(batch_size)
    fixed = getattr(inner, "max_length", None)
    if getattr(inner, "padding", None) == "max_length" and isinstance(fixed, int):
        length = fixed
    multiple = getattr(inner, "pad_to_multiple_of", None)
    length = round_up(length, multiple) if isinstance(multiple, int) and multiple > 0 else length
    return Longest(
        shape=Shape(rows=first.rows, length=max(length, first.length)),
        row=row if length >= first.length else None,
    )
