"""Buffers that older transformers releases kept in every layer, by hand and as published."""

from __future__ import annotations

import pytest

from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.formulas.training.phases import training_step
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Quantization, Stack, Training
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve


def _allocated(model: str, version: str, dtype: DType = FLOAT16) -> int:
    stack = Stack(versions={**TESTED, "transformers": version})
    return load_weights(resolve(model), Loading(dtype=dtype), stack).allocated_bytes


MASKS = 24 * 2048**2  # a bool for each pair of positions
TABLES = 24 * 2 * 2048 * 16 * 4  # cos and sin in float32, of the quarter of a head that is turned


@pytest.mark.parametrize(
    ("version", "more"),
    [("4.41.2", MASKS + TABLES), ("4.44.2", MASKS + TABLES), ("4.45.2", MASKS), ("4.50.3", 0)],
)
def test_pythia_kept_masks_and_tables_in_every_layer(version: str, more: int) -> None:
    """modeling_gpt_neox.py of these releases."""
    name = "EleutherAI/pythia-410m-deduped"
    assert _allocated(name, version) - _allocated(name, "5.23.0") == more


def test_pythias_head_stays_whole_in_four_bit_under_its_older_name() -> None:
    """It is skipped as ``lm_head`` is: masks and tables are all that differs."""
    loading = Loading(dtype=FLOAT16, quantization=Quantization(scheme="fp4", compute_dtype=FLOAT16))
    older, today = (
        load_weights(
            resolve("EleutherAI/pythia-410m-deduped"),
            loading,
            Stack(versions={**TESTED, "transformers": version}),
        ).allocated_bytes
        for version in ("4.41.2", "5.23.0")
    )
    assert older - today == MASKS + TABLES


def test_gpt2_after_loading_as_published() -> None:
    """A page's Trainer of 2021 printed 511,148,032 bytes after loading.

    Besides weights and masks: the scalar ``masked_bias`` of each layer, and what is left of the
    word table's segment of whole 2 MiB, too little to be split off.
    """
    scalars = 12 * 512
    words = 50257 * 768 * 4
    left = -words % (2 * 2**20)
    found = _allocated("openai-community/gpt2", "4.9.0", FLOAT32)
    assert found + scalars + left == 511_148_032


@pytest.mark.parametrize(
    ("model", "version", "more"),
    [
        ("mistralai/Mistral-7B-v0.1", "4.41.2", 32 * 2 * 32768 * 128 * 2),
        ("mistralai/Mistral-7B-v0.1", "4.42.4", 0),
        ("microsoft/phi-2", "4.37.2", 32 * 2 * 2048 * 32 * 2),
        ("microsoft/phi-2", "4.45.2", 0),
    ],
)
def test_tables_of_cos_and_sin(model: str, version: str, more: int) -> None:
    """Two buffers a layer until the release that computes them once."""
    assert _allocated(model, version) - _allocated(model, "5.23.0") == more


@pytest.mark.parametrize(
    ("version", "element", "turned"),
    [("4.37.2", 0, 64), ("4.38.1", 8, 0), ("4.38.2", 1, 64), ("4.40.2", 0, 64), ("4.41.2", 0, 0)],
)
def test_llama_kept_one_mask_for_a_short_time(version: str, element: int, turned: int) -> None:
    """2048² of 4.38: int64 at first, bool in its last patch; published runs hold 33.6 MB more."""
    name = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    tables = 22 * 2 * 2048 * turned * 2
    assert _allocated(name, version) - _allocated(name, "5.23.0") == element * 2048**2 + tables


@pytest.mark.parametrize(
    ("model", "element"),
    [
        ("EleutherAI/pythia-410m-deduped", 2),
        ("google-bert/bert-base-uncased", 2),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 4),
    ],
)
def test_logits_that_a_loop_keeps_before_4_45(model: str, element: int) -> None:
    """modeling_llama.py 4.42 has ``logits.float()``, modeling_gpt_neox.py and BERT's have not."""
    spec, stack = resolve(model), Stack(versions={**TESTED, "transformers": "4.42.4"})
    training = Training(
        method="full", trainer="loop", loss="logits", micro_batch_size=4, max_length=512
    )
    weights = load_weights(spec, Loading(dtype=FLOAT16), stack)
    step, _ = training_step(spec, training, None, stack, weights)
    assert spec.architecture is not None
    assert step.kept_logits() == element * 4 * 512 * spec.architecture.vocab_size
