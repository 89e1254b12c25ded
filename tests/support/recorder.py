"""A memory recorder for tests: real modelling code run on fake tensors, every live storage counted.

Nothing is computed and no GPU is needed. Functions that take another way on the CPU than on CUDA
are replaced while it runs: SDPA goes to the kernel that is named, dropout keeps a one-byte mask,
and transformers skips the mask where nothing is padded, as it does outside of a trace. What happens
inside one operator (cuBLAS and FlashAttention workspaces, bitsandbytes kernels) is not seen.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder:
    """``with Recorder(sdpa="flash") as rec: ...``: live and peak bytes of what is made inside.

    Build models on the meta device before, and hand them to `place`, which counts their weights.
    """

    def __init__(self, *, sdpa: str = "flash") -> None:
        self.live_bytes = 0
        """Bytes of all storages alive now."""
        self.peak_bytes = 0
        """The most that was alive at once."""
        self.marks: dict[str, int] = {}
        """Live bytes at each `mark`."""
        self._live: dict[int, tuple[int, str]] = {}
        self._serial = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._sdpa = sdpa
        self._stack = contextlib.ExitStack()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Recorder:
        self._stack.enter_context(self.fake)
        self._stack.enter_context(_Watch(self))
        for target, name, value in self._replaced():
            self._stack.enter_context(mock.patch.object(target, name, value))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _replaced(self) -> Iterator[tuple[Any, str, Any]]:
        functional = torch.nn.functional
        yield functional, "scaled_dot_product_attention", _sdpa(self._sdpa)
        yield functional, "dropout", _dropout
        yield transformers.masking_utils, "find_packed_sequence_indices", lambda _: None

    def place(self, model: Any, *, train: bool = True) -> Any:
        """Give a meta model fake CPU weights, ties kept, and count them."""
        made: dict[int, Any] = {}
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = self._counterpart(tensor, made)
        return model.train(train)

    def _counterpart(self, tensor: Any, made: dict[int, Any]) -> Any:
        if id(tensor) not in made:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
            if isinstance(tensor, torch.nn.Parameter):
                fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
            made[id(tensor)] = fake
        return made[id(tensor)]

    def mark(self, name: str) -> int:
        """Note the bytes alive now under a name, and return them."""
        self.marks[name] = self.live_bytes
        return self.live_bytes

    def reset_peak(self) -> None:
        """Forget the peak: from here on it starts at what is alive."""
        self.peak_bytes = self.live_bytes

    def top(self, count: int = 10) -> list[tuple[int, str]]:
        """The largest storages alive now, with the operator that made each."""
        return sorted(self._live.values(), reverse=True)[:count]

    def seen(self, tensor: Any, origin: str) -> None:
        """Count the tensor's storage, once, until it dies."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._serial += 1
        self._known[storage] = self._serial
        size = storage.nbytes()
        self._live[self._serial] = (size, origin)
        weakref.finalize(storage, self._died, self._serial).atexit = False
        self.live_bytes += size
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes

    def _died(self, serial: int) -> None:
        self.live_bytes -= self._live.pop(serial)[0]


class _Watch(TorchDispatchMode):
    """Shows the recorder the results of every operator."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._recorder.seen(leaf, str(func))
        return result


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """CUDA's dropout: the output and a bool mask."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _sdpa(kernel: str) -> Any:
    """SDPA as the named CUDA kernel would run it, under autocast in autocast's type."""

    def attention(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        aten = torch.ops.aten
        if torch.is_autocast_enabled("cpu"):
            lower = torch.get_autocast_dtype("cpu")
            query, key, value = (tensor.to(lower) for tensor in (query, key, value))
        if kernel == "math":
            return aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal,
                scale=scale, enable_gqa=enable_gqa,
            )[0]  # fmt: skip
        if kernel == "flash":
            assert attn_mask is None, "flash takes no mask"
            return aten._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, False, scale=scale
            )[0]
        assert kernel == "efficient"
        assert not enable_gqa
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, _float_bias(attn_mask, query), True, dropout_p, is_causal,
            scale=scale,
        )[0]  # fmt: skip

    return attention


def _float_bias(mask: Any, query: Any) -> Any:
    """A bool mask as SDPA makes it a float one: columns padded to 8, expanded over the heads."""
    if mask is None:
        return None
    bias = torch.where(mask.logical_not(), float("-inf"), 0.0).to(query.dtype)
    columns = bias.shape[-1]
    if columns % 8:
        bias = torch.nn.functional.pad(bias, (0, 8 - columns % 8))[..., :columns]
    return bias.expand(query.shape[0], query.shape[1], -1, -1)
