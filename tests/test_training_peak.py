"""The peak of forward and backward, whole: the formulas against the real class on fake tensors.

Bound 2 % of the peak, weights included. An intermediate size below 2·h is outside of the bound: LoRA with
checkpointing is 10 % low there, and the mechanism is not found yet.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.meta_spec import meta_model, spec_of_model
from tests.support.recorder import Recorder
from tests.support.training import with_adapter

from willfit.dtypes import BFLOAT16, DTYPES
from willfit.formulas.phase import Phase
from willfit.formulas.training import training_phases
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Lora, ModelSpec, Quantization, Stack, Training
from willfit.scenario.stack import TESTED

BATCH, LENGTH = 8, 256
ADAPTER = Lora(r=8, target_modules=("q_proj", "v_proj"))
BOUND = 0.02


def model(layers: int, vocab: int, inner: int = 704, *, tied: bool = False) -> Any:
    return meta_model(
        "llama", hidden_size=256, intermediate_size=inner, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=vocab, num_hidden_layers=layers,
        tie_word_embeddings=tied,
    )  # fmt: skip


def true_peak(
    meta: Any, *, dtype: str, checkpointing: bool, lora: Lora | None, loop: bool, autocast: bool
) -> int:
    meta = meta.to(getattr(torch, dtype))
    if lora is not None:
        meta = with_adapter(meta, lora)
    if checkpointing:
        meta.gradient_checkpointing_enable()
    with Recorder() as recorder:
        real = recorder.place(meta)
        if checkpointing and lora is not None:
            real.enable_input_require_grads()
        ids = torch.empty(BATCH, LENGTH, dtype=torch.long)
        casting = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with casting:
            output = real(input_ids=ids, labels=ids, use_cache=loop and not checkpointing)
        loss = output.loss
        if not loop:
            del output
        loss.backward()
    return recorder.peak_bytes


def phases(spec: ModelSpec, **changes: Any) -> tuple[Phase, ...]:
    settings: dict[str, Any] = {
        "method": "full", "trainer": "transformers", "optimizer": "sgd",
        "micro_batch_size": BATCH, "max_length": LENGTH, "gradient_checkpointing": False,
    }  # fmt: skip
    training = Training(**{**settings, **changes})
    weights = load_weights(spec, Loading(dtype=spec.stored_dtype), Stack())
    return training_phases(spec, training, None, Stack(), weights).phases


def estimated(spec: ModelSpec, **changes: Any) -> int:
    return max(
        phase.allocated_bytes - phase.components["workspaces"] for phase in phases(spec, **changes)
    )


@pytest.mark.parametrize(
    "shape", [(4, 64), (12, 64), (4, 8000), (4, 64, 2048)], ids=["short", "deep", "head", "wide"]
)
@pytest.mark.parametrize("lora", [None, ADAPTER], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_the_peak_of_a_step_is_the_classes_own(
    shape: tuple[int, ...], lora: Lora | None, checkpointing: bool, autocast: bool
) -> None:
    dtype = "float32" if autocast and lora is None else "bfloat16"
    truth = true_peak(
        model(*shape), dtype=dtype, checkpointing=checkpointing, lora=lora, loop=False,
        autocast=autocast,
    )  # fmt: skip
    estimate = estimated(
        spec_of_model(model(*shape), DTYPES[dtype]),
        method="lora" if lora else "full", lora=lora, bf16=autocast,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    assert estimate == pytest.approx(truth, rel=BOUND)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [None, ADAPTER], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_a_plain_loop_keeps_its_outputs(tied: bool, lora: Lora | None, checkpointing: bool) -> None:
    truth = true_peak(
        model(4, 8000, tied=tied), dtype="bfloat16", checkpointing=checkpointing, lora=lora,
        loop=True, autocast=False,
    )  # fmt: skip
    spec = spec_of_model(model(4, 8000, tied=tied), BFLOAT16)
    estimate = estimated(
        spec, trainer="loop", method="lora" if lora else "full", lora=lora,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    assert estimate == pytest.approx(truth, rel=BOUND)


SPEC = spec_of_model(model(4, 8000), BFLOAT16)


def test_outputs_of_before_transformers_4_45_keep_float32_logits_at_the_loss() -> None:
    """Two bytes an entry more than half-precision ones: 16 instead of 14."""
    training = Training(
        method="full", trainer="loop", optimizer="sgd", micro_batch_size=BATCH, max_length=LENGTH,
        gradient_checkpointing=True,
    )  # fmt: skip
    entries = BATCH * LENGTH * 8000
    for release, per_entry in (("5.23.0", 14), ("4.44.2", 16)):
        stack = Stack(versions={**TESTED, "transformers": release})
        weights = load_weights(SPEC, Loading(dtype=SPEC.stored_dtype), stack)
        backward = training_phases(SPEC, training, None, stack, weights).phases[0]
        assert backward.components["logits"] == per_entry * entries


def test_a_reentrant_checkpoints_graph_has_no_products_that_keep_inputs() -> None:
    """LLM.int8's inputs live as long as the outputs' graph, which is without the layers here."""

    def kept(use_reentrant: bool) -> int:
        loading = Loading(quantization=Quantization(scheme="int8"))
        training = Training(
            method="lora", trainer="loop", lora=ADAPTER, micro_batch_size=BATCH,
            max_length=LENGTH, gradient_checkpointing=True, use_reentrant=use_reentrant,
        )  # fmt: skip
        weights = load_weights(SPEC, loading, Stack())
        step = training_phases(SPEC, training, None, Stack(), weights).phases[1]
        return step.components["activations"]

    assert kept(use_reentrant=True) == 0
    assert kept(use_reentrant=False) > 0


def test_a_plain_loop_with_a_fused_loss_has_no_logits_to_keep() -> None:
    """Liger's models give ``logits=None`` with labels: the loop keeps what the Trainer does."""
    loop, trainer = (
        {phase.name: phase.components["logits"] for phase in phases(SPEC, trainer=name,
                                                                    use_liger_kernel=True)}
        for name in ("loop", "transformers")
    )  # fmt: skip
    assert loop == trainer
    whole = 2 * BATCH * LENGTH * 8000
    assert phases(SPEC, trainer="loop")[1].components["logits"] == whole


@given(
    batch=st.integers(1, 64),
    length=st.integers(1, 4096),
    rank=st.integers(1, 256),
    checkpointing=st.booleans(),
    more=st.sampled_from(["micro_batch_size", "max_length", "rank"]),
)
def test_more_batch_length_or_rank_never_takes_less(
    batch: int, length: int, rank: int, checkpointing: bool, more: str
) -> None:
    sizes = {"micro_batch_size": batch, "max_length": length, "rank": rank}

    def cost(sizes: dict[str, int]) -> int:
        lora = Lora(r=sizes["rank"], target_modules=("all-linear",))
        return estimated(
            SPEC, method="lora", lora=lora, optimizer="adamw_torch",
            gradient_checkpointing=checkpointing, micro_batch_size=sizes["micro_batch_size"],
            max_length=sizes["max_length"],
        )  # fmt: skip

    here = cost(sizes)
    assert here > SPEC.num_params * 2
    assert cost({**sizes, more: sizes[more] + 1}) >= here


def test_accumulation_adds_gradients_to_the_forward_and_nothing_to_the_end() -> None:
    once, twice = (phases(SPEC, gradient_accumulation_steps=steps) for steps in (1, 4))
    assert twice[-1].allocated_bytes == once[-1].allocated_bytes
    gained = twice[0].allocated_bytes - once[0].allocated_bytes
    assert 0 < gained <= once[-1].components["gradients"]
