"""``run: module.py:function``: the user's own ``predict(rows)``, with ``load()`` called once."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.runner.protocol import Job
from willfit.worker.returned import columns_of
from willfit.worker.tasks.task import Task
from willfit.worker.user_code import load_function


class Rows(Sequence[Mapping[str, Any]]):
    """The rows that a function is given: a sequence of dicts, or ``table`` (Arrow) as a whole."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._dicts: list[dict[str, Any]] | None = None

    def to_pandas(self) -> Any:
        """As a pandas DataFrame."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._all()[index]

    def _all(self) -> list[dict[str, Any]]:
        if self._dicts is None:
            self._dicts = self.table.to_pylist()
        return self._dicts


class Function(Task):
    """A function of the user's module, which may load what it likes when it is imported.

    ``predict(rows)`` returns for n rows an array [n, labels] or [n], a sequence of n texts, numbers
    or dicts, or a mapping of n-long columns. Where the module has ``load``, it is called once; what
    it returns is ``predict``'s second argument if it takes one.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._predict: Callable[[Rows], Any] | None = None

    def load(self) -> tuple[str, ...]:
        """Import the module, and call its ``load``."""
        predict, module = load_function(str(self.job.stage["run"]))
        load = getattr(module, "load", None)
        if not callable(load):
            self._predict = predict
            return ()
        state = load()
        self._predict = (lambda rows: predict(rows, state)) if _takes_two(predict) else predict
        return ()

    def compute(self, batch: pa.Table) -> pa.Table:
        """What the function returns, as columns."""
        assert self._predict is not None
        names = [name for name in batch.column_names if not name.startswith("#")]
        result = self._predict(Rows(batch.select(names)))
        return columns_of(result, self.job.name, labels=self.job.stage.get("labels"))

    def free(self) -> None:
        """Empty torch's cache, where the user's code has imported it."""
        gc.collect()
        cuda = _cuda()
        if cuda is not None:
            cuda.empty_cache()

    def allocated(self) -> tuple[int, ...]:
        """As torch counts, where the user's code has imported it."""
        cuda = _cuda()
        return () if cuda is None else tuple(map(cuda.memory_allocated, range(cuda.device_count())))

    def reserved(self) -> tuple[int, ...]:
        """As torch counts, where the user's code has imported it."""
        cuda = _cuda()
        if cuda is None:
            return ()
        return tuple(map(cuda.max_memory_reserved, range(cuda.device_count())))


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether it has a place for what ``load`` returned."""
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    many = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return many or sum(p.kind in places for p in parameters) > 1


def _cuda() -> Any:
    """``torch.cuda`` where torch is imported and has begun to use a GPU; it is not begun here."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
