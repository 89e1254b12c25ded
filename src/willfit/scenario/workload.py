"""Workload: what is done with the model. Loading, then inference or training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from willfit.dtypes import DType

QuantScheme = Literal["nf4", "fp4", "int8"]
Strategy = Literal["device_map", "dp", "ddp", "fsdp", "zero1", "zero2", "zero3", "tp", "replicas"]
Engine = Literal["transformers", "vllm", "llama.cpp"]
CacheKind = Literal["dynamic", "static", "quantized", "offloaded"]
TrainMethod = Literal["full", "lora", "qlora"]
Trainer = Literal["transformers", "trl", "loop"]
Loss = Literal["model", "logits"]
SdpaKernel = Literal["flash", "efficient", "cudnn", "math"]


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantisation applied while loading, by bitsandbytes."""

    scheme: QuantScheme
    double_quant: bool = False
    """``bnb_4bit_use_double_quant``: absmax quantised again to 8 bit."""
    compute_dtype: DType | None = None
    """``bnb_4bit_compute_dtype``; None is the library's default (float32)."""
    skip_modules: tuple[str, ...] | None = None
    """``llm_int8_skip_modules``; None is the library's choice; a given list replaces that."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the checkpoint gets to the device."""

    dtype: DType | None = None
    """Type to load in; None takes the library's default at the Stack's version."""
    quantization: Quantization | None = None
    auto_class: str | None = None
    """``AutoModel``, ``AutoModelForSequenceClassification``…; None takes the declared class."""
    num_labels: int | None = None
    """Labels of a classification head; None where there is none."""
    max_memory: Mapping[int | str, int] | None = None
    """accelerate's ``max_memory`` in bytes by GPU index or ``"cpu"``; None lets it choose."""
    strategy: Strategy | None = None
    """How several GPUs are used; None is device_map for inference and ddp for training."""
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA adapter, as ``LoraConfig`` names its fields."""

    r: int = 8
    target_modules: tuple[str, ...] | None = None
    """Module name suffixes; None is PEFT's choice for the model type; ("all-linear",) is all."""
    dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()
    use_dora: bool = False
    dtype: DType | None = None
    """Adapter type; None is PEFT's default (float32, ``autocast_adapter_dtype``)."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A forward pass or generation."""

    batch_size: int = 1
    context_len: int | None = None
    """Prompt plus new tokens; None is min(4096, the model's maximum)."""
    max_new_tokens: int | None = None
    """Tokens generated, within context_len; None prefills the whole context and decodes one."""
    padded: bool = False
    """Whether the batch carries an attention mask with padding."""
    kv_dtype: DType | None = None
    """Type of the KV cache; None is the model's."""
    cache: CacheKind = "dynamic"
    use_cache: bool = True
    """False: one forward pass with ``use_cache=False``, as where nothing is generated."""
    attn: str | None = None
    """``eager``, ``sdpa``, ``flash_attention_2``…; None is the library's default for the class."""
    engine: Engine = "transformers"
    full_logits: bool = False
    """``model(**inputs)`` keeps logits of every position; `generate` keeps the last only."""
    prefill_chunk_size: int | None = None
    """Tokens of the prompt that `generate` reads at a time; None reads it whole."""
    sdpa_kernel: SdpaKernel | None = None
    """The one kernel that ``torch.nn.attention.sdpa_kernel`` allows; None lets torch choose."""
    lora: Lora | None = None
    """An adapter on the model; None is the model alone."""
    merge_adapter: bool = False
    """``merge_and_unload``: the adapter's products are in the weights."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Forward, backward and optimizer step."""

    method: TrainMethod
    trainer: Trainer = "transformers"
    loss: Loss = "model"
    """``logits``: a script that passes no labels and reduces the logits itself, as in
    ``model(ids).logits.sum().backward()``."""
    lora: Lora | None = None
    adapter_config: Mapping[str, Any] | None = None
    """``adapter_config.json`` of a PEFT method without a formula; the trace builds it as it is."""
    prepare_kbit: bool | None = None
    """``prepare_model_for_kbit_training`` was called; None is what the trainer does."""
    optimizer: str | None = None
    """``optim`` as TrainingArguments spells it; None is the trainer's default."""
    micro_batch_size: int | None = None
    """``per_device_train_batch_size``; None is the trainer's default."""
    gradient_accumulation_steps: int = 1
    max_length: int | None = None
    """Longest sequence in tokens; None is the trainer's or min(1024, the model's maximum)."""
    lengths: tuple[int, ...] = ()
    """Lengths of the real data, where known; the longest micro-batch decides."""
    step_lengths: tuple[int, ...] = ()
    """Padded lengths of the steps that a trace follows, in their order; by default the longest
    micro-batch twice."""
    empties_cache_every: int = 0
    """A plain loop calls ``torch.cuda.empty_cache()`` after every so many of those steps; 0 never
    does."""
    adapter_was_disabled: bool = False
    """``model.disable_adapter()`` was entered and left before the first step: PEFT asks for the
    gradient of every adapter parameter from then on, of those too that a method froze."""
    padded: bool = False
    packing: bool = False
    gradient_checkpointing: bool | None = None
    """None is the trainer's default."""
    use_reentrant: bool | None = None
    bf16: bool | None = None
    """Autocast to bfloat16; None is the trainer's default."""
    fp16: bool | None = None
    max_grad_norm: float | None = 1.0
    use_liger_kernel: bool = False
    attn: str | None = None
    sdpa_kernel: SdpaKernel | None = None
    offload_activations: bool = False
    """What forward keeps for backward waits in pinned host memory (``activation_offloading``)."""
    freeze: tuple[str, ...] = ()
    """Name suffixes of modules that full fine-tuning leaves as they are (``embed_tokens``)."""
    group_by_length: bool = False
    """Batches of rows of like length: the longest batch stays, the mean one is padded less."""

    @property
    def lora_config(self) -> Lora | None:
        """The LoRA adapter that is trained: PEFT's defaults where nothing more was said.

        None where the model itself is trained, or another method's adapter.
        """
        if self.method == "full" or self.adapter_config is not None:
            return None
        return self.lora or Lora()


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Loading, and then at most one of inference and training."""

    loading: Loading = field(default_factory=Loading)
    inference: Inference | None = None
    training: Training | None = None

    @property
    def task(self) -> str:
        """``load``, ``inference`` or ``train``."""
        if self.training is not None:
            return "train"
        return "inference" if self.inference is not None else "load"
