"""gpt-oss's experts in MXFP4, as transformers 5.23 keeps them where `kernels` is installed.

integrations/mxfp4.py `Mxfp4GptOssMLP`, `Mxfp4GptOssExperts`. Their Triton kernel,
github.com/huggingface/kernels-community at 40d4194 gpt-oss-triton-kernels/matmul_ogs.py, reads
blocks and scales as they are and dequantises nothing in memory.
"""

from __future__ import annotations

from typing import Any

import torch

from willfit.errors import UnsupportedError
from willfit.trace.quantized.stored import Stored


def replace(model: torch.nn.Module, stored: Stored) -> tuple[str, ...]:
    """Every layer's experts of packed tensors; the router stays."""
    if stored.training:
        raise UnsupportedError(
            f"transformers does not train {stored.spec.id} as it is stored, in mxfp4: name a "
            "16-bit copy of it, as Mxfp4Config(dequantize=True) loads it"
        )
    for path, module in list(model.named_modules()):
        experts = f"{path}.experts"
        if experts in stored.tensors:
            packed: Any = module
            model.set_submodule(
                path, Mxfp4Mlp(packed.router, Mxfp4Experts(packed.experts, stored, experts))
            )
    return ("MXFP4 computes with the Triton kernels of kernels-community/gpt-oss-triton-kernels",)


class Mxfp4Experts(torch.nn.Module):
    """Blocks and scales under the checkpoint's names, biases of the real class."""

    def __init__(self, replaced: torch.nn.Module, stored: Stored, path: str) -> None:
        super().__init__()
        there: Any = replaced
        self.hidden, self.inner = there.hidden_size, there.intermediate_size
        for name, tensor in stored.tensors[path].items():
            self.register_buffer(name, tensor)
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            self.register_parameter(name, getattr(there, name).requires_grad_(False))

    def forward(self, rows: torch.Tensor, per_token: int) -> torch.Tensor:
        """(T, h) to (T, h) over k experts a token.

        Gate and up with their activation fused: T·k·I. Down: T·k rows and, behind them in the same
        storage, the T sums that are returned (`init_allocation`, ``fused_scatter``). Biases in
        float32; 4·(3·T·k + T) of indices.
        """
        tokens = rows.shape[0]
        biases = self.gate_up_proj_bias.to(torch.float32)
        inner = rows.new_empty((tokens * per_token, self.inner))
        del biases
        biases = self.down_proj_bias.to(torch.float32)
        indices = rows.new_empty(3 * tokens * per_token + tokens, dtype=torch.int32)
        out = rows.new_empty((tokens * per_token + tokens, self.hidden))
        del biases, indices, inner
        return out[-tokens:]


class Mxfp4Mlp(torch.nn.Module):
    """Router logits, the choice of experts, the experts."""

    def __init__(self, router: torch.nn.Module, experts: Mxfp4Experts) -> None:
        super().__init__()
        self.router, self.experts = router, experts

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S, h) to (B, S, h), and the router's logits.

        The choice, `routing`: a weight and two places for each of T·k pairs.
        """
        router: Any = self.router
        rows = hidden.reshape(-1, router.hidden_dim)
        logits = torch.nn.functional.linear(rows, router.weight, router.bias)
        pairs = rows.shape[0] * router.top_k
        chosen = (logits.new_empty(pairs), rows.new_empty(2 * pairs, dtype=torch.int32))
        out = self.experts(rows, router.top_k)
        del chosen
        return out.reshape(hidden.shape[0], -1, router.hidden_dim), logits
