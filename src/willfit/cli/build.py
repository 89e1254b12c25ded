"""From parsed settings to a Scenario: merge ``--from``, refuse contradictions, resolve names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from willfit.cli.checks import refuse_contradictions, refuse_values
from willfit.cli.data import Data, data_notes, read_data
from willfit.cli.options import INFERENCE_ONLY
from willfit.cli.values import engine_of, parse_max_memory, parse_quantize
from willfit.dtypes import DType, parse_dtype
from willfit.errors import InputError
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED, parse_stack
from willfit.units import parse_bytes


@dataclass(frozen=True, kw_only=True)
class Request:
    """A scenario as asked for, with what else the user said."""

    scenario: Scenario
    dtypes: tuple[str, ...] | None
    """Rows of the dtype table; None is the usual ones."""
    workload_given: bool
    """Whether any setting of a workload was given (else the table is what people want)."""
    assumptions: tuple[str, ...]
    ignored_settings: tuple[str, ...]
    unsupported: tuple[str, ...] = ()
    """What makes the number untrustworthy before anything is computed."""
    data: Data | None = None
    """The user's samples, where ``--lengths`` gave them."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Lines for the report by topic."""


Finding = Callable[[str], ModelSpec]
"""What a model's name means, where that is not for `resolve` to say."""


def build_request(arguments: argparse.Namespace, *, finding: Finding | None = None) -> Request:
    """Scenario of the parsed arguments; raises `InputError` on contradictions.

    ``finding`` replaces the usual sources of models, which read this disk.
    """
    options, ignored, assumptions = _merged(arguments)
    refuse_contradictions(options)
    model = _model(options, finding)
    machine, machine_assumptions = _machine(options)
    refuse_values(options, model, machine)
    data = read_data(options, model)
    workload = _workload(options, model, data)
    given = _workload_given(options)
    unsupported: list[str] = []
    unknown = model.architecture is None and workload.inference is not None and not given
    if unknown and not options.get("trace"):
        workload = Workload(loading=workload.loading)
        traced = "--trace runs its real code, with willfit[trace]; "
        said = (
            f"loading only: the formulas do not know the activations of {model.model_class} "
            f"({traced if model.library == 'transformers' else ''}--task load asks for that alone)"
        )
        (assumptions if machine is None else unsupported).append(said)
    if model.library == "gguf" and workload.inference is not None and not options.get("engine"):
        assumptions.append("engine llama.cpp: transformers would dequantise a GGUF file on loading")
    scenario = Scenario(
        model=model,
        workload=workload,
        machine=machine,
        stack=Stack(
            versions={**TESTED, **parse_stack(options.get("stack") or "")},
            alloc_conf=options.get("alloc_conf") or "",
        ),
    )
    return Request(
        scenario=scenario,
        dtypes=tuple(options["dtypes"]) if options.get("dtypes") else None,
        workload_given=given,
        assumptions=(
            *assumptions,
            *(data.read.assumptions if data is not None else ()),
            *machine_assumptions,
        ),
        ignored_settings=tuple(ignored),
        unsupported=tuple(unsupported),
        data=data,
        notes=data_notes(data, workload.training) if data and workload.training else {},
    )


def _merged(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[str]]:
    """Flags over settings of files; a file never overrides what was typed."""
    typed = {name: value for name, value in vars(arguments).items() if value is not None}
    merged: dict[str, Any] = {}
    ignored: list[str] = []
    assumptions: list[str] = []
    for source in (typed.pop("from_", None), typed.pop("peft_config", None)):
        if source is None:
            continue
        from willfit.settings import read_settings

        settings = read_settings(source)
        flags = dict(settings.flags)
        if settings.model is not None:
            flags.setdefault("model", settings.model)
        merged.update(flags)
        ignored.extend(settings.ignored)
        assumptions.extend(settings.assumptions)
    merged.update(typed)
    if typed.get("batch_size") is not None and "per_device_train_batch_size" not in typed:
        merged.pop("per_device_train_batch_size", None)  # the flag is another name for it
    if merged.get("lora_r") is not None and merged.get("train") is None:
        merged["train"] = (
            "qlora" if merged.get("quantize", "").startswith(("nf4", "fp4")) else "lora"
        )
        if "lora_r" in typed:
            raise InputError("--lora-r is a training setting: add --train lora or --train qlora")
    return merged, ignored, assumptions


def _workload_given(options: Mapping[str, Any]) -> bool:
    inference = (
        "batch_size",
        "padded",
        "attn",
        "quantize",
        "dtype",
        "sdpa_kernel",
        *INFERENCE_ONLY,
    )
    return bool(options.get("train")) or any(options.get(name) is not None for name in inference)


def _model(options: Mapping[str, Any], finding: Finding | None) -> ModelSpec:
    from willfit.sources.heads import with_auto_class
    from willfit.sources.resolve import resolve

    name = options.get("model")
    if not name:
        raise InputError(
            "no model given: name one, for example 'willfit estimate meta-llama/Meta-Llama-3-8B'"
        )
    if finding is not None:
        spec = finding(name)
    else:
        spec = resolve(
            name,
            library_name=options.get("library_name"),
            revision=options.get("revision"),
            trust_remote_code=bool(options.get("trust_remote_code")),
        )
    return with_auto_class(spec, options.get("auto_class"), options.get("num_labels"))


def _machine(options: Mapping[str, Any]) -> tuple[Machine | None, tuple[str, ...]]:
    in_use = parse_bytes(options["in_use"]) if options.get("in_use") else 0
    if options.get("live"):
        return _live_machine(options)
    if not options.get("gpu"):
        for name in ("reserve", "in_use", "strategy"):
            if options.get(name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} needs --gpu: name the GPU, such as T4"
                )
        return None, ()
    from willfit.devices import parse_machine

    parsed = parse_machine(options["gpu"])
    machine = Machine(
        gpus=parsed.gpus,
        in_use_bytes=(in_use,) * len(parsed.gpus),
        reserve_bytes=_amount(options, "reserve") or 0,
        ram_bytes=_amount(options, "ram"),
        disk_bytes=_amount(options, "disk"),
    )
    return machine, parsed.assumptions


def _live_machine(options: Mapping[str, Any]) -> tuple[Machine, tuple[str, ...]]:
    from willfit.live.nvml import live_gpus

    found = live_gpus()
    machine = Machine(
        gpus=tuple(live.gpu for live in found),
        in_use_bytes=tuple(live.used_bytes for live in found),
        reserve_bytes=_amount(options, "reserve") or 0,
        ram_bytes=_amount(options, "ram"),
        disk_bytes=_amount(options, "disk"),
    )
    return machine, ("GPUs and memory in use are those of this machine, read through NVML",)


def _amount(options: Mapping[str, Any], name: str) -> int | None:
    return parse_bytes(options[name]) if options.get(name) else None


def _dtype(options: Mapping[str, Any], name: str) -> DType | None:
    return parse_dtype(options[name]) if options.get(name) else None


def _workload(options: Mapping[str, Any], spec: ModelSpec, data: Data | None) -> Workload:
    loading = Loading(
        dtype=_loading_dtype(options),
        quantization=_quantization(options, spec),
        auto_class=options.get("auto_class"),
        num_labels=options.get("num_labels"),
        max_memory=parse_max_memory(options["max_memory"]) if options.get("max_memory") else None,
        strategy=options.get("strategy"),
        trust_remote_code=bool(options.get("trust_remote_code")),
    )
    if options.get("task") == "load":
        return Workload(loading=loading)
    if options.get("train"):
        return Workload(loading=loading, training=_training(options, data))
    return Workload(loading=loading, inference=_inference(options, spec))


def _loading_dtype(options: Mapping[str, Any]) -> DType | None:
    dtype = _dtype(options, "dtype")
    if dtype is not None and not dtype.is_floating:
        raise InputError(
            f"--dtype {dtype.name} is not a type to load in: use float32, float16 or bfloat16, "
            "and --quantize int8 or nf4 for fewer bits"
        )
    return dtype


def _quantization(options: Mapping[str, Any], spec: ModelSpec) -> Quantization | None:
    text = options.get("quantize")
    if text is None and options.get("train") == "qlora":
        text = None if _stored_for_qlora(spec) else "nf4"
    if text is None:
        return None
    return parse_quantize(
        text,
        compute_dtype=options.get("bnb_4bit_compute_dtype"),
        skip_modules=options.get("llm_int8_skip_modules"),
    )


def _stored_for_qlora(spec: ModelSpec) -> bool:
    """Whether the checkpoint is what ``--train qlora`` trains on; raises on another kind."""
    if spec.quantization is None:
        return False
    if not spec.quantization.method.startswith("bitsandbytes"):
        raise InputError(
            f"--train qlora loads 4-bit weights with bitsandbytes, and {spec.id} is stored in "
            f"{spec.quantization.method}: use --train lora, or name the original"
        )
    return True


def _inference(options: Mapping[str, Any], spec: ModelSpec) -> Inference:
    context, new = options.get("context"), options.get("max_new_tokens")
    if context is not None and new is not None and new > context:
        raise InputError(
            f"--max-new-tokens {new} is more than --context {context}: that is prompt + new tokens"
        )
    return Inference(
        batch_size=options.get("batch_size") or 1,
        context_len=context,
        max_new_tokens=new,
        padded=bool(options.get("padded")),
        kv_dtype=_dtype(options, "kv_dtype"),
        cache=options.get("cache") or "dynamic",
        use_cache=options.get("use_cache") is not False,
        attn=options.get("attn"),
        engine=engine_of(options, spec),
        full_logits=bool(options.get("full_logits")),
        prefill_chunk_size=options.get("prefill_chunk_size"),
        sdpa_kernel=options.get("sdpa_kernel"),
        lora=_lora_to_run(options["adapter"]) if options.get("adapter") else None,
        merge_adapter=bool(options.get("merge_adapter")),
    )


def _lora_to_run(path: str) -> Lora:
    """The LoRA of an ``adapter_config.json``; raises `InputError` on another method."""
    from willfit.settings import read_settings

    flags = read_settings(path).flags
    if "lora_r" not in flags:
        raise InputError(
            f"{path[:200]} is no adapter_config.json of a LoRA: --adapter runs a LoRA adapter"
        )
    return _lora(flags)


def _training(options: Mapping[str, Any], data: Data | None) -> Training:
    adapter = options.get("adapter_config")
    return Training(
        method=options["train"],
        trainer=options.get("trainer") or "transformers",
        lora=_lora(options) if options["train"] != "full" and not adapter else None,
        adapter_config=adapter,
        prepare_kbit=options.get("prepare_kbit"),
        optimizer=options.get("optim"),
        micro_batch_size=options.get("per_device_train_batch_size") or options.get("batch_size"),
        gradient_accumulation_steps=options.get("gradient_accumulation_steps") or 1,
        max_length=options.get("max_length"),
        lengths=data.lengths.sample() if data is not None else (),
        padded=bool(options.get("padded")),
        packing=bool(options.get("packing")),
        gradient_checkpointing=options.get("gradient_checkpointing"),
        use_reentrant=options.get("use_reentrant"),
        bf16=options.get("bf16"),
        fp16=options.get("fp16"),
        max_grad_norm=options["max_grad_norm"] if options.get("max_grad_norm") is not None else 1.0,
        use_liger_kernel=bool(options.get("use_liger_kernel")),
        attn=options.get("attn"),
        sdpa_kernel=options.get("sdpa_kernel"),
        offload_activations=bool(options.get("activation_offloading")),
        freeze=tuple(options.get("freeze") or ()),
        group_by_length=bool(options.get("group_by_length")),
    )


def _lora(options: Mapping[str, Any]) -> Lora:
    targets = options.get("lora_target_modules")
    return Lora(
        r=options.get("lora_r") or 8,
        target_modules=tuple([targets] if isinstance(targets, str) else targets)
        if targets
        else None,
        dropout=options.get("lora_dropout") or 0.0,
        modules_to_save=tuple(options.get("modules_to_save") or ()),
        use_dora=bool(options.get("use_dora")),
    )
