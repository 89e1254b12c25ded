"""The table that accelerate's users know: largest layer, total and training by dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from willfit.estimate import DtypeRow
from willfit.scenario import ModelSpec, Stack

DEFAULT_DTYPES: Final = ("float32", "bfloat16", "int8", "nf4")
"""Rows shown unless --dtypes asks for others; float16 takes what bfloat16 takes."""

ADAM_COPIES: Final = 4
"""Weights, gradients and two Adam states, all in the dtype of the weights: PyTorch's AdamW keeps
its states in the type of the parameter (torch/optim/adamw.py: ``torch.zeros_like(p)``)."""
