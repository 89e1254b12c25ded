"""Misspelt names: the known name that is one or two letters away."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_SHORT: Final = 6
"""Names of fewer letters are too close to each other to guess."""
_BEGINNING: Final = 12
"""A name of so many letters may be meant where it only lacks its ending."""
_ENDING: Final = 4
_SLIPS: Final = 2
"""Letters left out, put in, changed or swapped."""


@lru_cache(maxsize=4096)
def near(name: str, known: frozenset[str]) -> str | None:
    """The one known name within two slips of ``name``; None where there is none or a choice."""
    if len(name) < _SHORT:
        return None
    best: list[tuple[int, str]] = []
    for one in known:
        if abs(len(one) - len(name)) <= _SLIPS and len(one) >= _SHORT and one != name:
            slips = distance(name, one)
            if slips <= _SLIPS:
                best.append((slips, one))
    best.sort()
    if not best and len(name) >= _BEGINNING:
        longer = [one for one in known if one.startswith(name) and len(one) - len(name) <= _ENDING]
        return longer[0] if len(longer) == 1 else None
    if not best or (len(best) > 1 and best[0][0] == best[1][0]):
        return None
    return best[0][1]


def distance(left: str, right: str) -> int:
    """Letters to insert, delete, change or swap with a neighbour; over two counts as three."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > _SLIPS:
            return _SLIPS + 1
    return min(row[-1], _SLIPS + 1)
