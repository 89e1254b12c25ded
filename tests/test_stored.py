"""Checkpoints that are already quantised: counted as stored, to the byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from willfit.dtypes import DTYPES
from willfit.errors import BrokenFileError, InputError, UnsupportedError
from willfit.formulas.weights import load_weights
from willfit.scenario.collapse import NamedTensor
from willfit.scenario.model import ModelSpec, TensorRow
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Loading, Quantization
from willfit.sources.headers import owner_of, rows_from_headers
from willfit.sources.resolve import resolve
from willfit.sources.safetensors import SAFETENSORS_BITS, read_header
from willfit.sources.stored import QUANTIZED_MODULE, quantized_rows, stored_quantization

METHODS: dict[str, tuple[dict[str, Any], tuple[str, float, int | None]]] = {
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        ("bitsandbytes-nf4", 4, 64),
    ),
    "fp4 by default": (
        {"quant_method": "bitsandbytes", "_load_in_4bit": True},
        ("bitsandbytes-fp4", 4, 64),
    ),
    "int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False},
        ("bitsandbytes-int8", 8, None),
    ),
    "before quant_method": ({"load_in_8bit": True}, ("bitsandbytes-int8", 8, None)),
    "gptq": ({"quant_method": "gptq", "bits": 3, "group_size": 64}, ("gptq", 3, 64)),
    "gptq without groups": ({"quant_method": "gptq", "bits": 4, "group_size": -1}, ("gptq", 4, -1)),
    "awq": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 32}, ("awq", 4, 32)),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8", 8, None)),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, ("fbgemm_fp8", 8, None)),
    "compressed-tensors": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
        },
        ("compressed-tensors", 4, 128),
    ),
    "mxfp4": ({"quant_method": "mxfp4"}, ("mxfp4", 4, 32)),
    "nvfp4": ({"quant_algo": "NVFP4"}, ("modelopt", 4, 16)),
    # two codebooks of 16 bits over 8 weights: 2·16/8 = 4 bits a weight
    "aqlm": (
        {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 16, "in_group_size": 8},
        ("aqlm", 4, 8),
    ),
    "hqq": (
        {
            "quant_method": "hqq",
            "quant_config": {"weight_quant_params": {"nbits": 2, "group_size": 16}},
        },
        ("hqq", 2, 16),
    ),
    "quanto": ({"quant_method": "quanto", "weights": "int4"}, ("quanto", 4, None)),
    "eetq": ({"quant_method": "eetq", "weights": "int8"}, ("eetq", 8, None)),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, ("torchao", 8, None)),
    "something new": ({"quant_method": "invented"}, ("invented", 16, None)),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_a_config_declares(method: str) -> None:
    settings, expected = METHODS[method]
    for config in (
        {"quantization_config": settings},
        {"text_config": {"quantization_config": settings}},
    ):
        found = stored_quantization(config)
        assert found is not None
        assert (found.method, found.bits, found.group_size) == expected
        assert found.settings == settings


def test_every_method_of_transformers_is_known() -> None:
    library = pytest.importorskip("transformers.utils.quantization_config")
    for method in library.QuantizationMethod:
        found = stored_quantization({"quantization_config": {"quant_method": method.value}})
        assert found is not None
        if method.value != "gguf":
            assert found.bits < 16, method


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": "gptq"},
    ],
)
def test_ordinary_checkpoints_are_not_quantised(config: dict[str, Any]) -> None:
    assert stored_quantization(config) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": "four"},
        {"bits": 0},
        {"bits": 1e9},
        {"bits": True},
        {"group_size": "all"},
        {"bits": -7},
    ],
)
def test_settings_that_are_no_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BrokenFileError, match="quantization_config has"):
        stored_quantization({"quantization_config": {"quant_method": "gptq", **wrong}})


CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LINEARS = {
    "self_attn.q_proj": (128, 128),
    "self_attn.k_proj": (64, 128),
    "self_attn.v_proj": (64, 128),
    "self_attn.o_proj": (128, 128),
    "mlp.gate_proj": (256, 128),
    "mlp.up_proj": (256, 128),
    "mlp.down_proj": (128, 256),
}
NUM_PARAMS = 2 * 512 * 128 + 2 * (sum(n * k for n, k in LINEARS.values()) + 2 * 128) + 128


def stored_bytes(spec: ModelSpec) -> int:
    return sum(
        row.count * row.dtype.num_bytes(row.num_elements)
        for row in spec.tensors
        if row.is_parameter and row.tied_to is None
    )


@pytest.fixture(scope="module")
def bnb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small Llamas that bitsandbytes really quantised, as transformers saves them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("bitsandbytes")
    root = tmp_path_factory.mktemp("bnb")
    config = transformers.AutoConfig.for_model(**CONFIG)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(root / "plain")
    kinds = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "double": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        "int8": {"load_in_8bit": True},
    }
    for name, settings in kinds.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            root / "plain",
            quantization_config=transformers.BitsAndBytesConfig(**settings),
            device_map={"": "cpu"},
        )
        model.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("kind", ["nf4", "double", "int8"])
def test_what_bitsandbytes_saved(kind: str, bnb: Path) -> None:
    spec = resolve(str(bnb / kind))
    path = bnb / kind / "model.safetensors"
    header = read_header(path)
    # the settings as text (4 bit) or one format byte (int8) are read and not kept; the offset of
    # a double quantisation, 4 bytes, comes out of the text: 14 linears
    texts = sum(
        tensor.shape[0] if tensor.shape else 1
        for tensor in header.tensors
        if "bitsandbytes__" in tensor.name or tensor.name.endswith("weight_format")
    )
    offsets = 4 * 14 if kind == "double" else 0
    assert stored_bytes(spec) == path.stat().st_size - header.header_bytes - texts + offsets
    assert spec.num_params == NUM_PARAMS
    assert spec.quantization is not None
    packed = {row.owner for row in spec.tensors if row.module == QUANTIZED_MODULE}
    assert any(owner.endswith("mlp.up_proj") for owner in packed)
    assert not any("lm_head" in owner or "norm" in owner for owner in packed)
    plain = {row.name: row.dtype.name for row in spec.tensors if row.module != QUANTIZED_MODULE}
    assert plain["lm_head.weight"] == "bfloat16"


@pytest.mark.parametrize("kind", ["nf4", "double", "int8"])
def test_the_layout_by_config_is_what_bitsandbytes_saves(
    kind: str, bnb: Path, tmp_path: Path
) -> None:
    """Config alone against the really quantised file."""
    (tmp_path / "config.json").write_bytes((bnb / kind / "config.json").read_bytes())
    by_config, by_file = resolve(str(tmp_path)), resolve(str(bnb / kind))
    assert stored_bytes(by_config) == stored_bytes(by_file)
    assert by_config.num_params == by_file.num_params == NUM_PARAMS


@pytest.mark.parametrize("kind", ["nf4", "double", "int8"])
def test_what_is_on_the_device_is_what_the_library_holds(kind: str, bnb: Path) -> None:
    """Loaded from that checkpoint: every parameter, buffer and piece of state, to the byte."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(bnb / kind, device_map={"": "cpu"})
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            held += state.absmax.nbytes + state.code.nbytes
            held += sum(t.nbytes for t in (state.offset,) if t is not None)
            held += state.state2.absmax.nbytes + state.state2.code.nbytes if state.nested else 0
        if getattr(module, "weight", None) is not None and hasattr(module.weight, "SCB"):
            held += module.weight.SCB.nbytes
    loaded = load_weights(resolve(str(bnb / kind)), Loading(), Stack())
    assert loaded.weight_bytes + loaded.quantization_state_bytes == held


def test_quantising_again_is_refused(bnb: Path) -> None:
    spec = resolve(str(bnb / "nf4"))
    with pytest.raises(InputError, match="already quantised"):
        load_weights(spec, Loading(quantization=Quantization(scheme="nf4")), Stack())


Shapes = dict[str, tuple[str, tuple[int, ...]]]


def gptq(n: int, k: int) -> Shapes:
    return {
        "qweight": ("I32", (k * 4 // 32, n)),
        "qzeros": ("I32", (k // 64, n * 4 // 32)),
        "scales": ("F16", (k // 64, n)),
        "g_idx": ("I32", (k,)),
    }


def awq(n: int, k: int) -> Shapes:
    return {
        "qweight": ("I32", (k, n * 4 // 32)),
        "qzeros": ("I32", (k // 64, n * 4 // 32)),
        "scales": ("F16", (k // 64, n)),
    }


def fp8(n: int, k: int) -> Shapes:
    return {
        "weight": ("F8_E4M3", (n, k)),
        "weight_scale_inv": ("F32", (-(-n // 128), -(-k // 128))),
    }


def packed(n: int, k: int) -> Shapes:
    return {
        "weight_packed": ("I32", (n, k // 8)),
        "weight_scale": ("BF16", (n, k // 64)),
        "weight_shape": ("I64", (2,)),
    }


LAYOUTS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 64}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 64}),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "compressed": (
        packed,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "ignore": ["lm_head"],
            "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 64}}},
        },
    ),
}


def checkpoint(folder: Path, layout: Any, settings: dict[str, Any]) -> int:
    """Write a checkpoint in that layout, weights missing their content; returns its data bytes."""
    tensors: Shapes = {
        f"{n}.weight": ("BF16", (512, 128)) for n in ("model.embed_tokens", "lm_head")
    }
    tensors["model.norm.weight"] = ("BF16", (128,))
    for i in range(2):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{norm}.weight"] = ("BF16", (128,))
        for name, (n, k) in LINEARS.items():
            tensors |= {f"{at}{name}.{part}": what for part, what in layout(n, k).items()}
    header, position = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = SAFETENSORS_BITS[dtype][1] // 8
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    content = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(position))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": settings}))
    return position


@pytest.mark.parametrize("method", LAYOUTS)
def test_a_layout_in_files_and_by_config(method: str, tmp_path: Path) -> None:
    layout, settings = LAYOUTS[method]
    data_bytes = checkpoint(tmp_path, layout, settings)
    by_file = resolve(str(tmp_path))
    assert stored_bytes(by_file) == data_bytes
    assert by_file.num_params == NUM_PARAMS
    assert not any("parameters and the config describes" in n for n in by_file.assumptions)
    (tmp_path / "model.safetensors").unlink()
    by_config = resolve(str(tmp_path))
    assert stored_bytes(by_config) == data_bytes
    assert by_config.num_params == NUM_PARAMS
    assert any("no file headers were read" in note for note in by_config.assumptions)


def test_quantised_weights_are_seen_without_a_config(tmp_path: Path) -> None:
    data_bytes = checkpoint(tmp_path, *LAYOUTS["gptq"])
    (tmp_path / "config.json").unlink()
    spec = resolve(str(tmp_path))
    assert stored_bytes(spec) == data_bytes
    assert spec.quantization is not None
    assert spec.num_params == NUM_PARAMS
    assert any("declares no quantisation" in note for note in spec.assumptions)


def test_an_unknown_layout_needs_its_files(tmp_path: Path) -> None:
    settings = {"quant_method": "vptq"}
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": settings}))
    with pytest.raises(UnsupportedError, match="stored layout of quantisation 'vptq' is not known"):
        resolve(str(tmp_path))


OWNERS = {
    "layers.0.up_proj.weight": "layers.0.up_proj",
    "layers.0.up_proj.weight.absmax": "layers.0.up_proj",
    "lm_head.qweight": "lm_head",
    "scale": "",
}


CLASSES = {
    ("transformer.h.0.attn.c_attn.weight", (8, 24), "gpt2"): "Conv1D",
    ("transformer.h.0.attn.c_attn.weight", (24, 8), "starcoder"): "Linear",
    ("transformer.wte.weight", (99, 8), "gpt2"): "Embedding",
    ("model.embed_tokens.weight", (99, 8), "llama"): "Embedding",
    ("embed_out.weight", (99, 8), "gpt_neox"): "Linear",
    ("lm_head.weight", (99, 8), "llama"): "Linear",
    ("h.0.ln_1.weight", (8,), "gpt2"): "Norm",
    ("conv1.weight", (8, 3, 7, 7), ""): "Conv2d",
    ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 16), "mixtral"): "Experts",
    ("model.layers.0.q_proj.qweight", (1, 8), "llama"): QUANTIZED_MODULE,
}


@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_module_classes_by_name_and_shape(case: tuple[str, tuple[int, ...], str]) -> None:
    name, shape, model_type = case
    (row,) = rows_from_headers(
        [NamedTensor(name=name, shape=shape, dtype="float16")], {"model_type": model_type}
    )
    assert row.module == CLASSES[case]


def test_stored_buffers_are_no_parameters() -> None:
    stored = [
        NamedTensor(
            name="model.layers.0.self_attn.rotary_emb.inv_freq", shape=(64,), dtype="float32"
        ),
        NamedTensor(name="h.0.attn.bias", shape=(1, 1, 64, 64), dtype="bool"),
        NamedTensor(name="bn.running_mean", shape=(8,), dtype="float32"),
    ]
    assert not any(row.is_parameter for row in rows_from_headers(stored, {}))


EXPRESSIONS = {
    "re:(a+)+$": UnsupportedError,
    "re:" + ".*x" * 9: UnsupportedError,
    "re:(": BrokenFileError,
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_strangers_expression_cannot_hang_us(expression: str) -> None:
    row = TensorRow(
        name=f"{'a' * 60}!.weight", shape=(8, 8), dtype=DTYPES["float16"], module="Linear"
    )
    settings = {"quant_method": "compressed-tensors", "ignore": [expression]}
    quantization = stored_quantization({"quantization_config": settings})
    assert quantization is not None
    with pytest.raises(EXPRESSIONS[expression]):
        quantized_rows([row], quantization)


@pytest.mark.parametrize("name", OWNERS)
def test_the_module_that_owns_a_tensor(name: str) -> None:
    assert owner_of(name) == OWNERS[name]


def test_mixed_precision_follows_its_groups() -> None:
    """ModelOpt's MIXED_PRECISION: layer 0 in FP8, layer 1 and the head in NVFP4, layer 2 as is."""
    settings = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 8}, "targets": ["layers.0.up"]},
            "group_1": {
                "weights": {"num_bits": 4, "group_size": 16},
                "targets": ["layers.1.up", "lm_head"],
            },
        },
    }
    quantization = stored_quantization({"quantization_config": settings})
    assert quantization is not None
    rows = [
        TensorRow(name=name, shape=(64, 32), dtype=DTYPES["bfloat16"], module="Linear")
        for name in ("layers.{0-2}.up.weight", "lm_head.weight")
    ]
    stored = {
        row.name: row.dtype.num_bytes(row.num_elements)
        for row in quantized_rows(rows, quantization)
        if len(row.shape) == 2
    }
    assert stored == {
        "layers.{0}.up.weight": 64 * 32,
        "layers.{1}.up.weight": 64 * 32 // 2,
        "layers.{1}.up.weight_scale": 64 * 32 // 16,
        "layers.{2}.up.weight": 64 * 32 * 2,
        "lm_head.weight": 64 * 32 // 2,
        "lm_head.weight_scale": 64 * 32 // 16,
    }


def test_groups_that_name_classes_are_not_read_as_paths() -> None:
    """compressed-tensors writes ``Linear`` or ``re:…`` as a target: every layer stays quantised."""
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": ["Linear"]},
            "group_1": {
                "weights": {"num_bits": 8, "type": "float"},
                "targets": ["re:.*down_proj"],
            },
        },
    }
    quantization = stored_quantization({"quantization_config": settings})
    assert quantization is not None
    row = TensorRow(
        name="layers.{0-1}.up.weight", shape=(64, 32), dtype=DTYPES["bfloat16"], module="Linear"
    )
    matrices = [each for each in quantized_rows([row], quantization) if each.shape == (64, 32)]
    assert matrices and all(each.dtype.num_bytes(1) == 1 for each in matrices)
