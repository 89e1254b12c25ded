"""Hub ids through the real client against a local server: ranges, and each failure's sentence."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.hub_server import COMMIT, HubServer, Repo, Sparse

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# 1000·64 twice, and per layer: q 64·64, k and v 32·64 each, o 64·64, three of 128·64, two norms
LAYER = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64
NUM_PARAMS = 2 * 1000 * 64 + 2 * LAYER + 64

SCRIPT = """
import json, sys, time
from willfit.sources.resolve import resolve
for line in json.loads(sys.argv[1]):
    began = time.monotonic()
    said = []
    try:
        spec = resolve(line.pop("name"), progress=said.append, **line)
        answer = {"num_params": spec.num_params, "source": spec.source, "library": spec.library,
                  "assumptions": spec.assumptions, "model_class": spec.model_class,
                  "dtype": spec.stored_dtype.name, "architecture": spec.architecture is not None,
                  "bytes": sum(r.count * r.dtype.num_bytes(r.num_elements) for r in spec.tensors
                               if r.tied_to is None and r.kind.value == "parameter")}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    answer["seconds"] = time.monotonic() - began
    answer["progress"] = said
    print(json.dumps(answer))
"""


def shapes(layers: range, *, ends: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for i in layers:
        at = f"model.layers.{i}."
        found |= {f"{at}self_attn.{n}_proj.weight": (64, 64) for n in "qo"}
        found |= {f"{at}self_attn.{n}_proj.weight": (32, 64) for n in "kv"}
        found |= {f"{at}mlp.{n}_proj.weight": (128, 64) for n in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = (64, 128)
        found |= {f"{at}{n}_layernorm.weight": (64,) for n in ("input", "post_attention")}
    if ends:
        found |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (1000, 64))
        found["model.norm.weight"] = (64,)
    return found


def weights(tensors: dict[str, tuple[int, ...]], *, padding: int = 0) -> Sparse:
    """A safetensors file whose header is real and whose weights are zeros nobody may fetch."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "padding": "x" * padding}}
    position = 0
    for name, shape in tensors.items():
        size = 2
        for dim in shape:
            size *= dim
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [position, position + size],
        }
        position += size
    content = json.dumps(header).encode()
    start = struct.pack("<Q", len(content)) + content
    return Sparse(start, len(start) + position)


def index(shards: dict[str, dict[str, tuple[int, ...]]]) -> bytes:
    weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


WHOLE = weights(shapes(range(2), ends=True))
LONG_HEADER = weights(shapes(range(2), ends=True), padding=200_000)
SHARDS = {
    "model-00001-of-00002.safetensors": shapes(range(1), ends=True),
    "model-00002-of-00002.safetensors": shapes(range(1, 2), ends=False),
}
CONFIG_FILE = {"config.json": json.dumps(CONFIG).encode()}
INDEX = {"model.safetensors.index.json": index(SHARDS)}


def repo(mode: str = "ok", **files: object) -> Repo:
    return Repo(files={**CONFIG_FILE, "model.safetensors": WHOLE, **files}, mode=mode)  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    sharded = {name: weights(tensors) for name, tensors in SHARDS.items()}
    first, second = SHARDS
    repos = {
        "org/whole": repo(),
        "org/long-header": repo(**{"model.safetensors": LONG_HEADER}),
        "org/sharded": Repo(files={**CONFIG_FILE, **INDEX, **sharded}),
        "org/cdn": repo("cdn"),
        "org/no-ranges": repo("no_ranges", **{"model.safetensors": Sparse(WHOLE.start, 10**10)}),
        "org/pickled": Repo(files={**CONFIG_FILE, "pytorch_model.bin": b"\x80"}),
        "gpt-two": repo(),
        **{
            f"org/{mode}": repo(mode)
            for mode in (
                "gated",
                "private",
                "bad_token",
                "disabled",
                "html",
                "broken",
                "busy",
                "slow",
                "drops",
            )
        },
        "org/only-gguf": Repo(files={f"m-Q{n}_K.gguf": b"GGUF" for n in (2, 4, 8)}),
        "org/adapter": Repo(files={"adapter_config.json": b"{}", "adapter_model.safetensors": b""}),
        "org/pipeline": Repo(files={"model_index.json": b"{}", "README.md": b""}),
        "org/empty": Repo(files={"README.md": b""}),
        "org/html-config": repo(**{"config.json": b"<!DOCTYPE html><html></html>"}),
        "org/list-config": repo(**{"config.json": b"[1, 2]"}),
        "org/huge-config": Repo(files=dict(CONFIG_FILE), listed_sizes={"config.json": 10**9}),
        "org/lying-header": repo(**{"model.safetensors": Sparse(struct.pack("<Q", 2**60), 10**9)}),
        "org/cut-header": repo(**{"model.safetensors": Sparse(WHOLE.start[:900], 900)}),
        "org/cut-weights": repo(**{"model.safetensors": Sparse(WHOLE.start, len(WHOLE) - 10)}),
        "org/lost-shard": Repo(files={**CONFIG_FILE, **INDEX, first: sharded[first]}),
        "org/wrong-shard": Repo(
            files={
                **CONFIG_FILE,
                **INDEX,
                first: sharded[first],
                second: weights({"other.weight": (2, 2)}),
            }
        ),
        "org/escaping": Repo(
            files={
                **CONFIG_FILE,
                "model.safetensors.index.json": index({"../../x.safetensors": {"w": (1,)}}),
            }
        ),
        "org/untold-config": repo(**{"config.json": b'{"answer": 42}'}),
        "org/two-sets": Repo(files={**CONFIG_FILE, "a.safetensors": WHOLE, "b.safetensors": WHOLE}),
    }
    with HubServer(repos) as server:
        yield server


def ask(url: str, tmp_path: Path, *questions: dict[str, object], **env: str) -> list[dict]:
    """Resolve names with the real client in a fresh process, its endpoint being ``url``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    clean |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_ETAG_TIMEOUT": "2",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(questions)]
    done = subprocess.run(
        command, env={**clean, **env}, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_shapes_come_from_headers_and_no_weights_are_served(hub: HubServer, tmp_path: Path) -> None:
    names = ["org/whole", "org/long-header", "org/sharded", "org/cdn", "gpt-two"]
    for name, answer in zip(
        names, ask(hub.url, tmp_path, *({"name": n} for n in names)), strict=True
    ):
        assert answer.get("num_params") == NUM_PARAMS, (name, answer)
        assert answer["bytes"] == 2 * NUM_PARAMS
        assert (answer["source"], answer["dtype"]) == ("hub", "bfloat16")
        assert answer["architecture"]
    probe = 64 * 1024
    for name, file in [("org/whole", WHOLE), ("org/long-header", LONG_HEADER)]:
        served = hub.served[f"{name}/model.safetensors"]
        assert 0 < served <= max(len(file.start), probe) < len(file)
    assert hub.served["org/long-header/model.safetensors"] == len(LONG_HEADER.start)
    for shard, tensors in SHARDS.items():
        assert 0 < hub.served[f"org/sharded/{shard}"] <= max(len(weights(tensors).start), probe)
    ranges = [
        h
        for method, path, h in hub.requests
        if method == "GET" and "safetensors" in path and "index" not in path
    ]
    assert ranges
    assert all("range" in {k.lower() for k in headers} for headers in ranges)


def test_a_server_without_ranges_is_cut_off(hub: HubServer, tmp_path: Path) -> None:
    """It starts to send 10 GB; the header is taken and the line is dropped."""
    ask(hub.url, tmp_path, {"name": "org/no-ranges"})
    assert 0 < hub.served["org/no-ranges/model.safetensors"] < 32 * 2**20


def test_the_token_stays_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    answer = ask(hub.url, tmp_path, {"name": "org/cdn"}, HF_TOKEN="hf_secret")[0]
    assert answer.get("num_params") == NUM_PARAMS, answer
    sent = {
        path.startswith("/cdn"): "hf_secret" in str(headers) for _, path, headers in hub.requests
    }
    assert sent == {False: True, True: False}


SENTENCES = {
    "org/gated": ("ModelAccessError", "gated: accept its terms at", "hf auth login"),
    "org/private": ("ModelNotFoundError", "has no model 'org/private', or it is private"),
    "org/missing": ("ModelNotFoundError", "has no model 'org/missing'", "did you mean"),
    "org/bad_token": ("ModelAccessError", "refused the access token", "HF_TOKEN"),
    "org/disabled": ("ModelAccessError", "disabled"),
    "org/html": ("ModelAccessError", "does not speak its protocol", "HF_ENDPOINT"),
    "org/broken": ("ModelAccessError", "broken at the moment (error 502)", "try again"),
    "org/busy": ("ModelAccessError", "slow down (429)"),
    "org/slow": ("ModelAccessError", "did not answer in time", "HF_HUB_ETAG_TIMEOUT"),
    "org/drops": ("ModelAccessError", "org/drops"),
    "org/only-gguf": ("InputError", "holds GGUF files only", "org/only-gguf/m-Q2_K.gguf"),
    "org/adapter": ("InputError", "is a PEFT adapter", "--peft-config"),
    "org/pipeline": ("InputError", "diffusers pipeline"),
    "org/empty": ("ModelAccessError", "no config.json and no .safetensors", "README.md"),
    "org/html-config": ("BrokenFileError", "config.json of org/html-config", "HTML page"),
    "org/list-config": ("BrokenFileError", "JSON list", "expected an object"),
    "org/huge-config": ("BrokenFileError", "953.7 MiB", "16.0 MiB"),
    "org/lying-header": ("BrokenFileError", "announces a header of 1,152,921,504,606,846,976"),
    "org/cut-header": ("BrokenFileError", "truncated"),
    "org/cut-weights": ("BrokenFileError", "truncated", "download it again"),
    "org/lost-shard": ("BrokenFileError", "model-00002-of-00002.safetensors", "incomplete"),
    "org/wrong-shard": ("BrokenFileError", "model-00002-of-00002.safetensors lacks 9 tensors"),
    "org/escaping": ("BrokenFileError", "'../../x.safetensors'", "beside it"),
    "org/untold-config": ("BrokenFileError", "not a model config", "answer"),
    "no-such-model-name": (
        "ModelNotFoundError",
        "has no model 'no-such-model-name'",
        "did you mean",
    ),
}


def test_each_failure_has_its_sentence(hub: HubServer, tmp_path: Path) -> None:
    answers = ask(hub.url, tmp_path, *({"name": name} for name in SENTENCES))
    for (name, (error, *words)), answer in zip(SENTENCES.items(), answers, strict=True):
        assert answer.get("error") == error, (name, answer)
        assert all(word in answer["message"] for word in words), (name, answer)
        assert "\n" not in answer["message"]
        assert answer["seconds"] < 20


def test_pickled_weights_are_left_alone(hub: HubServer, tmp_path: Path) -> None:
    answer, several = ask(hub.url, tmp_path, {"name": "org/pickled"}, {"name": "org/two-sets"})
    assert answer["num_params"] == several["num_params"] == NUM_PARAMS
    assert any("pickled (pytorch_model.bin)" in note for note in answer["assumptions"])
    assert any("of 2 .safetensors files none" in note for note in several["assumptions"])
    assert hub.served["org/pickled/pytorch_model.bin"] == 0


def test_a_revision_is_asked_for_and_missed(hub: HubServer, tmp_path: Path) -> None:
    good, bad = ask(
        hub.url,
        tmp_path,
        {"name": "org/whole", "revision": COMMIT},
        {"name": "org/whole", "revision": "v9"},
    )
    assert good["num_params"] == NUM_PARAMS
    assert bad["error"] == "ModelAccessError"
    assert "no such revision" in bad["message"]


def test_offline_and_no_route(hub: HubServer, tmp_path: Path) -> None:
    """The catalogue never needs the network; the client's cache serves what was read before."""
    ask(hub.url, tmp_path, {"name": "org/whole"})
    names = ["org/whole", "org/never-seen", "meta-llama/Meta-Llama-3-8B", "nothing-like-it"]
    for url, offline in [(hub.url, "1"), ("http://127.0.0.1:9", "0")]:
        cached, unseen, known, bare = ask(
            url, tmp_path, *({"name": n} for n in names), HF_HUB_OFFLINE=offline
        )
        assert cached["num_params"] == NUM_PARAMS
        assert unseen["error"] == "ModelAccessError"
        assert "offline mode is on" in unseen["message"] or "cannot be reached" in unseen["message"]
        assert (known["num_params"], known["source"]) == (8_030_261_248, "catalogue")
        assert bare["error"] == "ModelNotFoundError"
        assert "did you mean" in bare["message"]


def test_offline_by_argument_asks_nobody(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    answer = ask(hub.url, tmp_path, {"name": "org/sharded", "offline": True})[0]
    assert answer["error"] == "ModelAccessError"
    assert hub.requests == []
