"""The release contract against GPUs that follow a script: late, never, elsewhere, unseen."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from willfit.errors import GpuNotReleasedError, StageFailedError
from willfit.live.nvml import FakeCard, FakeNvml, LiveGpu, live_gpus
from willfit.runner.gpus import NvmlProbe, Sampler, ScriptedProbe, visible
from willfit.runner.release import PATIENCE, TOLERANCE, Contract, Release
from willfit.units import GIB, MIB

T4 = 16 * GIB
Holder = tuple[int, str, int | None]


def cards(*used: int, holders: tuple[Holder, ...] = ()) -> Sequence[LiveGpu]:
    """Cards with so much in use; the first is held as said."""
    return live_gpus(
        FakeNvml(
            cards=tuple(
                FakeCard(
                    name="Tesla T4", total=T4, used=amount, capability=(7, 5),
                    uuid=f"GPU-{index}{index}", processes=() if index else holders,
                )
                for index, amount in enumerate(used)
            )
        )
    )  # fmt: skip


@dataclass
class Clock:
    """Time that passes only while somebody sleeps."""

    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def contract(
    used: Callable[[float], Sequence[LiveGpu]], baseline: dict[int, int], **limits: float
) -> Contract:
    """A contract over GPUs whose use is a function of the time."""
    clock = Clock()
    return Contract(
        probe=ScriptedProbe(lambda _: used(clock.now)),
        baseline=baseline,
        clock=lambda: clock.now,
        sleep=clock.sleep,
        **limits,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("late", [0.0, 0.3, 7.0, 59.0])
def test_memory_that_comes_late_is_waited_for_and_the_wait_is_told(late: float) -> None:
    held = contract(lambda now: cards(0 if now >= late else 14 * GIB), {0: 0})
    release = held.wait([0], {0: 15 * GIB})
    assert late <= release.seconds <= late + 1.0
    (gpu,) = release.gpus
    assert (gpu.before_bytes, gpu.peak_bytes, gpu.after_bytes) == (0, 15 * GIB, 0)
    assert release.line() == f"GPU 0 15.00 GiB → 0 B, back in {release.seconds:.1f} s"


def test_memory_that_never_comes_is_refused_after_the_patience_and_not_before() -> None:
    reads: list[float] = []

    def stuck(now: float) -> Sequence[LiveGpu]:
        reads.append(now)
        return cards(5 * GIB, holders=((3258, "python", 5 * GIB),))

    with pytest.raises(GpuNotReleasedError) as refusal:
        contract(stuck, {0: GIB}).wait([0], {})
    assert reads[-1] >= PATIENCE
    text = str(refusal.value)
    assert "within 60 s" in text or "within 61 s" in text
    assert "GPU 0 has 5.00 GiB in use (1.00 GiB before the run)" in text
    assert "held by process 3258 python (5.00 GiB)" in text
    assert "run the same command again: what is computed is kept" in text
    assert isinstance(refusal.value, StageFailedError) and refusal.value.exit_code == 5


def test_a_steady_decline_is_not_a_return() -> None:
    held = contract(lambda now: cards(int(GIB * (1 + 1 / (1 + now)))), {0: GIB // 2})
    with pytest.raises(GpuNotReleasedError):
        held.wait([0], {})


@pytest.mark.parametrize(
    ("above", "back"), [(0, True), (TOLERANCE, True), (TOLERANCE + 1, False), (-GIB, True)]
)
def test_the_tolerance_is_above_the_baseline_and_sharp(above: int, back: bool) -> None:
    held = contract(lambda _: cards(2 * GIB + above), {0: 2 * GIB}, patience=3)
    if back:
        assert held.wait([0], {}).gpus[0].after_bytes == 2 * GIB + above
    else:
        with pytest.raises(GpuNotReleasedError):
            held.wait([0], {})


def test_the_wrong_card_does_not_count_as_the_right_one() -> None:
    on_the_other = contract(lambda _: cards(0, 9 * GIB), {0: 0, 1: 0}, patience=2)
    assert on_the_other.wait([0], {}).gpus[0].after_bytes == 0
    with pytest.raises(GpuNotReleasedError, match=r"GPU 1 has 9\.00 GiB") as refusal:
        on_the_other.wait([0, 1], {})
    assert "GPU 0" not in str(refusal.value)
    with pytest.raises(GpuNotReleasedError, match="GPU 1"):
        on_the_other.wait([1], {})


def test_both_cards_are_waited_for_and_both_are_told() -> None:
    held = contract(
        lambda now: cards(0 if now > 1 else GIB, 0 if now > 4 else 3 * GIB), {0: 0, 1: 0}
    )
    release = held.wait([0, 1], {0: GIB, 1: 3 * GIB})
    assert release.seconds > 4
    assert release.line().startswith("GPU 0 1.00 GiB → 0 B, GPU 1 3.00 GiB → 0 B, back in ")


@pytest.mark.parametrize(
    ("holders", "said"),
    [
        (((3758261, "?", None),), "process 3758261 ?"),
        ((), "no process that can be seen from here (another container, or the driver)"),
        (((os.getpid(), "python", 2 * GIB),), "this very process (2.00 GiB)"),
        (((7, "a", GIB), (8, "b", None)), "process 7 a (1.00 GiB); process 8 b"),
    ],
)
def test_totals_decide_also_where_process_ids_are_the_hosts(
    holders: tuple[Holder, ...], said: str
) -> None:
    held = contract(lambda _: cards(5 * GIB, holders=holders), {0: 0}, patience=1)
    with pytest.raises(GpuNotReleasedError) as refusal:
        held.wait([0], {})
    assert f"held by {said};" in str(refusal.value)
    # the same holders beside a card that is back do not matter
    back = contract(lambda _: cards(0, holders=holders), {0: 0}, patience=1)
    assert back.wait([0], {}).gpus[0].after_bytes == 0


def test_who_held_memory_before_is_named_although_the_card_is_back() -> None:
    other: Holder = (99, "other", GIB)
    held = contract(lambda _: cards(GIB, holders=(other,)), {0: GIB})
    (gpu,) = held.wait([0], {}).gpus
    assert gpu.holders == ("process 99 other (1.00 GiB)",)
    assert (
        contract(lambda _: cards(0, holders=(other,)), {0: 0}).wait([0], {}).gpus[0].holders == ()
    )


def test_a_card_that_no_longer_answers_is_not_back() -> None:
    held = contract(lambda _: cards(0), {0: 0, 1: 0}, patience=2)
    with pytest.raises(GpuNotReleasedError, match="GPU 1 does not answer any more"):
        held.wait([0, 1], {})
    returning = contract(lambda now: () if now < 5 else cards(0), {0: 0})
    assert returning.wait([0], {}).seconds >= 5


def test_waiting_reads_often_at_first_and_never_without_a_pause() -> None:
    reads: list[float] = []

    def late(now: float) -> Sequence[LiveGpu]:
        reads.append(now)
        return cards(GIB if now < 30 else 0)

    contract(late, {0: 0}).wait([0], {})
    pauses = [after - before for before, after in itertools.pairwise(reads)]
    assert pauses[0] <= 0.05 and max(pauses) <= 1.0 and min(pauses) > 0
    assert pauses == sorted(pauses)


def test_no_gpu_is_nothing_to_wait_for() -> None:
    release = contract(lambda _: (), {}).wait([], {})
    assert release == Release(gpus=(), seconds=0.0) and release.line() == ""


def test_the_baseline_is_what_is_in_use_when_the_contract_is_made() -> None:
    use = [3 * GIB, 500 * MIB]
    held = Contract.now(ScriptedProbe(lambda _: cards(*use)), [0, 1], patience=0.2)
    assert held.baseline == {0: 3 * GIB, 1: 500 * MIB}
    use[1] += TOLERANCE + 1
    assert held.wait([0], {}).gpus[0].before_bytes == 3 * GIB
    with pytest.raises(GpuNotReleasedError, match="GPU 1"):
        held.wait([1], {})


def test_what_is_written_has_before_peak_and_after_in_bytes() -> None:
    release = contract(lambda _: cards(MIB), {0: 0}).wait([0], {0: 14 * GIB})
    assert release.json() == {
        "seconds": 0.0,
        "gpus": [
            {
                "index": 0, "name": "Tesla T4", "before_bytes": 0, "peak_bytes": 14 * GIB,
                "after_bytes": MIB, "holders": [],
            }
        ],
    }  # fmt: skip


def test_the_sampler_keeps_the_highest_of_each_card() -> None:
    curve, over = [(1, 5), (4, 2), (2, 3), (0, 0)], threading.Event()

    def script(count: int) -> Sequence[LiveGpu]:
        if count >= len(curve):
            over.set()
        return cards(*(GIB * amount for amount in curve[min(count, len(curve) - 1)]))

    with Sampler(probe=ScriptedProbe(script), interval=0.05) as sampler:
        assert over.wait(10)
    assert sampler.highest == {0: 4 * GIB, 1: 5 * GIB}


@pytest.mark.parametrize(
    ("value", "names", "numbers"),
    [
        (None, {0: "0", 1: "1", 2: "2"}, {0: 0, 1: 1, 2: 2}),
        ("2,0", {0: "2", 1: "0"}, {0: 2, 1: 0}),
        ("GPU-11, GPU-00", {0: "GPU-11", 1: "GPU-00"}, {0: 1, 1: 0}),
        ("MIG-GPU-22/3/0", {0: "MIG-GPU-22/3/0"}, {0: 2}),
        ("", {}, {}),
        ("1,7,0", {0: "1"}, {0: 1}),
    ],
)
def test_a_runs_numbers_are_places_in_what_the_user_shows(
    value: str | None, names: dict[int, str], numbers: dict[int, int]
) -> None:
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    found = visible(ScriptedProbe(lambda _: cards(0, 0, 0)), environ)
    assert (found.names, found.nvml_index) == (names, numbers)
    assert list(found.gpus) == list(numbers)


def test_a_machine_without_a_driver_has_no_gpus_and_nothing_to_release() -> None:
    probe = NvmlProbe(nvml=FakeNvml(failure="NVML Shared Library Not Found"))
    assert probe.read() == () and visible(probe, {}).gpus == {}
    assert NvmlProbe(nvml=FakeNvml()).read() == ()
