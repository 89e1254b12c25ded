"""Losses that never hold all logits: Liger's kernels and TRL's head, by their own patching."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from willfit.errors import UnsupportedError
from willfit.formulas.training.settings import TrainingSettings
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import Training
from willfit.trace.cuda import triton
from willfit.trace.cuda.kernels import replaced


@contextmanager
def fused_losses(
    model: torch.nn.Module,
    training: Training,
    settings: TrainingSettings,
    gpu: Gpu | None,
    assumptions: list[str],
) -> Iterator[dict[str, Any]]:
    """The model as the trainer patched it, and what it is called with besides the batch.

    Raises `UnsupportedError` naming what to install where a library is missing.
    """
    trl = training.trainer == "trl" and settings.chunked_loss and _is_causal(model)
    with ExitStack() as stack:
        if training.use_liger_kernel:
            _require("liger_kernel", "liger-kernel", "--use-liger-kernel")
            stack.enter_context(_restored(model))
            stack.enter_context(replaced(triton.launches()))
            stack.enter_context(replaced(triton.liger(gpu)))
            assumptions.append(_liger_note(model))
            _apply_liger(model, fused_head=not trl)
        if trl:
            _require("trl", "trl", "--trainer trl")
            assumptions.append("every token has a label (TRL scores those alone)")
            if not training.use_liger_kernel:
                stack.enter_context(replaced(triton.launches()))
            stack.enter_context(replaced(triton.chunked_logprob()))
            utils: Any = importlib.import_module("trl.trainer.utils")
            stack.enter_context(replaced([(utils, "_use_triton", _all_positions)]))
            # as SFTTrainer does (trainer/sft_trainer.py)
            utils.add_fused_lm_head(_base(model), outputs=("log_probs", "entropy", "is_top1"))
        yield {"fused_lm_head": True} if trl else {}


def _require(module: str, package: str, asked: str) -> None:
    """The library itself, and Triton, whose kernels are not run but looked at."""
    for name, install in ((module, package), ("triton", "triton")):
        if importlib.util.find_spec(name) is None:
            raise UnsupportedError(
                f"{asked} is traced with {package}, which lacks {name} here: pip install "
                f"{install}, or leave --trace out for the formulas' estimate"
            )


def _is_causal(model: torch.nn.Module) -> bool:
    return type(_base(model)).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _base(model: Any) -> Any:
    return getattr(model, "get_base_model", lambda: model)()


@contextmanager
def _restored(model: torch.nn.Module) -> Iterator[None]:
    """Liger also patches the module that the class is from, for every model of the process."""
    owner = sys.modules[type(_base(model)).__module__]
    before = dict(vars(owner))
    try:
        yield
    finally:
        for name in set(vars(owner)) - set(before):
            delattr(owner, name)
        vars(owner).update(before)


def _apply_liger(model: torch.nn.Module, *, fused_head: bool) -> None:
    """As the Trainer does; TRL leaves the head to its own."""
    patch: Any = importlib.import_module("transformers.integrations.liger").apply_liger_kernel
    patch(model, None if fused_head else {"fused_linear_cross_entropy": False})


def _liger_note(model: torch.nn.Module) -> str:
    patch: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
    kind = str(getattr(_base(model), "config", None) and _base(model).config.model_type)
    if kind not in patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"Liger has no kernels for {kind}: the model runs as it is"
    return "Liger's norms: weight gradients summed in one row, not one a multiprocessor (a few MiB)"


def _all_positions(_: torch.device) -> bool:
    """Which positions have labels is a value; with all of them no rows are picked."""
    return False
