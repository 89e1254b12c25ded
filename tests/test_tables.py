"""Tensor tables from a bare config equal the real class, whatever it is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.meta_spec import meta_model

from willfit.errors import InputError, UnsupportedError, WillfitError
from willfit.scenario.model import TensorRow
from willfit.sources.catalogue import entries, load
from willfit.sources.tables import tensor_table

DECODER = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 512,
}
BIAS = {"attention_bias": True}
LAYERS = {"layer_types": ["full_attention", *["sliding_attention"] * 4], "sliding_window": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def shapes(rows: Iterable[TensorRow]) -> Counter[tuple[int, ...]]:
    """Shapes of the parameters that take bytes, with how often each is there."""
    counts: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        if row.is_parameter and row.tied_to is None:
            counts[row.shape] += row.count
    return counts


def test_every_checkpoint_of_a_known_family_is_rebuilt_from_its_config_alone() -> None:
    wrong, right = [], 0
    for entry in entries():
        spec = load(entry.id)
        assert spec is not None
        if spec.library != "transformers" or spec.quantization is not None:
            continue
        try:
            table = tensor_table(spec.config)
        except UnsupportedError:
            continue
        if shapes(table.rows) == shapes(spec.tensors):
            right += 1
        else:
            wrong.append(entry.id)
    assert right > 340
    assert not wrong


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 32}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {**BIAS, "mlp_bias": True}),
        ("llama", {"num_key_value_heads": 4}),
        ("mistral", {"head_dim": 24, "sliding_window": 32}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32, **BIAS}),
        ("qwen3", LAYERS),
        ("gemma2", {"head_dim": 32, "tie_word_embeddings": True}),
        ("gemma2", {"head_dim": 32, "tie_word_embeddings": True, **LAYERS}),
        ("phi3", {"tie_word_embeddings": False, "pad_token_id": 0}),
        ("olmo2", {"num_key_value_heads": 4}),
        ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 2}),
        ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [0, 3]}),
        ("mixtral", {"num_local_experts": 4}),
        (
            "deepseek_v3",
            {
                "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4,
                "n_shared_experts": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 2,
                "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
            },
        ),
    ],
)  # fmt: skip
def test_changed_fields_equal_the_real_class(model_type: str, changes: dict[str, Any]) -> None:
    config = {**DECODER, **changes}
    real = meta_model(model_type, **config)
    table = tensor_table({**config, "model_type": model_type})
    built: Counter[tuple[int, ...]] = Counter(tuple(p.shape) for p in real.parameters())
    assert shapes(table.rows) == built


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"tie_word_embeddings": False, "head_dim": 24}),
        ("llama", {**BIAS, "head_dim": 16}),
        ("mistral", {"num_key_value_heads": 4}),
    ],
)
def test_a_renamed_class_with_the_same_fields_has_the_same_tensors(
    model_type: str, changes: dict[str, Any]
) -> None:
    config = {**DECODER, **changes}
    real = meta_model(model_type, **config)
    table = tensor_table({**config, "model_type": "acme_lm", "architectures": ["AcmeForCausalLM"]})
    built: Counter[tuple[int, ...]] = Counter(tuple(p.shape) for p in real.parameters())
    assert shapes(table.rows) == built
    assert table.model_class == "AcmeForCausalLM"
    assert any("built like Llama" in note for note in table.assumptions)


@given(layers=st.integers(1, 40))
def test_layers_add_up(layers: int) -> None:
    def total(count: int) -> int:
        rows = tensor_table({**DECODER, "num_hidden_layers": count}).rows
        return sum(row.num_elements * row.count for row in rows if row.is_parameter)

    assert total(layers + 1) - total(layers) == total(2) - total(1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "big"}, "hidden_size"),
        ({"hidden_size": -4}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"num_attention_heads": 1.5}, "num_attention_heads"),
    ],
)
def test_an_absurd_field_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        tensor_table({**DECODER, **change})


def test_what_only_the_class_knows_says_how_to_go_on() -> None:
    with pytest.raises(UnsupportedError, match=r"willfit\[trace\]"):
        tensor_table({"model_type": "somethingelse", "foo": 1})


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10**10), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-3, 9), max_size=4), st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip


@given(changes=st.dictionaries(st.sampled_from([*DECODER, *LAYERS, *EXPERTS]), VALUES, max_size=4))
def test_any_value_gives_a_table_or_a_sentence(changes: dict[str, Any]) -> None:
    try:
        tensor_table({**DECODER, **changes})
    except WillfitError:
        return


def test_a_config_of_shapes_alone_is_enough() -> None:
    """What people type from a model card: no norm's epsilon, no rotary base."""
    shapes = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
        "vocab_size": 32000, "tie_word_embeddings": False,
    }  # fmt: skip
    rows = tensor_table(shapes).rows
    assert sum(row.num_elements * row.count for row in rows if row.is_parameter) == 1_100_048_384


def test_a_config_of_nothing_names_what_it_lacks() -> None:
    with pytest.raises(InputError, match=r"lacks hidden_size, num_layers, num_heads, vocab_size"):
        tensor_table({"model_type": "llama"})
