"""Several GPUs: what the ranks hold together is at least the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.dtypes import BFLOAT16, DTYPES, FLOAT16, FLOAT32, DType
from willfit.formulas.phase import ComponentName, Phase
from willfit.formulas.training.parallel import Sharded, shard
from willfit.results import GpuEstimate
from willfit.scenario.workload import Strategy

STRATEGIES = ("ddp", "dp", "zero1", "zero2", "zero3", "fsdp")
AMOUNT = st.integers(0, 10**12)


def shared_out(strategy: str, degree: int, weights: int, gradients: int, states: int) -> Sharded:
    return shard(
        strategy, degree=degree, weights=weights, gradients=gradients, optimizer_states=states
    )


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
    # a gradient that is not the rank's own is gone with its bucket in stage 1, too
    [("ddp", 800, 800, 1600), ("zero1", 800, 100, 200), ("zero2", 800, 100, 200),
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


def test_zeros_masters_are_shared_out_with_the_states() -> None:
    """100 bf16 parameters: masters 400 B and float32 Adam's 800, over 2."""
    one = shard("zero1", degree=2, weights=200, gradients=200, optimizer_states=800, masters=400)
    assert one.optimizer_states == (400 + 800) // 2


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


LLAMA_7B = "meta-llama/Llama-2-7b-hf"


def step_phases(
    strategy: Strategy, dtype: DType = BFLOAT16, num_gpus: int = 8, **settings: Any
) -> dict[str, Phase]:
    """Backward and step of Llama-2-7b on one of several ranks."""
    import willfit
    from willfit.formulas.training import training_phases
    from willfit.formulas.weights import load_weights
    from willfit.scenario import Loading, Stack, Training

    model = willfit.find_model(LLAMA_7B)
    training = Training(**{
        "method": "full", "optimizer": "adamw_torch", "micro_batch_size": 1, "max_length": 128,
        **settings,
    })  # fmt: skip
    weights = load_weights(model, Loading(dtype=dtype), Stack())
    found = training_phases(
        model, training, None, Stack(), weights, strategy=strategy, num_gpus=num_gpus
    )
    return {phase.name: phase for phase in found.phases}


PARAMS = 6_738_415_616
ROOT = 2 * 32000 * 4096 + 4096
"""Embedding, head and last norm."""
LAYER = (PARAMS - ROOT) // 32


@pytest.mark.parametrize(
    ("dtype", "settings", "phase", "component", "expected"),
    [
        # in a layer's backward: its weights, the next one's, and the input of the last reduction,
        # in the type of the products; head and embedding are not whole then, but in a loop of one's
        # own, which has them in one unit that stays
        (BFLOAT16, {"trainer": "loop"}, "backward", "communication", 2 * ROOT + 3 * 2 * LAYER),
        (FLOAT32, {"bf16": True}, "backward", "communication", 3 * 2 * LAYER),
        (FLOAT32, {}, "backward", "communication", 3 * 4 * LAYER),
        # where a batch is large the loss decides: then only the head is whole
        (BFLOAT16, {"max_length": 4096, "micro_batch_size": 4, "gradient_checkpointing": True},
         "backward", "communication", ROOT),
        # pure bfloat16: weights 2, states 2 + 2; under autocast all is float32, weights too
        (BFLOAT16, {"trainer": "loop"}, "step", "weights", 2 * PARAMS // 8),
        (BFLOAT16, {"trainer": "loop"}, "step", "optimizer_states", 4 * PARAMS // 8),
        (BFLOAT16, {"bf16": True}, "step", "weights", 4 * PARAMS // 8),
        (BFLOAT16, {"bf16": True}, "step", "optimizer_states", 8 * PARAMS // 8),
        (BFLOAT16, {"bf16": True}, "step", "gradients", 4 * PARAMS // 8),
        (FLOAT32, {"bf16": True}, "step", "optimizer_states", 8 * PARAMS // 8),
        # foreach copies once what this rank updates
        (BFLOAT16, {"trainer": "loop"}, "step", "temporaries", 2 * PARAMS // 8),
        (BFLOAT16, {"bf16": True}, "step", "temporaries", 4 * PARAMS // 8),
    ],
)  # fmt: skip
def test_an_fsdp_rank_by_hand(
    dtype: DType, settings: dict[str, Any], phase: str, component: ComponentName, expected: int
) -> None:
    found = step_phases("fsdp", dtype, **settings)[phase].components[component]
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("strategy", "dtype", "settings", "phase", "component", "expected"),
    [
        # DeepSpeed casts the model to 16 bit; its master copies and states are float32, always
        ("zero2", FLOAT32, {"bf16": True}, "step", "weights", 2 * PARAMS),
        ("zero2", BFLOAT16, {"bf16": True}, "step", "optimizer_states", 12 * PARAMS // 8),
        ("zero2", FLOAT32, {}, "step", "weights", 4 * PARAMS),
        ("zero2", FLOAT32, {}, "step", "optimizer_states", 12 * PARAMS // 8),
        # which are flat: no matrix to factor, no embedding to spare from 8 bits
        ("zero2", BFLOAT16, {"bf16": True, "optimizer": "adafactor"}, "step", "optimizer_states",
         (4 + 4) * PARAMS // 8),
        ("zero2", BFLOAT16, {"bf16": True, "optimizer": "adafactor"}, "step", "temporaries",
         2 * 4 * PARAMS // 8),
        ("zero2", BFLOAT16, {"bf16": True, "optimizer": "adamw_8bit"}, "step", "optimizer_states",
         (4 + 2 + 8 / 256) * PARAMS // 8),
        # and so are the gradients that they are stepped by; stage 3 keeps the 16-bit ones besides
        ("zero1", BFLOAT16, {"bf16": True}, "step", "gradients", 4 * PARAMS // 8),
        ("zero3", BFLOAT16, {"bf16": True}, "step", "gradients", (4 + 2) * PARAMS // 8),
        ("zero3", BFLOAT16, {"bf16": True}, "step", "temporaries", 4 * PARAMS // 8),
        # two buckets of 5e8 values and the copy of one whose gradients fill it
        ("zero2", BFLOAT16, {"bf16": True}, "backward", "communication", 3 * 2 * 500_000_000),
        # at most 1e9 parameters are gathered, none in the step; the head's gradient is copied
        ("zero3", BFLOAT16, {"bf16": True}, "backward", "communication",
         2 * 1_000_000_000 + 2 * 32000 * 4096),
        ("zero3", BFLOAT16, {"bf16": True}, "step", "communication", 0),
        ("zero3", BFLOAT16, {"bf16": True}, "step", "weights", 2 * PARAMS // 8),
    ],
)  # fmt: skip
def test_a_rank_of_zero_by_hand(
    strategy: Strategy, dtype: DType, settings: dict[str, Any], phase: str,
    component: ComponentName, expected: int,
) -> None:  # fmt: skip
    found = step_phases(strategy, dtype, **settings)[phase].components[component]
    assert found == pytest.approx(expected, rel=1e-3)


def test_stage_3_steps_a_billion_values_at_a_time() -> None:
    """Two ranks have 3.4e9 each: the float32 gradients and foreach's copy are of 1e9 (stage3.py)."""
    step = step_phases("zero3", BFLOAT16, num_gpus=2, bf16=True)["step"].components
    assert step["temporaries"] == 4 * 10**9
    assert step["gradients"] == pytest.approx(4 * 10**9 + 2 * PARAMS // 2, rel=1e-3)
    assert step["optimizer_states"] == pytest.approx(12 * PARAMS // 2, rel=1e-3)


def test_fsdps_products_of_gathered_halves_are_not_cast_again() -> None:
    """float32 weights under bfloat16: a rank keeps what one that loaded bfloat16 keeps."""
    long: dict[str, Any] = {"bf16": True, "micro_batch_size": 8, "max_length": 1024}
    halves = step_phases("fsdp", BFLOAT16, **long)["backward"].components
    mixed = step_phases("fsdp", FLOAT32, **long)["backward"].components
    alone = step_phases("fsdp", FLOAT32, num_gpus=1, **long)["backward"].components
    assert mixed["activations"] == halves["activations"]
    assert alone["activations"] - mixed["activations"] > 2 * (PARAMS - 32000 * 4096)


@pytest.mark.parametrize("strategy", ["fsdp", "zero2", "zero3"])
def test_weights_of_the_other_16_bit_type_are_cast_whole(strategy: Strategy) -> None:
    """bfloat16 under fp16, as on a T4: a rank keeps what one that loaded float16 keeps.

    On one GPU autocast casts each weight for itself, and keeps what it cast to the end of backward.
    """
    long: dict[str, Any] = {"fp16": True, "micro_batch_size": 8, "max_length": 1024}
    own = step_phases(strategy, FLOAT16, **long)["backward"].components
    other = step_phases(strategy, BFLOAT16, **long)["backward"].components
    assert other == own
    alone = step_phases(strategy, BFLOAT16, num_gpus=1, **long)["backward"].components
    assert alone["activations"] - other["activations"] > 2 * (PARAMS - 32000 * 4096)


def packed_on_two(trace: bool, prepare_kbit: bool = False, **loading: Any) -> GpuEstimate:
    """One of two ranks of ZeRO-3 that train adapters of a small model in 4 bits."""
    import willfit
    from willfit.scenario import Loading, Machine, Quantization, Scenario, Training, Workload

    nf4 = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
    training = Training(
        method="qlora", micro_batch_size=2, max_length=512, bf16=True, prepare_kbit=prepare_kbit,
        gradient_checkpointing=True,
    )  # fmt: skip
    scenario = Scenario(
        model=willfit.find_model("HuggingFaceTB/SmolLM2-135M"),
        workload=Workload(
            loading=Loading(strategy="zero3", quantization=nf4, **loading), training=training
        ),
        machine=Machine(gpus=willfit.parse_machine("L4x2").gpus),
    )
    return willfit.estimate(scenario, trace=trace, search_limits=False).gpus[0]


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("loaded", ["bfloat16", "float32"])
def test_deepspeed_casts_all_that_is_not_packed(trace: bool, loaded: str) -> None:
    """Float32 embeddings and norms, loaded so or prepared for k-bit training, are 16 bit in it."""

    def largest(dtype: str, prepare: bool) -> int:
        phases = packed_on_two(trace, prepare, dtype=DTYPES[dtype]).phases
        return max(phase.allocated_bytes for phase in phases if phase.name != "load")

    assert largest(loaded, True) == pytest.approx(largest("bfloat16", False), rel=0.01)


@pytest.mark.parametrize("trace", [False, True])
def test_no_more_is_gathered_than_packed_weights_have(trace: bool) -> None:
    """In 4 bits this model has 0.4 of what it has in 16; adapters are gathered as well."""
    gpu = packed_on_two(trace)
    [gathered] = [part for part in gpu.peak.components if part.name == "communication"]
    [weights] = [part for part in gpu.peak.components if part.name == "weights"]
    both = 2 * weights.num_bytes
    assert both <= gathered.num_bytes < 1.1 * both


@pytest.mark.parametrize(
    ("strategy", "degree", "states"), [("fsdp", 8, 8), ("zero3", 8, 12), ("zero2", 1, 12)]
)
def test_adapters_are_sharded_where_weights_are(
    strategy: Strategy, degree: int, states: int
) -> None:
    """Rank 8 on q and v of 32 layers: 32·2·2·8·4096 float32 values; DeepSpeed has masters of it."""
    from willfit.scenario import Lora

    lora = Lora(r=8, target_modules=("q_proj", "v_proj"))
    step = step_phases(strategy, method="lora", lora=lora)["step"].components
    values = 32 * 2 * 2 * 8 * 4096
    assert step["adapters"] == pytest.approx(4 * values / degree, rel=1e-3)
    assert step["optimizer_states"] == pytest.approx(states * values / 8, rel=1e-3)
