"""``from_pretrained``: the auto class and its keyword arguments."""

from __future__ import annotations

from typing import Any, Final

from willfit.changes.current import dtype_of
from willfit.dtypes import FLOAT32
from willfit.emitting.call import Call, Keywords, Variable
from willfit.emitting.launch import launch
from willfit.emitting.versions import DTYPE_SINCE, require
from willfit.errors import InputError
from willfit.formulas.attention import resolve_implementation, takes_sdpa
from willfit.scenario import Quantization, Scenario, Stack

CAUSAL: Final = "AutoModelForCausalLM"
CLASSIFIER: Final = "AutoModelForSequenceClassification"
SEQ2SEQ: Final = "AutoModelForSeq2SeqLM"
_BY_ENDING: Final = {
    "ForCausalLM": CAUSAL,
    "LMHeadModel": CAUSAL,
    "ForSequenceClassification": CLASSIFIER,
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForImageClassification": "AutoModelForImageClassification",
}
WEIGHT_STAYS: Final = "quantised checkpoint: the types are its own"
REASON_DEVICE: Final = "everything on this process's one GPU"


def load_call(scenario: Scenario) -> Call:
    """``AutoModelFor….from_pretrained`` without the model's name, which comes first.

    Raises `InputError` for a model or setting that transformers of the stack cannot load.
    """
    if scenario.model.library != "transformers":
        raise InputError(
            f"{scenario.model.id} is a {scenario.model.library} model, and transformers loads "
            "it in another way: name the transformers checkpoint"
        )
    keywords = Keywords()
    _dtype(scenario, keywords)
    _quantization(scenario, keywords)
    _attention(scenario, keywords)
    _placement(scenario, keywords)
    loading = scenario.workload.loading
    if loading.num_labels is not None:
        keywords.set("num_labels", loading.num_labels, "width of the classification head")
    if loading.trust_remote_code:
        keywords.set("trust_remote_code", True, "runs code of the model's repository")
    return keywords.call("transformers", f"{auto_class(scenario)}.from_pretrained")


def auto_class(scenario: Scenario) -> str:
    """The auto class that builds the scenario's model."""
    loading, model = scenario.workload.loading, scenario.model
    if loading.auto_class is not None:
        return loading.auto_class
    if loading.num_labels is not None or model.classifier:
        return CLASSIFIER
    if model.model_class.endswith("ForConditionalGeneration"):
        encoder = model.architecture is not None and bool(model.architecture.encoder_layers)
        if model.architecture is not None and model.architecture.encoder_len is not None:
            return _SPEECH
        return SEQ2SEQ if encoder or model.config.get("is_encoder_decoder") else _IMAGE_TEXT
    for ending, name in _BY_ENDING.items():
        if model.model_class.endswith(ending):
            return name
    return "AutoModel"


_SPEECH: Final = "AutoModelForSpeechSeq2Seq"
"""Whisper's, whose encoder reads a fixed number of frames."""
_IMAGE_TEXT: Final = "AutoModelForImageTextToText"


def reads_text_alone(scenario: Scenario) -> bool:
    """Whether a tokenizer makes all of the model's inputs, as far as its config tells."""
    config = scenario.model.config
    return "vocab_size" in config and not any(key in config for key in _OTHER_INPUTS)


_OTHER_INPUTS: Final = (
    "vision_config", "audio_config", "image_size", "patch_size", "num_mel_bins", "conv_stride",
)  # fmt: skip
"""Settings of models that see or hear."""


def _dtype(scenario: Scenario, keywords: Keywords) -> None:
    name = "dtype" if scenario.stack.at_least("transformers", DTYPE_SINCE) else "torch_dtype"
    dtype = dtype_of(scenario)
    if not dtype.is_floating or dtype.block_bytes < 2:
        keywords.set(name, "auto", WEIGHT_STAYS)
        return
    if scenario.workload.loading.quantization is not None:
        reason = "of what stays unquantised"
    else:
        reason = f"{dtype.block_bytes} bytes a weight"
    keywords.set(name, dtype, reason)


def _quantization(scenario: Scenario, keywords: Keywords) -> None:
    quantization = scenario.workload.loading.quantization
    if quantization is None:
        return
    if scenario.model.quantization is not None:
        raise InputError(
            f"{scenario.model.id} is already quantised and cannot be quantised again: "
            "leave the quantisation out, or name the original"
        )
    keywords.set("quantization_config", quantization_call(scenario, quantization))


def quantization_call(scenario: Scenario, quantization: Quantization) -> Call:
    """``BitsAndBytesConfig``; the 8-bit method has no compute type and no second quantisation."""
    keywords = Keywords()
    if quantization.scheme == "int8":
        if quantization.double_quant or quantization.compute_dtype is not None:
            raise InputError(
                "int8 has no double quantisation and no compute dtype (there are no bnb_8bit_* "
                "settings): leave them out, or use nf4"
            )
        keywords.set("load_in_8bit", True, "LLM.int8: one byte a weight of linear layers")
    else:
        keywords.set("load_in_4bit", True, "half a byte a weight of linear layers")
        keywords.set("bnb_4bit_quant_type", quantization.scheme)
        compute = quantization.compute_dtype or FLOAT32
        keywords.set("bnb_4bit_compute_dtype", compute, _compute_reason(quantization))
        if quantization.double_quant:
            keywords.set(
                "bnb_4bit_use_double_quant", True, "scales in 8 bit: 0.4 bit a weight less"
            )
        if launch(scenario).strategy == "fsdp":
            dtype = dtype_of(scenario)
            keywords.set("bnb_4bit_quant_storage", dtype, "FSDP shards floating-point types only")
    if quantization.skip_modules is not None:
        keywords.set(
            "llm_int8_skip_modules", list(quantization.skip_modules), "replaces the library's list"
        )
    return keywords.call("transformers", "BitsAndBytesConfig")


def _compute_reason(quantization: Quantization) -> str:
    given = quantization.compute_dtype is not None
    return "products are made in this type" if given else "the library's default"


def _attention(scenario: Scenario, keywords: Keywords) -> None:
    """Only where one was asked for: a class then takes it or refuses it by name."""
    name = attention_of(scenario)
    if name is None:
        return
    architecture, stack = scenario.model.architecture, scenario.stack
    name, _ = resolve_implementation(name, architecture, stack)
    _refuse_attention(scenario, name)
    if not stack.at_least("transformers", "4.36"):
        _older_attention(name, stack, keywords)
        return
    if name in ("flex_attention", "flash_attention_3", "flash_attention_4"):
        require(stack, name)
    keywords.set("attn_implementation", name, _ATTENTION_REASON.get(name, ""))


_ATTENTION_REASON: Final = {
    "eager": "keeps every score: S² of memory",
    "sdpa": "torch's fused kernels",
    "flash_attention_2": "needs the package flash-attn, 16 bit and compute capability 8.0",
}


def attention_of(scenario: Scenario) -> str | None:
    """The implementation asked for; None takes the class's own."""
    workload = scenario.workload
    part: Any = workload.training or workload.inference
    return None if part is None else part.attn


def _refuse_attention(scenario: Scenario, name: str) -> None:
    architecture, machine = scenario.model.architecture, scenario.machine
    if name == "sdpa" and architecture is not None and not takes_sdpa(architecture, scenario.stack):
        raise InputError(
            f"{scenario.model.model_class} has no SDPA path and transformers refuses "
            "attn_implementation='sdpa' for it: leave --attn out, which takes eager"
        )
    if not name.startswith("flash_attention"):
        return
    for gpu in machine.gpus if machine is not None else ():
        if gpu.sm < 80:
            raise InputError(f"{name} needs compute capability 8.0 and {gpu.name} has less: sdpa")
    training = scenario.workload.training
    autocast = training is not None and bool(training.bf16 or training.fp16)
    if dtype_of(scenario) is FLOAT32 and not autocast:
        raise InputError(f"{name} runs in float16 or bfloat16 and the model is float32: --dtype")


def _older_attention(name: str, stack: Stack, keywords: Keywords) -> None:
    """Releases before 4.36 have eager attention, and FlashAttention-2 behind a switch of 4.34."""
    if name == "flash_attention_2" and stack.at_least("transformers", "4.34"):
        keywords.set("use_flash_attention_2", True, _ATTENTION_REASON[name])
    elif name != "eager":
        require(stack, "attn_implementation")


def _placement(scenario: Scenario, keywords: Keywords) -> None:
    """``device_map`` where loading places the model; a 16-bit one in training the trainer moves."""
    loading, how = scenario.workload.loading, launch(scenario)
    if how.strategy == "tp":
        require(scenario.stack, "tp_plan")
        keywords.set("tp_plan", "auto", f"every layer split over {how.num_processes} GPUs")
        return
    if how.strategy in ("fsdp", "zero3"):
        return
    gpus = scenario.num_gpus
    if loading.max_memory is not None or (how.strategy == "device_map" and gpus > 1):
        keywords.set("device_map", "auto", "layer by layer over the devices")
        if loading.max_memory is not None:
            caps = {device: readable(cap) for device, cap in loading.max_memory.items()}
            keywords.set("max_memory", caps, "weights at most; the rest is for what a run needs")
        return
    if scenario.workload.training is not None and loading.quantization is None:
        return
    keywords.set("device_map", {"": Variable(name="DEVICE", value=0)}, REASON_DEVICE)


def readable(num_bytes: int) -> int | str:
    """``"14GiB"`` where that is exact, as accelerate reads it; else the bytes."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= size and num_bytes % size == 0:
            return f"{num_bytes // size}{unit}"
    return num_bytes
