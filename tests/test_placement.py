"""Placement without torch equals transformers' own code on the real module tree."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.formulas.placement import build_tree, infer_device_map, smallest_maps, stage_layers
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
    "neox": ("gpt_neox", None, SMALL),
    "bart": (
        "bart",
        "BartForConditionalGeneration",
        {"d_model": 64, "encoder_layers": 3, "decoder_layers": 3, "encoder_ffn_dim": 128,
         "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "vocab_size": 700, "max_position_embeddings": 64},
    ),
    "bert": ("bert", "BertForMaskedLM", SMALL),
}  # fmt: skip
DTYPES_USED = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}


def library_model(name: str, dtype: str, scheme: str | None) -> tuple[Any, Any]:
    """Model and quantizer as `from_pretrained` has them when it places modules."""
    import torch
    import transformers
    from transformers.modeling_utils import local_torch_dtype
    from transformers.quantizers.auto import AutoHfQuantizer

    model_type, cls, config = MODELS[name]
    loaded = transformers.AutoConfig.for_model(model_type, **config)
    named = getattr(transformers, cls) if cls else None
    built = named or transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(loaded)]
    quantizer = None
    with local_torch_dtype(getattr(torch, dtype), built.__name__), torch.device("meta"):
        model = built(loaded)
        if scheme is not None:
            quantizer = AutoHfQuantizer.from_config(bitsandbytes_settings(scheme))
            quantizer.validate_environment = lambda *_, **__: None  # says no to what is off the GPU
            quantizer.preprocess_model(model=model, device_map="auto")
    return model, quantizer


def bitsandbytes_settings(scheme: str) -> Any:
    import transformers

    return transformers.BitsAndBytesConfig(
        load_in_8bit=scheme == "int8", load_in_4bit=scheme != "int8", bnb_4bit_quant_type="nf4"
    )


@pytest.fixture(scope="module")
def built() -> Any:
    logging.disable(logging.WARNING)
    specs = {
        name: spec_of_model(meta_model(*given[:2], **given[2])) for name, given in MODELS.items()
    }
    models = lru_cache(library_model)
    yield lambda name, dtype, scheme: (*models(name, dtype, scheme), specs[name])
    logging.disable(logging.NOTSET)


@settings(max_examples=500)
@given(
    name=st.sampled_from(sorted(MODELS)),
    dtype=st.sampled_from(sorted(DTYPES_USED)),
    scheme=st.sampled_from([None, None, "nf4", "int8"]),
    mode=st.sampled_from(["auto", "auto", "balanced_low_0", "sequential"]),
    shares=st.lists(st.floats(0.0, 1.1), min_size=1, max_size=3),
    cpu=st.one_of(st.none(), st.floats(0.1, 2.0)),
    backwards=st.booleans(),
)
def test_every_parameter_goes_where_transformers_puts_it(
    built: Any, name: str, dtype: str, scheme: Any, mode: Any, shares: list[float], cpu: float | None,
    backwards: bool,
) -> None:  # fmt: skip
    from transformers.integrations.accelerate import _get_device_map, expand_device_map

    model, quantizer, spec = built(name, dtype, scheme)
    quantization = Quantization(scheme=scheme) if scheme else None
    weights = load_weights(
        spec, Loading(dtype=DTYPES_USED[dtype], quantization=quantization), Stack()
    )
    whole = build_tree(spec, weights).root.size
    caps: dict[int | str, int] = {i: int(whole * share) for i, share in enumerate(shares)}
    if cpu is not None:
        caps["cpu"] = int(whole * cpu)
    if backwards:
        caps = dict(reversed(caps.items()))
    ours = infer_device_map(spec, weights, {}, caps, Stack(), mode=mode)
    try:
        theirs = _get_device_map(model, mode, dict(caps), quantizer)
    except IndexError:
        assert ours.refused is not None and "IndexError" in ours.refused
        return
    names = [parameter for parameter, _ in model.named_parameters()]
    expected = expand_device_map(theirs, names)
    assert {n: str(ours.device(n)) for n in names} == {n: str(expected[n]) for n in names}
    off = {"cpu", "disk"} & set(theirs.values())
    assert bool(ours.refused) == (
        scheme is not None and bool(off) and set(theirs.values()) != {"cpu"}
    )
    assert sum(ours.bytes_per_device.values()) == weights.allocated_bytes


@pytest.mark.parametrize(
    ("free", "cpu"), [([700_000], 10**9), ([400_000, 500_000], 10**9), ([300_000] * 3, 200_000)]
)
def test_free_memory_is_shared_out_as_transformers_does(
    built: Any, monkeypatch: pytest.MonkeyPatch, free: list[int], cpu: int
) -> None:
    from transformers.integrations import accelerate as theirs

    model, _, spec = built("llama", "float16", None)
    weights = load_weights(spec, Loading(dtype=FLOAT16), Stack())
    found = {**dict(enumerate(free)), "cpu": cpu}
    monkeypatch.setattr(theirs, "accelerate_max_memory", lambda given=None: dict(given or found))
    expected = theirs._get_device_map(model, "auto", None, None)
    ours = infer_device_map(spec, weights, dict(enumerate(free)), None, Stack(), cpu_free_bytes=cpu)
    names = [parameter for parameter, _ in model.named_parameters()]
    expanded = theirs.expand_device_map(expected, names)
    assert {n: str(ours.device(n)) for n in names} == {n: str(expanded[n]) for n in names}


@pytest.fixture(scope="module")
def bloom_3b() -> Any:
    """Whether transformers itself finds room for all of bloom-3b on the GPUs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.accelerate import _get_device_map
    from transformers.modeling_utils import local_torch_dtype
    from transformers.quantizers.auto import AutoHfQuantizer

    spec = load("bloom-3b")
    assert spec is not None
    config = AutoConfig.for_model(**spec.config)

    @lru_cache
    def built(scheme: str) -> tuple[Any, Any]:
        quantizer = AutoHfQuantizer.from_config(bitsandbytes_settings(scheme))
        quantizer.validate_environment = lambda *_, **__: None
        with local_torch_dtype(torch.float16), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
            quantizer.preprocess_model(model=model, device_map="auto")
        return model, quantizer

    def fits(scheme: str, caps: dict[int, int]) -> bool:
        model, quantizer = built(scheme)
        placed = _get_device_map(model, "auto", dict(caps), quantizer)
        return not {"cpu", "disk"} & set(map(str, placed.values()))

    return fits


@pytest.mark.parametrize(
    ("scheme", "guides", "smallest_mb"),
    [
        # the guide's own maps: 90 % of each is used, and the 1.28 GB embedding stays 16 bit
        ("nf4", {0: 600, 1: 1000}, [{0: 1822, 1: 1000}, {0: 600, 1: 2741}, {0: 2741}]),
        ("int8", {0: 1000, 1: 2000}, [{0: 2215, 1: 2000}, {0: 1000, 1: 4051}, {0: 4051}]),
    ],
)
def test_bloom_3b_in_the_guides_maps_and_in_the_smallest_that_work(
    bloom_3b: Any, scheme: Any, guides: dict[int, int], smallest_mb: list[dict[int, int]]
) -> None:
    spec = load("bloom-3b")
    assert spec is not None
    loading = Loading(dtype=FLOAT16, quantization=Quantization(scheme=scheme))
    weights = load_weights(spec, loading, Stack())
    given = {index: megabytes * 10**6 for index, megabytes in guides.items()}

    ours = infer_device_map(spec, weights, {}, given, Stack())
    assert not bloom_3b(scheme, given)
    assert ours.refused is not None
    assert "word_embeddings takes 1.20 GiB (1.28 GB), stays float16" in ours.refused
    assert 'smallest that work: {0: "' in ours.refused

    maps = smallest_maps(build_tree(spec, weights), given)
    assert [{i: cap // 10**6 for i, cap in found.items()} for found in maps] == smallest_mb
    for found in maps:
        assert bloom_3b(scheme, found)
        assert infer_device_map(spec, weights, {}, found, Stack()).refused is None
        raised = next(i for i in found if found[i] != given.get(i))
        less = {**found, raised: found[raised] - 10**6}
        assert not bloom_3b(scheme, less)
        assert infer_device_map(spec, weights, {}, less, Stack()).refused is not None


def test_layers_per_gpu_add_up_and_follow_the_placement(built: Any) -> None:
    *_, spec = built("t5", "float32", None)
    weights = load_weights(spec, Loading(dtype=FLOAT32), Stack())
    whole = build_tree(spec, weights).root.size
    placement = infer_device_map(spec, weights, {}, {0: int(whole * 0.45), 1: int(whole)}, Stack())
    layers = stage_layers(placement, spec)
    assert set(layers) == {0, 1}
    assert [sum(counts) for counts in zip(*layers.values(), strict=True)] == [4, 4]
    encoder_on_0 = sum(placement.device(f"encoder.block.{i}.layer.0") == 0 for i in range(4))
    assert layers[0][0] == encoder_on_0


def test_llama_3_8b_over_two_t4s_in_half_precision() -> None:
    # 16.06 GB; even share 8.03 GB + 1.25 × 1.05 GB embedding = 9.34 GB for GPU 0, which holds the
    # embedding (1.05), keeps 1.05 GB free for the head, and so takes ⌊7.24 / 0.436⌋ = 16 layers
    spec = load("llama-3-8b")
    assert spec is not None
    weights = load_weights(spec, Loading(), Stack())
    free = 14 * 2**30
    placement = infer_device_map(spec, weights, {0: free, 1: free}, None, Stack())
    assert dict(stage_layers(placement, spec)) == {0: (16,), 1: (16,)}
    assert placement.refused is None and not placement.off_gpu


def test_t5_11b_in_8_bit_on_a_15_gb_card_is_refused_by_auto_and_fits_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 14.56 GB in bfloat16 (wo stays 16 bit): auto gives 0.9 · 0.9 · 15 GB = 12.15 GB
    import torch
    import transformers
    from transformers.integrations import accelerate as theirs
    from transformers.modeling_utils import local_torch_dtype
    from transformers.quantizers.auto import AutoHfQuantizer

    spec = load("t5-11b")
    assert spec is not None
    quantizer = AutoHfQuantizer.from_config(bitsandbytes_settings("int8"))
    quantizer.validate_environment = lambda *_, **__: None
    with local_torch_dtype(torch.bfloat16), torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**spec.config))
        quantizer.preprocess_model(model=model, device_map="auto")
    found = {0: 15 * 10**9, "cpu": 10**12}
    monkeypatch.setattr(theirs, "accelerate_max_memory", lambda given=None: dict(given or found))
    off = {"cpu", "disk"} & set(theirs._get_device_map(model, "auto", None, quantizer).values())

    loading = Loading(dtype=BFLOAT16, quantization=Quantization(scheme="int8"))
    weights = load_weights(spec, loading, Stack())
    auto = infer_device_map(spec, weights, {0: 15 * 10**9}, None, Stack())
    assert off and auto.refused is not None
    assert weights.allocated_bytes < 14.6e9 < 15e9
    (smallest,) = smallest_maps(build_tree(spec, weights), None)
    assert infer_device_map(spec, weights, {}, dict(smallest.items()), Stack()).refused is None
    given = theirs._get_device_map(model, "auto", dict(smallest), quantizer)
    assert not {"cpu", "disk"} & set(given.values())
