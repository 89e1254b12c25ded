"""Placement without torch equals transformers' own code on the real module tree."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.dtypes import FLOAT16, FLOAT32
from willfit.formulas.placement import balanced_caps, build_tree, place
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Quantization, Stack
from willfit.sources.catalogue import load

SMALL = {
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "vocab_size": 1000,
}
MODELS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama": ("llama", None, {**SMALL, "tie_word_embeddings": False}),
    "llama tied": ("llama", None, {**SMALL, "tie_word_embeddings": True}),
    "bloom tied": ("bloom", None, {"hidden_size": 64, "n_layer": 5, "n_head": 4, "vocab_size": 2000}),
    "gpt2": ("gpt2", None, {"n_embd": 64, "n_layer": 5, "n_head": 4, "vocab_size": 900}),
    "opt": (
        "opt",
        None,
        {**SMALL, "ffn_dim": 256, "word_embed_proj_dim": 64},
    ),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_heads": 4, "vocab_size": 700},
    ),
    "gemma2": ("gemma2", None, {**SMALL, "num_key_value_heads": 2, "head_dim": 16}),
    "mixtral": ("mixtral", None, {**SMALL, "num_key_value_heads": 2, "num_local_experts": 4}),
}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[Any, Any]]:
    logging.disable(logging.WARNING)
    models = {name: meta_model(*given[:2], **given[2]) for name, given in MODELS.items()}
    return {name: (model, spec_of_model(model)) for name, model in models.items()}


@settings(max_examples=120)
@given(
    name=st.sampled_from(sorted(MODELS)),
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    cpu=st.one_of(st.none(), st.floats(0.1, 2.0)),
)
def test_every_parameter_goes_where_transformers_puts_it(
    built: dict[str, tuple[Any, Any]], name: str, shares: list[float], cpu: float | None
) -> None:
    from transformers.integrations.accelerate import _get_device_map, expand_device_map

    model, spec = built[name]
    tree = build_tree(spec, load_weights(spec, Loading(dtype=FLOAT32), Stack()))
    caps: dict[int | str, int] = {i: int(tree.root.size * s) for i, s in enumerate(shares)}
    if cpu is not None:
        caps["cpu"] = int(tree.root.size * cpu)
    theirs = _get_device_map(model, "auto", dict(caps), None)
    ours = place(tree, balanced_caps(tree, {}, caps, 0))
    names = [parameter for parameter, _ in model.named_parameters()]
    expected = expand_device_map(theirs, names)
    assert {n: str(ours.device(n)) for n in names} == {n: str(expected[n]) for n in names}


@pytest.mark.parametrize(
    ("scheme", "caps", "fits"),
    [
        # the guide's own maps: 90 % of each, and the 1.28 GB embedding stays 16 bit
        ("nf4", {0: 600, 1: 1000}, False),
        ("int8", {0: 1000, 1: 2000}, False),
        # the maps that willfit names as the smallest, and one MB below each
        ("nf4", {0: 1822, 1: 1000}, True),
        ("nf4", {0: 1821, 1: 1000}, False),
        ("nf4", {0: 2741}, True),
        ("nf4", {0: 2740}, False),
        ("int8", {0: 2215, 1: 2000}, True),
        ("int8", {0: 2214, 1: 2000}, False),
    ],
)
def test_bloom_3b_in_the_guides_maps_as_transformers_itself_decides(
    scheme: str, caps: dict[int, int], fits: bool
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.integrations.accelerate import _get_device_map
    from transformers.modeling_utils import local_torch_dtype
    from transformers.quantizers.auto import AutoHfQuantizer

    spec = load("bloom-3b")
    assert spec is not None
    config = AutoConfig.for_model(**spec.config)
    settings = BitsAndBytesConfig(load_in_4bit=scheme == "nf4", load_in_8bit=scheme == "int8",
                                  bnb_4bit_quant_type="nf4")  # fmt: skip
    quantizer = AutoHfQuantizer.from_config(settings)
    quantizer.validate_environment = lambda *_, **__: None
    with local_torch_dtype(torch.float16), torch.device("meta"):  # as from_pretrained builds it
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
        quantizer.preprocess_model(model=model, device_map="auto")
    memory = {index: megabytes * 10**6 for index, megabytes in caps.items()}
    theirs = _get_device_map(model, "auto", dict(memory), quantizer)
    assert (not {"cpu", "disk"} & set(map(str, theirs.values()))) == fits

    loading = Loading(dtype=FLOAT16, quantization=Quantization(scheme=scheme))  # type: ignore[arg-type]
    weights = load_weights(spec, loading, Stack())
    tree = build_tree(spec, weights)
    ours = {d: cap * 0.9 for d, cap in balanced_caps(tree, {}, memory, 0).items()}
    assert (not place(tree, ours).off_gpu) == fits
