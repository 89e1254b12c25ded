"""Storages: the blocks of memory under tensors, known by a weak reference that keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing import reductions

from willfit.live.memory.census import Census

_REFERENCE: Any = reductions.StorageWeakRef


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One block of memory that one or more tensors share."""

    key: int
    """Its address as an object; not used again as long as this exists."""
    num_bytes: int
    device: str
    """``cuda:0``, ``cpu``."""
    reference: Any
    """Weak, and torch's own: expired when the block is given back, whoever held it."""

    def is_alive(self) -> bool:
        """Whether anything still holds it, Python or not."""
        expired: bool = self.reference.expired()
        return not expired


def storage_of(tensor: Any) -> Storage | None:
    """The block under a tensor; None where it has none of its own (meta, sparse, wrappers)."""
    try:
        with torch._C.DisableTorchFunctionSubclass():
            device = tensor.device
            if device.type == "meta":
                return None
            block = tensor.untyped_storage()
            num_bytes = int(block.nbytes())
            if num_bytes == 0 or block.data_ptr() == 0:
                return None
            reference = _REFERENCE(block)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return None
    return Storage(
        key=int(reference.cdata), num_bytes=num_bytes, device=str(device), reference=reference
    )


def storages_of(tensors: Iterable[Any]) -> dict[int, Storage]:
    """Blocks under these tensors, each once, by their key."""
    found: dict[int, Storage] = {}
    for tensor in tensors:
        storage = storage_of(tensor)
        if storage is not None:
            found.setdefault(storage.key, storage)
    return found


def alive(storages: Iterable[Storage]) -> dict[int, Storage]:
    """Those of them that something still holds."""
    return {storage.key: storage for storage in storages if storage.is_alive()}


def live_storages(census: Census, device: str = "") -> dict[int, Storage]:
    """Blocks of every tensor that Python can see; of one kind of device (``cuda``) if it is given.

    What autograd alone holds, in C++, is not among them: `willfit.live.memory.graphs` finds it.
    """
    found = storages_of(census.tensors)
    return {key: one for key, one in found.items() if one.device.startswith(device)}


def bytes_by_device(storages: Iterable[Storage]) -> dict[str, int]:
    """Sum of their bytes a device."""
    total: dict[str, int] = {}
    for storage in storages:
        total[storage.device] = total.get(storage.device, 0) + storage.num_bytes
    return total
