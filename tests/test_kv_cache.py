"""The KV cache formula equals what transformers' own caches hold, on the real code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.dtypes import BFLOAT16, parse_dtype
from willfit.formulas.kv_cache import kv_cache
from willfit.scenario import Stack
from willfit.scenario.model import LayerGroup
from willfit.sources.architecture import architecture_of
from willfit.sources.catalogue import load
from willfit.units import GIB

# every layer kind: full, grouped, sliding, alternating, chunked, latent, linear, hybrid, shared
CONFIGS = [
    "openai-community/gpt2",
    "EleutherAI/pythia-160m",
    "facebook/opt-125m",
    "bigscience/bloom-560m",
    "tiiuae/falcon-7b",
    "tiiuae/falcon-40b",
    "bigcode/starcoder",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-2-7b-hf",
    "mistralai/Mistral-7B-v0.1",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-2b",
    "google/gemma-2-2b",
    "google/gemma-3-1b-it",
    "microsoft/phi-2",
    "microsoft/Phi-3-mini-4k-instruct",
    "allenai/OLMo-2-1124-7B",
    "allenai/OLMoE-1B-7B-0924",
    "CohereForAI/c4ai-command-r7b-12-2024",
    "stabilityai/stablelm-2-1_6b",
    "bigcode/starcoder2-3b",
    "HuggingFaceTB/SmolLM3-3B",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3",
    "ibm-granite/granite-3.1-2b-instruct",
    "EleutherAI/gpt-j-6b",
    "EleutherAI/gpt-neo-125m",
    "LiquidAI/LFM2-350M",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "state-spaces/mamba-130m-hf",
    "ibm-granite/granite-4.0-h-350m",
    "mistralai/Mamba-Codestral-7B-v0.1",
    "tiiuae/falcon-mamba-7b",
    "deepseek-ai/DeepSeek-V3.2",
    "zai-org/GLM-5",
    "XiaomiMiMo/MiMo-V2-Flash",
]
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
WINDOW = 24
LENGTHS = [10, 40]  # below and above the window


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same layer pattern over fewer layers, a small window and a small vocabulary."""
    small = {k: v for k, v in config.items() if k not in ("quantization_config", "architectures")}
    layers = 8
    for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        if name in small:
            small[name] = layers
    for name in ("layer_types", "mlp_layer_types", "attention_layers", "layers_block_type"):
        if isinstance(small.get(name), list):
            small[name] = [*small[name][: layers - 1], small[name][_last_kind(small[name])]]
    if small.get("model_type") == "gpt_neo":
        small["attention_types"] = [[["global", "local"], layers // 2]]
    if small.get("full_attn_idxs"):
        small["full_attn_idxs"] = [i for i in small["full_attn_idxs"] if i < layers]
    for name in ("sliding_window", "attention_chunk_size"):
        if small.get(name):
            small[name] = WINDOW
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if small.get(name):
            small[name] = 8
    small.update(vocab_size=64, num_experts_per_tok=2, pad_token_id=0, bos_token_id=1,
                 eos_token_id=2, n_group=1, topk_group=1)  # fmt: skip
    return small


def _last_kind(kinds: list[str]) -> int:
    """An attention layer for the end, so that a hybrid keeps one among few layers."""
    return next((i for i, kind in enumerate(kinds) if "attention" in kind), 0)


def held_by_transformers(config: dict[str, Any], batch: int, length: int, steps: int) -> int:
    """Storage bytes of the cache after prefill and ``steps`` tokens, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    loaded = AutoConfig.for_model(**config)
    name = "cache_params" if "mamba" in config["model_type"] else "past_key_values"
    # GPT-2 asks a mask for a value, which the meta device does not have; it is small enough
    with torch.device("cpu" if config["model_type"] == "gpt2" else "meta"), torch.no_grad():
        model = AutoModelForCausalLM.from_config(loaded, dtype=torch.bfloat16).eval()
        cache = DynamicCache(config=loaded)
        for tokens in (length, *[1] * steps):
            model(torch.zeros(batch, tokens, dtype=torch.long), use_cache=True, **{name: cache})
    return sum(_storages(cache))


def _storages(cache: Any) -> list[int]:
    seen: dict[int, int] = {}
    for layer in cache.layers:
        tensors = [getattr(layer, "keys", None), getattr(layer, "values", None)]
        tensors += [getattr(layer, "indexer_keys", None)]
        for states in ("conv_states", "recurrent_states"):
            tensors += list((getattr(layer, states, None) or {}).values())
        for tensor in tensors:
            if tensor is not None:
                storage = tensor.untyped_storage()
                seen[storage._cdata] = storage.nbytes()
    return list(seen.values())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("model", CONFIGS)
def test_bytes_equal_those_of_transformers_caches(model: str, length: int) -> None:
    spec = load(model)
    assert spec is not None
    config = shrunk(dict(spec.config))
    architecture = architecture_of(config)
    assert architecture is not None
    batch, steps = 2, 2
    ours = kv_cache(
        architecture,
        batch_size=batch,
        context_len=length + steps,
        new_tokens=steps,
        dtype=BFLOAT16,
        stack=Stack(),
    )
    assert ours.steady_bytes == held_by_transformers(config, batch, length, steps)
    if length > 1:
        assert ours.prefill_bytes == held_by_transformers(config, batch, length, 0)


@pytest.mark.parametrize(
    ("model", "gib"),
    [
        ("deepseek-ai/DeepSeek-V3", 2.14),
        ("mistralai/Mistral-7B-v0.1", 0.50),
        ("google/gemma-3-27b-it", 2.91),
        ("openai/gpt-oss-20b", 0.75),
        ("meta-llama/Llama-3.1-8B", 4.00),
    ],
)
def test_32k_tokens_where_other_tools_are_up_to_25_times_off(model: str, gib: float) -> None:
    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None
    ours = kv_cache(
        spec.architecture, batch_size=1, context_len=32_768, dtype=BFLOAT16, stack=Stack()
    )
    assert ours.steady_bytes / GIB == pytest.approx(gib, rel=0.01)


def test_qwen3_next_is_12_full_layers_and_36_fixed_states() -> None:
    # 12 × 2 × 2 heads × 256 × 32,768 × 2 B = 0.75 GiB; the states add well under 0.1 GiB
    spec = load("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert spec is not None
    assert spec.architecture is not None
    ours = kv_cache(
        spec.architecture, batch_size=1, context_len=32_768, dtype=BFLOAT16, stack=Stack()
    )
    full = 12 * 2 * 2 * 256 * 32_768 * 2
    assert full == 0.75 * GIB
    assert 0 < ours.steady_bytes - full < 0.1 * GIB


def test_the_engine_decides_and_is_named() -> None:
    spec = load("mistralai/Mistral-7B-v0.1")
    assert spec is not None
    assert spec.architecture is not None
    found = {
        engine: kv_cache(
            spec.architecture,
            batch_size=1,
            context_len=32_768,
            dtype=BFLOAT16,
            stack=Stack(),
            engine=engine,  # type: ignore[arg-type]
        )
        for engine in ("transformers", "vllm", "llama.cpp")
    }
    assert len({cache.steady_bytes for cache in found.values()}) == 3
    assert "vLLM" in found["vllm"].assumptions[0]
    assert "llama.cpp" in found["llama.cpp"].assumptions[0]


@pytest.mark.parametrize(
    ("model", "context", "dtype", "printed_mib"),
    # llama.cpp prints "KV self size" / "KV buffer size" in MiB: 2 × layers × cells × width × 2 B
    [("meta-llama/Llama-2-7b-hf", 4096, BFLOAT16, 2048), ("llama-3-8b", 8192, BFLOAT16, 1024)],
)
def test_llama_cpp_prints_these_sizes(
    model: str, context: int, dtype: Any, printed_mib: int
) -> None:
    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None
    ours = kv_cache(
        spec.architecture,
        batch_size=1,
        context_len=context,
        dtype=dtype,
        stack=Stack(),
        engine="llama.cpp",
    )
    assert ours.steady_bytes == printed_mib * 2**20


@given(
    model=st.sampled_from(CONFIGS),
    batch=st.integers(1, 8),
    context=st.integers(2, 20_000),
    cache=st.sampled_from(["dynamic", "static", "quantized", "offloaded"]),
    engine=st.sampled_from(["transformers", "vllm", "llama.cpp"]),
)
def test_more_batch_or_context_never_takes_less(
    model: str, batch: int, context: int, cache: Any, engine: Any
) -> None:
    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None

    def steady(batch_size: int, context_len: int) -> int:
        return kv_cache(
            spec.architecture,  # type: ignore[arg-type, union-attr]
            batch_size=batch_size,
            context_len=context_len,
            dtype=BFLOAT16,
            stack=Stack(),
            engine=engine,
            cache=cache,
        ).steady_bytes

    assert 0 < steady(batch, context) <= steady(batch + 1, context)
    assert steady(batch, context) <= steady(batch, context + 1)


def test_every_config_of_the_catalogue_gives_the_librarys_layer_kinds(shared: Path) -> None:
    """Kinds and windows by layer equal those that transformers' own cache would build."""
    from transformers import AutoConfig
    from transformers.cache_utils import get_layer_types_and_kwargs

    wrong: dict[str, Any] = {}
    checked = 0
    for line in (shared / "models" / "index.jsonl").read_text().splitlines():
        model = json.loads(line)["id"]
        spec = load(model)
        if spec is None or spec.architecture is None or not spec.architecture.is_decoder:
            continue
        config = {k: v for k, v in spec.config.items() if k != "quantization_config"}
        loaded = AutoConfig.for_model(**config).get_text_config(decoder=True)
        kinds, kwargs = get_layer_types_and_kwargs(loaded)
        theirs: dict[tuple[str, Any], int] = {}
        for kind, extra in zip(kinds, kwargs, strict=True):
            key = (_kind(kind), extra.get("sliding_window"))
            theirs[key] = theirs.get(key, 0) + 1
        ours: dict[tuple[str, Any], int] = {}
        for group in spec.architecture.layers:
            key = (_our_kind(group), group.attention.window if group.attention else None)
            if group.shares_cache and not (group.attention and group.attention.cross):
                key = ("none", None)  # Mllama's image layers have a cache layer, empty for text
            ours[key] = ours.get(key, 0) + group.count
        checked += 1
        if ours != theirs:
            wrong[model] = (ours, theirs)
    assert checked > 500
    assert not wrong


def _kind(name: str) -> str:
    return {
        "full_attention": "attention",
        "sliding_attention": "attention",
        "chunked_attention": "attention",
        "indexed_attention": "attention",
        "linear_attention": "states",
        "conv": "states",
        "hybrid": "both",
    }.get(name, "none")


def _our_kind(group: Any) -> str:
    if group.attention is not None:
        return "both" if group.recurrent is not None else "attention"
    return "states" if group.recurrent is not None else "none"


PUBLISHED = json.loads((Path(__file__).parent / "data" / "kv_published.json").read_text())


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['engine']}-{row['tokens']}")
def test_equals_what_engines_printed(row: dict[str, Any]) -> None:
    """Sizes from public logs; the tolerance is the printed rounding alone."""
    spec = load(row["model"])
    if spec is None:
        config = json.loads((SHARED / "models" / row["model"] / "config.json").read_text())
        architecture = architecture_of(config)
    else:
        architecture = spec.architecture
    assert architecture is not None
    ours = kv_cache(
        architecture,
        batch_size=row["batch_size"],
        context_len=row["tokens"],
        dtype=parse_dtype(row["dtype"]),
        stack=Stack(),
        engine=row["engine"],
    )
    if row.get("at_most"):  # room for these tokens, of which the blocks fill nearly all
        assert 0.98 * row["bytes"] < ours.steady_bytes <= row["bytes"]
    else:
        assert ours.steady_bytes == pytest.approx(row["bytes"], rel=row["tolerance"], abs=0)


@pytest.mark.parametrize(
    ("version", "per_token"),
    [
        ("4.57.0", 61 * 128 * (192 + 128) * 2),  # 128 heads, K 192 and V 128 wide
        ("5.14.0", 61 * 128 * (192 + 128) * 2),
        ("5.15.0", 61 * (512 + 64) * 2),  # the latent and the rotary part, once for all heads
    ],
)
def test_deepseek_latents_are_cached_since_5_15(version: str, per_token: int) -> None:
    spec = load("deepseek-ai/DeepSeek-V3")
    assert spec is not None
    assert spec.architecture is not None
    stack = Stack(versions={**Stack().versions, "transformers": version})
    ours = kv_cache(spec.architecture, batch_size=1, context_len=1000, dtype=BFLOAT16, stack=stack)
    assert ours.steady_bytes == 1000 * per_token


def test_an_image_is_cached_by_the_layers_that_see_it() -> None:
    spec = load("meta-llama/Llama-3.2-11B-Vision")
    assert spec is not None
    assert spec.architecture is not None
    text, image = (
        kv_cache(
            spec.architecture,
            batch_size=1,
            context_len=100,
            dtype=BFLOAT16,
            stack=Stack(),
            encoder_len=length,
        ).steady_bytes
        for length in (0, 1601)
    )
    assert text == 32 * 100 * 8 * 128 * 2 * 2
    assert image - text == 8 * 1601 * 8 * 128 * 2 * 2


# decoder tokens 24 + 2, encoder tokens 12 (Whisper's encoder always gives 1,500)
@pytest.mark.parametrize(
    ("model", "encoder_len"), [("google-t5/t5-small", 12), ("openai/whisper-tiny", 1500)]
)
def test_encoder_decoders_cache_the_encoder_once(model: str, encoder_len: int) -> None:
    import torch
    import transformers
    from transformers import AutoConfig, DynamicCache, EncoderDecoderCache

    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None
    loaded = AutoConfig.for_model(**spec.config)
    with torch.device("meta"), torch.no_grad():
        net = getattr(transformers, spec.config["architectures"][0])(loaded).bfloat16().eval()
        cache = EncoderDecoderCache(DynamicCache(config=loaded), DynamicCache(config=loaded))
        if model.startswith("openai"):
            given_ = {"input_features": torch.zeros(2, loaded.num_mel_bins, 3000).bfloat16()}
        else:
            given_ = {"input_ids": torch.zeros(2, encoder_len, dtype=torch.long)}
        for tokens in (24, 1, 1):
            out = net(
                **given_,
                decoder_input_ids=torch.zeros(2, tokens, dtype=torch.long),
                past_key_values=cache,
                use_cache=True,
            )
            given_ = {"encoder_outputs": (out.encoder_last_hidden_state,)}
    held = _storages(cache.self_attention_cache) + _storages(cache.cross_attention_cache)
    ours = kv_cache(
        spec.architecture,
        batch_size=2,
        context_len=26,
        new_tokens=2,
        dtype=BFLOAT16,
        stack=Stack(),
        encoder_len=encoder_len,
    )
    assert ours.steady_bytes == sum(held)


@given(model=st.sampled_from(CONFIGS), context=st.integers(200, 20_000), new=st.integers(1, 150))
def test_quantised_takes_no_more_and_static_no_less_than_dynamic(
    model: str, context: int, new: int
) -> None:
    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None
    sizes = {
        cache: kv_cache(
            spec.architecture,
            batch_size=2,
            context_len=context,
            new_tokens=new,
            dtype=BFLOAT16,
            stack=Stack(),
            cache=cache,  # type: ignore[arg-type]
        )
        for cache in ("dynamic", "static", "quantized", "offloaded")
    }
    dynamic = sizes["dynamic"]
    assert sizes["quantized"].steady_bytes <= dynamic.steady_bytes
    assert sizes["static"].steady_bytes >= dynamic.steady_bytes
    offloaded = sizes["offloaded"]
    assert offloaded.steady_bytes + offloaded.host_bytes == dynamic.steady_bytes


@given(model=st.sampled_from(CONFIGS), context=st.integers(2, 9_000), batch=st.integers(1, 4))
def test_layers_add_up(model: str, context: int, batch: int) -> None:
    spec = load(model)
    assert spec is not None
    assert spec.architecture is not None
    shares: list[tuple[LayerGroup, ...] | None] = [(group,) for group in spec.architecture.layers]
    parts = [
        kv_cache(
            spec.architecture,
            batch_size=batch,
            context_len=context,
            dtype=BFLOAT16,
            stack=Stack(),
            layers=share,
        )
        for share in [None, *shares]
    ]
    assert parts[0].steady_bytes == sum(part.steady_bytes for part in parts[1:])
    assert parts[0].prefill_bytes == sum(part.prefill_bytes for part in parts[1:])
