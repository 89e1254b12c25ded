"""Mixed precision as accelerate does it: autocast, outputs in float32, fp16's gradient scaler."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from willfit.dtypes import DTYPES, FLOAT16, DType
from willfit.formulas.training.settings import require_scaled


class MixedPrecision:
    """``--bf16``, ``--fp16`` or none of them, around torch's own autocast and ``GradScaler``."""

    def __init__(self, autocast: DType | None, *, accelerate: bool, scales: bool = True) -> None:
        """``accelerate``: whether outputs come back in float32 (a plain loop leaves them).

        ``scales``: whether fp16's scaler sees these gradients; FSDP's sees shards in float32.
        """
        self._dtype = getattr(torch, autocast.name) if autocast is not None else None
        self._accelerate = accelerate
        scaled = scales and autocast is FLOAT16
        self._scaler: Any = torch.amp.GradScaler("cpu") if scaled else None

    def check(self, parameters: Iterable[torch.Tensor]) -> None:
        """Refuse what the scaler refuses after the first backward."""
        if self._scaler is not None:
            require_scaled(
                DTYPES[str(parameter.dtype).removeprefix("torch.")]
                for parameter in parameters
                if parameter.requires_grad
            )

    def forward(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The model's outputs; accelerate.Accelerator.prepare_model wraps its forward so."""
        if self._dtype is None:
            return model(**batch)
        cast = torch.autocast("cpu", dtype=self._dtype)(model)
        if not self._accelerate:
            return cast(**batch)
        operations: Any = importlib.import_module("accelerate.utils.operations")
        return operations.convert_outputs_to_fp32(cast)(**batch)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss that backward starts from."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: Any) -> None:
        """Gradients divided by the scale, before they are clipped."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Any) -> None:
        """The optimizer's step, if no gradient is infinite: none is, where no value is known."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()
