"""Checkpoints that are stored quantised, traced: their bytes, their kernels' scratch, training."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.conftest import SHARED

from willfit.allocator.rounding import round_block
from willfit.devices import parse_machine
from willfit.dtypes import FLOAT16, DType
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.formulas.weights import LoadedWeights, load_weights
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.sources.catalogue import load
from willfit.sources.resolve import resolve
from willfit.trace.recording import Recording

K, INNER, V, LAYERS = 256, 512, 1024, 7
"""Sizes of the small Llama: width, inner width, vocabulary."""
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": K,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": V,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": K,
    "intermediate_size": INNER,
    "moe_intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": V,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": K,
    "intermediate_size": K,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
    "sliding_window": 128,
    "vocab_size": V,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float16",
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
W4A16 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4, "type": "int", "strategy": "group", "group_size": 128,
                "symmetric": True,
            },
        }
    },
}  # fmt: skip
STORED: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "bitsandbytes 4 bit": (LLAMA, NF4, "L4"),
    "bitsandbytes 8 bit": (LLAMA, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "L4"),
    "gptq, marlin": (LLAMA, GPTQ, "L4"),
    "gptq, machete": (LLAMA, GPTQ, "H100"),
    "gptq, exllama": (LLAMA, {**GPTQ, "sym": False}, "L4"),
    "gptq, 8 bit": (LLAMA, {**GPTQ, "bits": 8}, "T4"),
    "gptq, dequantised": (LLAMA, {**GPTQ, "bits": 2}, "L4"),
    "awq, marlin": (LLAMA, AWQ, "L4"),
    "awq, exllama": (LLAMA, AWQ, "T4"),
    "fp8": (LLAMA, FP8, "H100"),
    "fp8 experts": (QWEN3_MOE, FP8, "H100"),
    "fbgemm": (LLAMA, {"quant_method": "fbgemm_fp8"}, "H100"),
    "mxfp4 experts": (GPT_OSS, {"quant_method": "mxfp4"}, "H100"),
}
LINEARS = [(K, K)] * 4 + [(INNER, K)] * 2 + [(K, INNER)]
"""(N, K) of the packed layers of one decoder layer."""
PROMPT = Workload(inference=Inference(context_len=130, max_new_tokens=2))
STEP: dict[str, Any] = {
    "method": "qlora",
    "lora": Lora(r=8, target_modules=("all-linear",)),
    "micro_batch_size": 2,
    "max_length": 128,
    "optimizer": "adamw_torch",
}


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def find(config: str) -> ModelSpec:
        folder = tmp_path_factory.mktemp("stored")
        (folder / "config.json").write_text(config)
        return resolve(str(folder))

    def make(config: Mapping[str, Any], settings: Mapping[str, Any]) -> ModelSpec:
        return find(json.dumps({**config, "quantization_config": dict(settings)}))

    return make


def traced(spec: ModelSpec, work: Workload, gpu: str) -> tuple[Estimate, Recording]:
    recordings: list[Recording] = []
    machine = Machine(gpus=parse_machine(gpu).gpus)
    asked = Scenario(model=spec, workload=work, machine=machine)
    result = estimate(asked, trace=True, listener=recordings.append)
    return result, recordings[0]


def formula(spec: ModelSpec, work: Workload, gpu: str) -> Estimate:
    machine = Machine(gpus=parse_machine(gpu).gpus)
    return estimate(Scenario(model=spec, workload=work, machine=machine), search_limits=False)


def peak_of(result: Estimate, phase: str) -> int:
    return next(p.allocated_bytes for p in result.gpus[0].phases if p.name == phase)


def held(weights: LoadedWeights) -> int:
    return weights.weight_bytes + weights.quantization_state_bytes


def component(result: Estimate, phase: str, name: str) -> int:
    found = next(p for p in result.gpus[0].phases if p.name == phase)
    return next((c.num_bytes for c in found.components if c.name == name), 0)


@pytest.mark.parametrize("name", STORED)
def test_loading_is_the_tensor_table_to_the_byte(spec_of: Any, name: str) -> None:
    config, settings, gpu = STORED[name]
    spec = spec_of(config, settings)
    result, recording = traced(spec, PROMPT, gpu)
    loads = [e for e in recording.events if e.place.op == "load"]
    alive: Counter[Any] = Counter()
    for event in loads:
        alive[event.handle] = event.num_bytes
    assert sum(alive.values()) == held(load_weights(spec, Loading(), Stack()))
    assert [phase.name for phase in result.gpus[0].phases] == ["load", "prefill", "decode"]


PARTIAL_SUMS = 4 * 108 * 64 * 256
"""Marlin's float32 partial sums of 64 rows and more, which no formula has (7 MB on an A100)."""


@pytest.mark.parametrize("name", STORED)
def test_prefill_and_decode_are_near_the_formulas(spec_of: Any, name: str) -> None:
    """But for scratch that lives as long as the model, which is another kernel's there."""
    config, settings, gpu = STORED[name]
    spec = spec_of(config, settings)
    result, _ = traced(spec, PROMPT, gpu)
    by_formula = formula(spec, PROMPT, gpu)
    slack = PARTIAL_SUMS if "marlin" in name or "8 bit" in name else 0
    for phase in ("prefill", "decode"):
        mine, theirs = peak_of(result, phase), peak_of(by_formula, phase)
        scratch = component(result, phase, "workspaces") - component(
            by_formula, phase, "workspaces"
        )
        assert abs(mine - scratch - theirs) <= 0.08 * theirs + slack, (phase, mine, theirs)


def test_stored_and_quantised_while_loading_are_the_same_once_loaded(spec_of: Any) -> None:
    """bitsandbytes: only loading differs, by the weights that arrive in 16 bit."""
    plain = spec_of(LLAMA, {})
    config = {k: v for k, v in plain.config.items() if k != "quantization_config"}
    plain = replace(plain, config=config)
    fly = Loading(quantization=Quantization(scheme="nf4", double_quant=True, compute_dtype=FLOAT16))
    work = Workload(training=Training(**STEP))
    stored, kept = traced(spec_of(LLAMA, NF4), work, "L4")
    loaded, borrowed = traced(plain, replace(work, loading=fly), "L4")
    for phase in ("forward", "backward", "step"):
        assert peak_of(stored, phase) == peak_of(loaded, phase), phase
    given_back = [
        sum(not e.num_bytes for e in each.events if e.place.op == "load")
        for each in (kept, borrowed)
    ]
    assert given_back[0] == 0 < given_back[1]


def test_what_marlin_does_not_read_is_gone_after_loading(spec_of: Any) -> None:
    """Zero points and group indices go, 128 locks come (blocks of 512 bytes)."""
    spec = spec_of(LLAMA, GPTQ)
    result, _ = traced(spec, PROMPT, "L4")
    gone = sum(
        round_block(row.row.dtype.num_bytes(row.row.num_elements)) * row.row.count
        for row in load_weights(spec, Loading(), Stack()).rows
        if row.row.name.endswith(("qzeros", "g_idx"))
    )
    states = load_weights(spec, Loading(), Stack()).state_allocated_bytes
    locks = 512 * LAYERS * len(LINEARS)
    assert component(result, "decode", "quantization_state") == states - gone + locks


def test_exllama_keeps_one_scratch_for_all_layers(spec_of: Any) -> None:
    """GPTQ sizes it for 8 · 2,048 rows of the widest layer, AWQ for 2,048."""
    widest = max(2 * n * k + 4 * 2048 * 8 * n + 256 for n, k in LINEARS)
    single = max(2 * n * k + 4 * 2048 * n + 256 for n, k in LINEARS)
    for settings, gpu, scratch in (({**GPTQ, "sym": False}, "L4", widest), (AWQ, "T4", single)):
        result, _ = traced(spec_of(LLAMA, settings), PROMPT, gpu)
        assert component(result, "load", "workspaces") == round_block(scratch)


def test_the_first_exllama_has_rows_to_reorder() -> None:
    """Llama-3.1-8B in GPTQ held 176,160,768 bytes more on an A100: 2·N·K + 2·2,048·N.

    14,336 · 4,096 · 2 = 117,440,512 and 2 · 2,048 · 14,336 = 58,720,256.
    """
    from willfit.trace.quantized import gptq  # and with it, in this order, its kernels

    assert gptq is not None
    from willfit.trace.cuda.gptqmodel import ExllamaV1

    layer = SimpleNamespace(out_features=14336, in_features=4096)
    kernel: Any = ExllamaV1(reorders=True)
    assert kernel.scratch_bytes(layer) == 117_440_512 + 58_720_256
    plain: Any = ExllamaV1()
    assert plain.scratch_bytes(layer) == 117_440_512


def test_the_scratch_of_exllama_v2_is_what_was_measured() -> None:
    """LLaMA-7B GPTQ, forward pass, exllama v2 less v1: the same 0.676 GiB at three batch sizes.

    optimum-benchmark, auto-gptq 0.5, torch 2.1.1: max_memory_allocated in MB (10⁶ bytes).
    """
    path = SHARED / "measured" / "optimum_benchmark_history.jsonl"
    if not path.is_file():
        pytest.skip("published measurements are not beside this checkout")
    measured: dict[tuple[str, int], int] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        kinds = {each["kind"]: each["bytes"] for each in row["measured"]}
        if "exllamav" in str(row.get("experiment")):
            allocated = kinds["forward:torch_max_memory_allocated"]
            measured[row["experiment"][-2:], row["batch"]] = allocated
    spec = load("TheBloke/Llama-2-7B-GPTQ")
    assert spec is not None
    packed = [row for row in spec.tensors if row.name.endswith("qweight")]
    shapes = [(row.shape[1], row.shape[0] * 8, row.count) for row in packed]
    dequantised = max(2 * n * k for n, k, _ in shapes)
    second = max(2 * n * k + 4 * 2048 * 8 * n + 256 for n, k, _ in shapes)
    order = sum(2 * round_block(2 * k) * count for _, k, count in shapes)
    for batch in (1, 2, 8):
        seen = measured["v2", batch] - measured["v1", batch]
        assert seen == pytest.approx(second + order - dequantised, rel=0.005)


def test_what_qwen_measured() -> None:
    """Qwen3-4B in AWQ, one token in, 2,048 out, on an H20: max_memory_allocated in GiB."""
    path = SHARED / "measured" / "qwen_speed_benchmark.jsonl"
    if not path.is_file():
        pytest.skip("published measurements are not beside this checkout")
    (seen,) = (
        row["measured"][0]["bytes"]
        for row in map(json.loads, path.read_text().splitlines())
        if row["model"] == "Qwen/Qwen3-4B-AWQ-INT4" and row["seq"] == 1
    )
    spec = load("Qwen/Qwen3-4B-AWQ")
    assert spec is not None
    work = Workload(inference=Inference(context_len=2049, max_new_tokens=2048))
    result, _ = traced(spec, work, "H20")
    assert max(phase.allocated_bytes for phase in result.gpus[0].phases) == pytest.approx(
        seen, rel=0.01
    )


def test_training_gptq_keeps_every_weight_in_sixteen_bit(spec_of: Any) -> None:
    """GPTQModel trains by autograd's own product; AWQ's function dequantises again in backward.

    The first layer's queries, keys and values come from the embedding, which needs no gradient.
    """
    sixteen = 2 * (LAYERS * sum(n * k for n, k in LINEARS) - 3 * K * K)
    work = Workload(training=Training(**STEP))
    for settings, expected in ((GPTQ, sixteen), (AWQ, 0)):
        result, recording = traced(spec_of(LLAMA, settings), work, "L4")
        freed_in = {e.handle: e.phase for e in recording.events if not e.num_bytes}
        kept = sum(
            event.num_bytes
            for event in recording.events
            if event.phase == "forward"
            and "new_empty" in event.place.op
            and event.num_bytes in {2 * n * k for n, k in LINEARS}
            and freed_in[event.handle] == "backward"
        )
        assert kept == 2 * expected  # two steps
        assert any("auto_trainable" in note for note in result.assumptions)


def test_fp8_dequantises_a_weight_in_backward(spec_of: Any) -> None:
    """The layer's own function: ``FP8LinearFunction``: 2·N·K of the largest layer, and no weight is kept."""
    work = Workload(training=Training(bf16=True, **STEP))
    _, recording = traced(spec_of({**LLAMA, "torch_dtype": "bfloat16"}, FP8), work, "H100")
    in_backward = Counter(
        event.num_bytes
        for event in recording.events
        if event.phase == "backward" and event.num_bytes and "proj" in event.place.module
    )
    assert in_backward[2 * K * INNER] >= 3 * LAYERS


def test_repeated_layers_are_the_whole_model(spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading, repacking, scratch and steps of the short model stand for the long one."""
    work = Workload(training=Training(**STEP))
    for settings, gpu, job in ((GPTQ, "L4", PROMPT), (AWQ, "T4", PROMPT), (GPTQ, "L4", work)):
        spec = spec_of(LLAMA, settings)
        short, _ = traced(spec, job, gpu)
        with monkeypatch.context() as patched:
            patched.setattr("willfit.trace.trace.shorten", lambda *_: None)
            whole, _ = traced(spec, job, gpu)
        for phase in ("load", *(p.name for p in whole.gpus[0].phases)):
            assert peak_of(short, phase) == peak_of(whole, phase), (settings, phase)


def test_experts_stored_one_by_one_are_those_of_the_table(spec_of: Any, tmp_path: Path) -> None:
    """File headers with a tensor an expert, against the table of the config alone."""
    by_config = spec_of(QWEN3_MOE, FP8)
    header: dict[str, Any] = {}
    position = 0
    for name, shape, dtype in _as_published(by_config):
        size = dtype.num_bytes(prod(shape))
        kind = {"float8_e4m3fn": "F8_E4M3", "float32": "F32", "bfloat16": "BF16"}[dtype.name]
        header[name] = {
            "dtype": kind, "shape": shape, "data_offsets": [position, position + size],
        }  # fmt: skip
        position += size
    content = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(
        struct.pack("<Q", len(content)) + content + bytes(position)
    )
    (tmp_path / "config.json").write_text(json.dumps({**QWEN3_MOE, "quantization_config": FP8}))
    by_file, _ = traced(resolve(str(tmp_path)), PROMPT, "H100")
    table, _ = traced(by_config, PROMPT, "H100")
    for phase in ("load", "prefill", "decode"):
        assert peak_of(by_file, phase) == peak_of(table, phase), phase


def _as_published(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...], DType]]:
    """Every stored tensor; of fused experts the single ones that they are joined of."""
    for row in spec.tensors:
        for name in row.names() if row.is_parameter and row.tied_to is None else ():
            owner, _, last = name.rpartition(".")
            if not owner.endswith(".experts"):
                yield name, row.shape, row.dtype
                continue
            rest = "weight_scale_inv" if last.endswith("_scale_inv") else "weight"
            parts = ("gate_proj", "up_proj") if "gate_up" in last else ("down_proj",)
            experts, wide, deep = row.shape
            for expert in range(experts):
                for part in parts:
                    yield f"{owner}.{expert}.{part}.{rest}", (wide // len(parts), deep), row.dtype


def test_compressed_tensors_unpacks_on_the_first_pass(spec_of: Any) -> None:
    pytest.importorskip("compressed_tensors")
    spec = spec_of({**LLAMA, "torch_dtype": "bfloat16"}, W4A16)
    result, recording = traced(spec, PROMPT, "L4")
    weights = load_weights(spec, Loading(), Stack())
    loads = sum(e.num_bytes for e in recording.events if e.place.op == "load")
    assert loads == held(weights)
    plain = sum(r.row.count * round_block(r.weight_bytes) for r in weights.rows if not r.quantized)
    sixteen = 2 * LAYERS * sum(n * k for n, k in LINEARS)
    assert component(result, "decode", "weights") == plain + sixteen


def test_what_transformers_cannot_do_is_refused_in_words(spec_of: Any) -> None:
    train = Workload(training=Training(method="lora", lora=Lora(r=4)))
    with pytest.raises(UnsupportedError, match=r"does not train .* in mxfp4"):
        traced(spec_of(GPT_OSS, {"quant_method": "mxfp4"}), train, "H100")
    with pytest.raises(UnsupportedError, match=r"does not train .* in fbgemm_fp8"):
        traced(spec_of(LLAMA, {"quant_method": "fbgemm_fp8"}), train, "H100")
    with pytest.raises(UnsupportedError, match="backend 'invented'"):
        traced(spec_of(LLAMA, {**GPTQ, "backend": "invented"}), PROMPT, "L4")
