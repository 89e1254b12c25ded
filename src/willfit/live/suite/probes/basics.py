"""Context, workspaces, softmax and the rates of copies and products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import torch

from willfit.live.measurement import error_text
from willfit.live.memory.counters import TorchCounters
from willfit.live.meter import Meter
from willfit.live.suite.probes.watched import Row, attempts, backward, seconds_of, watched

AMPERE: Final = 8
"""First major compute capability with bfloat16."""


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
    meter.start()
    rows: list[Row] = [{"after": "nothing", "device_bytes": gpu.idle_bytes} for gpu in meter.gpus()]
    try:
        for name in _contexts(device, 64 if tiny else 2048):
            meter.mark(name)
            rows.append({"after": name, **vars(meter.readings[-1])})
    except Exception as error:  # what was read before is kept
        rows.append({"failure": error_text(error, 240)})
    meter.stop()
    return rows


def _contexts(device: str, size: int) -> Iterator[str]:
    """One more library's kernels after the other; named when they have run."""
    dtype = torch.float16 if device == "cuda" and _before_ampere() else torch.bfloat16
    torch.zeros(1, device=device)
    yield "context"
    layer = torch.nn.Linear(size, size, device=device, dtype=dtype)
    x = torch.randn(4, size, device=device, dtype=dtype)
    out = layer(x)
    yield "matmul"
    q = torch.randn(1, 8, 128, 64, device=device, dtype=dtype, requires_grad=True)
    backward(torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True))
    yield "attention and its backward"
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    backward(torch.nn.functional.cross_entropy(out.float(), labels))
    torch.optim.AdamW(layer.parameters(), fused=True).step()
    torch.nn.functional.silu(out)
    yield "loss, backward, AdamW"


def _before_ampere() -> bool:
    """Whether bfloat16 is emulated, by other kernels than those that models there take."""
    return torch.cuda.get_device_capability()[0] < AMPERE


def rates(device: str, tiny: bool) -> list[Row]:
    """Copy bandwidth, matrix rates by type and shape, and the time of launching small kernels."""
    return attempts(_rates(device, tiny))


def _rates(device: str, tiny: bool) -> Iterator[Callable[[], Row]]:
    count = 1 << (16 if tiny else 30)
    yield partial(_copy, device, count)
    for pinned in (False, True):
        yield partial(_upload, device, count // 4, pinned)
    shapes = (
        [(8, 8, 8)]
        if tiny
        else [(8192, 8192, 8192), (4096, 4096, 14336), (1, 4096, 14336), (8, 4096, 14336)]
    )
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        for shape in shapes:
            yield partial(_product, device, dtype, shape)
    yield partial(_launches, device)


def _copy(device: str, count: int) -> Row:
    source, target = (torch.empty(count, dtype=torch.uint8, device=device) for _ in "st")
    spent = seconds_of(lambda: target.copy_(source), device, 5)
    return {"what": "copy", "bytes": 2 * count, "seconds": spent}


def _upload(device: str, count: int, pinned: bool) -> Row:
    host = torch.empty(count, dtype=torch.uint8, pin_memory=pinned and device == "cuda")
    target = torch.empty(count, dtype=torch.uint8, device=device)
    spent = seconds_of(partial(target.copy_, host), device, 3)
    return {
        "what": f"{'pinned' if pinned else 'pageable'} to device",
        "bytes": count,
        "seconds": spent,
    }


def _product(device: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> Row:
    m, k, n = shape
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(n, k, device=device).to(dtype)
    spent = seconds_of(partial(torch.nn.functional.linear, a, b), device, 8)
    return {"what": "linear", "dtype": str(dtype), "m": m, "k": k, "n": n, "seconds": spent}


def _launches(device: str) -> Row:
    small = torch.zeros(8, device=device)

    def launches() -> None:
        for _ in range(1000):
            small.add_(1)

    return {"what": "1000 launches", "seconds": seconds_of(launches, device, 3)}


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
