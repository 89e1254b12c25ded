"""Autocast in a trace is CUDA's: PyTorch's header, PyTorch's own test lists, its weight cache."""

from __future__ import annotations

import re
import sys
import types
import unittest
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from willfit.trace.cuda import autocast, softmax
from willfit.trace.cuda.kernels import registered
from willfit.trace.fakes import fake_mode

HEADER = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
OF_CUDNN = ("cudnn_convolution", "cudnn_convolution_transpose")
"""Operators that nothing calls but convolution on a GPU."""


def listed(policy: str) -> set[str]:
    """Names in a list of the header, with their overloads."""
    body = re.search(rf"#define AT_FORALL_{policy}\(_\)(.*?)\n\n", HEADER.read_text(), re.DOTALL)
    assert body is not None
    found = re.findall(r"_\((\w+)(?:, (\w+))?\)", body[1])
    return {f"{name}.{overload}" if overload else name for name, overload in found}


@pytest.mark.parametrize(
    ("policy", "ours"),
    [
        ("LOWER_PRECISION_FP", autocast.LOWER),
        ("FP32", autocast.FLOAT32),
        ("FP32_SET_OPT_DTYPE", autocast.FLOAT32_DTYPE),
        ("PROMOTE", autocast.PROMOTE),
    ],
)
def test_lists_are_those_of_the_header(policy: str, ours: tuple[str, ...]) -> None:
    if not HEADER.exists():
        pytest.skip("this torch came without headers")
    assert set(ours) == listed(policy)


@pytest.fixture(scope="module")
def cuda_lists() -> Any:
    """The operators, arguments and types that PyTorch tests its CUDA autocast with."""
    if "expecttest" not in sys.modules:  # only the base class of cases that are not used here
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.autocast_test_lists import AutocastTestLists

    make: Any = AutocastTestLists
    return make(torch.device("cpu"))


def cases(lists: Any) -> Iterator[tuple[str, Any, torch.dtype]]:
    """(name, call, type on CUDA) of every list."""
    inner: Any = torch._C
    for group, owner, dtype in (
        ("torch_fp16", torch, torch.float16), ("torch_fp32", torch, torch.float32),
        ("nn_fp16", inner._nn, torch.float16), ("nn_fp32", inner._nn, torch.float32),
        ("linalg_fp16", inner._linalg, torch.float16),
        ("torch_need_autocast_promote", torch, torch.float32),
        ("torch_expect_builtin_promote", torch, None),
    ):  # fmt: skip
        for name, arguments, *rest in getattr(lists, group):
            if name in OF_CUDNN or name == "einsum":  # listed with arguments of another caller
                continue
            named = rest[0] if rest and isinstance(rest[0], dict) else {}
            call = partial(getattr(owner, name), *arguments, **named)
            yield name, call, dtype if dtype is not None else rest[0]


def test_every_operator_of_pytorchs_lists_gives_cudas_type(cuda_lists: Any) -> None:
    found = []
    with warnings.catch_warnings(), autocast.cuda_autocast():
        warnings.simplefilter("ignore")
        for name, call, expected in cases(cuda_lists):
            with torch.autocast("cpu", dtype=torch.float16):
                out = call()
            out = out[0] if isinstance(out, (tuple, list)) else out
            if isinstance(out, torch.Tensor):
                found.append((name, out.dtype, expected))
    assert [each for each in found if each[1] != each[2]] == []
    assert len(found) > 95


def test_the_cpus_own_lists_are_back_afterwards() -> None:
    half = torch.ones(4, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half.softmax(-1).dtype == torch.bfloat16
        with autocast.cuda_autocast():
            assert half.softmax(-1).dtype == torch.float32
            assert torch.einsum("ij,jk", half.float(), half).dtype == torch.bfloat16
            with pytest.raises(RuntimeError, match="binary_cross_entropy"):
                functional.binary_cross_entropy(half, half)
        assert half.softmax(-1).dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_has_the_same_lists(reentrant: bool) -> None:
    """A checkpoint's second run casts as the first did, or its tensors would not fit."""
    seen: list[torch.dtype] = []

    def block(x: torch.Tensor) -> torch.Tensor:
        out = functional.rms_norm(x, (8,))
        seen.append(out.dtype)
        return out.softmax(-1)

    with autocast.cuda_autocast(), fake_mode():
        x = torch.ones(4, 8, dtype=torch.bfloat16, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = checkpoint(block, x, use_reentrant=reentrant)
        out.sum().backward()
    assert seen == [torch.float32] * 2


@pytest.mark.parametrize("op", ["linear", "mv"])
def test_a_trained_weight_is_cast_once_until_autocast_ends(op: str) -> None:
    """``linear`` is on the CPU's list too, ``mv`` on CUDA's alone: both have the same cache."""
    call = functional.linear if op == "linear" else lambda x, w: torch.mv(w, x)
    with autocast.cuda_autocast():
        weight = torch.ones(8, 8, requires_grad=True)
        x = torch.ones(8)

        def cast() -> Any:
            node: Any = call(x, weight).grad_fn
            found = [parent for parent, _ in node.next_functions if parent is not None]
            while not any("ToCopy" in parent.name() for parent in found):
                found = [up for each in found for up, _ in each.next_functions if up is not None]
            return next(parent for parent in found if "ToCopy" in parent.name())

        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = cast()
            assert cast() is first
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert cast() is not first


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_float16_goes_to_float32_in_one_kernel(name: str) -> None:
    """SoftMax.cpp: no float32 copy of a ``Half`` input is made; of bfloat16 there is one."""
    function = getattr(functional, name)
    with registered(softmax.KEY, softmax.ROWS), fake_mode():
        for dtype, fused in ((torch.float16, True), (torch.bfloat16, False)):
            x = torch.ones(4, 8, dtype=dtype, requires_grad=True)
            out = function(x, dim=-1, dtype=torch.float32)
            parents = [parent.name() for parent, _ in out.grad_fn.next_functions]
            assert out.dtype == torch.float32
            assert parents == ["torch::autograd::AccumulateGrad" if fused else "ToCopyBackward0"]
            out.sum().backward()
            assert x.grad is not None and x.grad.dtype == dtype
