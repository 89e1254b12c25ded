"""What the allocator keeps of other lengths, and of a full card: laws, and cases by hand."""

from __future__ import annotations

import pytest
from benchmarks.ledger.growth import Shape, Steps
from benchmarks.ledger.moments import reserved_at_end

from willfit.allocator.simulator import SimulatedOutOfMemory
from willfit.trace.recording import Event, Place, Recording
from willfit.units import MIB

VOCAB = 64_000
STEPS = Steps(
    shape=Shape(hidden=1024, layers=2, heads=16, kv_heads=16, inner=2816, vocab=VOCAB),
    checkpointing=True,
)


def test_equal_steps_keep_what_one_keeps() -> None:
    assert STEPS.growth((1024,) * 8) == STEPS.growth((1024,) * 2)


def test_longer_rows_later_keep_more_than_longest_first() -> None:
    rising = (512, 640, 768, 896, 1024)
    assert STEPS.growth(rising) > STEPS.growth(tuple(reversed(rising)))


def test_a_short_row_before_the_longest_leaves_its_logits() -> None:
    """Logits of 1000 tokens are float32, 244 MiB: no such block serves 1010 tokens' 247 MiB."""
    block = 4 * 1000 * VOCAB
    assert block // MIB == 244
    kept = STEPS.growth((1000, 1010)) - STEPS.growth((1010, 1000))
    assert kept >= block


@pytest.mark.parametrize("checkpointing", [True, False])
def test_reserved_is_never_below_allocated(checkpointing: bool) -> None:
    steps = Steps(shape=STEPS.shape, checkpointing=checkpointing)
    assert steps.growth((300, 900, 40, 1200)) >= 0


def test_what_is_left_of_a_full_device_is_what_came_after_it_was_full() -> None:
    """64 MiB are cached when 80 more are asked for: a card of 100 gives them back, one of 200 not."""
    place = Place("", "aten.empty")
    events = [
        Event("a", 64 * MIB, "prefill", place, None),
        Event("a", 0, "prefill", place, None),
        Event("b", 80 * MIB, "decode", place, None),
        Event("b", 0, "decode", place, None),
    ]
    recording = Recording(events=events)
    assert reserved_at_end(recording, "", 200 * MIB) == 144 * MIB
    assert reserved_at_end(recording, "", 100 * MIB) == 80 * MIB
    with pytest.raises(SimulatedOutOfMemory):
        reserved_at_end(recording, "", 70 * MIB)
