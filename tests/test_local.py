"""Models on this disk: what transformers saves is read; everything else gets its sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from willfit.errors import (
    BrokenFileError,
    InputError,
    ModelAccessError,
    ModelNotFoundError,
    UnsupportedError,
    WillfitError,
)
from willfit.scenario.model import ModelSpec
from willfit.sources.limits import MAX_CONFIG_BYTES
from willfit.sources.missing import not_found
from willfit.sources.resolve import resolve
from willfit.sources.source import FakeSource
from willfit.sources.weight_files import pick_weights

SMALL: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 300,
        "n_positions": 64,
    },
    "bert": {
        "architectures": ["BertForMaskedLM"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 300,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 300,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 32,
        "vocab_size": 300,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    },
}


def built(model_type: str, dtype: str = "bfloat16") -> Any:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **SMALL[model_type])
    cls = getattr(transformers, SMALL[model_type]["architectures"][0])
    return cls(config).to(getattr(torch, dtype))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders: each small model as transformers saves it, whole and in shards."""
    root = tmp_path_factory.mktemp("saved")
    for model_type in SMALL:
        model = built(model_type)
        model.save_pretrained(root / model_type)
        model.save_pretrained(root / f"{model_type}-shards", max_shard_size="30KB")
    return root


def stored_bytes(spec: ModelSpec) -> int:
    return sum(
        row.count * row.dtype.num_bytes(row.num_elements)
        for row in spec.tensors
        if row.is_parameter and row.tied_to is None
    )


@pytest.mark.parametrize("model_type", SMALL)
def test_a_folder_that_transformers_saved(model_type: str, saved: Path) -> None:
    model = built(model_type)
    parameters = list(model.parameters())  # each tied one once
    for folder in (saved / model_type, saved / f"{model_type}-shards"):
        spec = resolve(str(folder))
        assert spec.num_params == sum(p.numel() for p in parameters)
        assert stored_bytes(spec) == sum(p.numel() * p.element_size() for p in parameters)
        assert (spec.source, spec.library) == ("local", "transformers")
        assert spec.stored_dtype.name == "bfloat16"
        assert spec.architecture is not None
        assert spec.model_class == SMALL[model_type]["architectures"][0]
    index = saved / f"{model_type}-shards" / "model.safetensors.index.json"
    assert resolve(str(index)).num_params == spec.num_params
    shard = next((saved / f"{model_type}-shards").glob("model-00001-of-*"))
    assert resolve(str(shard)).num_params == spec.num_params
    alone = resolve(str(saved / model_type / "model.safetensors"))
    assert alone.num_params == spec.num_params


@pytest.mark.parametrize("model_type", SMALL)
def test_a_config_alone(model_type: str, saved: Path, tmp_path: Path) -> None:
    """Shapes from the config: the same count, and the result says that nothing else was read."""
    config = saved / model_type / "config.json"
    path = tmp_path / "renamed.json"
    path.write_bytes(config.read_bytes())
    spec = resolve(str(path))
    assert spec.num_params == sum(p.numel() for p in built(model_type).parameters())
    assert any("only the config was named" in note for note in spec.assumptions)
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes(config.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04boom")
    spec = resolve(str(folder))
    assert any("pickled (pytorch_model.bin)" in note for note in spec.assumptions)


def test_module_classes_without_a_config(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((saved / "llama" / "model.safetensors").read_bytes())
    spec = resolve(str(path))
    classes = {name: row.module for row in spec.tensors for name in row.names()}
    assert classes["model.embed_tokens.weight"] == "Embedding"
    assert classes["lm_head.weight"] == "Linear"
    assert classes["model.layers.1.self_attn.q_proj.weight"] == "Linear"
    assert classes["model.layers.1.input_layernorm.weight"] == "Norm"
    assert any(row.name == "model.layers.{0-2}.mlp.up_proj.weight" for row in spec.tensors)
    assert spec.architecture is None
    assert any("no config.json" in note for note in spec.assumptions)


def test_files_that_disagree_with_the_config_are_believed(saved: Path, tmp_path: Path) -> None:
    """A config of two layers beside weights of three: both numbers are said."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / "llama" / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    whole = sum(p.numel() for p in built("llama").parameters())
    # q and o 32·32, k and v 16·32, three of 64·32, two norms
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    spec = resolve(str(tmp_path))
    assert spec.num_params == whole
    assert any(f"{whole:,}" in n and f"{whole - layer:,}" in n for n in spec.assumptions)


def test_a_tied_head_stored_twice_counts_once(saved: Path, tmp_path: Path) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    model = built("qwen2")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in state
    library.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((saved / "qwen2" / "config.json").read_bytes())
    spec = resolve(str(tmp_path))
    assert spec.num_params == sum(p.numel() for p in model.parameters())
    assert any("lm_head.weight is stored although it is tied" in n for n in spec.assumptions)
    del torch


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


CONFIG = json.dumps({"model_type": "llama", **SMALL["llama"]})
FOLDERS: dict[str, tuple[dict[str, str], type[WillfitError], str]] = {
    "nothing": ({}, ModelNotFoundError, "holds no model: expected a config.json"),
    "no model": ({"README__md": "hello"}, ModelNotFoundError, "found README.md"),
    "adapter": (
        {"adapter_config__json": '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'},
        InputError,
        "is a PEFT adapter, not a model: name org/base and add --peft-config",
    ),
    "adapter of nobody": ({"adapter_config__json": "{}"}, InputError, "the model that it adapts"),
    "pipeline": ({"model_index__json": "{}"}, InputError, "diffusers pipeline"),
    "two GGUFs": (
        {"a__gguf": "GGUF", "b__gguf": "GGUF"},
        InputError,
        "holds 2 GGUF models: name one",
    ),
    "config is a list": ({"config__json": "[]"}, BrokenFileError, "JSON list, expected an object"),
    "config is cut": ({"config__json": '{"model_type": "ll'}, BrokenFileError, "not valid JSON"),
    "config is a pointer": (
        {"config__json": "version https://git-lfs.github.com/spec/v1\noid"},
        BrokenFileError,
        "git lfs pull",
    ),
    "config of something else": (
        {"config__json": '{"name": "x"}'},
        BrokenFileError,
        "not a model config",
    ),
    "config is deep": (
        {"config__json": '{"a":' * 200 + "1" + "}" * 200},
        BrokenFileError,
        "nested",
    ),
    "config without its keys": (
        {"config__json": '{"model_type": "llama", "rms_norm_eps": 1, "intermediate_size": 8}'},
        InputError,
        "hidden_size",
    ),
    "absurd config": (
        {
            "config__json": CONFIG.replace(
                '"num_hidden_layers": 3', '"num_hidden_layers": 99999999999'
            )
        },
        BrokenFileError,
        "has num_hidden_layers = 1e+11, more than any model has",
    ),
    "infinite config": (
        {"config__json": '{"hidden_size": 1e999}'},
        BrokenFileError,
        "out of range",
    ),
    "empty weights": (
        {"config__json": CONFIG, "model__safetensors": ""},
        BrokenFileError,
        "0 bytes",
    ),
    "index without shards": (
        {
            "config__json": CONFIG,
            "model__safetensors__index__json": '{"weight_map": {"w": "a.safetensors"}}',
        },
        BrokenFileError,
        "1 are missing, such as a.safetensors",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_each_wrong_folder_has_its_sentence(case: str, tmp_path: Path) -> None:
    files, error, words = FOLDERS[case]
    folder = write(tmp_path / "model", **files)
    with pytest.raises(error) as caught:
        resolve(str(folder))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_wrong_file_has_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x80")
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes(b"")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    cases = {
        "weights.bin": "is pickled and is not opened",
        "model-00002-of-00003.safetensors": "part 2 of 3",
        "huge.json": "larger than 16.0 MiB",
        "adapter_config.json": "PEFT adapter",
        "absent.json": "no file or folder",
    }
    for name, words in cases.items():
        with pytest.raises(InputError, match=words):
            resolve(str(tmp_path / name))
    for name in ("absent.safetensors", "absent.gguf", "./absent", "~/absent/model", "absent.bin"):
        with pytest.raises(ModelNotFoundError, match="check the path"):
            resolve(name)


def test_no_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model", config__json=CONFIG)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(ModelAccessError, match=r"no permission to read .*config\.json"):
            resolve(str(folder))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ModelAccessError, match="no permission to read"):
        resolve(str(folder))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs another user to be")
def test_no_permission_for_real(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", config__json=CONFIG)
    (folder / "config.json").chmod(0)
    code = (
        "import os\nfrom willfit.errors import ModelAccessError\n"
        "from willfit.sources.local import read_config\nfrom pathlib import Path\n"
        "os.setuid(65534)\n"
        f"try: read_config(Path({str(folder / 'config.json')!r}))\n"
        "except ModelAccessError as error: print(error)"
    )
    for part in (*tmp_path.parents, tmp_path, folder):
        if len(part.parts) > 2:  # below the temporary folder, which everybody may enter
            part.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "no permission to read" in done.stdout, done.stderr


NAMES = ["", "   ", "a\x00b", "a\nb", "x" * 5000]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no model name"):
        resolve(name)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(InputError, match="expected transformers or timm"):
        resolve("gpt2", library_name="keras")
    with pytest.raises(InputError, match="leave --library-name out"):
        resolve("meta-llama/Meta-Llama-3-8B", library_name="timm", offline=True)


def test_the_first_source_that_answers_wins(saved: Path) -> None:
    spec = resolve(str(saved / "llama"))
    first, second = FakeSource(specs={"mine": spec}), FakeSource(specs={"other": spec})
    assert resolve("mine", sources=[first, second]) is spec
    assert (first.asked, second.asked) == (["mine"], [])
    assert resolve("other", sources=[first, second]) is spec
    with pytest.raises(ModelNotFoundError, match="Meta-Llama-3-8B"):
        resolve("Meta-Lama-3-8B", sources=[first, second])


def test_a_miss_suggests_the_nearest() -> None:
    assert "mistralai/Mistral-7B-v0.1" in str(not_found("mistralai/Mistal-7B-v0.1"))


def test_a_folder_with_a_catalogue_name_that_is_no_model_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert resolve("gpt2").source == "catalogue"
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        resolve("./gpt2")
    write(tmp_path / "gpt2", config__json=CONFIG)
    assert resolve("gpt2").source == "local"


def test_an_unknown_family_needs_its_code(tmp_path: Path) -> None:
    config = {"model_type": "never_heard_of", "architectures": ["NeverHeardOf"], "hidden_size": 8}
    with pytest.raises(UnsupportedError, match=r"never_heard_of|NeverHeardOf"):
        resolve(str(write(tmp_path / "m", config__json=json.dumps(config))))


def test_timm_names_come_from_the_catalogue_first() -> None:
    for name, library in [("timm/resnet50.a1_in1k", None), ("resnet50.a1_in1k", "timm")]:
        spec = resolve(name, library_name=library, offline=True)
        assert (spec.id, spec.library, spec.source) == (
            "timm/resnet50.a1_in1k",
            "timm",
            "catalogue",
        )
    with pytest.raises(InputError, match=r"timm/never_heard_of.*timm and willfit\[trace\]"):
        resolve("never_heard_of", library_name="timm", offline=True)


def test_a_timm_checkpoint_is_read_by_its_tensors(tmp_path: Path) -> None:
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 5)
    )
    library.save_file(model.state_dict(), tmp_path / "model.safetensors")
    write(tmp_path, config__json='{"architecture": "resnet50", "num_classes": 5}')
    spec = resolve(str(tmp_path))
    assert (spec.library, spec.model_class, spec.architecture) == ("timm", "resnet50", None)
    assert spec.num_params == sum(p.numel() for p in model.parameters())
    # running mean and variance of 8 float32, and a counter of 8 bytes
    buffers = [row for row in spec.tensors if not row.is_parameter]
    assert sum(row.dtype.num_bytes(row.num_elements) for row in buffers) == 2 * 8 * 4 + 8


def test_prediction_layers_are_not_counted(saved: Path, tmp_path: Path) -> None:
    """DeepSeek-V3 stores a layer after the last, for multi-token prediction, that nobody loads."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / "llama" / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    spec = resolve(str(tmp_path))
    assert spec.num_params == sum(p.numel() for p in built("llama").parameters()) - layer
    assert any("multi-token-prediction" in note for note in spec.assumptions)


FILES = {
    ("config.json", "model.safetensors", "optimizer.safetensors"): (None, ("model.safetensors",)),
    ("model.safetensors.index.json", "model-00001-of-00002.safetensors"): (
        "model.safetensors.index.json",
        (),
    ),
    ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"): (
        None,
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ),
    ("model-00001-of-00002.safetensors",): (None, ()),
    ("consolidated.safetensors", "model.safetensors"): (None, ("model.safetensors",)),
    ("adapter_model.safetensors",): (None, ()),
    ("sub/model.safetensors",): (None, ()),
    ("diffusion_pytorch_model.safetensors",): (None, ("diffusion_pytorch_model.safetensors",)),
    ("a.safetensors", "b.safetensors"): (None, ()),
}


@pytest.mark.parametrize("names", FILES)
def test_which_files_are_the_weights(names: tuple[str, ...]) -> None:
    found = pick_weights(names)
    assert (found.index, found.files) == FILES[names]
    assert bool(found.why_none) == (found.index is None and not found.files)
