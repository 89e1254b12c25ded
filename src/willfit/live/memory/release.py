"""`release`: frees what can be freed of models and their like, and names who holds the rest."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from willfit.errors import InputError
from willfit.live.memory import taking_apart
from willfit.live.memory.cards import Card, cards
from willfit.live.memory.census import take_census
from willfit.live.memory.counters import Counters, TorchCounters
from willfit.live.memory.given import tensors_in
from willfit.live.memory.graphs import held_by_graph, with_graph
from willfit.live.memory.holders import Holder, Search, find_holders
from willfit.live.memory.last_error import forget_last_error
from willfit.live.memory.letting_go import let_go
from willfit.live.memory.looking import looking
from willfit.live.memory.loops import early_returns
from willfit.live.memory.names import take_variables
from willfit.live.memory.naming import Named
from willfit.live.memory.notebook import forget_outputs
from willfit.live.memory.released import Released, ReleasedDevice
from willfit.live.memory.storages import Storage, alive, live_storages, storages_of
from willfit.live.nvml import Nvml

Clearing = Literal[
    "last_exception", "ipython", "generators", "futures", "caches", "exceptions", "executors"
]
CLEARED: Final[tuple[Clearing, ...]] = ("last_exception", "ipython")
"""What is cleared unless the caller says otherwise: only what the interpreter keeps for comfort.

A generator of `executor.map` may hold results that nobody has read yet, so it is named, and
closed only if ``clear`` has ``"generators"``.
"""

MOST_COLLECTIONS: Final = 3
_DEFERRED: Final = frozenset({"executor.map", "future", "generator"})
"""Holders of results that nobody has read: a loop that ended early would not have been noticed."""


def release(
    *objects: Any,
    clear: Sequence[Clearing] = CLEARED,
    force: bool = False,
    verify: bool = True,
    quiet: bool = False,
    mark: Mapping[str, int] | None = None,
    counters: Counters | None = None,
    nvml: Nvml | None = None,
) -> Released:
    """Free what can be freed, see on every GPU that it is free, and name who holds the rest.

        del model, trainer
        willfit.release()                      # everything on the GPUs
        willfit.release(model, optimizer)      # or what is given
        willfit.release("model_0", "model_1")  # or variables by name, which are deleted

    Of what is given, accelerate's hooks, gradients, optimizer states, KV caches and the references
    of trainers, accelerators and pipelines are taken; then what ``clear`` says; then the garbage
    is collected and the cache of every GPU emptied. Variables of yours are never deleted unless
    you name them: they are named instead, with the line that frees them.

    ``clear``: ``last_exception`` (``sys.last_exc`` and IPython's), ``ipython`` (``_``, ``Out[3]``
    and the like that hold what was given), and, only when asked for, ``generators`` (closed),
    ``futures`` (results and errors forgotten), ``caches`` (of functools), ``exceptions`` (their
    tracebacks), ``executors`` (waiting tasks cancelled).
    ``force``: take the tensors out of the given models in place, whoever still holds the models.
    ``verify``: look for holders; takes two seconds at most, or as long as some twenty passes over
    all objects where there are many millions of them. ``mark``: bytes in use before the work
    began, by device, as `Watched.mark` has it. ``quiet``: print nothing to stderr.

    Without CUDA the same is done and verified for tensors in host memory. Raises `InputError` for
    a name that is no variable and for an unknown entry of ``clear``.
    """
    began = time.monotonic()
    _require_known(clear)
    counters = counters or TorchCounters()
    before = cards(counters, nvml)
    caller = sys._getframe(1).f_globals
    targets = take_variables(objects, caller)
    del objects, caller
    wanted = (
        storages_of(tensors_in(targets))
        if targets
        else _everything("cuda" if counters.has_gpus() else "cpu")
    )
    cleared = [*taking_apart.take_apart(targets)]
    if force and taking_apart.empty(targets):
        cleared.append("the tensors of the given models, taken out in place")
    del targets
    cleared += _forget(wanted, clear)
    settle(counters)
    search = Search()
    cleared += _let_go(wanted, clear, counters)
    if verify:
        search = find_holders(alive(wanted.values()).values())
    after = cards(counters, nvml)
    left = alive(wanted.values())
    result = Released(
        devices=(*_gpus(before, after, mark or {}), *_host(wanted, left)),
        given_bytes=sum(one.num_bytes for one in wanted.values()),
        left_bytes=sum(one.num_bytes for one in left.values()),
        holders=search.holders,
        others=tuple(_others(after)),
        cleared=tuple(dict.fromkeys(cleared)),
        notes=early_returns() if _DEFERRED & {one.kind for one in search.holders} else (),
        is_complete=search.is_complete,
        seconds=time.monotonic() - began,
    )
    if not quiet:
        sys.stderr.write(f"{result.text()}\n")
    return result


def settle(counters: Counters) -> None:
    """Collect the garbage, then hand cached blocks back: the other way round frees nothing.

    Again where something was found: an object with a ``__del__`` lets go of others once it is gone.
    """
    for _ in range(MOST_COLLECTIONS):
        if not gc.collect():
            break
    counters.give_back()


def _require_known(clear: Sequence[str]) -> None:
    known = get_args(Clearing)
    wrong = [name for name in clear if name not in known]
    if isinstance(clear, str) or wrong:
        raise InputError(f"clear takes a list of {', '.join(known)}, got {clear!r}")


def _everything(device: str) -> dict[int, Storage]:
    """Storages of one kind of device: those of the GPUs, or without any those of the host."""
    census = take_census()
    found = live_storages(census, device)
    until = time.thread_time() + 0.5
    with looking():
        for tensor in with_graph(census.tensors):
            held = held_by_graph(tensor, until)
            found.update({key: one for key, one in held.items() if one.device.startswith(device)})
    return found


def _forget(wanted: Mapping[int, Storage], clear: Sequence[Clearing]) -> list[str]:
    """What the interpreter and the notebook keep for comfort."""

    def holds(value: Any) -> bool:
        return bool(storages_of(tensors_in([value])).keys() & wanted.keys())

    done: list[str] = []
    if "last_exception" in clear:
        done += forget_last_error()
    if "ipython" in clear:
        done += forget_outputs(holds)
    return done


def _let_go(
    wanted: Mapping[int, Storage], clear: Sequence[Clearing], counters: Counters
) -> list[str]:
    """Make special holders let go, of the kinds that the caller allows."""
    allowed = frozenset(clear) - set(CLEARED)
    done: list[str] = []

    def act(named: Named, holder: Any) -> bool:
        if let_go(named.kind, holder, allowed):
            done.append(named.path)
            return True
        return False

    if allowed:
        find_holders(alive(wanted.values()).values(), act=act)
        settle(counters)
    return done


def _gpus(
    before: Sequence[Card], after: Sequence[Card], mark: Mapping[str, int]
) -> Iterator[ReleasedDevice]:
    for first, last in zip(before, after, strict=True):
        device = f"cuda:{first.counted.index}"
        yield ReleasedDevice(
            device=device,
            name=first.counted.name,
            before_bytes=first.counted.allocated_bytes,
            after_bytes=last.counted.allocated_bytes,
            reserved_before_bytes=first.counted.reserved_bytes,
            reserved_after_bytes=last.counted.reserved_bytes,
            used_before_bytes=first.used_bytes,
            used_after_bytes=last.used_bytes,
            mark_bytes=mark.get(device),
        )


def _host(wanted: Mapping[int, Storage], left: Mapping[int, Storage]) -> Iterator[ReleasedDevice]:
    """Host memory of what was given: torch counts none, so the storages themselves are."""
    given = sum(one.num_bytes for one in wanted.values() if one.device == "cpu")
    if given:
        yield ReleasedDevice(
            device="cpu",
            before_bytes=given,
            after_bytes=sum(one.num_bytes for one in left.values() if one.device == "cpu"),
        )


def _others(after: Sequence[Card]) -> Iterator[Holder]:
    for card in after:
        for process in card.others():
            yield Holder(
                kind="process",
                path=f"process {process.pid} {process.name} on cuda:{card.counted.index}",
                num_bytes=process.used_bytes or 0,
                line=f"# end that process: kill {process.pid}",
                devices=(f"cuda:{card.counted.index}",),
            )
