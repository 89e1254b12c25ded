"""Moments: steps of a job that need memory once, as the frames tell them."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import DEVICES, has, in_frames, is_of, near
from willfit.doctor.report import Report

_GATHERED: Final = re.compile(
    r"nested_concat|pad_across_processes|gather_for_metrics|distributed_concat|\|gather\|"
    r"|torch\.cat\(\S{0,20}(?:preds|logits|outputs)"
)
_STATE: Final = re.compile(
    r"clone\(\) tensor with name|full_state_dict|_optim_state_dict|consolidated_16bit"
    r"|get_state_dict|state_dict\(|save_model_and|_unshard|summon_full_params"
)
_LOADED: Final = re.compile(r"load_optimizer|torch\.load|load_state_dict|wake_up|_load_from")


def _find(report: Report) -> Cause | None:
    if not is_of(report, *DEVICES, "vllm-cumem"):
        return None
    return _resume(report) or _wake_up(report) or _MOMENTS.get(report.context.stage, _none)(report)


def _resume(report: Report) -> Cause | None:
    loads = in_frames(report, _LOADED) or report.context.stage == "resume"
    if not loads or not has(report, "resumed"):
        return None
    wakes = "the serving engine in the same process wants the memory back that it gave up"
    second = f"At the same time {wakes}." if has(report, "sleep_mode") else ""
    return likely(
        "resume_spike",
        "It failed while resuming: the optimizer's states of the checkpoint come beside the model.",
        second,
    )


def _wake_up(report: Report) -> Cause | None:
    if not is_of(report, "vllm-cumem"):
        return None
    return guess(
        "serving_budget",
        "The engine maps its memory again, which it gave up to sleep, and since then something "
        "else holds a part of it: training in the same process, or its cached blocks.",
        "Empty the other's cache before it wakes, or lower the engine's fraction.",
    )


def _optimizer(report: Report) -> Cause | None:
    states = (
        "The first step makes two states in float32 for each trained parameter, and the list "
        "(foreach) kernels a temporary as large as one of them"
    )
    return likely("optimizer_states", f"It failed in the optimizer's step. {states}.", _sum(report))


def _evaluation(report: Report) -> Cause | None:
    found = in_frames(report, _GATHERED)
    if not found:
        return None
    return likely(
        "eval_accumulation",
        f"It failed in `{found}`: evaluation keeps every batch's "
        "logits on the GPU until it ends, rows × vocabulary.",
    )


def _save(report: Report) -> Cause | None:
    found = in_frames(report, _STATE) or near(report, _STATE)
    if not found:
        return None
    return likely(
        "save_gather",
        f"It failed while saving (`{found}`): the whole state is gathered "
        "on the GPU beside the shard that training keeps.",
        _sum(report),
    )


def _merge(report: Report) -> Cause | None:
    return likely(
        "merge_spike",
        "It failed while an adapter was merged: a dense copy of each weight is made beside it.",
        _sum(report),
    )


def _none(report: Report) -> Cause | None:
    return None if report.family else certain("unknown")


def _sum(report: Report) -> str:
    numbers = Numbers(report)
    allocated, tried, total = numbers.allocated, numbers.tried, numbers.total
    if allocated is None or not tried or not total:
        return ""
    return f"{worked_out(allocated, ('+', tried, 'asked for'))} of {amount(total)}."


_MOMENTS: Final = {
    "optimizer-step": _optimizer,
    "eval": _evaluation,
    "save": _save,
    "merge": _merge,
}

RULE: Final = Rule(
    name="moments",
    mechanism="What a job needs once (states, a gathered checkpoint, merged weights) it needs "
    "beside everything that it already holds.",
    find=_find,
)
