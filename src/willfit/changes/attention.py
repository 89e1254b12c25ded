"""Attention: the implementation, and the kernel of SDPA."""

from __future__ import annotations

from functools import partial
from typing import Final

from willfit.changes.change import Change, Effort, Guard, guarded
from willfit.changes.current import (
    compute_dtype,
    context_of,
    gpus,
    implementation_of,
    lowest_sm,
    model_type,
)
from willfit.changes.edit import with_inference, with_training
from willfit.changes.guards import on_transformers, works
from willfit.dtypes import FLOAT32
from willfit.errors import InputError
from willfit.formulas.attention import AttentionShape, choose_kernel, takes_sdpa
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.training.settings import length_of
from willfit.scenario import Gpu, Scenario
from willfit.scenario.workload import SdpaKernel

WITHOUT_FLASH: Final = frozenset({
    "bloom", "convnext", "deberta-v2", "deepseek_v32", "deepseek_v4", "falcon_mamba", "gpt_oss",
    "glm_moe_dsa", "idefics", "llama4", "llama4_text", "mamba", "mamba2", "mllama", "mpnet", "mpt",
    "mt5", "sam", "swin", "t5",
})  # fmt: skip
"""Model types of the catalogue whose class takes no FlashAttention-2 (transformers 5.23, classes
without ``_supports_flash_attn``; gpt_oss has sinks, which version 2 does not know)."""
WITHOUT_SDPA: Final = frozenset({
    "bloom", "convnext", "deberta-v2", "deepseek_v4", "falcon_mamba", "gemma2", "gpt_neo",
    "gpt_oss", "gptj", "mamba", "mamba2", "mimo_v2_flash", "mpnet", "mpt",
})  # fmt: skip
"""The same without ``_supports_sdpa``."""


def _attn(name: str, scenario: Scenario) -> Scenario:
    change = with_training if scenario.workload.training is not None else with_inference
    return change(scenario, attn=name)


def _from(*names: str) -> Guard:
    """Only from these implementations."""

    def guard(scenario: Scenario) -> str | None:
        now = implementation_of(scenario)
        return None if now in names else f"attention is {now}"

    return guard


def _has_sdpa(scenario: Scenario) -> str | None:
    architecture = scenario.model.architecture
    lacks = architecture is not None and not takes_sdpa(architecture, scenario.stack)
    known = architecture is not None and bool(architecture.sdpa_releases)
    if lacks or (not known and model_type(scenario) in WITHOUT_SDPA):
        return f"{scenario.model.model_class} has no SDPA path"
    return None


def _takes_flash(scenario: Scenario) -> str | None:
    sm, dtype = lowest_sm(scenario), compute_dtype(scenario)
    if sm < 80 or any(gpu.vendor != "nvidia" for gpu in gpus(scenario)):
        return "flash-attn needs an NVIDIA GPU of compute capability 8.0"
    if dtype is FLOAT32:
        return "flash-attn runs in 16 bit and products are float32"
    architecture = scenario.model.architecture
    if model_type(scenario) in WITHOUT_FLASH or (architecture and architecture.relative_bias):
        return f"{scenario.model.model_class} takes no FlashAttention-2"
    groups = (*architecture.layers, *architecture.encoder_layers) if architecture else ()
    heads = [g.attention for g in groups if g.attention is not None]
    if not heads:
        return "the model has no softmax attention that the formulas know"
    if any(max(head.head_dim, head.v_head_dim) > 256 for head in heads):
        return "flash-attn takes heads of at most 256"
    return None


def _shapes(scenario: Scenario) -> list[AttentionShape]:
    """The calls of every kind of layer, over the whole length and, in decoding, of one token."""
    workload, architecture = scenario.workload, scenario.model.architecture
    if architecture is None:
        return []
    training, inference = workload.training, workload.inference
    if training is not None:
        length = new = length_of(training, scenario.model.architecture)
        masked = training.padded or (training.packing and training.trainer == "trl")
    else:
        length = new = context_of(scenario)
        masked = inference is not None and inference.padded
        if inference is not None and inference.prefill_chunk_size is not None:
            masked, new = True, min(new, inference.prefill_chunk_size)
    heads = [
        group.attention
        for group in (*architecture.layers, *architecture.encoder_layers)
        if group.attention is not None
    ]
    return [
        attention_shape(
            head,
            compute_dtype(scenario),
            batch=1,
            q_len=queries,
            kv_len=length,
            masked=masked
            or architecture.relative_bias
            or (queries > 1 and (head.window or length) < length),
            training=training is not None,
        )
        for head in heads
        for queries in ((new,) if training is not None else (new, 1))
    ]


def _runs_everywhere(kernel: SdpaKernel) -> Guard:
    """No call may be without a kernel: torch stops with "No available kernel"."""

    def guard(scenario: Scenario) -> str | None:
        shapes = _shapes(scenario)
        if not shapes:
            return "the model's attention is not known"
        taken: set[str] = set()
        for gpu in gpus(scenario) or (None,):
            for shape in shapes:
                try:
                    _choose(shape, gpu, scenario, kernel)
                except InputError as error:
                    return str(error).partition(", torch")[0].removeprefix("--sdpa-kernel ")
                taken.add(_choose(shape, gpu, scenario, None))
        return f"{kernel} is taken already" if taken == {kernel} else None

    return guard


def _choose(
    shape: AttentionShape, gpu: Gpu | None, scenario: Scenario, forced: SdpaKernel | None
) -> str:
    return choose_kernel(
        shape, implementation="sdpa", gpu=gpu, stack=scenario.stack, forced=forced
    ).name


def _free_choice(scenario: Scenario) -> str | None:
    task = scenario.workload.training or scenario.workload.inference
    forced = task.sdpa_kernel if task is not None else None
    return f"the {forced} kernel is forced" if forced is not None else None


def _force(kernel: SdpaKernel, scenario: Scenario) -> Scenario:
    change = with_training if scenario.workload.training is not None else with_inference
    return change(scenario, sdpa_kernel=kernel)


def _kernel(kernel: SdpaKernel) -> Change:
    return Change(
        id=f"sdpa_kernel={kernel}",
        setting="sdpa_kernel",
        title=f"Let SDPA run its {kernel} kernel alone (torch.nn.attention.sdpa_kernel)",
        apply=guarded(
            partial(_force, kernel), works, on_transformers, _from("sdpa"), _free_choice,
            _runs_everywhere(kernel),
        ),
    )  # fmt: skip


_KERNELS: Final[tuple[SdpaKernel, ...]] = ("flash", "efficient", "cudnn")
"""Without ``math``: torch falls back to it by itself, and it takes the most."""
KERNELS: Final = tuple(map(_kernel, _KERNELS))
ATTENTION: Final = (
    Change(
        id="attn=sdpa",
        setting="attn",
        title="Use SDPA attention instead of eager, which keeps scores of every pair",
        apply=guarded(partial(_attn, "sdpa"), works, on_transformers, _from("eager"), _has_sdpa),
    ),
    Change(
        id="attn=flash_attention_2",
        setting="attn",
        title="Use FlashAttention-2 (pip install flash-attn)",
        apply=guarded(
            partial(_attn, "flash_attention_2"), works, on_transformers, _from("eager", "sdpa"),
            _free_choice, _takes_flash,
        ),
        effort=Effort.INSTALL,
    ),
)  # fmt: skip
