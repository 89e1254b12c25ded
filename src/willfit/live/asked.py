"""The arguments of `load`, and which of them contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import InputError
from willfit.scenario import Quantization
from willfit.units import parse_bytes

TASKS: Final[Mapping[str, str | None]] = {
    "inference": None,
    "train": None,
    "load": None,
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
}
"""Auto class by task; the names with dashes are those of transformers' pipelines."""
SDPA_KERNELS: Final = ("flash", "efficient", "cudnn", "math")
BETTER_TRANSFORMER: Final = ("bettertransformer", "to_bettertransformer", "better_transformer")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `load`, which documents them."""

    model: Any
    gpu: str | None = None
    budget: str | int | None = None
    task: str | None = None
    adapter: Any = None
    dtype: Any = None
    quantize: str | None = None
    attn: str | None = None
    sdpa_kernel: str | None = None
    better_transformer: bool = False
    max_memory: Mapping[int | str, int | str] | None = None
    num_labels: int | None = None
    batch_size: int = 1
    context: int | None = None
    max_new_tokens: int | None = None
    padded: bool = False
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def wants_better_transformer(self) -> bool:
        """Whether BetterTransformer was asked for, by its flag or by its name as attention."""
        named = (self.attn or "").strip().lower().replace("-", "_")
        return self.better_transformer or named in BETTER_TRANSFORMER


def refuse(asked: Asked) -> None:
    """Nothing, or `InputError` on values that mean nothing or exclude each other."""
    for name in ("batch_size", "context", "max_new_tokens", "num_labels"):
        number = getattr(asked, name)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise InputError(f"{name} is {number!r}: expected a whole number of at least 1")
    if asked.context and asked.max_new_tokens and asked.max_new_tokens > asked.context:
        raise InputError(
            f"max_new_tokens {asked.max_new_tokens} is more than context {asked.context}, which "
            "is prompt and new tokens together"
        )
    if asked.task is not None and asked.task not in TASKS:
        raise InputError(f"unknown task {asked.task[:40]!r}: expected one of {', '.join(TASKS)}")
    if asked.sdpa_kernel not in (None, *SDPA_KERNELS):
        raise InputError(
            f"unknown sdpa_kernel {str(asked.sdpa_kernel)[:40]!r}: expected one of "
            f"{', '.join(SDPA_KERNELS)}"
        )
    if asked.better_transformer and asked.attn not in (None, "sdpa", *BETTER_TRANSFORMER):
        raise InputError(
            f"better_transformer means attn='sdpa' and contradicts attn={asked.attn!r}: "
            "leave one out"
        )


def quantization_of(text: str | None) -> Quantization | None:
    """What ``int8``, ``nf4``, ``fp4``, ``nf4-double`` and ``fp4-double`` mean."""
    if text is None:
        return None
    scheme, _, double = text.partition("-")
    if scheme not in ("int8", "nf4", "fp4") or double not in ("", "double"):
        raise InputError(
            f"unknown quantisation {text[:40]!r}: expected int8, nf4, fp4, nf4-double or "
            "fp4-double (bitsandbytes has no other)"
        )
    if scheme == "int8" and double:
        raise InputError("int8 has no double quantisation: use quantize='int8'")
    return Quantization(
        scheme=scheme,  # type: ignore[arg-type]  # checked above
        double_quant=double == "double",
    )


def max_memory_of(given: Mapping[int | str, int | str] | None) -> dict[int | str, int] | None:
    """Bytes by GPU number or ``"cpu"``; raises `InputError` on other keys."""
    if given is None:
        return None
    wrong = [key for key in given if not (isinstance(key, int) or key in ("cpu", "disk"))]
    if wrong or not given:
        raise InputError(
            f"max_memory names {', '.join(map(repr, wrong)) or 'nothing'}: expected GPU numbers, "
            'and "cpu", such as {0: "10GiB", 1: "14GiB", "cpu": "20GiB"}'
        )
    return {key: parse_bytes(amount) for key, amount in given.items()}
