"""Table: the tensors of a model as its config implies them, and the builder that collects rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from willfit.dtypes import DTYPES, FLOAT32
from willfit.scenario.collapse import ranges
from willfit.scenario.model import TensorKind, TensorRow, Unknown


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a config says of a model's tensors, without its class."""

    model_class: str
    rows: tuple[TensorRow, ...]
    no_split: tuple[str, ...]
    composite: tuple[str, ...] = ()
    keep_in_fp32: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    unknowns: tuple[Unknown, ...] = ()


class Builder:
    """Collects rows in the order of the module tree."""

    def __init__(self) -> None:
        self.rows: list[TensorRow] = []

    def weight(
        self, name: str, shape: Sequence[int], module: str, *, tied_to: str | None = None
    ) -> None:
        """One parameter (or a pattern of equal ones); the dtype is the loader's business."""
        self.rows.append(
            TensorRow(name=name, shape=tuple(shape), dtype=FLOAT32, module=module, tied_to=tied_to)
        )

    def linear(self, name: str, out: int, inner: int, *, bias: bool = False) -> None:
        """A ``nn.Linear``: weight (out, in) and perhaps a bias."""
        self.weight(f"{name}.weight", (out, inner), "Linear")
        if bias:
            self.weight(f"{name}.bias", (out,), "Linear")

    def conv1d(self, name: str, inner: int, out: int) -> None:
        """GPT-2's ``Conv1D``: weight (in, out) and a bias."""
        self.weight(f"{name}.weight", (inner, out), "Conv1D")
        self.weight(f"{name}.bias", (out,), "Conv1D")

    def norm(self, name: str, width: int, *, bias: bool, module: str = "Norm") -> None:
        """A normalisation with a weight and perhaps a bias."""
        self.weight(f"{name}.weight", (width,), module)
        if bias:
            self.weight(f"{name}.bias", (width,), module)

    def buffer(
        self, name: str, shape: Sequence[int], dtype: str = "float32", module: str = "Buffer"
    ) -> None:
        """A buffer that is built at load time and is in no checkpoint."""
        self.rows.append(
            TensorRow(
                name=name,
                shape=tuple(shape),
                dtype=DTYPES[dtype],
                module=module,
                kind=TensorKind.NON_PERSISTENT_BUFFER,
            )
        )


def indices(numbers: Sequence[int]) -> str:
    """The pattern of these layer numbers: ``{0-2,7}``."""
    return f"{{{ranges(numbers)}}}"
