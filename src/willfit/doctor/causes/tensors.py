"""Tensors: which one was asked for, as frames, shapes and sizes tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, likely
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.causes.words import in_frames, near
from willfit.doctor.report import Report
from willfit.units import GIB

WIDTHS: Final = {
    "float": 4, "float32": 4, "half": 2, "float16": 2, "bfloat16": 2, "double": 8, "float64": 8,
    "int32": 4, "int64": 8, "bool": 1, "int8": 1, "uint8": 1,
}  # fmt: skip
"""Bytes of an element by TensorFlow's names."""
_LOGITS: Final = re.compile(
    r"_convert_to_fp32|convert_to_fp32|lm_head|cross_entropy|log_softmax|logits|logprobs|log_probs"
    r"|selective_log_softmax|CrossEntropyLoss|ForCausalLMLoss|nll_loss"
)
_SCORES: Final = re.compile(
    r"softmax\(.{0,40}(?:attn|scores)|attn_weights\s*=|attention_scores\s*=|attention_probs"
    r"|matmul\(\s*q\w*\s*,\s*k|baddbmm|einsum\(.{0,20}q"
)
_ATTENTION: Final = re.compile(r"scaled_dot_product_attention|unfused_attention|math_attention")
WHOLE_SCORES: Final = 8 * GIB
"""Without its scores attention needs its output alone, rows × width × 2 B: 2²⁰ rows of 4,096 are
8 GiB."""
_CACHE: Final = re.compile(
    r"past_key_value|DynamicCache|cache_utils|StaticCache|contrastive_search|key_cache"
    r"|torch\.cat\(\[(?:self\.)?(?:past_|layer_past|key)"
)
_VISION: Final = re.compile(r"vision_tower|visual\.|pixel_values|image_embeds|VisionTransformer")
_MODEL_COPY: Final = re.compile(r"flatten_dense_tensors|flat_param|_flatten")


def _find(report: Report) -> Cause | None:
    shape = report.fields.get("shape")
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        return _by_shape(report, shape)
    return _by_frames(report)


def _by_shape(report: Report, shape: Sequence[Any]) -> Cause | None:
    """``[B, H, S, S]`` is attention's whole matrix; other shapes are a batch's tensors."""
    extents = [extent for extent in shape if isinstance(extent, int) and extent > 0]
    width = WIDTHS.get(str(report.fields.get("dtype", "")), 0)
    size = 1
    for extent in extents:
        size *= extent
    product = " × ".join(f"{extent:,}" for extent in extents)
    text = f"{product} × {width} B = {amount(size * width)}" if width else product
    if len(extents) >= 3 and extents[-1] == extents[-2] and extents[-1] > 1:
        return likely("attention_quadratic", f"{text}: its last two extents are the same length.")
    return likely("activations_batch_seq", f"{text}: a tensor of the batch.")


def _by_frames(report: Report) -> Cause | None:
    for name, pattern, means in _TELLING:
        found = in_frames(report, pattern)
        if found:
            return likely(name, f"It failed at `{found[:80]}`: {means}.", _asked(report))
    tried = Numbers(report).tried or 0
    if tried > WHOLE_SCORES and in_frames(report, _ATTENTION):
        return likely(
            "attention_quadratic",
            f"Attention asked for {amount(tried)} at once: batch × heads × length × length, which "
            "a flash or memory-efficient kernel never makes, and the one that ran does.",
        )
    if near(report, _CONTRASTIVE):
        return likely(
            "kv_cache",
            "Contrastive search keeps the KV cache once for each of its top k candidates.",
        )
    return None


_TELLING: Final = (
    ("logits_vocab", _LOGITS, "logits are rows × vocabulary, and the loss wants them in float32"),
    ("kv_cache", _CACHE, "the cache of keys and values grows with every token"),
    ("attention_quadratic", _SCORES, "scores are batch × heads × length × length"),
    ("vision_tokens", _VISION, "images become as many tokens as their pixels give"),
    ("loading_peak", _MODEL_COPY, "the weights are copied into one flat buffer"),
)  # fmt: skip
_CONTRASTIVE: Final = re.compile(r"contrastive_search|penalty_alpha")


def _asked(report: Report) -> str:
    numbers = Numbers(report)
    if not numbers.tried or numbers.free is None:
        return ""
    return f"{amount(numbers.tried)} were asked for, {amount(numbers.free)} was free."


RULE: Final = Rule(
    name="which tensor",
    mechanism="The innermost frame or the printed shape is the tensor that was asked for.",
    find=_find,
)
