"""Loading held to transformers' own warm-up and conversions, to bitsandbytes, and to measurements."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.allocator.replay import Event
from willfit.allocator.rounding import reserved_bytes
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.formulas.experts import MERGED_TYPES
from willfit.formulas.loading import (
    counted_bytes,
    loading_events,
    loading_phase,
    simulate_loading,
    transient_bytes,
    warmup_bytes,
)
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.scenario import Gpu, Loading, Quantization, Stack
from willfit.sources.catalogue import load
from willfit.units import GIB, MIB

TINY = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 500,
}
MODELS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama": ("llama", None, {**TINY, "tie_word_embeddings": False}),
    "gpt2": ("gpt2", None, {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "bloom": ("bloom", None, {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500}),
    "mixtral": ("mixtral", None, {**TINY, "num_key_value_heads": 2, "num_local_experts": 4}),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 500},
    ),
    "bert": ("bert", "BertModel", TINY),
}  # fmt: skip
DTYPES_USED = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
OLD = Stack(versions={**Stack().versions, "transformers": "4.49.0"})


def catalogued(name: str, scheme: str | None = None, stack: Stack | None = None) -> LoadedWeights:
    spec = load(name)
    assert spec is not None
    quantization = None
    if scheme is not None:
        quantization = Quantization(
            scheme=scheme.partition("-")[0],  # type: ignore[arg-type]
            double_quant=scheme.endswith("double"),
        )
    return load_weights(spec, Loading(dtype=BFLOAT16, quantization=quantization), stack or Stack())


# ------------------------------------------------------------------ the warm-up block


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("dtype", sorted(DTYPES_USED))
@pytest.mark.parametrize("scheme", [None, "nf4", "int8"])
def test_the_warm_up_counts_what_transformers_counts(
    name: str, dtype: str, scheme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers
    from transformers.modeling_utils import caching_allocator_warmup, local_torch_dtype
    from transformers.quantizers.auto import AutoHfQuantizer

    model_type, cls, config = MODELS[name]
    loaded = transformers.AutoConfig.for_model(model_type, **config)
    built = (
        getattr(transformers, cls)
        if cls
        else transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(loaded)]
    )
    quantizer = None
    with local_torch_dtype(getattr(torch, dtype), built.__name__), torch.device("meta"):
        model = built(loaded)
        if scheme is not None:
            given = transformers.BitsAndBytesConfig(
                load_in_8bit=scheme == "int8", load_in_4bit=scheme != "int8"
            )
            quantizer = AutoHfQuantizer.from_config(given)
            quantizer.validate_environment = lambda *_, **__: None
            quantizer.preprocess_model(model=model, device_map={"": 0})
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda numel, **_: asked.append(2 * numel))
        caching_allocator_warmup(model, dict.fromkeys(model.state_dict(), "cuda:0"), quantizer)

    spec = spec_of_model(meta_model(model_type, cls, **config))
    quantization = Quantization(scheme=scheme) if scheme else None
    weights = load_weights(
        spec, Loading(dtype=DTYPES_USED[dtype], quantization=quantization), Stack()
    )
    assert [counted_bytes(weights) // 2 * 2] == asked


def test_the_warm_up_leaves_1_2_gib_of_the_device_and_is_new_in_4_50() -> None:
    weights = catalogued("llama-3-8b")
    card = Gpu(name="16 GiB", capacity_bytes=16 * GIB)
    small = Gpu(name="8 GiB", capacity_bytes=8 * GIB)
    assert warmup_bytes(weights, None, Stack()) == warmup_bytes(
        weights, Gpu(name="", capacity_bytes=80 * GIB), Stack()
    )
    assert warmup_bytes(weights, card, Stack()) == 14.8 * GIB // (2 * MIB) * (2 * MIB) + 2 * MIB
    assert warmup_bytes(weights, small, Stack()) == 6.8 * GIB // (2 * MIB) * (2 * MIB) + 2 * MIB
    assert warmup_bytes(weights, card, OLD) == 0


# ------------------------------------------------------------------ what one tensor needs


class Live:
    """Bytes of the storages that operators made and that are alive; and their peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def see(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = None
            self.now += storage.nbytes()
            weakref.finalize(storage, self._die, storage.nbytes()).atexit = False
            self.peak = max(self.peak, self.now)

    def _die(self, num_bytes: int) -> None:
        self.now -= num_bytes


@contextmanager
def watching() -> Iterator[Live]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    live = Live()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    live.see(leaf)
            return result

    with Watch():
        yield live


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "nf4-double"])
@pytest.mark.parametrize(("name", "wanted"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_fc")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_packing_a_weight_needs_what_bitsandbytes_allocates(
    scheme: str, name: str, wanted: str, dtype: str
) -> None:
    import bitsandbytes as bnb
    import torch

    model_type, cls, config = MODELS[name]
    spec = spec_of_model(
        meta_model(model_type, cls, **{**config, "n_embd": 256, "hidden_size": 256})
    )
    quantization = Quantization(
        scheme=scheme.partition("-")[0],  # type: ignore[arg-type]
        double_quant=scheme.endswith("double"),
    )
    weights = load_weights(
        spec, Loading(dtype=DTYPES_USED[dtype], quantization=quantization), Stack()
    )
    ours = next(loaded for loaded in weights.rows if loaded.row.name.endswith(wanted + ".weight"))

    with watching() as live:  # as integrations/bitsandbytes.py `Bnb4bitQuantize.convert` does
        value = torch.zeros(ours.row.shape, dtype=getattr(torch, dtype))
        source = value.T if ours.row.module == "Conv1D" else value
        packed = bnb.nn.Params4bit(
            source,
            requires_grad=False,
            compress_statistics=quantization.double_quant,
            quant_type=quantization.scheme,
        ).to("cpu")
        peak = live.peak
    stays = ours.weight_bytes + sum(ours.state_sizes)
    assert packed.data.numel() * packed.data.element_size() == ours.weight_bytes
    # code books are looked up, not made by operators here: 64 and 1,024 bytes either way
    assert abs(peak - stays - transient_bytes(ours, weights)) <= 2 * 1_024


def test_joining_experts_needs_a_copy_of_the_joined_tensor() -> None:
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    spec = spec_of_model(meta_model(*MODELS["mixtral"][:2], **MODELS["mixtral"][2]))
    weights = load_weights(spec, Loading(dtype=BFLOAT16), Stack())
    ours = {loaded.row.name.rpartition(".")[2]: loaded for loaded in weights.rows if loaded.merged}
    assert set(ours) == {"gate_up_proj", "down_proj"}
    mapping = get_checkpoint_conversion_mapping("mixtral")
    converters = [entry for entry in mapping or () if isinstance(entry, WeightConverter)]
    assert len(converters) == 2
    for converter in converters:
        loaded = ours[converter.target_patterns[0].rpartition(".")[2]]
        experts, n, k = loaded.row.shape
        parts = len(converter.source_patterns)
        with watching() as live:
            tensors = {
                pattern: [torch.zeros(n // parts, k, dtype=torch.bfloat16) for _ in range(experts)]
                for pattern in converter.source_patterns
            }
            for operation in converter.operations:
                tensors = operation.convert(
                    tensors, converter.source_patterns, converter.target_patterns
                )
            peak, stays = live.peak, live.now
        assert stays == loaded.weight_bytes
        assert peak - stays == transient_bytes(loaded, weights)


def test_the_model_types_whose_experts_are_joined_are_those_of_the_library() -> None:
    import transformers
    from transformers import conversion_mapping
    from transformers.core_model_loading import MergeModulelist, WeightConverter

    mapping = conversion_mapping._build_checkpoint_conversion_mapping()

    def entries(name: str) -> Any:
        found = mapping.get(name) or ()
        return entries(found) if isinstance(found, str) else found

    theirs = {
        model_type
        for model_type in transformers.CONFIG_MAPPING
        for entry in entries(model_type)
        if isinstance(entry, WeightConverter)
        and any(isinstance(operation, MergeModulelist) for operation in entry.operations)
    }
    assert theirs >= {"mixtral", "qwen3_moe", "deepseek_v3", "olmoe"}
    assert theirs == MERGED_TYPES


# ------------------------------------------------------------------ the whole


@pytest.mark.parametrize(
    ("model", "versions", "allocated_mib", "reserved_mib"),
    [
        # before there was a warm-up: every tensor in the order of the file, byte for byte
        ("meta-llama/Llama-3.1-8B-Instruct", {"transformers": "4.49.0", "torch": "2.4.0"}, 15_316.5, 15_446.0),
    ],
)  # fmt: skip
def test_loading_reserves_what_was_measured(
    shared: Path, model: str, versions: dict[str, str], allocated_mib: float, reserved_mib: float
) -> None:
    rows = map(json.loads, (shared / "measured/optimum_benchmark_derekliu35.jsonl").open())
    row = next(r for r in rows if r["model"] == model and r["quant"] is None)
    measured = {item["kind"]: item["bytes"] for item in row["measured"]}
    stack = Stack(versions={**Stack().versions, **versions})
    weights = catalogued(model, stack=stack)
    ours = simulate_loading(weights, None, stack)
    assert measured["load_model:max_reserved"] == ours.reserved_bytes == reserved_mib * MIB
    assert abs(measured["load_model:max_allocated"] - ours.peak_allocated_bytes) <= 0.1 * MIB
    assert ours.peak_allocated_bytes == pytest.approx(allocated_mib * MIB, abs=0.1 * MIB)
    assert reserved_bytes(weights.sizes()) == ours.reserved_bytes


@pytest.mark.parametrize("scheme", [None, "nf4", "nf4-double", "int8"])
@pytest.mark.parametrize(
    "model",
    ["llama-3-8b", "gpt2", "bloom-3b", "mixtral-8x7b", "t5-11b", "google/gemma-2-9b-it"],
)
def test_the_phase_is_the_simulated_peak(model: str, scheme: str | None) -> None:
    weights = catalogued(model, scheme)
    phase = loading_phase(weights, device_map=True)
    ours = simulate_loading(weights, None, Stack())
    kept_rests = ours.allocated_bytes - weights.allocated_bytes  # up to 1 MiB behind a block
    assert 0 <= kept_rests <= 0.01 * weights.allocated_bytes
    # at the peak two or three borrowed blocks may keep such a rest too
    assert abs(ours.peak_allocated_bytes - kept_rests - phase.allocated_bytes) <= 2 * MIB
    assert ours.reserved_bytes >= max(
        ours.peak_allocated_bytes, warmup_bytes(weights, None, Stack())
    )


def test_what_comes_last_may_not_fit_into_what_the_warm_up_left() -> None:
    # bloom-3b in nf4: 2,352 MiB of warm-up; the layers are read before the embedding of 1,225 MiB,
    # and with float32 absmax, which the warm-up does not count, less than that is left in one piece
    weights = catalogued("bloom-3b", "nf4")
    ours = simulate_loading(weights, None, Stack())
    assert warmup_bytes(weights, None, Stack()) + 1_225 * MIB <= ours.reserved_bytes
    expandable = replace(Stack(), alloc_conf="expandable_segments:True")
    assert simulate_loading(weights, None, expandable).reserved_bytes < 2_700 * MIB


@settings(max_examples=25)
@given(
    name=st.sampled_from(["llama-3-8b", "gpt2", "mixtral-8x7b", "t5-11b", "bloom-3b"]),
    scheme=st.sampled_from([None, "nf4", "fp4-double", "int8"]),
)
def test_every_allocation_is_freed_or_is_a_weight(name: str, scheme: str | None) -> None:
    weights = catalogued(name, scheme)
    alive: dict[int, int] = {}
    for event in loading_events(weights):
        assert isinstance(event, Event)
        if event.num_bytes:
            assert event.handle not in alive
            alive[event.handle] = event.num_bytes
        else:
            del alive[event.handle]
    assert sum(alive.values()) == weights.weight_bytes + weights.quantization_state_bytes


def test_host_memory_while_loading() -> None:
    # to the host first: all of it; straight to the device: four tensors under way, or in int8 the
    # one that goes back to the host, in its own type and in float16
    plain = catalogued("llama-3-8b")
    assert loading_phase(plain, device_map=False).host_bytes == plain.weight_bytes
    assert loading_phase(plain, device_map=True).host_bytes == 4 * 128_256 * 4_096 * 2
    wide = catalogued("gpt2", "int8")
    back = 768 * 3_072 * (2 + 2)
    assert loading_phase(wide, device_map=True).host_bytes == max(50_257 * 768 * 2, back)
