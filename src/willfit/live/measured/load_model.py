"""The real model by ``from_pretrained``, with random weights in place of a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from willfit.errors import InputError, UnsupportedError
from willfit.estimator.outcome import uses_device_map
from willfit.scenario import Scenario
from willfit.scenario.workload import Lora, Quantization

SPREAD: Final = 0.02
"""Standard deviation of the weights, as most configs' ``initializer_range``."""
PERIOD: Final = 1 << 22
"""Values that are drawn for a buffer."""


def load_model(
    scenario: Scenario, device: str, config: Mapping[str, Any], checkpoint: str | None = None
) -> Any:
    """The class that the scenario names, as ``from_pretrained`` loads it.

    ``config``: the model's facts, perhaps of a smaller one. ``checkpoint``: a folder to load from;
    without, ``from_pretrained`` is given tensors of random values that share one buffer in host
    memory, which copies them as fast as the bus goes.
    """
    import torch
    import transformers

    spec, loading = scenario.model, scenario.workload.loading
    cls = getattr(transformers, spec.model_class, None)
    if cls is None:
        raise UnsupportedError(
            f"transformers {transformers.__version__} has no class {spec.model_class}"
        )
    facts = {key: value for key, value in config.items() if key != "quantization_config"}
    settings = transformers.AutoConfig.for_model(**facts)
    if loading.num_labels is not None:
        settings.num_labels = loading.num_labels
    if getattr(settings, "pad_token_id", None) is None:
        settings.pad_token_id = 0
    dtype = _dtype(scenario, settings)
    arguments: dict[str, Any] = {"dtype": dtype}
    task = scenario.workload.inference or scenario.workload.training
    if task is not None and task.attn is not None:
        arguments["attn_implementation"] = task.attn
    if loading.quantization is not None:
        arguments["quantization_config"] = bitsandbytes_config(loading.quantization)
    on_device = uses_device_map(scenario) or loading.quantization is not None
    if on_device:
        arguments["device_map"] = {"": 0 if device == "cuda" else device}
    if checkpoint is not None:
        model = cls.from_pretrained(checkpoint, **arguments)
    else:
        tensors = random_tensors(cls, settings, dtype, shared=device == "cuda")
        model = cls.from_pretrained(None, config=settings, state_dict=tensors, **arguments)
    if device == "cuda" and not on_device:
        model = model.to(torch.device("cuda"))
    return model


def _dtype(scenario: Scenario, settings: Any) -> Any:
    """The type asked for, else the checkpoint's."""
    import torch

    asked = scenario.workload.loading.dtype
    if asked is not None:
        return getattr(torch, asked.name)
    return getattr(settings, "dtype", None) or torch.float32


def random_tensors(cls: Any, settings: Any, dtype: Any, *, shared: bool) -> dict[str, Any]:
    """A state dict of random values by the names of the model; ``shared``: of one buffer."""
    import torch

    with torch.device("meta"):
        model = cls(settings)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    empty = {name: value for name, value in model.state_dict().items() if name not in tied}
    longest = max(tensor.numel() for tensor in empty.values())
    buffer = _buffer(longest, dtype) if shared else None
    return {name: _values(tensor, dtype, buffer) for name, tensor in empty.items()}


@lru_cache(maxsize=2)
def _buffer(count: int, dtype: Any) -> Any:
    """Pinned random values, in which the first `PERIOD` repeat: drawing them takes time."""
    import torch

    buffer = torch.empty(-(-count // PERIOD) * PERIOD, dtype=dtype, pin_memory=True)
    drawn = torch.empty(PERIOD, dtype=torch.float32).normal_(std=SPREAD).to(dtype)
    buffer.view(-1, PERIOD).copy_(drawn.expand(buffer.numel() // PERIOD, PERIOD))
    return buffer


def _values(like: Any, dtype: Any, buffer: Any) -> Any:
    import torch

    if not like.dtype.is_floating_point:
        return torch.zeros(like.shape, dtype=like.dtype)
    if buffer is None:
        return torch.empty(like.shape, dtype=dtype).normal_(std=SPREAD)
    return buffer[: like.numel()].view(like.shape)


def bitsandbytes_config(quantization: Quantization) -> Any:
    """``BitsAndBytesConfig`` of the scenario's quantisation."""
    import torch
    import transformers

    skip = list(quantization.skip_modules) if quantization.skip_modules is not None else None
    make: Any = transformers.BitsAndBytesConfig
    if quantization.scheme == "int8":
        return make(load_in_8bit=True, llm_int8_skip_modules=skip)
    compute = quantization.compute_dtype
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.scheme,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, compute.name) if compute is not None else None,
        llm_int8_skip_modules=skip,
    )


def with_lora(model: Any, lora: Lora, *, sequence_classification: bool = False) -> Any:
    """PEFT's model around ours."""
    import peft
    import torch

    targets: Any = list(lora.target_modules) if lora.target_modules is not None else None
    if targets == ["all-linear"]:
        targets = "all-linear"
    kind = peft.TaskType.SEQ_CLS if sequence_classification else peft.TaskType.CAUSAL_LM
    settings = peft.LoraConfig(
        r=lora.r,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(lora.modules_to_save) or None,
        use_dora=lora.use_dora,
        task_type=kind,
    )
    try:
        adapted: Any = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise InputError(f"PEFT refuses this adapter: {str(error)[:200]}") from error
    if lora.dtype is not None:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, lora.dtype.name))
    return adapted
