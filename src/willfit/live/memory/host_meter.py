"""Host meter: the memory of tensors on any device, seen op by op as they are made and freed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from willfit.live.memory.census import take_census
from willfit.live.memory.storages import storage_of


class Observer(Protocol):
    """What is told of each storage while a meter runs."""

    def made(self, key: int, num_bytes: int, shape: Sequence[int]) -> None:
        """A storage is there: one of an op, with the shape of its tensor."""

    def freed(self, key: int, num_bytes: int) -> None:
        """A storage is gone, whether it was made under the meter or before."""


class HostMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, the sum of live storages after every op of this thread.

    It runs below autograd and so sees every tensor that an op returns, those that autograd saves
    included. It does not see what an op takes for itself and frees before it returns, nor the ops
    of other threads; a storage that one of those leaves is counted once an op here touches it.
    """

    def __init__(self, device: str = "cpu", observer: Observer | None = None) -> None:
        """``device``: the kind whose storages count (``cpu``, ``cuda``)."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.before_bytes = self.live_bytes = self.peak_bytes = self.made_bytes = 0
        self.seen: frozenset[int] = frozenset()
        """Keys of the storages that were alive when it ended."""
        self._finalizers: dict[int, weakref.finalize[Any, Any]] = {}
        self._observer, self._lock = observer, threading.RLock()

    def __enter__(self) -> HostMeter:
        self.look_around()
        self.before_bytes = self.peak_bytes = self.live_bytes
        self.made_bytes = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for finalizer in list(self._finalizers.values()):
            finalizer.detach()
        self.seen = frozenset(self._finalizers)
        self._finalizers.clear()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the op, then count the storages that are new."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if hasattr(leaf, "untyped_storage"):
                found = self._follow(leaf)
                if found and self._observer is not None:
                    self._observer.made(*found, tuple(leaf.shape))
        return result

    def restart_peak(self) -> int:
        """Let the peak begin anew; returns what it was."""
        with self._lock:
            before, self.peak_bytes = self.peak_bytes, self.live_bytes
        return before

    def look_around(self) -> None:
        """Count what ops of other threads left, as a loader's threads do."""
        for tensor in take_census().tensors:
            self._follow(tensor)

    def _follow(self, tensor: Any) -> tuple[int, int] | None:
        """Count the storage if it is new; returns its key and bytes then."""
        storage = storage_of(tensor)
        if storage is None or self.device not in (storage.device, storage.device.split(":")[0]):
            return None
        key, num_bytes = storage.key, storage.num_bytes
        with self._lock:
            if key in self._finalizers:
                return None
            end = weakref.finalize(tensor.untyped_storage(), self._freed, key, num_bytes)
            end.atexit = False
            self._finalizers[key] = end
            self.live_bytes += num_bytes
            self.made_bytes += num_bytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return key, num_bytes

    def _freed(self, key: int, num_bytes: int) -> None:
        with self._lock:
            self._finalizers.pop(key, None)
            self.live_bytes -= num_bytes
        if self._observer is not None:
            self._observer.freed(key, num_bytes)
