"""What a method's file is given of a checkpoint that is stored quantised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import ModelSpec, StoredQuantization
from willfit.sources.stored import QUANTIZED_MODULE
from willfit.trace.quantized.linear import Kernel, StoredLinear


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A checkpoint, and where and what for it is loaded."""

    spec: ModelSpec
    quantization: StoredQuantization
    weights: LoadedWeights
    gpu: Gpu | None
    """None is taken as sm_80."""
    training: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The checkpoint's ``quantization_config``."""
        return self.quantization.settings

    @property
    def sm(self) -> int:
        """Compute capability as one number."""
        return self.gpu.sm if self.gpu is not None else 80

    @cached_property
    def tensors(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Meta tensors of each quantised module by its path, by the last part of their name."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for loaded in self.weights.rows:
            if loaded.row.module != QUANTIZED_MODULE:
                continue
            dtype = getattr(torch, loaded.dtype.name)
            for name in loaded.row.names():
                owner, _, last = name.rpartition(".")
                tensor = torch.empty(loaded.row.shape, dtype=dtype, device="meta")
                found.setdefault(owner, {})[last] = tensor
        return found


def replace_linears(model: torch.nn.Module, stored: Stored, kernel: Kernel) -> None:
    """Every module that the checkpoint has packed becomes one of its tensors."""
    for path, module in list(_stored_modules(model, stored)):
        model.set_submodule(path, StoredLinear(module, stored.tensors[path], kernel))


def _stored_modules(
    model: torch.nn.Module, stored: Stored
) -> Iterator[tuple[str, torch.nn.Module]]:
    for path, module in model.named_modules():
        if path in stored.tensors:
            yield path, module
