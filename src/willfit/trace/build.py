"""The user's real model for a trace: class, types, quantised layers, adapters; no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from willfit.errors import InputError, UnsupportedError
from willfit.formulas.training.freeze import is_frozen
from willfit.formulas.training.lora import build_adapter
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import ModelSpec
from willfit.scenario.stack import release
from willfit.scenario.workload import Lora
from willfit.trace.adapters import with_adapter
from willfit.trace.cuda import flash_library
from willfit.trace.dispatch import Dispatch
from willfit.trace.quantized import (
    Stored,
    check_known,
    known_to_peft,
    quantize,
    replace_layers,
)
from willfit.trace.timm import ImageModel, build_image_model


@dataclass(kw_only=True)
class Built:
    """A model on the meta device, as its script has it before the first step."""

    model: torch.nn.Module
    """What is called: the base model, or PEFT's around it."""
    paths: dict[int, str]
    """Paths in the base model by ``id`` of the module; adapters keep its modules as they are."""
    on_host: frozenset[tuple[int, str]] = frozenset()
    """Buffers of adapters that are not on the GPU, as (``id`` of the module, name)."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted of its kernels."""
    stored: bool = False
    """Whether its checkpoint is stored quantised, by another method than bitsandbytes."""

    def base_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name in the base model, and tensor, of what loading loaded."""
        for module in self.model.modules():
            path = self.paths.get(id(module))
            if path is None:
                continue
            for local, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    yield f"{path}.{local}" if path else local, tensor


def build(
    spec: ModelSpec,
    weights: LoadedWeights,
    *,
    config: Mapping[str, Any],
    dispatch: Dispatch,
    attention: str | None,
    lora: Lora | None = None,
    adapter_config: Mapping[str, Any] | None = None,
    prepare_kbit: bool = False,
    keeps_on_host: bool = False,
    num_labels: int | None = None,
    gpu: Gpu | None = None,
    training: bool = False,
    freeze: Sequence[str] = (),
) -> Built:
    """Build the real class on the meta device, from ``config`` (perhaps with fewer layers).

    ``keeps_on_host``: nothing moves the model after its adapters were put in, as a trainer would.
    ``gpu`` and ``training`` decide which kernels multiply packed weights; modules named in
    ``freeze`` keep their weights. Raises `InputError` on a
    config that transformers refuses, `UnsupportedError` on a library or method it cannot build.
    """
    check_known(spec, weights)
    model = _base_model(spec, weights, config, attention, num_labels)
    notes = _quantize(model, spec, weights, gpu, training=training)
    rows = {name: row for row in weights.rows for name in row.row.names()}
    base = model.model if isinstance(model, ImageModel) else model
    for name, tensor in [*base.named_parameters(remove_duplicate=False), *base.named_buffers()]:
        if name in rows:
            _set_dtype(tensor, rows[name])
    dispatch.attach(base)
    paths = {id(module): path for path, module in base.named_modules()}
    on_host: frozenset[tuple[int, str]] = frozenset()
    if prepare_kbit:
        _prepare_kbit(model)
    if adapter_config is not None:
        model, paths, on_host = with_adapter(model, adapter_config)
    elif lora is not None:
        model = _with_lora(model, spec, lora)
        if not training:
            run: Any = model
            model = run.get_base_model()  # adapters are inside of it; `generate` is its own
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if is_frozen(name, freeze):
            parameter.requires_grad_(False)
    return Built(
        model=model,
        paths=paths,
        on_host=on_host if keeps_on_host else frozenset(),
        assumptions=notes,
        stored=bool(notes),
    )


_OF_LAYERS = ("out_features", "out_indices", "stage_names")
"""What a vision config names after its last layer, and fills in again for a shorter one."""


def filled_config(spec: ModelSpec) -> dict[str, Any]:
    """The config with what its class fills in, such as ``layer_types``."""
    import transformers

    if spec.library == "timm":
        return {}
    if spec.library != "transformers":
        raise UnsupportedError(
            f"the trace builds models of transformers and timm, and {spec.id} is one of "
            f"{spec.library}: leave --trace out"
        )
    facts = {key: value for key, value in spec.config.items() if key != "quantization_config"}
    try:
        filled = transformers.AutoConfig.for_model(**facts).to_dict()
    except Exception as error:  # whatever a strange config breaks
        raise InputError(
            f"transformers {transformers.__version__} cannot read the config of {spec.id}: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    return {**facts, **{key: value for key, value in filled.items() if key not in _OF_LAYERS}}


def _base_model(
    spec: ModelSpec,
    weights: LoadedWeights,
    config: Mapping[str, Any],
    attention: str | None,
    num_labels: int | None,
) -> torch.nn.Module:
    if spec.library == "timm":
        return build_image_model(spec.id)
    import transformers

    facts = {key: value for key, value in config.items() if key != "quantization_config"}
    cls = getattr(transformers, spec.model_class, None)
    if cls is None:
        raise UnsupportedError(
            f"transformers {transformers.__version__} has no class {spec.model_class}"
        )
    try:
        loaded = transformers.AutoConfig.for_model(**facts)
        if num_labels is not None:
            loaded.num_labels = num_labels
        if getattr(loaded, "pad_token_id", None) is None:
            loaded.pad_token_id = 0
        with torch.device("meta"), flash_library(attention, None):
            return _from_config(cls, loaded, getattr(torch, weights.dtype.name), attention)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever a strange config breaks in modelling code
        raise InputError(
            f"transformers {transformers.__version__} cannot build {spec.id}: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


def _from_config(
    cls: Any, config: Any, dtype: torch.dtype, attention: str | None
) -> torch.nn.Module:
    """As each release names the arguments: ``torch_dtype`` before 4.56, attention since 4.36."""
    import transformers

    version = release(transformers.__version__)
    named: dict[str, Any] = {"dtype" if version >= (4, 56) else "torch_dtype": dtype}
    if version >= (4, 36):
        named["attn_implementation"] = attention
    elif attention not in (None, "eager"):
        raise UnsupportedError(
            f"transformers {transformers.__version__} has eager attention alone, not {attention}"
        )
    return cls._from_config(config, **named)  # type: ignore[no-any-return]


def _set_dtype(tensor: torch.Tensor, row: LoadedRow) -> None:
    """What loading keeps in another type than the rest (T5's ``wo`` in float32)."""
    wanted = getattr(torch, row.dtype.name, None)
    if wanted is not None and not row.quantized and tensor.dtype != wanted:
        tensor.data = tensor.data.to(wanted)


def _quantize(
    model: torch.nn.Module,
    spec: ModelSpec,
    weights: LoadedWeights,
    gpu: Gpu | None,
    *,
    training: bool,
) -> tuple[str, ...]:
    """Layers as they are quantised while loading, or as the checkpoint stores them."""
    if weights.arithmetic is not None:
        quantize(model, weights.arithmetic)
    elif spec.quantization is not None:
        return replace_layers(
            model,
            Stored(
                spec=spec,
                quantization=spec.quantization,
                weights=weights,
                gpu=gpu,
                training=training,
            ),
        )
    return ()


def _prepare_kbit(model: torch.nn.Module) -> None:
    import peft

    prepare: Any = peft.prepare_model_for_kbit_training
    prepare(model, use_gradient_checkpointing=False)


def _with_lora(model: torch.nn.Module, spec: ModelSpec, lora: Lora) -> torch.nn.Module:
    import peft

    build_adapter(spec, lora)  # says in one sentence where no module matches
    targets: Any = list(lora.target_modules) if lora.target_modules is not None else None
    if targets == ["all-linear"]:
        targets = "all-linear"
    settings = peft.LoraConfig(
        r=lora.r,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(lora.modules_to_save) or None,
        use_dora=lora.use_dora,
        task_type=_task_type(spec),
    )
    known_to_peft(settings, model)
    with torch.device("meta"):
        adapted: Any = peft.get_peft_model(model, settings)
    if lora.dtype is not None:
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, lora.dtype.name))
    return adapted  # type: ignore[no-any-return]


def _task_type(spec: ModelSpec) -> Any:
    import peft

    if spec.model_class.endswith(("ForCausalLM", "LMHeadModel")):
        return peft.TaskType.CAUSAL_LM
    if spec.model_class.endswith("ForSequenceClassification"):
        return peft.TaskType.SEQ_CLS
    return None
