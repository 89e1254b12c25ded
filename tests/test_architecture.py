"""Shape facts of a config: from its fields, with the library's defaults where it is silent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.errors import InputError
from willfit.scenario.model import Architecture
from willfit.sources.architecture import architecture_of

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip


def architecture(**changes: Any) -> Architecture:
    found = architecture_of({**LLAMA, **changes})
    assert found is not None
    return found


def test_a_renamed_class_with_the_same_fields_is_the_same_architecture() -> None:
    assert architecture(model_type="our_own_llama") == architecture()


def test_windows_by_list_pattern_and_switch() -> None:
    listed = architecture(
        model_type="x", sliding_window=512, layer_types=["sliding_attention", "full_attention"] * 16
    )
    assert {g.attention.window: g.count for g in listed.layers if g.attention} == {
        512: 16,
        None: 16,
    }
    every_sixth = architecture(model_type="x", sliding_window=512, sliding_window_pattern=6)
    assert {g.attention.window: g.count for g in every_sixth.layers if g.attention} == {
        512: 27,  # layers 6, 12, 18, 24 and 30 of 32 are full
        None: 5,
    }
    off = architecture(sliding_window=512, use_sliding_window=False)
    assert [g.attention.window for g in off.layers if g.attention] == [None]


def test_head_dim_need_not_be_hidden_over_heads() -> None:
    (group,) = architecture(head_dim=256).layers
    assert group.attention is not None
    assert (group.attention.head_dim, group.attention.v_head_dim) == (256, 256)


def test_mllama_image_layers_cache_nothing_for_text() -> None:
    found = architecture_of(
        {"model_type": "mllama", "text_config": {"model_type": "mllama_text_model"}}
    )
    assert found is not None
    # the class's defaults: 40 layers, of which 3, 8, … 38 look at the image
    assert {g.shares_cache: g.count for g in found.layers} in ({False: 40}, {False: 32, True: 8})


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "convnext", "hidden_sizes": [96, 192], "depths": [3, 3]},
        {"model_type": "resnet"},
        {},
    ],
)
def test_no_transformer_stack_is_none(config: dict[str, Any]) -> None:
    assert architecture_of(config) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", 0), ("num_attention_heads", "many"), ("hidden_size", -1),
        ("hidden_size", 4096.5), ("hidden_size", 2**40), ("num_hidden_layers", 10**9),
        ("num_key_value_heads", [8]), ("layer_types", ["quantum_attention"] * 32),
        ("hidden_size", float("inf")), ("hidden_size", float("nan")),
    ],
)  # fmt: skip
def test_absurd_values_are_one_sentence(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        architecture_of({**LLAMA, field: value})


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), st.text(max_size=5),
    st.lists(st.one_of(st.integers(-3, 9), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
_FIELDS = sorted(
    {*LLAMA, "head_dim", "sliding_window", "layer_types", "num_local_experts", "kv_lora_rank",
     "moe_layer_freq", "layers_block_type", "hybrid_override_pattern", "mamba_d_ssm",
     "ffn_config", "attn_config", "use_sliding_window", "sliding_window_pattern",
     "cross_attention_layers", "indexer_types", "index_topk_freq", "text_config",
     "num_kv_shared_layers", "intermediate_size", "attn_layer_period", "is_encoder_decoder"}
)  # fmt: skip


@given(changes=st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=4))
def test_no_config_makes_a_traceback(changes: dict[str, Any]) -> None:
    try:
        found = architecture_of({**LLAMA, **changes})
    except InputError:
        return
    if found is not None:
        assert all(group.count >= 0 for group in found.layers)


def test_absent_fields_take_the_librarys_defaults(shared: Path) -> None:
    """Context, width, heads and experts equal those of the config class, for every checkpoint."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    wrong: dict[str, Any] = {}
    checked = 0
    for path in sorted((shared / "models").glob("*/*/config.json")):
        raw = json.loads(path.read_text())
        raw.pop("quantization_config", None)
        found = architecture_of(raw)
        if found is None or not found.is_decoder or raw.get("model_type") not in CONFIG_MAPPING:
            continue
        theirs = AutoConfig.for_model(**raw).get_text_config(decoder=True)
        theirs.__dict__["allow_global_per_layer_attribute_access"] = True
        heads = next((g.attention for g in found.layers if g.attention is not None), None)
        pairs = {"hidden": (found.hidden_size, theirs.hidden_size)}
        longest = getattr(theirs, "max_position_embeddings", None)
        if longest is not None:
            pairs["max_context"] = (found.max_context, longest)
        if heads is not None:
            pairs["heads"] = (heads.num_heads, theirs.num_attention_heads)
        checked += 1
        differing = {k: v for k, v in pairs.items() if v[0] != v[1]}
        if differing:
            wrong[f"{path.parent.parent.name}/{path.parent.name}"] = differing
    assert checked > 400
    assert not wrong


def test_reading_an_architecture_imports_no_torch() -> None:
    code = (
        "import sys; from willfit.sources.architecture import architecture_of;"
        f"architecture_of({LLAMA!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
