"""GGUF: files that gguf-py writes are read as it reads them; broken ones are refused, always."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from hypothesis import given
from hypothesis import strategies as st
from tests.support.hub_server import HubServer, Repo, Sparse

from willfit.dtypes import DTYPES
from willfit.errors import BrokenFileError, InputError, UnsupportedError, WillfitError
from willfit.scenario.model import ModelSpec
from willfit.sources.gguf import read_gguf
from willfit.sources.gguf_header import TYPES, IncompleteError, parse_gguf
from willfit.sources.gguf_remote import has_tag
from willfit.sources.resolve import resolve

Q4_K, Q6_K, F32 = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K, GGMLQuantizationType.F32
HIDDEN, WIDTH, VOCAB = 512, 1024, 800


@dataclass
class Model:
    """A small model to be written; figures by metadata key without the architecture."""

    arch: str = "llama"
    numbers: dict[str, Any] = field(default_factory=dict)
    layers: int = 2
    kv_width: int = 256
    head: bool = True
    experts: int = 0
    tokens: int = VOCAB
    mixed: bool = True
    """Whether the last layer's down projection is Q6_K, as in Q4_K_M."""


def tensors_of(model: Model) -> dict[str, tuple[tuple[int, ...], GGMLQuantizationType]]:
    found = {"token_embd.weight": ((VOCAB, HIDDEN), Q4_K), "output_norm.weight": ((HIDDEN,), F32)}
    if model.head:
        found["output.weight"] = ((VOCAB, HIDDEN), Q6_K)
    for i in range(model.layers):
        at, down = f"blk.{i}.", Q6_K if model.mixed and i == model.layers - 1 else Q4_K
        found |= {f"{at}attn_{n}.weight": ((HIDDEN, HIDDEN), Q4_K) for n in ("q", "output")}
        found |= {f"{at}attn_{n}.weight": ((model.kv_width, HIDDEN), Q4_K) for n in "kv"}
        found |= {f"{at}{n}_norm.weight": ((HIDDEN,), F32) for n in ("attn", "ffn")}
        experts = model.experts if i >= model.numbers.get("leading_dense_block_count", 0) else 0
        lead = (experts,) if experts else ()
        end = "_exps.weight" if experts else ".weight"
        found |= {f"{at}ffn_{n}{end}": ((*lead, WIDTH, HIDDEN), Q4_K) for n in ("gate", "up")}
        if experts:
            found[f"{at}ffn_gate_inp.weight"] = ((experts, HIDDEN), F32)
        found[f"{at}ffn_down{end}"] = ((*lead, HIDDEN, WIDTH), down)
    return found


def write(path: Path, model: Model, **split: Any) -> Path:
    writer = gguf.GGUFWriter(path, model.arch, **split)
    base = {
        "block_count": model.layers,
        "embedding_length": HIDDEN,
        "context_length": 4096,
        "feed_forward_length": WIDTH,
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
    }
    for key, value in (base | model.numbers).items():
        name = f"{model.arch}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_float32(name, value) if isinstance(value, float) else writer.add_uint32(
                name, value
            )
    writer.add_token_list([f"token {i}" for i in range(model.tokens)])
    for name, (shape, kind) in tensors_of(model).items():
        size, nbytes = GGML_QUANT_SIZES[kind]
        if kind is F32:
            writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
        else:
            packed = (*shape[:-1], shape[-1] // size * nbytes)
            writer.add_tensor(name, np.zeros(packed, dtype=np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored_bytes(spec: ModelSpec) -> int:
    return sum(row.count * row.dtype.num_bytes(row.num_elements) for row in spec.tensors)


def test_every_element_type_is_the_packages() -> None:
    assert {kind.value for kind in GGML_QUANT_SIZES} - set(TYPES) == {9}  # Q8_1, never in a file
    for kind, (size, nbytes) in GGML_QUANT_SIZES.items():
        if kind.value in TYPES:
            ours = DTYPES[TYPES[kind.value]]
            assert (ours.block_size, ours.block_bytes) == (size, nbytes), kind
    assert GGUFValueType.STRING == 8
    assert GGUFValueType.ARRAY == 9


def test_a_file_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", Model(tokens=5000))
    spec, theirs = read_gguf(path), gguf.GGUFReader(path)
    ours = {name: (row.shape, row.dtype) for row in spec.tensors for name in row.names()}
    assert ours == {
        t.name: (tuple(int(n) for n in t.shape[::-1]), DTYPES[TYPES[t.tensor_type.value]])
        for t in theirs.tensors
    }
    assert stored_bytes(spec) == sum(int(t.n_bytes) for t in theirs.tensors)
    header = parse_gguf(path.read_bytes(), "m", path.stat().st_size)
    assert header.header_bytes == theirs.data_offset
    for key, value in header.metadata.items():
        if isinstance(value, (int, float, str)):
            assert value == theirs.get_field(key).contents(), key


def test_the_spec_of_a_llama(tmp_path: Path) -> None:
    spec = read_gguf(write(tmp_path / "m.gguf", Model()))
    # embedding and head 800·512; a layer: q and o 512², k and v 256·512, three of 1024·512, 2 norms
    layer = 2 * 512 * 512 + 2 * 256 * 512 + 3 * 1024 * 512 + 2 * 512
    assert spec.num_params == 2 * 800 * 512 + 2 * layer + 512
    # Q4_K: 144 bytes a 256; Q6_K 210; the last down and the head are Q6_K; norms float32
    q6 = 800 * 512 + 1024 * 512
    norms = 5 * 512
    assert (
        stored_bytes(spec)
        == (spec.num_params - q6 - norms) * 144 // 256 + q6 * 210 // 256 + norms * 4
    )
    assert spec.quantization is not None
    assert spec.quantization.method == "gguf-q4_k"
    assert (spec.library, spec.source, spec.no_split) == ("gguf", "gguf", ("blk.{0-1}",))
    assert spec.config["tie_word_embeddings"] is False
    architecture = spec.architecture
    assert architecture is not None
    (group,) = architecture.layers
    assert group.attention is not None
    assert group.mlp is not None
    assert (group.count, group.attention.num_kv_heads, group.attention.head_dim) == (2, 4, 64)
    assert (group.mlp.gated, group.mlp.intermediate_size) == (True, 1024)
    assert (architecture.vocab_size, architecture.max_context) == (800, 4096)


def layers(spec: ModelSpec) -> list[tuple[int, object, object, object]]:
    """(count, kv heads, head_dim, window) of each kind of layer; recurrent ones have no heads."""
    assert spec.architecture is not None, spec.assumptions
    return sorted(
        (
            (g.count, g.attention.num_kv_heads, g.attention.head_dim, g.attention.window)
            if g.attention
            else (g.count, None, None, None)
            for g in spec.architecture.layers
        ),
        key=str,
    )


ARCHITECTURES: dict[str, tuple[Model, list[tuple[object, ...]]]] = {
    "key_length wins": (Model("qwen3", {"attention.key_length": 128}), [(2, 4, 128, None)]),
    "gemma2: every other": (
        Model(
            "gemma2", {"attention.sliding_window": 256, "final_logit_softcapping": 30.0}, layers=4
        ),
        [(2, 4, 64, 256), (2, 4, 64, None)],
    ),
    "gemma3: one of six": (
        Model("gemma3", {"attention.sliding_window": 256, "attention.key_length": 64}, layers=6),
        [(1, 4, 64, None), (5, 4, 64, 256)],
    ),
    "a pattern by layer": (
        Model(
            "gemma4",
            {
                "attention.sliding_window": 128,
                "attention.sliding_window_pattern": [True, True, False, True],
            },
            layers=4,
        ),
        [(1, 4, 64, None), (3, 4, 64, 128)],
    ),
    "gpt-oss: every other": (
        Model(
            "gpt-oss",
            {"attention.sliding_window": 128, "expert_count": 4, "expert_used_count": 2},
            experts=4,
        ),
        [(1, 4, 64, 128), (1, 4, 64, None)],
    ),
    "phi3 as llama.cpp has it": (
        Model("phi3", {"attention.sliding_window": 128}),
        [(2, 4, 64, None)],
    ),
    "heads by layer": (
        Model(
            "deci",
            {"attention.head_count_kv": [4, 2, 2], "feed_forward_length": [1024, 512, 512]},
            layers=3,
        ),
        [(1, 4, 64, None), (2, 2, 64, None)],
    ),
    "conv layers (LFM2)": (
        Model("lfm2", {"attention.head_count_kv": [0, 4, 0], "shortconv.l_cache": 3}, layers=3),
        [(1, 4, 64, None), (2, None, None, None)],
    ),
    "hybrid (Jamba)": (
        Model(
            "jamba",
            {
                "attention.head_count_kv": [0, 0, 4, 0],
                "ssm.conv_kernel": 4,
                "ssm.inner_size": 1024,
                "ssm.state_size": 16,
                "ssm.time_step_rank": 32,
            },
            layers=4,
        ),
        [(1, 4, 64, None), (3, None, None, None)],
    ),
    "prediction layers are not run": (
        Model(
            "glm4moe",
            {
                "nextn_predict_layers": 1,
                "expert_count": 4,
                "expert_used_count": 2,
                "leading_dense_block_count": 1,
            },
            layers=3,
            experts=4,
        ),
        [(1, 4, 64, None), (1, 4, 64, None)],
    ),
}


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_metadata_gives_the_layers(case: str, tmp_path: Path) -> None:
    model, expected = ARCHITECTURES[case]
    assert layers(read_gguf(write(tmp_path / "m.gguf", model))) == sorted(expected, key=str)


def test_experts_and_latent_attention(tmp_path: Path) -> None:
    numbers = {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 256,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
        "attention.kv_lora_rank": 128,
        "attention.key_length": 160,
        "attention.key_length_mla": 96,
        "attention.value_length_mla": 64,
        "rope.dimension_count": 32,
        "attention.head_count_kv": 1,
    }
    new = read_gguf(write(tmp_path / "new.gguf", Model("deepseek2", numbers, layers=3, experts=4)))
    assert new.architecture is not None
    attention = new.architecture.layers[0].attention
    assert attention is not None
    # 96 = 64 without and 32 with rotation
    assert (attention.kv_lora_rank, attention.qk_rope_head_dim, attention.head_dim) == (128, 32, 96)
    mlps = [(g.count, g.mlp.num_experts if g.mlp else None) for g in new.architecture.layers]
    assert mlps == [(1, 0), (2, 4)]
    old = {k: v for k, v in numbers.items() if "_mla" not in k} | {"attention.head_count_kv": 8}
    before = read_gguf(write(tmp_path / "old.gguf", Model("deepseek2", old, layers=3, experts=4)))
    assert any("full keys and values are cached" in note for note in before.assumptions)
    assert before.architecture is not None
    assert before.architecture.layers[0].attention is not None
    assert before.architecture.layers[0].attention.kv_lora_rank is None


def test_absurd_depth_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    numbers = {"block_count": 2**31, "ssm.inner_size": 1024, "attention.head_count": 0}
    with pytest.raises(BrokenFileError, match="announces 2,147,483,648 layers"):
        read_gguf(write(tmp_path / "m.gguf", Model("mamba", numbers)))


def test_an_unknown_architecture_still_has_weights(tmp_path: Path) -> None:
    model = Model("clip", {"embedding_length": 0})
    spec = read_gguf(write(tmp_path / "m.gguf", model))
    assert spec.architecture is None
    assert spec.num_params > 0


def test_unquantised_files_say_so(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 4), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    spec = read_gguf(tmp_path / "m.gguf")
    assert (spec.quantization, spec.num_params, spec.architecture) == (None, 32, None)


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole = read_gguf(write(tmp_path / "whole.gguf", Model()))
    write(tmp_path / "part.gguf", Model(), split_max_tensors=9)
    names = sorted(path.name for path in tmp_path.glob("part-*.gguf"))
    assert len(names) == 3
    spec = read_gguf(tmp_path / names[1])
    assert (spec.num_params, stored_bytes(spec)) == (whole.num_params, stored_bytes(whole))
    assert spec.architecture == whole.architecture
    (tmp_path / names[2]).unlink()
    with pytest.raises(BrokenFileError, match=f"3 parts and 1 are missing, such as {names[2]}"):
        read_gguf(tmp_path / names[0])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """(header of a file, size of the file)."""
    path = write(tmp_path_factory.mktemp("gguf") / "m.gguf", Model(tokens=40))
    content = path.read_bytes()
    return content[: parse_gguf(content, "m").header_bytes], len(content)


def test_a_file_cut_anywhere_is_truncated(real: tuple[bytes, int], tmp_path: Path) -> None:
    header, total = real
    path = tmp_path / "cut.gguf"
    for end in [*range(0, len(header), 7), len(header) - 1]:
        path.write_bytes(header[:end])
        with pytest.raises(BrokenFileError, match=r"truncated|ends within|lies"):
            read_gguf(path)
    assert total > len(header)
    path.write_bytes(header)
    with pytest.raises(BrokenFileError, match=r"truncated: its header describes [\d,]+ bytes"):
        read_gguf(path)


def head(version: int = 3, tensors: int = 0, pairs: int = 0, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, pairs)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


LIES: dict[str, tuple[bytes, type[WillfitError], str]] = {
    "another file": (b"PK\x03\x04" + bytes(60), BrokenFileError, "does not start with GGUF"),
    "version 1": (head(1) + bytes(64), UnsupportedError, "version 1, expected 2 or 3"),
    "big endian": (head(3 << 24) + bytes(64), UnsupportedError, "big-endian"),
    "absurd tensor count": (
        head(3, 2**60),
        BrokenFileError,
        "announces 1,152,921,504,606,846,976 tensors",
    ),
    "absurd pair count": (head(3, 0, 2**60), BrokenFileError, "1,152,921,504,606,846,976 settings"),
    "long key": (
        head(3, 0, 1) + struct.pack("<Q", 2**62) + bytes(99),
        BrokenFileError,
        "truncated or lies",
    ),
    "long array": (
        head(3, 0, 1) + pair(b"a", 9, struct.pack("<IQ", 4, 2**60)),
        BrokenFileError,
        "truncated or lies",
    ),
    "many texts": (
        head(3, 0, 1) + pair(b"a", 9, struct.pack("<IQ", 8, 2**60)),
        BrokenFileError,
        "truncated or lies",
    ),
    "nested arrays": (
        head(3, 0, 1) + pair(b"a", 9, struct.pack("<IQ", 9, 1) * 40),
        BrokenFileError,
        "unknown type 9",
    ),
    "many arrays": (
        head(3, 0, 1) + pair(b"a", 9, struct.pack("<IQ", 9, 2**40)),
        BrokenFileError,
        "array of arrays",
    ),
    "unknown value": (head(3, 0, 1) + pair(b"a", 77, b""), BrokenFileError, "unknown type 77"),
    "not UTF-8": (head(3, 0, 1) + pair(b"\xff\xfe", 4, bytes(4)), BrokenFileError, "not UTF-8"),
    "a key twice": (head(3, 0, 2) + pair(b"a", 0, b"1") * 2, BrokenFileError, "'a' twice"),
    "alignment 0": (
        head(3, 0, 1) + pair(b"general.alignment", 4, bytes(4)),
        BrokenFileError,
        "aligned to 0",
    ),
    "unknown element": (
        head(3, 1) + tensor(b"w", (4,), 99, 0),
        UnsupportedError,
        "element type 99",
    ),
    "nine dimensions": (head(3, 1) + tensor(b"w", (1,) * 9, 0, 0), BrokenFileError, "9 dimensions"),
    "huge dimension": (head(3, 1) + tensor(b"w", (2**60,), 0, 0), BrokenFileError, "has the shape"),
    "half a block": (
        head(3, 1) + tensor(b"w", (100,), 12, 0),
        BrokenFileError,
        "[100], impossible in blocks of q4_k",
    ),
    "overlap": (
        head(3, 2) + tensor(b"a", (4,), 0, 0) + tensor(b"b", (4,), 0, 8) + bytes(99),
        BrokenFileError,
        "'b' overlaps",
    ),
    "a tensor twice": (
        head(3, 2) + tensor(b"a", (4,), 0, 0) + tensor(b"a", (4,), 0, 32) + bytes(99),
        BrokenFileError,
        "twice",
    ),
    "no tensors": (head() + bytes(64), BrokenFileError, "holds no tensors"),
    "braces": (
        head(3, 1) + tensor(b"w{0-9}", (4,), 0, 0) + bytes(99),
        BrokenFileError,
        "no usable name",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_with_its_reason(lie: str, tmp_path: Path) -> None:
    content, error, words = LIES[lie]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(error, match=r"model\.gguf") as caught:
        read_gguf(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def read_or_refuse(content: bytes, file_bytes: int | None) -> None:
    with contextlib.suppress(
        WillfitError, *([] if file_bytes == len(content) else [IncompleteError])
    ):
        parse_gguf(content, "file", file_bytes)  # any other exception fails


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_header_or_a_sentence(content: bytes, whole: bool) -> None:
    for start in (content, head(3, 1, 1) + content, head(3, 2, 0) + content):
        read_or_refuse(start, len(start) if whole else None)


@given(data=st.data())
def test_a_damaged_file_gives_a_spec_or_a_sentence(
    real: tuple[bytes, int], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, total = real
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + 1] = data.draw(st.binary(min_size=0, max_size=9))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(bytes(damaged) + bytes(max(total - len(damaged), 0)))
    with contextlib.suppress(WillfitError):  # any other exception fails
        assert read_gguf(path).num_params >= 0


@pytest.fixture
def hub_url(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Points the client, which is already imported here, at another Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "is_offline_mode", lambda: False, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def point(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )

    return point


def test_remote_files_by_range_requests(tmp_path: Path, hub_url: Callable[[str], None]) -> None:
    content = write(tmp_path / "m.gguf", Model(tokens=120_000)).read_bytes()
    header = parse_gguf(content, "m").header_bytes
    assert header > 2 * 2**20  # more than the first range
    small = write(tmp_path / "s.gguf", Model()).read_bytes()
    write(tmp_path / "p.gguf", Model(), split_max_tensors=12)
    parts = {f"p/{path.name}": path.read_bytes() for path in tmp_path.glob("p-*.gguf")}
    expected = read_gguf(tmp_path / "s.gguf").num_params
    files: dict[str, bytes | Sparse] = {
        "m-Q4_K_M.gguf": Sparse(content, len(content)),
        "m-Q8_0.gguf": small,
        **parts,
        "cut.gguf": small[:500],
    }
    with HubServer({"org/m": Repo(files=files)}) as hub:
        hub_url(hub.url)
        first = min(parts)
        for name in [
            f"{hub.url}/org/m/resolve/main/m-Q4_K_M.gguf",
            f"{hub.url}/org/m/blob/main/m-Q8_0.gguf",
            "org/m/m-Q4_K_M.gguf",
            "org/m:Q4_K_M",
            "org/m:q8_0",
            f"org/m/{first}",
        ]:
            spec = resolve(name)
            assert (spec.num_params, spec.id) == (expected, name)
        assert hub.served["org/m/m-Q4_K_M.gguf"] <= 3 * 4 * 2**20
        failures = {
            "org/m:Q2_K": ("0 GGUF files for 'Q2_K'", "m-Q8_0.gguf"),
            "org/m/none.gguf": ("no file org/m/none.gguf",),
            "org/m/cut.gguf": ("cut.gguf is truncated",),
            f"{hub.url}/org/m/resolve/main/README.md": ("no address of a GGUF",),
            "ftp://host/m.gguf": ("expected https://",),
        }
        for name, words in failures.items():
            with pytest.raises(InputError) as caught:
                resolve(name)
            assert all(word in str(caught.value) for word in words), caught.value
        with pytest.raises(InputError, match="offline mode is on"):
            resolve("org/m:Q8_0", offline=True)


def test_tags_are_whole_words() -> None:
    assert has_tag("Llama-3-8B-Q4_K_M.gguf", "q4_k_m")
    assert has_tag("q8_0/model-00001-of-00002.gguf", "Q8_0")
    assert not has_tag("model-IQ4_XS.gguf", "Q4_X")
    assert not has_tag("model-Q4_K_M.gguf", "Q4_K")
