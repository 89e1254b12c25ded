"""More of what an H200 took (h200_second.jsonl): one GPU's rows beside formulas and trace.

All rows, with their traces: ``python -m benchmarks.device.read
tests/data/measured/h200_second.jsonl``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from benchmarks.device.recorded import compare
from tests.support import recorded
from tests.support.recorded import error

RECORDS = recorded.records("h200_second.jsonl")
compared = partial(recorded.compared, "h200_second.jsonl")

ALLOCATED = {
    "full/bart": 0.003,
    "full/bloom": 0.001,
    "full/gpt2": 0.001,
    "full/gpt2 autocast": 0.001,
    "full/llama1 clip off": 0.001,
    "full/olmo2": 0.001,
    "full/opt": 0.002,
    "full/pythia": 0.001,
    "full/roberta masked": 0.011,  # blocks that keep a rest of up to 1 MiB
    "full/t5 autocast": 0.028,  # the same: 2.6 % of it
    "lora/falcon eager": 0.006,
    "lora/moe 4 layers": 0.002,
    "lora/phi3": 0.002,
    "infer/bart": 0.003,
    "infer/deepseek-v2-lite 8k": 0.001,
    "infer/falcon7 int8": 0.002,
    "infer/falcon7 nf4 short": 0.001,
    "infer/gemma3-12b 32k": 0.002,
    "infer/llama8 fp16 math": 0.001,
    "infer/mistral 32k": 0.001,
}
"""Error of the formulas' allocated peak, in either direction."""
DECODING = (
    "infer/deepseek-v2-lite 8k",
    "infer/falcon7 int8",
    "infer/falcon7 nf4 short",
    "infer/gemma3-12b 32k",
    "infer/llama8 chunked",
    "infer/llama8 offloaded",
    "infer/mistral 32k",
)
"""Rows whose decoding is held to the measurement too."""
TRACED = {
    "full/t5 autocast": {"allocated": 0.001, "reserved": 0.001},
    "infer/falcon7 int8": {"allocated": 0.001, "reserved": 0.001},
    "infer/llama8 fp16 math": {"allocated": 0.001, "reserved": 0.001},
    "infer/qwen3-8b nf4 short": {"allocated": 0.001, "reserved": 0.001},
}
"""Rows that are traced here, and the most that what is held to the measurement may be off."""


@pytest.mark.parametrize(("name", "bound"), ALLOCATED.items())
def test_the_formulas_allocated_peak(name: str, bound: float) -> None:
    assert abs(error(compared(name), "allocated")) <= bound


@pytest.mark.parametrize("name", DECODING)
def test_the_formulas_peak_of_decoding(name: str) -> None:
    """Its first step finds what prefill left: a sliding layer's views of the whole prompt."""
    found = compared(name).phase_error("allocated", "decode")
    assert found is not None
    assert abs(found) <= 0.001


def test_prefill_of_an_encoder_decoder_ends_with_the_decoders_first_call() -> None:
    """There every layer caches K and V of the encoder's output, the last beside its own."""
    found = compared("infer/bart").phase_error("allocated", "prefill")
    assert found is not None
    assert abs(found) <= 0.001


def test_the_cache_is_what_a_window_needs_though_prefill_left_more() -> None:
    """4,096 of 32,768 tokens: what the views keep is a temporary of the first step."""
    result = compared("infer/mistral 32k").result
    assert result is not None
    assert result.kv_cache_bytes == 2 * 32 * 8 * 128 * 4096 * 2


@pytest.mark.parametrize("name", ["infer/llama1 static", "infer/llama1 static long"])
def test_what_compiling_takes_is_in_the_range(name: str) -> None:
    """K and V of one layer repeated, and a copy of the head where 4 rows are padded to 8.

    The least of it, two fifths of what one row took: a buffer of the L2 cache's size comes on top.
    """
    record = RECORDS[name]
    steady = record.series[-1][1]
    taken = record.phases["decode"]["allocated"]
    result = compared(name).result
    assert taken is not None
    assert result is not None
    (unknown,) = (each for each in result.unknowns if each.name.startswith("compiling"))
    assert 0.4 * (taken - steady) <= unknown.high_bytes <= taken - steady


@pytest.mark.parametrize(("name", "bounds"), TRACED.items())
def test_the_trace(name: str, bounds: dict[str, float]) -> None:
    pytest.importorskip("torch")
    for kind, bound in bounds.items():
        assert abs(error(compared(name, trace=True), kind)) <= bound, kind


@pytest.mark.parametrize("name", ["infer/llama1 short prompt", "infer/bart"])
def test_growth_while_decoding_as_it_was_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs had ``min_new_tokens``: two processors that copy the scores, 4·B·V bytes each.

    Where nothing had been freed before that holds the new caches, those copies decide which
    blocks they find: without them reserved memory of 64 short prompts would be 27 % more.
    """
    transformers = pytest.importorskip("transformers")
    library = transformers.generation.GenerationMixin
    plain = library.generate

    def to_the_end(model: object, **asked: object) -> object:
        return plain(model, **asked, min_new_tokens=asked["max_new_tokens"])

    monkeypatch.setattr(library, "generate", to_the_end)
    found = compare(RECORDS[name], trace=True)
    for kind in ("allocated", "reserved"):
        assert abs(error(found, kind)) <= 0.001, kind


@pytest.mark.parametrize(
    "arguments",
    [
        "EleutherAI/pythia-410m --dtype bfloat16 --bf16 --train full --max-length 1024",
        "facebook/opt-350m --dtype bfloat16 --bf16 --train full --max-length 1024",
        "google/flan-t5-base --auto-class AutoModelForSeq2SeqLM --dtype bfloat16 --batch-size 4"
        " --context 2048 --max-new-tokens 65",
    ],
)
def test_formula_and_trace_agree_beside_the_measured(arguments: str) -> None:
    """LayerNorm under autocast on 16-bit weights; T5's positions laid out for one call at a time."""
    pytest.importorskip("torch")
    record = replace(RECORDS["full/gpt2"], arguments=arguments)
    formula, trace = (compare(record, trace=level).result for level in (False, True))
    assert formula is not None
    assert trace is not None
    ours, theirs = (
        max(phase.allocated_bytes for phase in found.gpus[0].phases) for found in (formula, trace)
    )
    assert ours == pytest.approx(theirs, rel=0.004)


def test_a_trained_position_bias_takes_a_kernel_that_gives_it_a_gradient() -> None:
    """T5's bias: cuDNN, first on an H200, refuses it (sdp_utils_cpp.h `check_attn_mask_shape`)."""
    pytest.importorskip("torch")
    found = compared("full/t5 autocast", trace=True)
    assert found.result is not None
    assert any("efficient" in text for text in found.result.assumptions)
