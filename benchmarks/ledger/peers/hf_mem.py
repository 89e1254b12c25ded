"""hf-mem: the bytes of a checkpoint's file headers, and its KV cache.

The package's own `arun` is run. Its HTTP client is given a transport that answers as the Hub would
for the model: a list of files, a config, and a header of safetensors made from the tensor table.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final
from unittest import mock

from benchmarks.ledger.peers._peer import AboutPeer, Answer, NotPredicted
from benchmarks.ledger.peers._places import side_directory
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.weights.cast import loading_dtype
from willfit.scenario import ModelSpec, Scenario
from willfit.scenario.model import TensorKind

RELEASE: Final = "0.5.6"
ABOUT: Final = AboutPeer(
    title="hf-mem",
    version=f"hf-mem {RELEASE}",
    licence="MIT",
    source="https://github.com/alvarobartt/hf-mem",
    claims="memory for inference: the weights as stored, and with --experimental the KV cache",
    called="--experimental with --max-model-len (prompt and answer) and --batch-size where there "
    "is a cache; where its error asks for --kv-cache-dtype (GPTQ, AWQ), with bfloat16",
    counters=("allocated", "reserved", "device"),
)
"""It says what inference requires, so its figure is held to whichever counter there is."""
_NAMES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "U8",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""Names of safetensors' header; a byte of ``bool`` as ``U8``, for its own name is refused."""
_FP8_CACHE: Final = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}
_FIRST_REQUEST: Final = 100_000
_CLIPPED: Final = 16
"""Bytes short of its first request from which it cuts a header off; headers are padded past it."""


def predict(scenario: Scenario) -> Answer:
    """``total_memory`` of its result, bytes."""
    obstacle = _obstacle(scenario)
    if obstacle:
        return NotPredicted(reason=obstacle)
    module = _module()
    if isinstance(module, str):
        return NotPredicted(reason=module, is_kept=False)
    inference = scenario.workload.inference
    options: dict[str, Any] = {"model_id": scenario.model.id}
    if inference is not None and inference.use_cache:
        dtype = loading_dtype(scenario.model, scenario.workload.loading, scenario.stack)[0]
        architecture = scenario.model.architecture
        settings = fill_defaults(architecture, inference, dtype, scenario.stack)
        options |= {
            "experimental": True,
            "max_model_len": settings.context_len,
            "batch_size": settings.batch,
        }
        if settings.kv_dtype.name in _FP8_CACHE:
            options["kv_cache_dtype"] = _FP8_CACHE[settings.kv_dtype.name]
    answer = hub(scenario.model)
    try:
        return int(_run(module, answer, options).total_memory)
    except RuntimeError as error:
        if "--kv-cache-dtype" not in str(error) or "kv_cache_dtype" in options:
            raise
        options["kv_cache_dtype"] = "bfloat16"  # as its message asks; 16 bit are 16 bit
        return int(_run(module, answer, options).total_memory)


def _obstacle(scenario: Scenario) -> str | None:
    work, model = scenario.workload, scenario.model
    if work.training is not None:
        return "it is for inference"
    if model.library != "transformers":
        return f"files of {model.library} are not made here"
    if scenario.machine is not None and len(scenario.machine.gpus) > 1:
        return "it knows one device"
    if work.loading.quantization is not None:
        return "it counts weights as stored, and knows no quantisation while loading"
    dtype = loading_dtype(model, work.loading, scenario.stack)[0]
    if model.quantization is None and dtype.block_bytes != model.stored_dtype.block_bytes:
        return f"it counts weights as stored ({model.stored_dtype.name}), not as {dtype.name}"
    unnamed = {row.dtype.name for row in model.tensors} - set(_NAMES)
    return f"its header has no {', '.join(sorted(unnamed))}" if unnamed else None


@lru_cache
def _module() -> Any:
    """`hf_mem.run`, or why there is none."""
    folder = side_directory(f"hf-mem=={RELEASE}")
    if isinstance(folder, str):
        return folder
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("hf_mem.run")
    except ImportError as error:
        return f"hf-mem cannot be imported: {error}"
    finally:
        sys.path.remove(str(folder))


def _run(module: Any, answer: Callable[[Any], Any], options: dict[str, Any]) -> Any:
    http: Any = module.httpx2
    client = http.AsyncClient

    def offline(**settings: Any) -> Any:
        settings.pop("http2", None)  # needs a package more, and there is no wire
        return client(**settings, transport=http.MockTransport(answer))

    with mock.patch.object(http, "AsyncClient", offline), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asyncio.run(module.arun(hf_token="none", **options))


def hub(model: ModelSpec) -> Callable[[Any], Any]:
    """What the Hub would answer about the model: requests of hf-mem to responses."""
    from httpx2 import Response

    config = {
        "architectures": [model.model_class],
        "dtype": model.stored_dtype.name,
        **model.config,
    }
    header = _header(model)
    files = [{"type": "file", "path": name} for name in ("config.json", "model.safetensors")]

    def answer(request: Any) -> Any:
        path: str = request.url.path
        if path.startswith("/api/models/"):
            return Response(200, json=files)
        if path.endswith("/config.json"):
            return Response(200, json=config)
        if path.endswith("/model.safetensors"):
            first, last = request.headers["range"].removeprefix("bytes=").split("-")
            return Response(206, content=header[int(first) : int(last) + 1])
        return Response(404)

    return answer


def _header(model: ModelSpec) -> bytes:
    """The start of a safetensors file: a length, then names, types and shapes."""
    text = json.dumps(dict(_tensors(model))).encode()
    if _FIRST_REQUEST - _CLIPPED <= len(text) <= _FIRST_REQUEST:
        text += b" " * (2 * _CLIPPED)
    return struct.pack("<Q", len(text)) + text


def _tensors(model: ModelSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is stored: tied tensors once, buffers that are built at load time not at all."""
    for row in model.tensors:
        if row.tied_to is not None or row.kind is TensorKind.NON_PERSISTENT_BUFFER:
            continue
        for name in row.names():
            yield (
                name,
                {
                    "dtype": _NAMES[row.dtype.name],
                    "shape": row.shape,
                    "data_offsets": [0, 0],
                },
            )
