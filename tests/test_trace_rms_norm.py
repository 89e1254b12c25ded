"""``torch.nn.RMSNorm`` in a trace allocates what its CUDA kernel does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from willfit.scenario.stack import TESTED, Stack
from willfit.trace.cuda import cuda_choices
from willfit.trace.fakes import fake_mode
from willfit.trace.recorder import Recorder

TODAY = Stack(versions=TESTED)
ROWS, MIB = 4096, 2**20


def _allocations(stack: Stack, dtype: torch.dtype, weight: torch.dtype) -> list[int]:
    """Bytes of each block of 1 MiB or more, of the norm of 4,096 rows of 1,024 and its backward."""
    recorder = Recorder({})
    with cuda_choices(lambda _: None, stack, quantized=False), fake_mode(), recorder:
        x = torch.randn(ROWS, 1024, dtype=dtype, requires_grad=True)
        norm = torch.nn.RMSNorm(1024, dtype=weight)
        before = len(recorder.recording.events)
        norm(x).sum().backward()
        events = recorder.recording.events[before:]
    return [event.num_bytes for event in events if event.num_bytes >= MIB]


def test_it_is_one_kernel() -> None:
    """Liger's benchmark on an H100 (megatron_rms_norm, torch, H=1024): 40.02 MiB.

    Input and its gradient from the calls before are 16 of them; the output, the gradient that
    ``sum`` expanded, made contiguous, and the result are 8 each.
    """
    assert _allocations(TODAY, torch.bfloat16, torch.bfloat16) == [8 * MIB] * 3


def test_mixed_types_and_older_releases_take_several_operators() -> None:
    mixed = _allocations(TODAY, torch.bfloat16, torch.float32)
    older = replace(TODAY, versions={**TESTED, "torch": "2.8.0"})
    composed = _allocations(older, torch.bfloat16, torch.bfloat16)
    assert 16 * MIB in mixed and 16 * MIB in composed, "float32 copies of 4 B · 4,096 · 1,024"


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_have_their_shapes(frozen: bool) -> None:
    with cuda_choices(lambda _: None, TODAY, quantized=False), fake_mode():
        x = torch.randn(2, 3, 8, requires_grad=True)
        norm = torch.nn.RMSNorm(8).requires_grad_(not frozen)
        norm(x.transpose(0, 1)).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert (norm.weight.grad is None) is frozen
