"""The library's own ``generate`` in the trace: its steps, its cache, its masks, its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.allocator.rounding import SMALL_SIZE
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.estimator import estimate
from willfit.estimator.replay import replay
from willfit.formulas.weights import load_weights
from willfit.scenario import Inference, Machine, ModelSpec, Scenario, Workload
from willfit.trace import decode
from willfit.trace import trace as door
from willfit.trace.caches import cache_tensors
from willfit.trace.recording import Recording

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
}
T5: dict[str, Any] = {
    "d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 8, "vocab_size": 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return spec_of_model(meta_model("llama", **SMALL), BFLOAT16)


def recording_of(spec: ModelSpec, **inference: Any) -> Recording:
    work = Workload(inference=Inference(**inference))
    asked = Scenario(model=spec, workload=work, machine=Machine(gpus=parse_machine("L4").gpus))
    weights = load_weights(spec, work.loading, asked.stack)
    gpus = asked.machine.gpus if asked.machine is not None else ()
    job = door._Job(scenario=asked, weights=weights, gpus=gpus, loads_to_gpu=False, placement={})
    return job.run(None).recording


def lengths_of_keys(recording: Recording, batch: int) -> list[int]:
    """Tokens of every key or value that was made, in order: B·S·256 in two bytes."""
    return [
        event.num_bytes // (batch * 256 * 2)
        for event in recording.events
        if event.num_bytes and recording.categories.get(event.handle) == "kv_cache"
    ]


@pytest.mark.parametrize("new_tokens", [1, 2, 3, 9])
def test_the_first_token_is_prefills(llama: ModelSpec, new_tokens: int) -> None:
    """N tokens take n − 1 steps, so the cache ends a token short; one step is always shown."""
    recording = recording_of(llama, context_len=40 + new_tokens, max_new_tokens=new_tokens)
    lengths = lengths_of_keys(recording, 1)
    steps = max(new_tokens - 1, 1)
    assert lengths == [n for n in range(40, 41 + steps) for _ in range(2 * 3)]


def test_a_decoder_that_starts_from_nothing_takes_as_many_steps_as_tokens() -> None:
    spec = spec_of_model(meta_model("t5", "T5ForConditionalGeneration", **T5), BFLOAT16)
    recording = recording_of(spec, context_len=60, max_new_tokens=6)
    own = [n for n in lengths_of_keys(recording, 1) if n <= 6]
    assert own == [n for n in range(1, 7) for _ in range(2 * 2)]


@pytest.mark.parametrize("padded", [False, True])
def test_a_mask_of_ones_is_none(llama: ModelSpec, padded: bool) -> None:
    """Generate makes a mask where none is given; it costs its B·S and no B·S²."""
    length, batch = 96, 2
    recording = recording_of(llama, context_len=length + 1, batch_size=batch, padded=padded)
    square = [
        event for event in recording.events
        if event.place.module in ("", "model") and event.num_bytes >= batch * length * length
        and event.phase == "prefill" and event.place.op == "aten.bitwise_and.Tensor"
    ]  # fmt: skip
    assert bool(square) == padded


@pytest.mark.parametrize(("batch", "prompt"), [(1, 40), (64, 300)])
def test_what_is_left_out_between_holds_no_memory(
    llama: ModelSpec, batch: int, prompt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache in the small pool and one in the large: the same peaks with every event."""
    asked = {"context_len": prompt + 60, "max_new_tokens": 60, "batch_size": batch}
    some = recording_of(llama, **asked)
    monkeypatch.setattr(decode, "WHOLE_STEPS", 60)
    every = recording_of(llama, **asked)
    assert (max(lengths_of_keys(some, batch)) * batch * 512 > SMALL_SIZE) == (batch == 64)
    assert len(some.events) < 0.5 * len(every.events)
    for short, whole in zip(replay(some), replay(every), strict=True):
        assert short.allocated_bytes == whole.allocated_bytes
        assert short.reserved_bytes == pytest.approx(whole.reserved_bytes, rel=0.005)


def test_a_cache_of_any_release_is_found() -> None:
    import transformers

    keys = torch.zeros(1, 2, 3, 4)
    cache: Any = transformers.DynamicCache()
    cache.update(keys, keys + 1, 0)
    assert len(list(cache_tensors(cache))) == 2
    assert len(list(cache_tensors(((keys, keys), (keys, keys))))) == 4
    assert list(cache_tensors(None)) == []


def test_that_no_sequence_ends_early_is_no_assumption_to_print(llama: ModelSpec) -> None:
    assert recording_of(llama, context_len=20, max_new_tokens=4).assumptions == []


def test_decoding_copies_the_experts_of_each_token() -> None:
    """Two of four experts for each of three tokens: gate, up and down of [256, 512] side by side."""
    hidden, inner, experts, pairs = 256, 512, 4, 3 * 2
    spec = spec_of_model(
        meta_model(
            "mixtral", None, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=2,
            num_attention_heads=8, num_key_value_heads=2, vocab_size=1000,
            num_local_experts=experts, num_experts_per_tok=2,
        ),
        BFLOAT16,
    )  # fmt: skip
    inference = {"batch_size": 3, "context_len": 20, "max_new_tokens": 4}
    recording = recording_of(spec, **inference)
    copied = [
        event.num_bytes
        for event in recording.events
        if event.phase == "decode" and "index" in event.place.op and event.num_bytes > 100_000
    ]
    up, down = 2 * pairs * 2 * inner * hidden, 2 * pairs * inner * hidden
    assert copied and set(copied) == {up, down}
    assert not any("index" in e.place.op and e.num_bytes in (up, down)
                   for e in recording.events if e.phase == "prefill")  # fmt: skip
    asked = Scenario(
        model=spec,
        workload=Workload(inference=Inference(**inference)),
        machine=Machine(gpus=parse_machine("L4").gpus),
    )
    traced, formula = (
        {p.name: p.allocated_bytes for p in found.gpus[0].phases}
        for found in (estimate(asked, trace=True), estimate(asked, search_limits=False))
    )
    assert formula["decode"] == pytest.approx(traced["decode"], rel=0.01)
