"""DerekLiu35's optimum-benchmark runs of Llama-3.1: load, prefill, decode, quantised in many ways.

Batch 1, 64 prompt tokens, 64 new; caches emptied and peaks reset before each phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.ledger.models import published_model, quantised_copy
from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.releases import COMPANIONS
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import parse_dtype
from willfit.errors import WillfitError
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Workload,
)
from willfit.scenario.stack import TESTED, release

_PHASES: Final = {"load_model": "load", "prefill": "prefill", "decode": "decode"}
_AMOUNTS: Final[dict[str, Amount]] = {
    "max_allocated": "allocated",
    "max_reserved": "reserved",
    "max_process_vram": "device",
    "max_global_vram": "device",
}
OUTSIDE: Final = (200_000_000, 1_000_000_000)
"""What NVML counts of one GPU beside the process: the driver's own and other jobs. A constant of
each machine: 233 MB on the H100, 927 MB on the A100."""
_TODAYS_RULE: Final = (4, 50)
"""transformers release since which loading takes one block of all weights first."""
EXLLAMA_ROWS: Final = 2048 * 8
"""Rows of AutoAWQ's scratch: ``max_input_len`` · ``max_batch_size`` of its exllama settings."""
UNPACKING: Final = 10
"""Bytes a weight while AutoAWQ packs it for exllama: an int64 of every 4-bit value, its int8 form
and the sums (``unpack_awq``, ``pack_exllama``)."""
BASES: Final = {
    "8b": "meta-llama/Llama-3.1-8B-Instruct",
    "70b": "meta-llama/Llama-3.1-70B-Instruct",
}
_GPTQ_SETTINGS: Final = {"use_exllama", "dataset"}
"""Settings of a ``GPTQConfig`` alone."""


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """What a scheme's code allocates beside the stored tensors, in bytes."""

    held: int = 0
    """From loading on."""
    loading: int = 0
    """Inside loading, at its peak."""
    keeps_segments: bool = False
    """Loading leaves new weights between its temporaries: emptying the cache gives nothing back."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per phase and counter."""
    yield from _results(row, by_trace=False)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same under the release nearest to the row's that a trace can run."""
    yield from _results(row, by_trace=True)


def _results(row: PublishedRow, *, by_trace: bool) -> Iterator[Expressed | NotExpressed]:
    obstacle = _obstacle(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        phase, _, counter = kind.partition(":")
        outside = counter == "max_global_vram"
        reason = obstacle
        if reason is None and (counter not in _AMOUNTS or phase not in _PHASES):
            reason = "a counter that is not known"
        if reason is None and outside and row["n_gpu"] > 1:
            reason = "the sum over GPUs that other jobs use too"
        if reason is not None:
            yield NotExpressed(kind=kind, reason=reason)
            continue
        reading = _reading(row, phase, counter, by_trace=by_trace)
        between = (OUTSIDE[1] - OUTSIDE[0]) // 2
        yield Expressed(
            kind=kind,
            scenario=_scenario(row, by_trace=by_trace),
            reading=_outside(reading) if outside else reading,
            unknown_bytes=(-between, between) if outside else (0, 0),
        )


def _outside(reading: Reading) -> Reading:
    return replace(reading, plus_bytes=reading.plus_bytes + sum(OUTSIDE) // 2)


def _obstacle(row: PublishedRow) -> str | None:
    try:
        _model(row)
    except WillfitError as error:
        return str(error)
    scheme = _scheme(row)
    if scheme not in (None, *_STORED, "bnb"):
        return f"{scheme} is no layout that willfit knows the tensors of"
    return None


def _settings(row: PublishedRow) -> Mapping[str, Any]:
    return (row["quant"] or {}).get("config") or {}


def _scheme(row: PublishedRow) -> str | None:
    """GPTQ's settings are GPTQ's, whatever the row calls its scheme.

    The row that has them under AWQ's name holds 4·K bytes of ``g_idx`` for every product, and
    exllama's two buffers: 181 MB, to the byte.
    """
    if _GPTQ_SETTINGS & _settings(row).keys():
        return "gptq"
    scheme = (row["quant"] or {}).get("scheme")
    return str(scheme).lower() if scheme else None


_STORED: Final[Mapping[str, Mapping[str, Any]]] = {
    "awq": {"bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "gptq": {"bits": 4, "group_size": 128, "sym": True, "desc_act": True, "backend": "exllama_v1"},
    "fbgemm_fp8": {"modules_to_not_convert": ["lm_head"]},
    "torchao": {"quant_method": "compressed-tensors", "bits": 4, "group_size": 64},
}
"""How a scheme stores its weights. torchao's int4 packs as much as this: half a byte a weight, a
16-bit scale and zero for 128."""


def _model(row: PublishedRow) -> ModelSpec:
    name, scheme = row["model"], _scheme(row)
    if scheme is None or scheme == "bnb":
        return published_model(name)
    base = next((BASES[size] for size in BASES if f"-{size}-" in f"{name.lower()}-"), name)
    if scheme == "awq" and "exllama" not in str(_settings(row).get("version")):
        return published_model(name)
    stored = _STORED.get(scheme)
    if stored is None:
        return published_model(base)
    known = {key: _settings(row)[key] for key in ("bits", "group_size") if key in _settings(row)}
    backend = {"backend": "exllama_v2"} if scheme == "awq" else {}
    config = {"quant_method": scheme, **stored, **known, **backend}
    if config["quant_method"] == "compressed-tensors":
        config.update(group_size=64)
    return quantised_copy(f"{base}-{scheme}", base, config)


def _kernel(row: PublishedRow, *, by_trace: bool) -> _Kernel:
    """By the largest quantised weight, N×K.

    A trace has a part of it: GPTQModel's own scratch, and a repacked copy.
    """
    scheme, settings = _scheme(row), _settings(row)
    config = published_model(_base(row)).config
    wide, inner = int(config["intermediate_size"]), int(config["hidden_size"])
    if scheme == "awq" and settings.get("version") == "exllama":
        scratch = 2 * wide * inner + 4 * EXLLAMA_ROWS * wide + 256
        unpacking = UNPACKING * wide * inner
        if by_trace:
            scratch -= 2 * wide * inner + 4 * 2048 * wide + 256
            unpacking -= wide * inner // 2
        return _Kernel(held=scratch, loading=unpacking, keeps_segments=True)
    if scheme == "gptq" and not by_trace:
        return _Kernel(loading=2 * wide * inner + 2 * 2048 * wide)
    if scheme in ("fbgemm_fp8", "torchao"):
        return _Kernel(loading=2 * wide * inner)
    return _Kernel()


def _base(row: PublishedRow) -> str:
    name = row["model"].lower()
    return next((BASES[size] for size in BASES if f"-{size}-" in f"{name}-"), row["model"])


def _scenario(row: PublishedRow, *, by_trace: bool) -> Scenario:
    gpus = row["gpu"] if isinstance(row["gpu"], list) else [row["gpu"]]
    inference = Inference(
        batch_size=row["batch"],
        context_len=row["seq"] + row["new_tokens"],
        max_new_tokens=row["new_tokens"],
    )
    bits = 8 if _settings(row).get("load_in_8bit") else 4
    bnb = Quantization(scheme="int8" if bits == 8 else "fp4") if _scheme(row) == "bnb" else None
    model = _model(row)
    gpu = find_gpu(gpus[0])
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(
                dtype=parse_dtype(row["dtype"]) if row["dtype"] else None, quantization=bnb
            ),
            inference=inference,
        ),
        machine=Machine(gpus=(gpu,) * _num_gpus(row, model, gpu.capacity_bytes)),
        stack=_stack(row, by_trace=by_trace),
    )


def _num_gpus(row: PublishedRow, model: ModelSpec, capacity: int) -> int:
    """One holds what fits it, whatever was visible: a run with five has the context of one."""
    stored = sum(
        tensor.dtype.num_bytes(tensor.num_elements) * tensor.count
        for tensor in model.tensors
        if tensor.tied_to is None
    )
    return 1 if stored < 0.9 * capacity else int(row["n_gpu"])


def _stack(row: PublishedRow, *, by_trace: bool) -> Stack:
    versions = {name: v for name, v in (row.get("versions") or {}).items() if name in TESTED}
    if by_trace:
        version = _nearest(str(versions.get("transformers", "")))
        fbgemm = _scheme(row) == "fbgemm_fp8"  # the trace knows its class of today
        versions = {} if fbgemm else {"transformers": version}
    return Stack(versions={**TESTED, **versions})


def _nearest(version: str) -> str:
    """The release that a trace can run and that loads as the row's does."""
    wanted = release(version)
    names = [name.partition("==") for name in COMPANIONS]
    known = [number for library, _, number in names if library == "transformers"]
    if not wanted or wanted >= release(TESTED["transformers"]):
        return TESTED["transformers"]
    alike = [n for n in known if (release(n) >= _TODAYS_RULE) == (wanted >= _TODAYS_RULE)]
    key = lambda number: abs(_minor(release(number)) - _minor(wanted))  # noqa: E731
    return min(alike or known, key=key)


def _minor(numbers: tuple[int, ...]) -> int:
    return numbers[0] * 100 + numbers[1]


def _reading(row: PublishedRow, phase: str, counter: str, *, by_trace: bool) -> Reading:
    amount, kernel = _AMOUNTS[counter], _kernel(row, by_trace=by_trace)
    if kernel.keeps_segments and amount != "allocated":
        phase = "load_model"
    plus = kernel.held + (kernel.loading if phase == "load_model" else 0)
    return Reading(
        amount=amount,
        phases=(_PHASES[phase],),
        plus_bytes=plus,
        gpus="sum" if row["n_gpu"] > 1 else "fullest",
    )


ABOUT: Final = About(
    title="optimum-benchmark runs of DerekLiu35",
    unknowns={
        "what else uses the GPU (`max_global_vram`)": "between 0.2 and 1.0 GB, a constant of each"
        " of the two machines",
    },
    misses=(
        Miss(
            why="AutoAWQ packs for exllama between its temporaries",
            where=lambda row: (row["quant"] or {}).get("config", {}).get("version") == "exllama",
        ),
    ),
    notes=(
        "AWQ through exllama: AutoAWQ's scratch, 2·N·K + 4·16,384·N = 1,057 MB, and 10 bytes a"
        " weight of the largest layer while it packs: with them within 0.04 % of what was"
        " allocated.",
        "The row called AWQ with `use_exllama` and `dataset`, which are GPTQ's settings, is a GPTQ"
        " copy: 5.0 MB of `g_idx` and exllama's buffers of 176.2 MB explain it to the byte.",
        "FBGEMM's FP8 while loading: every layer but the head in one byte a weight, and one 16-bit"
        " weight more at the peak.",
        "Before 4.50 loading took no block first: K and V of 8 MiB leave 4 of every 20 MiB unused,"
        " 136 MB here, as measured.",
    ),
)
