"""What a user should know of a combination that works: its mapping, its cost, its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.formulas.attention import choose_kernel
from willfit.live.facts import FLASH, Facts
from willfit.live.kernels import attention_calls


def better_transformer(facts: Facts) -> str | None:
    """Nothing of it is left in the sources of transformers 5.23 and optimum 2.3."""
    if not facts.asked.wants_better_transformer:
        return None
    if facts.has_encoder:
        return (
            "BetterTransformer is gone from transformers and optimum: its fused attention is "
            "attn='sdpa' now. torch's encoder fast path (nn.TransformerEncoder with nested "
            "tensors) never sees transformers' classes any more, so padding is computed as well; "
            "attn='flash_attention_2' leaves it out where the class has it"
        )
    return (
        "BetterTransformer is gone from transformers and optimum: for a decoder it was SDPA, "
        "which is attn='sdpa' now, and there is nothing to reverse before saving"
    )


def encoder_fast_path(facts: Facts) -> str | None:
    """For an encoder, what the guide's fast path is today."""
    if facts.asked.wants_better_transformer or facts.attention != "sdpa":
        return None
    if not facts.has_encoder:
        return None
    return (
        "encoder: attention by SDPA; torch's own encoder fast path is for nn.TransformerEncoder, "
        "which no class of transformers is"
    )


def no_sdpa(facts: Facts) -> str | None:
    """The default falls back to eager without a word."""
    if facts.work.attn or facts.support.sdpa is not False:
        return None
    return (
        f"attention runs eager: {facts.scenario.model.model_class} has no SDPA path, so memory "
        "grows with the square of the length"
    )


def kernel_taken(facts: Facts) -> str | None:
    """Which kernel SDPA takes for the prompt on the first GPU, and why not a better one."""
    if facts.attention != "sdpa" or not facts.gpus or facts.work.sdpa_kernel is not None:
        return None
    first = next(iter(attention_calls(facts)), None)
    if first is None:
        return None
    words, shape = first
    gpu = facts.gpus[0]
    choice = choose_kernel(shape, implementation="sdpa", gpu=gpu, stack=facts.scenario.stack)
    return f"SDPA takes the {choice.name} kernel on {gpu.name} for {words}: {choice.reason}"


def kernel_forced(facts: Facts) -> str | None:
    """A forced kernel holds inside `Loaded.kernels` alone."""
    if facts.work.sdpa_kernel is None:
        return None
    return (
        f"the {facts.work.sdpa_kernel} kernel is forced inside 'with loaded.kernels():' "
        "(torch.nn.attention.sdpa_kernel, in place of torch.backends.cuda.sdp_kernel): a batch "
        "with padding brings a mask, which flash refuses"
    )


def emulated_bfloat16(facts: Facts) -> str | None:
    """Before compute capability 8.0 there is no bfloat16 arithmetic."""
    old = next((gpu for gpu in facts.gpus if gpu.sm < 80), None)
    if old is None or facts.dtype is not BFLOAT16:
        return None
    if facts.scenario.model.keep_in_fp32:
        return f"{old.name} emulates bfloat16, slowly"
    if facts.overflows is not None:
        return f"{old.name} emulates bfloat16, slowly, but {facts.overflows}"
    return f"{old.name} emulates bfloat16, slowly: dtype='float16' is the type it computes in"


def int8_inputs(facts: Facts) -> str | None:
    """LLM.int8 multiplies in float16 whatever the model's type (bitsandbytes `MatMul8bitLt`)."""
    quantization = facts.scenario.workload.loading.quantization
    if quantization is None or quantization.scheme != "int8" or facts.dtype.name == "float16":
        return None
    return f"LLM.int8 casts every input from {facts.dtype.name} to float16"


def compute_type(facts: Facts) -> str | None:
    """The library's default for 4 bit is float32, which nobody wants unasked."""
    quantization = facts.scenario.workload.loading.quantization
    if quantization is None or quantization.compute_dtype is None:
        return None
    return (
        f"4-bit layers compute in {quantization.compute_dtype.name}, as the rest of the model; "
        "bitsandbytes' default is float32"
    )


def kept_in_float32(facts: Facts) -> str | None:
    """T5's ``wo`` is neither quantised nor cast to float16."""
    loading = facts.scenario.workload.loading
    if loading.quantization is None or not facts.scenario.model.keep_in_fp32:
        return None
    names = ", ".join(facts.scenario.model.keep_in_fp32)
    return (
        f"transformers quantises no {names} of this model"
        + (" and keeps them in float32" if facts.dtype is not BFLOAT16 else "")
        + ": that is why it takes more than its parameters in 8 or 4 bit"
    )


def flash_pads_nothing(facts: Facts) -> str | None:
    """With padding, flash-attn gathers the tokens before each layer and puts them back after."""
    if facts.attention not in FLASH or not facts.work.padded:
        return None
    return "a padded batch is gathered and put back in every layer: short prompts gain little"


def on_machine_given(facts: Facts) -> str | None:
    """A GPU was named; it need not be here."""
    if facts.asked.gpu is None or facts.gpus == facts.here.gpus:
        return None
    there = ", ".join(gpu.name for gpu in facts.here.gpus) or "the CPU"
    return f"{facts.asked.gpu} is not here: the plan is for it, and a model is loaded on {there}"


def flash_needs_its_package(facts: Facts) -> str | None:
    """The library imports flash-attn, or fetches its kernels, only on a GPU."""
    if facts.attention not in FLASH or facts.here.gpus:
        return None
    package = "install flash-attn there (or kernels, which fetches it from the Hub)"
    return f"{facts.attention} is for GPUs and runs as SDPA on the CPU: {package}"


def too_narrow(facts: Facts) -> str | None:
    """Some models' activations do not fit in float16, whatever their weights do."""
    if facts.dtype is not FLOAT16 or facts.overflows is None:
        return None
    return f"{facts.overflows}: dtype='bfloat16' is safe, though GPUs before sm_80 emulate it"


Remark = Callable[[Facts], "str | None"]

REMARKS: Final[tuple[Remark, ...]] = (
    on_machine_given,
    flash_needs_its_package,
    better_transformer,
    encoder_fast_path,
    no_sdpa,
    kernel_taken,
    kernel_forced,
    emulated_bfloat16,
    too_narrow,
    int8_inputs,
    compute_type,
    kept_in_float32,
    flash_pads_nothing,
)


def remarks(facts: Facts) -> Iterator[str]:
    """Every remark that applies."""
    for remark in REMARKS:
        text = remark(facts)
        if text is not None:
            yield text
