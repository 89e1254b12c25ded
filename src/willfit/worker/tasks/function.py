"""``run: module.py:function``: the user's own ``predict(rows)``, with ``load()`` called once."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.protocol import Job
from willfit.worker.columns import list_column
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
        state = module.load() if callable(getattr(module, "load", None)) else None
        wants_state = len(inspect.signature(predict).parameters) > 1
        self._predict = (lambda rows: predict(rows, state)) if wants_state else predict
        return ()

    def compute(self, batch: pa.Table) -> pa.Table:
        """What the function returns, as columns."""
        assert self._predict is not None
        names = [name for name in batch.column_names if not name.startswith("#")]
        return columns_of(self._predict(Rows(batch.select(names))), self.job.name)

    def free(self) -> None:
        """Empty torch's cache, where the user's code has imported it."""
        import gc
        import sys

        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def reserved(self) -> tuple[int, ...]:
        """As torch counts, where the user's code has imported it."""
        import sys

        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return ()
        return tuple(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count()))


def columns_of(result: Any, stage: str) -> pa.Table:
    """A function's result as a table; raises `InputError` on what is none."""
    if isinstance(result, pa.Table):
        return result
    if hasattr(result, "detach"):  # a torch tensor
        result = result.detach().float().cpu().numpy()
    if isinstance(result, np.ndarray) and result.dtype.kind in "fiub":
        return _of_array(result, stage)
    if isinstance(result, Mapping) or hasattr(result, "to_dict"):
        return _of_mapping(result, stage)
    return _of_sequence(result, stage)


def _of_array(result: Any, stage: str) -> pa.Table:
    if result.ndim not in (1, 2):
        raise InputError(
            f"{stage}: the function returned an array of shape {result.shape}: expected "
            "[rows, labels] or [rows]"
        )
    values = result.reshape(len(result), -1).astype(np.float32)
    return pa.table({"logits": list_column(values)})


def _of_mapping(result: Any, stage: str) -> pa.Table:
    try:
        if isinstance(result, Mapping):
            return pa.table({str(name): pa.array(list(column)) for name, column in result.items()})
        return pa.Table.from_pandas(result, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise InputError(
            f"{stage}: the function's columns make no table ({str(error)[:80]}): expected columns "
            "of one length and one type each"
        ) from error


def _of_sequence(result: Any, stage: str) -> pa.Table:
    if not isinstance(result, Sequence) or isinstance(result, (str, bytes)):
        raise InputError(
            f"{stage}: the function returned {type(result).__name__}: expected an array [rows, "
            "labels], a list with one result a row, or a mapping of columns"
        )
    first = next(iter(result), None)
    if isinstance(first, str):
        return pa.table({"text": pa.array(list(result), pa.string())})
    if isinstance(first, Mapping):
        names = dict.fromkeys(itertools.chain.from_iterable(result))
        return _of_mapping({name: [row.get(name) for row in result] for name in names}, stage)
    try:
        return _of_array(np.asarray(result, dtype=np.float32), stage)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{stage}: the function's list holds no numbers ({str(error)[:80]}): expected one "
            "number, text, dict or list of labels a row"
        ) from error
