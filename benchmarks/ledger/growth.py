"""What the caching allocator keeps after training steps of many lengths, by simulation.

Each new longest micro-batch finds no cached block large enough for its logits, so what the shorter
ones had stays reserved beside it. Only the allocations of a step that matter for it are replayed:
logits and their copies, each layer's checkpoint, and one layer's recomputed tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from willfit.allocator.config import AllocatorConfig
from willfit.allocator.simulator import Allocator
from willfit.scenario import ModelSpec


class Shape(NamedTuple):
    """Hidden size, layers, heads, heads of K and V, inner size, vocabulary."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int


def shape_of(model: ModelSpec) -> Shape:
    """By the names of a decoder's config."""
    config = model.config
    return Shape(
        int(config["hidden_size"]),
        int(config["num_hidden_layers"]),
        int(config["num_attention_heads"]),
        int(config.get("num_key_value_heads", config["num_attention_heads"])),
        int(config["intermediate_size"]),
        int(config["vocab_size"]),
    )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The allocations of a step of bfloat16 layers, by its tokens."""

    shape: Shape
    checkpointing: bool
    """Whether each layer keeps its input alone and makes the rest anew."""

    def growth(self, tokens_of_steps: tuple[int, ...]) -> int:
        """What is reserved beyond the most that is allocated, bytes."""
        allocator = Allocator(AllocatorConfig())
        peak = 0

        def malloc(num_bytes: int) -> int:
            nonlocal peak
            address = allocator.malloc(max(num_bytes, 512))
            peak = max(peak, allocator.allocated_bytes)
            return address

        for tokens in tokens_of_steps:
            self._step(tokens, malloc, allocator.free)
        return allocator.peak_reserved_bytes - peak

    def _step(self, tokens: int, malloc: Callable[[int], int], free: Callable[[int], None]) -> None:
        h, inner = self.shape.hidden, self.shape.inner
        kv = h * self.shape.kv_heads // self.shape.heads
        layer = (4 * h, 2 * h, 2 * h, 2 * kv, 2 * kv, 2 * h, 2 * h, 4 * h, 2 * h, *(2 * inner,) * 4)
        kept: list[list[int]] = []
        for _ in range(self.shape.layers):
            inside = [malloc(tokens * width) for width in layer]
            output = malloc(2 * tokens * h)
            if self.checkpointing:
                for address in inside:
                    free(address)
                kept.append([output])
            else:
                kept.append([*inside, output])
        self._loss(tokens, malloc, free)
        gradient = malloc(2 * tokens * h)
        for addresses in reversed(kept):
            inside = [malloc(tokens * width) for width in layer] if self.checkpointing else []
            work = [malloc(2 * tokens * inner) for _ in range(3)]
            for address in [*work, *inside, *addresses]:
                free(address)
            following = malloc(2 * tokens * h)
            free(gradient)
            gradient = following
        free(gradient)

    def _loss(self, tokens: int, malloc: Callable[[int], int], free: Callable[[int], None]) -> None:
        """Logits in half precision, as of Qwen's first code under accelerate's autocast.

        Forward: logits, their shifted copy, that in float32, log-softmax; outputs in float32.
        Backward: two float32 gradients, then two half ones.
        """
        entries = tokens * self.shape.vocab
        logits, shifted, upcast = malloc(2 * entries), malloc(2 * entries), malloc(4 * entries)
        softmax = malloc(4 * entries)
        free(upcast)
        free(shifted)
        outputs = malloc(4 * entries)
        free(logits)
        free(outputs)
        picked, gradient = malloc(4 * entries), malloc(4 * entries)
        free(picked)
        free(softmax)
        half, padded = malloc(2 * entries), malloc(2 * entries)
        free(gradient)
        free(half)
        free(padded)
