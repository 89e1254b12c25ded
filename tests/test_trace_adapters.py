"""Traced adapters and their loops: laws of what a method holds, and torch's own results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.dtypes import BFLOAT16
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.replay import replay
from willfit.estimator.snapshot import snapshot
from willfit.results import Estimate, PhaseEstimate
from willfit.scenario import ModelSpec, Scenario, Training, Workload
from willfit.trace.cuda.boft import FastBlockDiagonal
from willfit.trace.fakes import sparse_mask
from willfit.trace.recording import EMPTY_CACHE, Event, Place, Recording
from willfit.units import MIB

LAYERS, HIDDEN, KV, VOCAB, BATCH = 6, 256, 64, 1000, 2
RANK = 8
TARGETS = ["q_proj", "v_proj"]
LORA = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": TARGETS}
STEP = Training(
    method="lora", trainer="loop", optimizer="adamw_torch", micro_batch_size=BATCH, max_length=96
)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    model = meta_model(
        "llama",
        hidden_size=HIDDEN,
        intermediate_size=704,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        num_hidden_layers=LAYERS,
    )
    return spec_of_model(model, BFLOAT16)


def traced(spec: ModelSpec, adapter: dict[str, Any], **changes: Any) -> Estimate:
    training = replace(STEP, adapter_config=adapter, **changes)
    return estimate(Scenario(model=spec, workload=Workload(training=training)), trace=True)


def phase(result: Estimate, name: str) -> PhaseEstimate:
    return next(phase for phase in result.binding.phases if phase.name == name)


def held(result: Estimate, name: str, component: str) -> int:
    parts = phase(result, name).components
    return sum(part.num_bytes for part in parts if part.name == component)


def test_the_outputs_of_the_step_before_are_alive_in_forward(spec: ModelSpec) -> None:
    """Logits, 2·V, and cache, 2·2·L·H_kv·D, of every token of the batch before."""
    short, long = 32, 96
    peaks = [
        phase(traced(spec, LORA, step_lengths=(96, before, 96)), "forward").allocated_bytes
        for before in (short, long)
    ]
    a_token = 2 * VOCAB + 2 * 2 * LAYERS * KV
    rounding = 512 * (2 * LAYERS + 1)
    assert peaks[1] - peaks[0] == pytest.approx(BATCH * (long - short) * a_token, abs=rounding)


def test_an_emptied_cache_holds_no_free_segment() -> None:
    place = Place("", "test")
    made = [
        Event("a", 30 * MIB, "forward", place, None),
        Event("a", 0, "forward", place, None),
        Event(EMPTY_CACHE, 0, "forward", place, None),
        Event("b", 40 * MIB, "backward", place, None),
    ]
    reserved = {p.name: p.reserved_bytes for p in replay(Recording(events=made))}
    assert reserved == {"forward": 30 * MIB, "backward": 40 * MIB}
    del made[2]
    reserved = {p.name: p.reserved_bytes for p in replay(Recording(events=made))}
    assert reserved["backward"] == 70 * MIB


def test_a_snapshot_gives_segments_back() -> None:
    place = Place("", "test")
    made = [
        Event("a", 30 * MIB, "forward", place, None),
        Event("a", 0, "forward", place, None),
        Event(EMPTY_CACHE, 0, "forward", place, None),
    ]
    written = snapshot(Recording(events=made))
    actions = [entry["action"] for entry in written["device_traces"][0]]
    assert actions == ["segment_alloc", "alloc", "free_requested", "free_completed", "segment_free"]
    assert written["segments"] == []


def test_lorafa_trains_b_alone_and_formulas_leave_it_to_the_trace(spec: ModelSpec) -> None:
    """B of q and v: r·(H + H_kv·D) a layer; A too once the adapter was disabled and enabled."""
    b = LAYERS * RANK * (HIDDEN + KV)
    a = LAYERS * RANK * 2 * HIDDEN
    frozen = traced(spec, LORA, optimizer="lorafa")
    assert frozen.num_trainable_params == b
    assert held(frozen, "step", "optimizer_states") >= 2 * 4 * b
    again = traced(spec, LORA, optimizer="lorafa", adapter_was_disabled=True)
    assert again.num_trainable_params == a + b
    assert phase(again, "backward").allocated_bytes > phase(frozen, "backward").allocated_bytes
    training = replace(STEP, optimizer="lorafa")
    with pytest.raises(UnsupportedError, match="--trace"):
        estimate(Scenario(model=spec, workload=Workload(training=training)))


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"), [(8, 6, torch.float32), (5, 9, torch.bfloat16)]
)
def test_a_sparse_mask_is_torchs_own(rows: int, columns: int, dtype: torch.dtype) -> None:
    places = torch.stack([torch.arange(5), torch.tensor([0, 3, 1, 5, 2])])
    mask = torch.sparse_coo_tensor(places, torch.ones(5), (rows, columns), check_invariants=True)
    dense = torch.randn(rows, columns, dtype=dtype)
    real, ours = torch.ops.aten.sparse_mask(dense, mask), sparse_mask(dense, mask)
    assert ours._values().shape == real._values().shape
    assert ours._values().dtype == real._values().dtype
    assert torch.equal(ours._indices(), real._indices())


def test_a_sparse_gradient_has_as_many_values_as_the_adapter(spec: ModelSpec) -> None:
    """SHiRA trains r·(n_in + n_out) values a weight; AdamW has two states of each."""
    shira = {"peft_type": "SHIRA", "r": RANK, "target_modules": TARGETS}
    result = traced(spec, shira)
    trained = LAYERS * RANK * (2 * HIDDEN + HIDDEN + KV)
    assert result.num_trainable_params == trained
    assert held(result, "step", "gradients") >= 4 * trained
    assert held(result, "step", "optimizer_states") >= 2 * 4 * trained


def test_a_selection_of_unknown_size_is_everything_and_is_said(spec: ModelSpec) -> None:
    """WaveFT keeps the coefficients that lie inside of the weight, which all of them do."""
    waves = {"peft_type": "WAVEFT", "n_frequency": 100, "target_modules": TARGETS}
    result = traced(spec, waves)
    assert result.num_trainable_params == 2 * LAYERS * 100
    assert any("taken as everything" in note for note in result.assumptions)


def test_block_diagonals_are_torchs_own() -> None:
    blocks = torch.randn(1, 3, 4, 4)
    expected = torch.block_diag(*blocks[0])[None]
    (made,) = FastBlockDiagonal.forward(blocks)
    assert (made.shape, made.dtype) == (expected.shape, expected.dtype)
    assert FastBlockDiagonal.backward(made, blocks)[0].shape == blocks.shape


def test_a_buffer_that_peft_leaves_on_the_host_takes_nothing(spec: ModelSpec) -> None:
    """BOFT's permutations, 4·n_in² a layer, move with the model alone, which a trainer does."""
    boft = {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": TARGETS}
    loop, moved = (
        held(traced(spec, boft, trainer=trainer), "backward", "adapters")
        for trainer in ("loop", "transformers")
    )
    assert moved - loop == 2 * LAYERS * 4 * HIDDEN**2
