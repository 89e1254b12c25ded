"""Activations kept per layer: the formulas against the real classes, run on fake tensors.

Bound 0.3 % (float32 statistics of LayerNorm, which the CPU's kernel keeps in 16 bit, and scalars);
every kernel, mask and type tells another term apart, and two shapes tell widths apart.
"""

from __future__ import annotations

import pytest
from tests.support.training import CONFIGS, SMALL, kept_by_class, kept_by_formula

BOUND = 0.003
ROUTER = 0.006
"""Mixtral's index tensors of the router, about 70 bytes a token, are not in the formula."""

CASES = [
    ("llama", "flash"), ("llama", "efficient"), ("llama", "eager"),
    ("llama wide", "flash"), ("llama wide", "efficient"), ("llama wide", "eager"),
    ("qwen2", "flash"), ("qwen3", "flash"), ("qwen3", "efficient"), ("gemma", "flash"),
    ("phi3", "flash"), ("phi3", "efficient"), ("phi3", "eager"),
    ("gpt2", "flash"), ("gpt2", "efficient"), ("gpt2", "eager"),
    ("gpt_neox", "flash"), ("gpt_neox", "efficient"), ("gpt_neox", "eager"),
    ("opt", "flash"), ("opt", "efficient"), ("opt", "eager"),
    ("bert", "efficient"), ("bert", "eager"), ("roberta", "eager"), ("electra", "eager"),
    ("xlm-roberta", "eager"),
    ("mixtral", "flash"), ("mixtral", "efficient"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_a_trained_layer_keeps_what_the_real_class_keeps(name: str, kernel: str) -> None:
    masked = kernel == "efficient"
    truth = kept_by_class(name, kernel, masked=masked)
    assert kept_by_formula(name, kernel, masked=masked) == pytest.approx(
        truth, rel=ROUTER if name == "mixtral" else BOUND
    )


@pytest.mark.parametrize("name", ["llama", "llama wide", "qwen3", "bert", "gpt_neox", "phi3"])
def test_autocast_keeps_its_copies_of_inputs_and_weights(name: str) -> None:
    """GPT-2's activation takes a power, which only CUDA's autocast computes in float32."""
    truth = kept_by_class(name, "flash", dtype="float32", autocast=True)
    formula = kept_by_formula(name, "flash", dtype="float32", autocast=True)
    assert formula == pytest.approx(truth, rel=BOUND)


@pytest.mark.parametrize("kernel", ["efficient", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "bert", "roberta"])
def test_a_float32_layer_keeps_twice_the_bytes(name: str, kernel: str) -> None:
    """In eager not quite: dropout's mask is a byte, and no half copy of the softmax is made."""
    truth = kept_by_class(name, kernel, dtype="float32")
    formula = kept_by_formula(name, kernel, dtype="float32")
    assert formula == pytest.approx(truth, rel=BOUND)


@pytest.mark.parametrize(("dtype", "rate"), [("float32", 0.1), ("bfloat16", 0.1), ("float32", 0.0)])
def test_dropout_on_attention_keeps_its_mask_and_result(
    monkeypatch: pytest.MonkeyPatch, dtype: str, rate: float
) -> None:
    """In float32 beside the softmax, in 16 bit in place of its half copy."""
    monkeypatch.setitem(CONFIGS, "starcoder2", {**SMALL, "attention_dropout": rate})
    truth = kept_by_class("starcoder2", "eager", dtype=dtype)
    assert kept_by_formula("starcoder2", "eager", dtype=dtype) == pytest.approx(truth, rel=BOUND)
