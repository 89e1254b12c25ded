"""Single operations on the device: what one matrix product, attention or 4-bit layer allocates."""

from __future__ import annotations

import gc
import importlib
import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch

from willfit.live.meter import Meter, device_bytes

Row = dict[str, Any]
_CLEAR: Final[dict[str, Any]] = (
    {"clear_history": True}
    if "clear_history" in inspect.getsource(torch.cuda.memory._record_memory_history)
    else {}
)
EVENTS: Final = 80
"""Allocations and frees of a call that are kept."""


def watched(run: Callable[[], Any], device: str, *, listed: bool = True) -> tuple[Any, Row]:
    """What ``run`` gives, and the bytes above those before it: peak, held, and each event."""
    if device != "cuda":
        return run(), {"peak": 0, "held": 0, "events": []}
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    history: Any = torch.cuda.memory._record_memory_history
    if listed:
        history(enabled="all", context=None, max_entries=2_000, **_CLEAR)
    try:
        found = run()
        torch.cuda.synchronize()
        row: Row = {
            "peak": torch.cuda.max_memory_allocated() - before,
            "held": torch.cuda.memory_allocated() - before,
        }
        if listed:
            trace = torch.cuda.memory._snapshot()["device_traces"][0]
            row["events"] = _sizes(trace)[:EVENTS]
    finally:
        if listed:
            history(enabled=None)
    return found, row


def _sizes(trace: list[Any]) -> list[int]:
    """+size of what was allocated, −size of what was freed, in order."""
    signs = {"alloc": 1, "free_requested": -1}
    return [signs[e["action"]] * e["size"] for e in trace if e["action"] in signs]


def seconds_of(run: Callable[[], Any], device: str, times: int = 20) -> float:
    """Median seconds of a call after two to warm up."""
    found = []
    for index in range(times + 2):
        if device == "cuda":
            event: Any = torch.cuda.Event
            start, end = (event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            spent = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            run()
            spent = time.perf_counter() - began
        if index >= 2:
            found.append(spent)
    return float(sorted(found)[len(found) // 2])


def attempts(rows: Iterator[Callable[[], Row]]) -> list[Row]:
    """Each row, or the reason why there is none."""
    found = []
    for make in rows:
        try:
            found.append(make())
        except Exception as error:  # a refusal is a fact too
            found.append(
                {"failure": f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"}
            )
    return found


def workspaces(device: str, tiny: bool) -> list[Row]:
    """Allocated before and after the first product, and after its backward: cuBLAS's workspaces."""
    size = 64 if tiny else 1024
    rows: list[Row] = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        meter = Meter(device)
        meter.start()
        x, w = (
            torch.randn(size, size, device=device, dtype=dtype, requires_grad=True) for _ in "xw"
        )
        out, forward = watched(partial(torch.matmul, x, w), device)
        out2, biased = watched(partial(_biased, x, w), device)
        _, backward = watched(partial(_backward, out), device)
        _, biased_backward = watched(partial(_backward, out2), device)
        rows.append(
            {
                "dtype": str(dtype), "operand": x.numel() * x.element_size(),
                "forward": forward, "linear_bias": biased,
                "backward": backward, "linear_bias_backward": biased_backward,
            }
        )  # fmt: skip
        del x, w, out, out2
    return rows


def _biased(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, w, w[0])


def _backward(out: Any, grad: torch.Tensor | None = None) -> None:
    if grad is None:
        out.sum().backward()
    else:
        out.backward(grad)


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def context(device: str, tiny: bool) -> list[Row]:
    """Process and device bytes beside reserved: after start, a product, a small model's step."""
    meter = Meter(device)
    rows: list[Row] = []

    def read(name: str) -> None:
        meter.mark(name)
        rows.append({"after": name, **vars(meter.readings[-1])})

    if meter.cuda:
        used = device_bytes(meter._nvml)[1] if meter._nvml is not None else None
        rows.append({"after": "nothing", "device_bytes": used})
    size = 64 if tiny else 2048
    torch.zeros(1, device=device)
    read("context")
    layer = torch.nn.Linear(size, size, device=device, dtype=torch.bfloat16)
    x = torch.randn(4, size, device=device, dtype=torch.bfloat16)
    out = layer(x)
    read("matmul")
    q = torch.randn(1, 8, 128, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    _backward(torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True))
    read("attention and its backward")
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    _backward(torch.nn.functional.cross_entropy(out.float(), labels))
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    torch.nn.functional.silu(out)
    read("loss, backward, AdamW")
    return rows


def rates(device: str, tiny: bool) -> list[Row]:
    """Copy bandwidth, matrix rates by type and shape, and the time of launching small kernels."""
    rows: list[Row] = []
    count = 1 << (16 if tiny else 30)
    source, target = (torch.empty(count, dtype=torch.uint8, device=device) for _ in "st")
    spent = seconds_of(lambda: target.copy_(source), device, 5)
    rows.append({"what": "copy", "bytes": 2 * count, "seconds": spent})
    host = torch.empty(count // 4, dtype=torch.uint8)
    pinned = host.pin_memory() if device == "cuda" else host
    for name, held in (("pageable to device", host), ("pinned to device", pinned)):
        part = target[: count // 4]
        spent = seconds_of(partial(part.copy_, held), device, 3)
        rows.append({"what": name, "bytes": count // 4, "seconds": spent})
    shapes = (
        [(8, 8, 8)]
        if tiny
        else [(8192, 8192, 8192), (4096, 4096, 14336), (1, 4096, 14336), (8, 4096, 14336)]
    )
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for m, k, n in shapes:
            a = torch.randn(m, k, device=device).to(dtype)
            b = torch.randn(n, k, device=device).to(dtype)
            spent = seconds_of(partial(torch.nn.functional.linear, a, b), device, 8)
            rows.append(
                {"what": "linear", "dtype": str(dtype), "m": m, "k": k, "n": n, "seconds": spent}
            )
    small = torch.zeros(8, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    rows.append({"what": "1000 launches", "seconds": seconds_of(launches, device, 3)})
    return rows


def softmax(device: str, tiny: bool) -> list[Row]:
    """``softmax(x, dtype=float32)`` of 16-bit scores, as eager attention calls it."""
    size = 16 if tiny else 2048
    rows: list[Row] = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(1, 32, size, size, device=device).to(dtype).requires_grad_()
        with torch.no_grad():
            _, plain = watched(partial(_softmax, x), device)
        out, kept = watched(partial(_softmax, x), device)
        grad = torch.ones_like(out)
        _, back = watched(partial(_backward, out, grad), device)
        rows.append(
            {
                "dtype": str(dtype),
                "scores": x.numel(),
                "no_grad": plain,
                "forward": kept,
                "backward": back,
            }
        )
        del x, out, grad
    return rows


ATTENTION: Final = (
    # batch, query heads, kv heads, head size, tokens of q, of kv
    (1, 32, 8, 128, 1024, 1024),
    (1, 32, 8, 128, 4096, 4096),
    (2, 32, 8, 128, 1001, 1001),
    (2, 32, 32, 128, 1024, 1024),
    (2, 32, 32, 128, 1001, 1001),
    (1, 16, 16, 64, 2048, 2048),
    (1, 8, 4, 256, 1024, 1024),
    (8, 32, 8, 128, 1, 4097),
)


def attention(device: str, tiny: bool) -> list[Row]:
    """SDPA by kernel, type, shape and mask: forward without and with grad, and backward."""
    return attempts(_attention_rows(device, tiny))


def _attention_rows(device: str, tiny: bool) -> Iterator[Callable[[], Row]]:
    from torch.nn.attention import SDPBackend

    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH, "default": None,
    }  # fmt: skip
    for shape in ATTENTION:
        for name, kernel in kernels.items():
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                if dtype != torch.bfloat16 and name in ("flash", "cudnn"):
                    continue
                if dtype == torch.float32 and shape[4] > 2048:
                    continue
                for mask in (None, "bool"):
                    yield partial(_attend, shape, name, kernel, dtype, mask, device, tiny)


def _attend(
    shape: tuple[int, ...],
    name: str,
    kernel: Any,
    dtype: torch.dtype,
    mask: str | None,
    device: str,
    tiny: bool,
) -> Row:
    from contextlib import nullcontext

    from torch.nn.attention import sdpa_kernel

    batch, heads, kv_heads, size, queries, keys = shape
    if tiny:
        size, queries, keys = 16, min(queries, 17), min(keys, 17)
    row: Row = {
        "kernel": name, "dtype": str(dtype), "mask": mask, "batch": batch, "heads": heads,
        "kv_heads": kv_heads, "head_dim": size, "queries": queries, "keys": keys,
    }  # fmt: skip
    q = torch.randn(batch, queries, heads, size, device=device).to(dtype).transpose(1, 2)
    k, v = (
        torch.randn(batch, keys, kv_heads, size, device=device).to(dtype).transpose(1, 2)
        for _ in "kv"
    )
    bias = None
    if mask is not None:
        bias = torch.ones(batch, 1, queries, keys, dtype=torch.bool, device=device).tril(
            keys - queries
        )
        bias[-1, :, :, : keys // 2] = False
        bias[..., keys - 1] |= ~bias.any(-1)
        if heads != kv_heads:  # as transformers does where there is a mask
            k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
            row["repeated"] = True
    gqa = heads != k.shape[1]

    def call() -> torch.Tensor:
        with sdpa_kernel([kernel]) if kernel is not None else nullcontext():
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, is_causal=bias is None and queries == keys, enable_gqa=gqa
            )

    try:
        with torch.no_grad():
            call()
            _, row["no_grad"] = watched(call, device)
            if queries * keys <= 4096 * 4096:
                row["seconds"] = seconds_of(call, device, 3)
        if queries == keys:
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            out, row["forward"] = watched(call, device)
            grad = torch.ones_like(out)
            _, row["backward"] = watched(partial(_backward, out, grad), device)
    except Exception as error:
        row["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return row


TOKENS: Final = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 4096)


def four_bit(device: str, tiny: bool) -> list[Row]:
    """A Linear4bit of Llama-3-8B's MLP by tokens and type: forward, backward, time."""
    return attempts(_quantized_rows(device, tiny, "nf4"))


def eight_bit(device: str, tiny: bool) -> list[Row]:
    """A Linear8bitLt likewise."""
    return attempts(_quantized_rows(device, tiny, "int8"))


def _quantized_rows(device: str, tiny: bool, scheme: str) -> Iterator[Callable[[], Row]]:
    shapes = [(64, 128)] if tiny else [(4096, 14336), (14336, 4096), (4096, 1024)]
    dtypes = (
        (torch.bfloat16, torch.float16, torch.float32)
        if scheme == "nf4"
        else (torch.float16, torch.bfloat16)
    )
    for k, n in shapes:
        for dtype in dtypes:
            for nested in (False, True) if tiny or (scheme == "nf4" and n == 14336) else (False,):
                layer = _Layer(k, n, dtype, nested, scheme, device)
                for tokens in TOKENS[:3] if tiny else TOKENS:
                    yield partial(_quantized, layer, tokens)


class _Layer:
    """A quantised layer that is made when it is first asked for."""

    def __init__(
        self, k: int, n: int, dtype: torch.dtype, nested: bool, scheme: str, device: str
    ) -> None:
        self.k, self.n, self.dtype, self.nested = k, n, dtype, nested
        self.scheme, self.device = scheme, device
        self._made: Any = None

    def made(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Any:
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
        stored = torch.float16 if self.dtype == torch.float32 else self.dtype
        weight = torch.randn(self.n, self.k).mul_(0.02).to(stored)
        if self.scheme == "int8":
            layer = bitsandbytes.nn.Linear8bitLt(
                self.k, self.n, bias=False, has_fp16_weights=False, threshold=6.0
            )
            packed = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            kind = {"compress_statistics": self.nested, "quant_type": "nf4"}
            layer = bitsandbytes.nn.Linear4bit(
                self.k, self.n, bias=False, compute_dtype=self.dtype, **kind
            )
            packed = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **kind)
        layer.weight = packed
        return layer.to(self.device)


def _quantized(layer: _Layer, tokens: int) -> Row:
    module, device = layer.made(), layer.device
    x = torch.randn(1, tokens, layer.k, device=device).to(layer.dtype)
    with torch.no_grad():
        module(x)
        _, plain = watched(partial(module, x), device)
        spent = seconds_of(partial(module, x), device, 5)
    x.requires_grad_()
    out, forward = watched(partial(module, x), device)
    grad = torch.ones_like(out)
    _, backward = watched(partial(_backward, out, grad), device)
    return {
        "scheme": layer.scheme, "nested": layer.nested, "dtype": str(layer.dtype), "k": layer.k,
        "n": layer.n, "tokens": tokens, "no_grad": plain, "forward": forward,
        "backward": backward, "seconds": spent,
    }  # fmt: skip


PROBES: Final[dict[str, Callable[[str, bool], list[Row]]]] = {
    "workspaces": workspaces,
    "context": context,
    "rates": rates,
    "softmax": softmax,
    "attention": attention,
    "four_bit": four_bit,
    "eight_bit": eight_bit,
}
"""Probes by name; each takes the device and whether to stay tiny."""
