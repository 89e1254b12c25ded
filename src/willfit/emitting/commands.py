"""Command lines of servers: ``vllm serve`` and ``llama-server``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from willfit.changes.current import dtype_of
from willfit.emitting.code import said
from willfit.emitting.launch import environment
from willfit.emitting.script import machine_words
from willfit.errors import InputError
from willfit.estimator import estimate
from willfit.formulas.inference.settings import fill_defaults
from willfit.scenario import Inference, Scenario

MOST_UTILIZATION: Final = 0.95
"""What is left of a card is for its context and for what vLLM takes outside its own count."""
_STORED: Final = ("gptq", "awq", "fp8", "mxfp4", "compressed-tensors")
"""Methods that vLLM reads from the checkpoint's own config without being told."""


def vllm_command(scenario: Scenario) -> str:
    """``vllm serve`` with the memory that the estimate says it needs.

    Names as in vLLM's engine arguments (docs.vllm.ai serving/engine_args, v0.5.3 to v0.8.1).
    """
    inference = _inference(scenario, "vllm")
    if scenario.model.library == "gguf":
        raise InputError("vLLM reads GGUF files only experimentally: emit llama-server for them")
    _refuse_vllm(scenario)
    options = {
        "--dtype": _vllm_dtype(scenario),
        "--max-model-len": str(_context(scenario, inference)),
        "--max-num-seqs": str(inference.batch_size),
        "--gpu-memory-utilization": f"{_utilization(scenario):.2f}",
    }
    gpus = scenario.num_gpus
    if gpus > 1:
        split = scenario.workload.loading.strategy in ("tp", None)
        name = "--tensor-parallel-size" if split else "--pipeline-parallel-size"
        if scenario.workload.loading.strategy == "replicas":
            name = "--data-parallel-size"
        options[name] = str(gpus)
    options |= _vllm_quantization(scenario)
    if inference.kv_dtype is not None and inference.kv_dtype != dtype_of(scenario):
        options["--kv-cache-dtype"] = _vllm_cache(inference)
    flags = ["--trust-remote-code"] if scenario.workload.loading.trust_remote_code else []
    head = ["vllm", "serve", scenario.model.id]
    note = "# gpu-memory-utilization is what these sequences need; more of it is more KV cache."
    return _command(scenario, head, options, flags, [note])


def _inference(scenario: Scenario, engine: str) -> Inference:
    if scenario.workload.inference is None:
        raise InputError(f"{engine} serves a model and the scenario does not: leave --train out")
    return scenario.workload.inference


def _context(scenario: Scenario, inference: Inference) -> int:
    filled = fill_defaults(
        scenario.model.architecture, inference, dtype_of(scenario), scenario.stack
    )
    return filled.context_len


def _refuse_vllm(scenario: Scenario) -> None:
    """What vLLM checks before it starts: the card's bfloat16, heads that divide."""
    gpus = scenario.machine.gpus if scenario.machine is not None else ()
    for gpu in gpus:
        if dtype_of(scenario).name == "bfloat16" and gpu.sm < 80:
            raise InputError(
                f"vLLM runs bfloat16 from compute capability 8.0 and {gpu.name} has "
                f"{gpu.sm / 10:.1f}: add --dtype float16"
            )
    architecture = scenario.model.architecture
    heads = {
        group.attention.num_heads
        for group in (architecture.layers if architecture is not None else ())
        if group.attention is not None
    }
    split = scenario.workload.loading.strategy in ("tp", None)
    if split and any(count % max(len(gpus), 1) for count in heads):
        raise InputError(
            f"vLLM splits attention heads evenly and {sorted(heads)} do not divide by {len(gpus)} "
            "GPUs: use another number of them"
        )


def _vllm_dtype(scenario: Scenario) -> str:
    dtype = dtype_of(scenario)
    return dtype.name if dtype.name in ("float16", "bfloat16", "float32") else "auto"


def _utilization(scenario: Scenario) -> float:
    """The part of the fullest GPU that the estimate's high end takes, in hundredths."""
    if scenario.machine is None:
        raise InputError("gpu-memory-utilization is a part of a GPU: name it with --gpu")
    fullest = estimate(_served(scenario)).binding
    capacity = fullest.capacity_bytes
    if capacity is None or fullest.peak.device_bytes > capacity:
        raise InputError(f"{scenario.model.id} does not fit there in vLLM: choose a plan that does")
    return min(math.ceil(100 * fullest.high_device_bytes / capacity) / 100, MOST_UTILIZATION)


def _served(scenario: Scenario) -> Scenario:
    """The scenario as vLLM runs it: its own engine, all GPUs in one group unless told otherwise."""
    workload = scenario.workload
    inference = replace(_inference(scenario, "vllm"), engine="vllm")
    gpus = scenario.num_gpus
    loading = workload.loading
    if gpus > 1 and loading.strategy is None:
        loading = replace(loading, strategy="tp")
    return replace(scenario, workload=replace(workload, loading=loading, inference=inference))


def _vllm_quantization(scenario: Scenario) -> dict[str, str]:
    quantization = scenario.workload.loading.quantization
    stored = scenario.model.quantization
    if stored is not None and not stored.method.startswith(("bitsandbytes", *_STORED)):
        raise InputError(f"vLLM is not known here to read {stored.method}: name another checkpoint")
    if quantization is None:
        return {}
    if quantization.scheme != "nf4" or quantization.double_quant:
        raise InputError(
            f"vLLM quantises while loading to nf4 alone, not to {quantization.scheme}"
            f"{' twice' if quantization.double_quant else ''}: use --quantize nf4"
        )
    return {"--quantization": "bitsandbytes"}


def _vllm_cache(inference: Inference) -> str:
    name = inference.kv_dtype.name if inference.kv_dtype is not None else ""
    known = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}
    if name not in known:
        raise InputError(f"vLLM's cache has no type {name}: use --kv-dtype float8_e4m3fn")
    return known[name]


CACHE_TYPES: Final = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    **{name: name for name in ("q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")},
}  # fmt: skip
"""``--cache-type-k`` of llama.cpp by our names (tools/server/README.md)."""


def llama_server_command(scenario: Scenario) -> str:
    """``llama-server`` with every layer on the GPU; the context is shared out to the slots."""
    inference = _inference(scenario, "llama-server")
    if scenario.model.library != "gguf":
        raise InputError(
            f"llama-server reads GGUF files and {scenario.model.id} is none: name the .gguf"
        )
    context = _context(scenario, inference) * inference.batch_size
    options = {
        "--model": scenario.model.id,
        "--ctx-size": str(context),
        "--parallel": str(inference.batch_size),
        "--n-gpu-layers": "all",
        "--fit": "off",
    }
    if inference.kv_dtype is not None:
        name = CACHE_TYPES.get(inference.kv_dtype.name)
        if name is None:
            raise InputError(
                f"llama.cpp's cache has no type {inference.kv_dtype.name}: expected one of "
                f"{', '.join(CACHE_TYPES)}"
            )
        options |= {"--cache-type-k": name, "--cache-type-v": name}
    return _command(scenario, ["llama-server"], options)


def _command(
    scenario: Scenario,
    head: list[str],
    options: Mapping[str, str],
    flags: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """One option a line, joined as a shell joins them."""
    given = {k: v for k, v in environment(scenario).items() if not k.startswith("CUDA")}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in given.items()]
    parts = [shlex.join(head), *(f"{k} {shlex.quote(v)}" for k, v in options.items()), *flags]
    title = f"# {said(scenario.model.id)}{machine_words(scenario)}"
    return "\n".join([title, *notes, *lines, " \\\n    ".join(parts)]) + "\n"
