"""How a script runs its model: generation, a forward pass, or a serving engine."""

from __future__ import annotations

from typing import Any, Final

from willfit.settings.code.around import around
from willfit.settings.code.engines import ENGINES
from willfit.settings.code.gathered import Gathered, plain
from willfit.settings.code.reading import Load, Reading, Use
from willfit.settings.code.tokens import longest, padded
from willfit.settings.code.values import Made, Site
from willfit.settings.settings import Convert, unused, whole


def read_inference(reading: Reading, load: Load, gathered: Gathered) -> None:
    """Flags of what is run with the model; loading alone where nothing is."""
    if load.kind in ENGINES:
        ENGINES[load.kind](reading, load, gathered)
        return
    generates = around(reading, load, "generate")
    forwards = around(reading, load, "forward")
    owned = load.used("generate", "forward")
    if not owned and not _run_somewhere(reading):
        gathered.flags["task"] = "load"
        gathered.assume("nothing is run with the model in the text: loading alone is counted")
        for name in ("batch_size", "max_length", "max_new_tokens", "use_cache"):
            gathered.flags.pop(name, None)
        return
    _lengths(reading, load, gathered, generates)
    if generates:
        _generate(load, generates[0], gathered)
    elif forwards:
        _forward(forwards, gathered)
    _batch(reading, load, gathered)
    _kernel(reading, load, gathered)
    _said_nothing(reading, load, gathered)
    if generates and gathered.flags.pop("use_cache", None) is False:
        gathered.ignore("generation without a cache: the cache is counted")


def _run_somewhere(reading: Reading) -> bool:
    """A function's parameter that is called, where the model may be what it gets."""
    return any(use.role in ("generate", "forward") for use in reading.uses)


def _lengths(reading: Reading, load: Load, gathered: Gathered, generates: list[Use]) -> None:
    prompt = longest(reading, load) or gathered.flags.pop("max_length", None)
    gathered.flags.pop("max_length", None)
    if generates:
        new = _asked(load, generates[0], "max_new_tokens")
        total = _asked(load, generates[0], "max_length")
        if new is not None:
            gathered.flags["max_new_tokens"] = new
            if prompt is not None:
                gathered.flags["context"] = prompt + new
            else:
                gathered.assume("the prompt's length is not in the text")
        elif total is not None:
            gathered.flags["context"] = total
    elif prompt is not None:
        gathered.flags["context"] = prompt


def _asked(load: Load, use: Use, name: str) -> int | None:
    """A number of the call, of its ``GenerationConfig``, or of the pipeline's making."""
    for site in _asking(load, use):
        value = plain(site.value(name))
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
    return None


def _asking(load: Load, use: Use) -> list[Site]:
    """Calls that may carry arguments of generation, the most particular first."""
    sites: list[Site] = []
    if use.site is not None:
        config = use.site.value("generation_config")
        sites = [use.site, *([config.site] if isinstance(config, Made) else [])]
    pipelines = [u.site for u in load.used("pipeline") if u.site is not None]
    return [*sites, *pipelines, *([load.site] if load.kind == "pipeline" else [])]


def _generate(load: Load, use: Use, gathered: Gathered) -> None:
    copies = (_asked(load, use, "num_beams") or 1) * (
        _asked(load, use, "num_return_sequences") or 1
    )
    if copies > 1:
        gathered.flags["sequences"] = copies
    for site in _asking(load, use):
        gathered.convert(
            {k: v for k, v in site.given.items() if k in GENERATE}, GENERATE, (), of="generate"
        )
    if gathered.flags.get("use_cache") is not False:
        gathered.flags.pop("use_cache", None)
    batch = _asked(load, use, "batch_size")
    if batch is not None:
        gathered.flags["batch_size"] = batch


def _cache(value: Any) -> dict[str, Any]:
    kinds = ("static", "quantized", "offloaded", "dynamic")
    name = str(value).replace("offloaded_static", "static")
    return {"cache": name} if name in kinds and name != "dynamic" else {}


GENERATE: Final[dict[str, Convert]] = {
    "cache_implementation": _cache,
    "prefill_chunk_size": whole("prefill_chunk_size"),
    "use_cache": lambda value: {"use_cache": bool(value)},
    "assistant_model": unused("the model that drafts is not counted"),
}
"""Arguments of ``generate`` that decide memory, beside its lengths."""


def _forward(uses: list[Use], gathered: Gathered) -> None:
    """A causal model's ``model(**inputs)`` keeps the logits of every position."""
    causal = gathered.flags.get("auto_class") in (None, "AutoModelForCausalLM")
    kept = [
        u.site.known("logits_to_keep", "num_logits_to_keep") for u in uses if u.site is not None
    ]
    if causal and not any(kept):
        gathered.flags["full_logits"] = True
    cached = [u.site.value("use_cache") for u in uses if u.site is not None]
    if any(value is False for value in cached):
        gathered.flags["use_cache"] = False


def _batch(reading: Reading, load: Load, gathered: Gathered) -> None:
    copies = gathered.flags.pop("sequences", 1)
    found = gathered.flags.pop("batch_size", None) or inference_batch(reading, load)
    batch = (found or 1) * copies
    if found is not None or copies > 1:
        gathered.flags["batch_size"] = batch
    elif around(reading, load, "loader"):
        gathered.assume("the batch is not in the text: 1")
    if padded(reading, load, batch):
        gathered.flags["padded"] = True


def inference_batch(reading: Reading, load: Load) -> int | None:
    """Rows at a time: of the last ``DataLoader``, or of the stride over the rows."""
    for use in reversed(around(reading, load, "loader")):
        value = plain(use.site.value("batch_size", 1)) if use.site is not None else None
        if isinstance(value, int) and 0 < value < 2**31:
            return value
    strides = around(reading, load, "strides")
    return int(strides[-1].value) if strides else None


KERNELS: Final = {
    "FLASH_ATTENTION": "flash", "EFFICIENT_ATTENTION": "efficient", "CUDNN_ATTENTION": "cudnn",
    "MATH": "math",
}  # fmt: skip
_OLD_KERNELS: Final = {
    "enable_flash": "flash", "enable_mem_efficient": "efficient", "enable_math": "math",
}  # fmt: skip


def read_kernel(reading: Reading, load: Load) -> str | None:
    """The only kernel that ``sdpa_kernel`` or ``sdp_kernel`` allows; None without, or of more."""
    for use in around(reading, load, "kernel"):
        site = use.site
        if site is None:
            continue
        if site.last == "sdp_kernel":
            on = [n for key, n in _OLD_KERNELS.items() if site.value(key, True) is True]
        else:
            allowed = site.first if isinstance(site.first, (list, tuple)) else [site.first]
            on = [KERNELS[k.last] for k in allowed if getattr(k, "last", "") in KERNELS]
        if len(on) == 1:
            return on[0]
    return None


def _kernel(reading: Reading, load: Load, gathered: Gathered) -> None:
    gathered.default("sdpa_kernel", read_kernel(reading, load))


def _said_nothing(reading: Reading, load: Load, gathered: Gathered) -> None:
    wide = gathered.flags.get("dtype") in (None, "float32") and "quantize" not in gathered.flags
    if around(reading, load, "autocast") and wide:
        gathered.ignore("autocast: copies of weights in the other type are not counted")
    for use in load.used("set .config.use_cache"):
        if use.value is False:
            gathered.flags["use_cache"] = False
