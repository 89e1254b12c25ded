"""DeepSpeed's ZeRO: what its buckets and its gathered parameters take, and when.

DeepSpeed 0.19.8 runtime/zero (stage_1_and_2.py, stage3.py, partitioned_param_coordinator.py), with
the settings that `emit` writes (``overlap_comm``, ``contiguous_gradients``, its own sizes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.formulas.training.fsdp import Whole

STAGES: Final = {"zero1": 1, "zero2": 2, "zero3": 3}
"""By the strategy's name."""
BUCKET_ELEMENTS: Final = 500_000_000
"""``reduce_bucket_size`` of stages 1 and 2, whatever the model's size."""
LIVE_ELEMENTS: Final = 1_000_000_000
"""``stage3_max_live_parameters``: prefetching runs ahead until so many are gathered."""
SUB_GROUP_ELEMENTS: Final = 1_000_000_000
"""``sub_group_size``: of so many of a rank's values at once stage 3 steps (stage3.py `step`)."""
MASTER_BYTES: Final = 4
"""A float32 copy of what trains, also where the weights are float32 (`.clone().float()`)."""


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Stages 1 and 2: gradients go through two buffers, each as large as a bucket.

    Both are there from the first gradient of a backward pass to its end; a full one is copied to be
    reduced. What a rank keeps of the gradients waits for the step.
    """

    layers: int
    element_bytes: int
    layer_elements: int
    """What trains of one layer."""
    all_elements: int
    partition: int
    """Bytes of the gradients that the rank keeps."""

    @property
    def buffers(self) -> int:
        """Bytes of both."""
        return 2 * BUCKET_ELEMENTS * self.element_bytes

    @property
    def copy(self) -> int:
        """Bytes of the fullest bucket's copy."""
        return min(BUCKET_ELEMENTS, self.all_elements) * self.element_bytes

    @property
    def layers_a_bucket(self) -> int:
        """Layers whose gradients fill the first one."""
        return min(BUCKET_ELEMENTS // max(self.layer_elements, 1), self.layers)

    def at_moments(self, *, head: int, tied: bool, own: int, accumulated: int) -> Iterator[Whole]:
        """At the loss, the last norm, the last layer, a full bucket, the first layer, the end.

        ``head``: bytes of the head's gradient, which a tied embedding keeps until its own is there;
        ``own``: of a layer's first gradient; ``accumulated``: of what earlier micro-batches left.
        Where one bucket holds all gradients it is reduced at the end, and nothing is kept before.
        """
        waiting = head if tied else 0
        kept = max(accumulated, self.partition)
        yield Whole(accumulated, 0, self.copy)
        yield Whole(accumulated + head, self.buffers, self.copy)
        yield Whole(accumulated + waiting + own, self.buffers, self.copy)
        if self.all_elements <= BUCKET_ELEMENTS:
            yield Whole(accumulated + waiting, self.buffers, self.copy)
            yield Whole(accumulated + waiting + own, self.buffers, self.copy)
            yield Whole(accumulated, self.buffers + max(self.copy, head))
            return
        yield Whole(kept + waiting, self.buffers + self.copy)
        yield Whole(kept + waiting + own, self.buffers, self.copy)
        yield Whole(kept + head, self.buffers, self.copy)


@dataclass(frozen=True, kw_only=True)
class Live:
    """Stage 3: parameters that are gathered; towards the end less is left to gather."""

    everything: int
    """Bytes of as many as may be."""
    outside: int
    """Bytes of the whole weights outside of layers."""
    layer: int
    partition: int
    """Bytes of the gradients that the rank keeps, which have a place from the start."""

    def at_moments(self, *, head: int, tied: bool) -> Iterator[Whole]:
        """At the loss, the last norm, the last layer, the first and the end.

        ``head``: bytes of the head's gradient, larger than a bucket: it is copied to be reduced,
        and stays for two reductions more (stage3.py ``max_param_reduce_events``).
        """
        kept, live = self.partition, self.everything
        waiting = kept + (head if tied else 0)
        yield Whole(kept, live)
        yield Whole(kept + head, live + head)
        yield Whole(kept + head, live)
        yield Whole(waiting, min(live, self.outside + 2 * self.layer))
        yield Whole(waiting, min(live, self.outside) + head)


def stepped_at_once(stage: int, share: int) -> int:
    """Of the values that a rank has, those that its optimizer is given at a time."""
    return min(share, SUB_GROUP_ELEMENTS) if stage == 3 else share


def live_bytes(elements: int, element_bytes: int) -> int:
    """Gathered parameters of stage 3."""
    return min(elements, LIVE_ELEMENTS) * element_bytes
