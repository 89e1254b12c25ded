"""Context, workspaces, softmax and the rates of copies and products."""

from __future__ import annotations

from functools import partial

import torch

from willfit.live.memory.counters import TorchCounters
from willfit.live.meter import Meter
from willfit.live.suite.probes.watched import Row, backward, seconds_of, watched


def workspaces(device: str, tiny: bool) -> list[Row]:
    """Allocated before and after the first product, and after its backward: cuBLAS's workspaces."""
    size = 64 if tiny else 1024
    rows: list[Row] = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        TorchCounters().give_back()
        x, w = (
            torch.randn(size, size, device=device, dtype=dtype, requires_grad=True) for _ in "xw"
        )
        out, forward = watched(partial(torch.matmul, x, w), device)
        out2, biased = watched(partial(_biased, x, w), device)
        _, back = watched(partial(backward, out), device)
        _, biased_back = watched(partial(backward, out2), device)
        rows.append(
            {
                "dtype": str(dtype), "operand": x.numel() * x.element_size(),
                "forward": forward, "linear_bias": biased,
                "backward": back, "linear_bias_backward": biased_back,
            }
        )  # fmt: skip
        del x, w, out, out2
    return rows


def _biased(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, w, w[0])


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def context(device: str, tiny: bool) -> list[Row]:
    """Process and device bytes beside reserved: after start, a product, a small model's step."""
    meter = Meter(device)
    rows: list[Row] = []

    def read(name: str) -> None:
        meter.mark(name)
        rows.append({"after": name, **vars(meter.readings[-1])})

    meter.start()
    rows += [{"after": "nothing", "device_bytes": gpu.idle_bytes} for gpu in meter.gpus()]
    size = 64 if tiny else 2048
    torch.zeros(1, device=device)
    read("context")
    layer = torch.nn.Linear(size, size, device=device, dtype=torch.bfloat16)
    x = torch.randn(4, size, device=device, dtype=torch.bfloat16)
    out = layer(x)
    read("matmul")
    q = torch.randn(1, 8, 128, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    backward(torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True))
    read("attention and its backward")
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    backward(torch.nn.functional.cross_entropy(out.float(), labels))
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    torch.nn.functional.silu(out)
    read("loss, backward, AdamW")
    meter.stop()
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
        _, back = watched(partial(backward, out, grad), device)
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
