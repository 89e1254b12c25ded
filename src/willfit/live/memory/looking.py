"""Looking: what a search brings to light is no news to the blocks that are watched around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from torch.utils._python_dispatch import _disable_current_modes

from willfit.live.memory.census import take_census
from willfit.live.memory.storages import Storage, live_storages


class Block(Protocol):
    """A block that is watched."""

    def note_peak(self) -> None:
        """Keep the highest so far, since a block within this one lets the peak begin anew."""

    def overlook(self, shown: Mapping[int, Storage]) -> None:
        """Take these for what was there before."""


BLOCKS: Final[list[Block]] = []
"""Blocks that run now, outermost first."""


@contextmanager
def looking() -> Iterator[None]:
    """Around whatever asks autograd's graphs for the tensors that they saved.

    Unpacking one is an op, which meters must not see; and torch keeps Python's object for it as
    long as the tensor lives, so that a later census sees what an earlier one could not.
    """
    with _disable_current_modes():
        if not BLOCKS:
            yield
            return
        before = live_storages(take_census())
        yield
        shown = live_storages(take_census())
        for block in list(BLOCKS):
            block.overlook({key: one for key, one in shown.items() if key not in before})
