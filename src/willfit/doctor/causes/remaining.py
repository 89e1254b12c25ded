"""Remaining: what is left to say where nothing more telling stands in the text."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, guess, likely
from willfit.doctor.causes.numbers import CONTEXT, Numbers, worked_out
from willfit.doctor.causes.words import DEVICES, TRAINING, has, in_frames, is_of, says
from willfit.doctor.report import Report
from willfit.units import GIB, MIB

POOLED: Final = 64 * MIB
"""XLA takes three quarters of the card at its start: a request below this that fails never had a
pool to come from."""
MARGIN: Final = GIB // 2
"""A driver keeps pieces back and rounds: less than this between free and asked for proves
nothing."""
ONE_LAYER: Final = GIB // 2
"""A layer's keys and values for a batch of long contexts are below this; logits and scores of a
long prompt are above."""
LARGE: Final = 4
"""A quarter of the card in one tensor."""
MOST: Final = 0.9
SEGMENT: Final = 20 * MIB
"""What the allocator takes at once for tensors of 1 to 10 MiB."""
_CUT: Final = re.compile(r"GPU ?$")
_LAYER: Final = re.compile(r"torch/nn/(?:functional|modules/(?!module\.py))|modeling_")
_EARLY: Final = re.compile(r"torch (?:0|1\.[0-3])")


def _find(report: Report) -> Cause | None:
    if is_of(report, "jax", "tensorflow", "paddle", "mlx", "accelerate"):
        return _framework(report)
    if not is_of(report, *DEVICES):
        return None
    return _room(report) or _full(report)


def _framework(report: Report) -> Cause:
    tried = Numbers(report).tried
    if is_of(report, "jax") and tried and tried < POOLED:
        return likely(
            "other_process",
            f"Only {amount(tried)} were refused: XLA takes 75 % of the "
            "card when it starts, so that another process or library had it "
            "before.",
        )
    size = f"{amount(tried)} were refused: one buffer of the program." if tried else ""
    return guess(
        "activations_batch_seq",
        size,
        "What a program's buffers grow with is the batch and the length.",
    )


def _room(report: Report) -> Cause | None:
    """F well above X and no cap: not a shortage that the numbers explain."""
    numbers = Numbers(report)
    tried, free = numbers.tried, numbers.free
    if not tried or free is None or free < tried + MARGIN:
        return None
    text = worked_out(free, ("−", tried, "asked for"))
    return guess(
        "unknown",
        f"{text} would have been left: the device had room, so that this is a "
        "limit of the driver or of one buffer, not the sum.",
    )


def _full(report: Report) -> Cause:
    numbers = Numbers(report)
    allocated, total, tried = numbers.allocated, numbers.total, numbers.tried or 0
    stage = report.context.stage
    if allocated is None or not total:
        return _numberless(report)
    text = f"{amount(allocated)} of {amount(total)} is in live tensors of this process"
    text += f", and {amount(tried)} more were asked for" if tried else ""
    if stage == "generate" and tried <= ONE_LAYER and not has(report, "diffusion"):
        return guess("kv_cache", f"{text}, while generating: the cache grows with every token.")
    if stage in ("generate", "inference") and has(report, "vision") and tried * LARGE > total:
        return guess("vision_tokens", f"{text} at once, with images in the prompt: each becomes as "
                     "many tokens as its pixels give.")  # fmt: skip
    if stage == "inference" and allocated >= MOST * total:
        return guess("model_too_big", f"{text}. Inference keeps nothing for a backward pass: what "
                     "lives on is weights.")  # fmt: skip
    if stage in TRAINING:
        return likely("activations_batch_seq", f"{text}, in {stage}: what training keeps for the "
                      "backward pass grows with batch × length.")  # fmt: skip
    if in_frames(report, _LAYER):
        return likely("activations_batch_seq", f"{text}.", "It failed inside the model's "
                      "computation, where tensors are as large as batch × length.")  # fmt: skip
    if _nothing_freed(numbers):
        return guess("model_too_big", f"{text}, and nothing that was freed is cached: placing "
                     "weights frees nothing, a pass through the model does.", "If it fails in the "
                     "middle of training, it is the batch.")  # fmt: skip
    return guess("activations_batch_seq", f"{text}.", "Without a traceback these numbers do not "
                 "tell weights from activations: if it fails with a batch of one too, it is the "
                 "weights.")  # fmt: skip


def _nothing_freed(numbers: Numbers) -> bool:
    """All but a context is in tensors, and what is cached is no more than a segment's end."""
    allocated, unallocated, total = numbers.allocated, numbers.unallocated, numbers.total
    outside = numbers.outside
    if allocated is None or unallocated is None or outside is None or not total:
        return False
    return unallocated <= SEGMENT and outside <= CONTEXT and allocated >= MOST * total


def _numberless(report: Report) -> Cause:
    stage = report.context.stage
    worked = stage in TRAINING or stage in ("inference", "generate", "serve-run")
    worked = worked or bool(in_frames(report, _LAYER))
    if worked or has(report, "late_step"):
        return guess(
            "activations_batch_seq",
            "It failed at work, not at load: what grows there is the batch and the length.",
        )
    if is_of(report, "pytorch-legacy") or _EARLY.match(report.release):
        return guess(
            "activations_batch_seq",
            "Models of that time took a small part of a card; batches filled it.",
        )
    if (Numbers(report).tried or 0) > GIB:
        return guess(
            "activations_batch_seq", f"One tensor of {amount(Numbers(report).tried or 0)}."
        )
    if is_of(report, "cublas"):
        return guess(
            "activations_batch_seq",
            "cuBLAS makes its handle at the first product of matrices, and one more in the thread "
            "of the backward pass, beside all that PyTorch holds by then: the batch's tensors on "
            "top of the weights.",
        )
    cut = "The message is cut off" if "cut_off" in report.marks or says(report, _CUT) else ""
    cut = cut or "The message has no numbers"
    return guess("unknown", f"{cut}, and no frame tells what was running.")


RULE: Final = Rule(
    name="what remains",
    mechanism="A card full of one process's tensors, at work, is full of what the batch needs.",
    find=_find,
)
