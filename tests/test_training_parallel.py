"""Several GPUs: what the ranks hold together is at least the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.dtypes import DTYPES
from willfit.formulas.training.parallel import Sharded, shard
from willfit.results import GpuEstimate

STRATEGIES = ("ddp", "dp", "zero1", "zero2", "zero3", "fsdp")
AMOUNT = st.integers(0, 10**12)


def shared_out(strategy: str, degree: int, weights: int, gradients: int, states: int) -> Sharded:
    return shard(
        strategy, degree=degree, weights=weights, trainable=gradients, gradients=gradients,
        optimizer_states=states, largest_block=weights // 10, half_precision=False,
    )  # fmt: skip


@given(
    strategy=st.sampled_from(STRATEGIES), degree=st.integers(2, 1024),
    weights=AMOUNT, gradients=AMOUNT, states=AMOUNT,
)  # fmt: skip
def test_the_ranks_together_hold_at_least_the_whole(
    strategy: str, degree: int, weights: int, gradients: int, states: int
) -> None:
    one = shared_out(strategy, degree, weights, gradients, states)
    assert one.weights * degree >= weights
    assert one.gradients * degree >= gradients
    assert one.optimizer_states * degree >= states


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "states"),
    # 8 ranks, fp32 Adam of 800 B of parameters: weights 800, gradients 800, states 1600
    [("ddp", 800, 800, 1600), ("zero1", 800, 800, 200), ("zero2", 800, 100, 200),
     ("zero3", 100, 100, 200), ("fsdp", 100, 100, 200)],
)  # fmt: skip
def test_each_stage_shards_one_thing_more(
    strategy: str, weights: int, gradients: int, states: int
) -> None:
    one = shared_out(strategy, 8, 800, 800, 1600)
    assert (one.weights, one.gradients, one.optimizer_states) == (weights, gradients, states)


def test_ddp_holds_a_second_copy_of_the_gradients_in_its_buckets() -> None:
    assert shared_out("ddp", 2, 800, 800, 1600).communication == 800
    assert shared_out("dp", 2, 800, 800, 1600).communication == 0


def test_half_precision_zero_keeps_float32_masters_and_states() -> None:
    """100 bf16 parameters (200 B) with bf16 Adam (400 B): masters 400 and states 800, over 2."""
    one = shard(
        "zero1", degree=2, weights=200, trainable=200, gradients=200, optimizer_states=400,
        largest_block=20, half_precision=True,
    )  # fmt: skip
    assert one.optimizer_states == (400 + 800) // 2
    assert one.communication == 400 // 2


def test_ranks_that_convert_load_a_copy_each_into_host_memory() -> None:
    """bfloat16 as stored is one mapping of the file for all ranks; float16 is a copy of each."""
    import willfit
    from willfit.scenario import Loading, Machine, Scenario, Training, Workload

    def ram(dtype: str | None) -> int:
        loading = Loading(dtype=DTYPES[dtype] if dtype else None)
        scenario = Scenario(
            model=willfit.find_model("llama-3-8b"),
            workload=Workload(loading=loading, training=Training(method="lora")),
            machine=Machine(gpus=willfit.parse_machine("A100x2").gpus),
        )
        return willfit.estimate(scenario, search_limits=False).host.ram_bytes

    assert ram("float16") == pytest.approx(2 * ram(None), rel=1e-6)  # rotary stays float32
    assert ram("float32") == pytest.approx(4 * ram(None), rel=1e-6)


@pytest.mark.parametrize("cards", ["T4:10GiB,T4", "24GiB:sm_75,24GiB:sm_86"])
def test_unlike_gpus_of_one_name_have_their_own_numbers(cards: str) -> None:
    """Each rank takes what it would take beside its like, of its own card's capacity."""
    import willfit
    from willfit.scenario import Machine, Scenario, Training, Workload

    def gpus(text: str) -> tuple[GpuEstimate, ...]:
        scenario = Scenario(
            model=willfit.find_model("llama-3.2-1b"),
            workload=Workload(training=Training(method="lora")),
            machine=Machine(gpus=willfit.parse_machine(text).gpus),
        )
        return willfit.estimate(scenario, search_limits=False).gpus

    for index, card in enumerate(cards.split(",")):
        mixed, alike = gpus(cards)[index], gpus(f"{card},{card}")[index]
        assert (mixed.peak, mixed.budget_bytes) == (alike.peak, alike.budget_bytes)
