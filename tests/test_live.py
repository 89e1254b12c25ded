"""The GPUs of this machine, through the functions of NVML."""

from __future__ import annotations

import pytest

from willfit.errors import InputError
from willfit.live.nvml import FakeCard, FakeNvml, Process, live_gpus
from willfit.units import GIB


def test_a_busy_t4_says_who_holds_what() -> None:
    card = FakeCard(
        name="Tesla T4",
        total=16 * 10**9,
        used=5 * GIB,
        capability=(7, 5),
        processes=((3258, "python", 5 * GIB), (99, "other", None)),
    )
    (live,) = live_gpus(FakeNvml(cards=(card,)))
    assert live.gpu.compute_capability == (7, 5)
    assert live.gpu.name == "NVIDIA T4"
    assert live.free_bytes == 16 * 10**9 - 5 * GIB
    assert live.processes == (
        Process(pid=3258, name="python", used_bytes=5 * GIB),
        Process(pid=99, name="other", used_bytes=None),
    )


def test_capacity_is_never_more_than_this_card_has() -> None:
    small = FakeCard(name="Tesla T4", total=14 * GIB, capability=(7, 5))
    assert live_gpus(FakeNvml(cards=(small,)))[0].gpu.capacity_bytes == 14 * GIB


def test_an_unknown_card_is_described_by_what_nvml_says() -> None:
    (live,) = live_gpus(FakeNvml(cards=(FakeCard(name="NVIDIA X", total=GIB, capability=(9, 0)),)))
    assert (live.gpu.capacity_bytes, live.gpu.sm) == (GIB, 90)


@pytest.mark.parametrize(
    ("nvml", "sentence"),
    [
        (FakeNvml(), "finds no NVIDIA GPU"),
        (FakeNvml(failure="Driver Not Loaded"), r"NVML does not answer \(Driver Not Loaded\)"),
    ],
)
def test_no_gpu_is_a_sentence(nvml: FakeNvml, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        live_gpus(nvml)


def test_this_machine_answers_with_gpus_or_a_sentence() -> None:
    try:
        found = live_gpus()
    except InputError as error:
        assert "--gpu T4" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert all(live.total_bytes > 0 for live in found)
