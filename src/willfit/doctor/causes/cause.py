"""Cause: why memory ran out, how sure that is, and the arithmetic behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from willfit.doctor.report import Report

Confidence = Literal["certain", "likely", "guess"]

NAMES: Final = frozenset({
    "activations_batch_seq", "address_space", "allocator_limit", "attention_quadratic",
    "compute_buffer", "config_ignored", "config_mistake", "context_overhead",
    "corrupted_shape_bug", "cuda_graphs", "eval_accumulation", "fragmentation", "host_ram",
    "jit_overhead", "kv_cache", "leak_previous", "library_workspace", "loading_peak",
    "logits_vocab", "merge_spike", "model_too_big", "multi_gpu_imbalance", "nccl_buffers",
    "not_a_memory_problem", "not_fatal", "offload_setting", "optimizer_states", "other_process",
    "per_process_cap", "pinned_host_memory", "placement_bug", "reference_model", "resume_spike",
    "save_gather", "scheduler_split", "serving_budget", "shm", "slots_limit", "unified_memory",
    "vision_tokens", "workspace_limit", "unknown",
})  # fmt: skip
"""The causes that a diagnosis may give; additions only."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why memory ran out."""

    name: str
    """One of `NAMES`."""
    confidence: Confidence
    """``certain``: the text says it; ``likely``: its numbers or frames do; ``guess``: it is what
    remains."""
    evidence: tuple[str, ...] = ()
    """Sentences, each with the number or the words that led here."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"not a cause: {self.name!r}")

    def with_also(self, *sentences: str) -> Cause:
        """The same with further evidence, none of it twice."""
        every = dict.fromkeys((*self.evidence, *sentences))
        return replace(self, evidence=tuple(sentence for sentence in every if sentence))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of evidence.

        RULE = Rule(name="shm", mechanism="SIGBUS is what …", find=_find)

    ``find`` is a pure function; it gives None where the report has no evidence of its kind.
    """

    name: str
    mechanism: str
    """Why the evidence means what it is said to mean, in one sentence."""
    find: Callable[[Report], Cause | None]


def certain(name: str, *evidence: str) -> Cause:
    """A cause that the text itself names."""
    return Cause(name=name, confidence="certain", evidence=tuple(filter(None, evidence)))


def likely(name: str, *evidence: str) -> Cause:
    """A cause that numbers or frames lead to."""
    return Cause(name=name, confidence="likely", evidence=tuple(filter(None, evidence)))


def guess(name: str, *evidence: str) -> Cause:
    """What remains, or one of several that remain."""
    return Cause(name=name, confidence="guess", evidence=tuple(filter(None, evidence)))
