"""Inference: prefill, decoding and plain forward passes."""

from __future__ import annotations

from willfit.formulas.inference.phases import inference_phases

__all__ = ["inference_phases"]
