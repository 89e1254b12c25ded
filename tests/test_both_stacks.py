"""Encoder–decoder models in one pass, eager attention by class, and SDPA by release."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.grid import case

from willfit.dtypes import DTYPES
from willfit.formulas.attention import default_implementation
from willfit.scenario import Inference, Loading, Stack, Workload
from willfit.sources.resolve import resolve


def differs(model: str, dtype: str, batch: int, length: int, **more: Any) -> float:
    workload = Workload(
        loading=Loading(dtype=DTYPES[dtype]),
        inference=Inference(batch_size=batch, context_len=length, **more),
    )
    found = case(model, "", workload, "A100")
    assert found.difference is not None, found.reason
    return found.difference


@pytest.mark.parametrize(
    ("model", "dtype", "batch", "length", "more"),
    [
        ("facebook/bart-base", "float32", 1, 1000, {}),
        ("facebook/bart-base", "bfloat16", 8, 512, {"attn": "eager", "padded": True}),
        ("google-t5/t5-small", "float16", 2, 1000, {"padded": True, "use_cache": False}),
        ("google-t5/t5-small", "float16", 8, 1000, {"padded": True}),
        ("google-t5/t5-small", "float16", 8, 1000, {}),
        ("google-t5/t5-small", "bfloat16", 2, 1000, {}),
        ("google/flan-t5-base", "float32", 8, 512, {"attn": "eager"}),
    ],
)
def test_an_encoder_and_a_decoder(
    model: str, dtype: str, batch: int, length: int, more: dict[str, Any]
) -> None:
    """Both stacks of what does not generate; T5's positions by row, and its float32 ``wo``."""
    assert differs(model, dtype, batch, length, **more) == pytest.approx(0, abs=0.035)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "model",
    [
        "google-bert/bert-base-cased", "openai-community/gpt2", "facebook/opt-125m",
        "bigscience/bloom-560m", "EleutherAI/gpt-neo-125m", "google-t5/t5-small",
        "facebook/bart-base", "tiiuae/falcon-7b",
    ],
)  # fmt: skip
def test_eager_attention_keeps_what_its_class_keeps(model: str, dtype: str) -> None:
    assert differs(model, dtype, 8, 512, attn="eager") == pytest.approx(0, abs=0.045)


@pytest.mark.parametrize(
    ("model", "release", "taken"),
    [
        ("google/gemma-2-9b-it", "4.44", "sdpa"),
        ("google/gemma-2-9b-it", "4.46", "eager"),
        ("google/gemma-2-9b-it", "4.57", "sdpa"),
        ("google/gemma-2-9b-it", "5.20", "sdpa"),
        ("google/gemma-2-9b-it", "5.21", "eager"),
        ("google-t5/t5-small", "5.14", "eager"),
        ("google-t5/t5-small", "5.15", "sdpa"),
        ("google-bert/bert-base-cased", "4.40", "eager"),
        ("meta-llama/Meta-Llama-3-8B", "4.40", "sdpa"),
        ("bigscience/bloom-560m", "5.23", "eager"),
    ],
)
def test_which_attention_a_release_takes_by_default(model: str, release: str, taken: str) -> None:
    """As ``_supports_sdpa`` and its override stand in the modelling files of each release."""
    architecture = resolve(model).architecture
    assert architecture is not None
    stack = Stack(versions={**Stack().versions, "transformers": release})
    assert default_implementation(architecture, stack) == taken


def test_more_tokens_than_bart_has_positions_for() -> None:
    workload = Workload(inference=Inference(context_len=2048))
    found = case("facebook/bart-base", "", workload, "A100")
    assert "1024 positions" in found.reason
    assert found.formula_bytes is None
