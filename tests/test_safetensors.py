"""Safetensors headers: what the real library writes is read, what lies is refused, always."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.dtypes import DTYPES
from willfit.errors import BrokenFileError, UnsupportedError, WillfitError
from willfit.scenario.collapse import collapse
from willfit.sources.limits import MAX_DEPTH
from willfit.sources.safetensors import (
    SAFETENSORS_BITS,
    header_length,
    parse_header,
    parse_index,
    read_header,
    read_index,
)


def file_of(header: object, data: int = 0, *, length: int | None = None) -> bytes:
    """A file with this header, saying that it is ``length`` bytes long, and ``data`` zeros."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + bytes(data)


def entry(shape: list[object], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def read(tmp_path: Path, content: bytes) -> object:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return read_header(path)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    types = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
        "uint16",
    ]
    tensors = {
        f"layers.{i}.{name}": torch.zeros((3, 2 + i), dtype=getattr(torch, name))
        for i, name in enumerate(types)
    } | {"scalar": torch.zeros(()), "empty": torch.zeros((0, 7))}
    path = tmp_path / "model.safetensors"
    library.save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    found = {t.name: (t.shape, t.dtype) for t in header.tensors}
    assert found == {
        name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()
    }
    assert header.metadata == {"format": "pt"}
    rows = collapse(header.tensors)
    stored = sum(row.count * row.dtype.num_bytes(row.num_elements) for row in rows)
    assert stored == path.stat().st_size - header.header_bytes


def test_every_type_of_the_library_is_known() -> None:
    library = pytest.importorskip("safetensors.torch")
    assert set(library._TYPES) <= set(SAFETENSORS_BITS)
    for name, (ours, bits) in SAFETENSORS_BITS.items():
        assert DTYPES[ours].num_bytes(8) * 8 == bits * 8, name


LIES = {
    "empty file": (b"", "has 0 bytes, too few"),
    "seven bytes": (b"1234567", "has 7 bytes, too few"),
    "huge length": (file_of({}, length=2**63), "announces a header of 9,223,372,036,854,775,808"),
    "over the format's bound": (file_of({}, length=100_000_001), "allows 100,000,000"),
    "longer than the file": (file_of({}, length=5000), "announces a header of 5,000 bytes but has"),
    "no header": (file_of(b"", length=0), "header of 0 bytes"),
    "wrong JSON": (file_of(b"{'a': 1}"), "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (file_of([1, 2]), "holds a JSON list"),
    "deep": (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deeply"),
    "deep, not for the parser": (
        file_of(b'{"a":' + b"[" * 90 + b"]" * 90 + b"}"),
        f"more than {MAX_DEPTH}",
    ),
    "twice": (file_of(b'{"a":1,"a":2}'), "the key 'a' is there twice"),
    "NaN": (file_of(b'{"a":NaN}'), "NaN is not a JSON number"),
    "no shape": (
        file_of({"w": {"dtype": "F32", "data_offsets": [0, 4]}}, 4),
        "needs a dtype, a shape",
    ),
    "negative shape": (file_of({"w": entry([-1], 0, 4)}, 4), "needs a dtype, a shape"),
    "text for a shape": (file_of({"w": entry(["1"], 0, 4)}, 4), "needs a dtype, a shape"),
    "true for a shape": (file_of({"w": entry([True], 0, 4)}, 4), "needs a dtype, a shape"),
    "fraction": (file_of({"w": entry([1.5], 0, 6)}, 6), "needs a dtype, a shape"),
    "absurd shape": (file_of({"w": entry([10**30], 0, 4)}, 4), "needs a dtype, a shape"),
    "three offsets": (
        file_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, 8),
        "two data_offsets",
    ),
    "not an entry": (file_of({"w": 7}), "needs a dtype, a shape"),
    # 2·3 float32 are 24 bytes and the offsets hold 20
    "wrong size": (
        file_of({"w": entry([2, 3], 0, 20)}, 20),
        "take 24 bytes and its data_offsets [0, 20] hold 20",
    ),
    "backwards": (file_of({"w": entry([1], 4, 0)}, 4), "lies about its size"),
    "overlap": (
        file_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),
        "'b' overlaps the data of 'a'",
    ),
    "hole": (
        file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12),
        "leaves a hole of 4 bytes",
    ),
    "truncated": (
        file_of({"w": entry([25], 0, 100)}, 60),
        "describes 100 bytes of weights and 60 are there",
    ),
    "trailing": (file_of({"w": entry([1], 0, 4)}, 9), "5 bytes that its header does not describe"),
    "braces in a name": (file_of({"w.{0-9}": entry([1], 0, 4)}, 4), "name that no module can have"),
    "control characters": (file_of({"w\n": entry([1], 0, 4)}, 4), "name that no module can have"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_with_its_reason(lie: str, tmp_path: Path) -> None:
    content, words = LIES[lie]
    with pytest.raises(BrokenFileError, match=r"model\.safetensors") as caught:
        read(tmp_path, content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_type_is_unsupported_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'F7'"):
        read(tmp_path, file_of({"w": entry([8], 0, 7, "F7")}, 7))


@given(st.binary(max_size=400))
def test_any_bytes_give_a_header_or_a_sentence(content: bytes) -> None:
    with contextlib.suppress(WillfitError):  # any other exception fails
        length = header_length(content, "file", len(content))
        parse_header(content[8 : 8 + length], "file", len(content))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*SAFETENSORS_BITS, "F7", None]),
        "shape": JSONS | st.lists(st.integers(-1, 9), max_size=3),
        "data_offsets": JSONS | st.lists(st.integers(-1, 99), min_size=2, max_size=2),
    },
)


@given(st.dictionaries(st.text(max_size=6), ENTRIES | JSONS, max_size=4), st.integers(0, 200))
def test_any_json_gives_a_header_or_a_sentence(header: dict[str, object], data: int) -> None:
    content = json.dumps(header).encode()
    try:
        found = parse_header(content, "file", 8 + len(content) + data)
    except WillfitError:
        return
    rows = collapse(found.tensors)
    assert sum(row.count * row.dtype.num_bytes(row.num_elements) for row in rows) == data


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6))
def test_a_true_header_is_accepted(shapes: list[list[int]]) -> None:
    position, header = 0, {}
    for i, shape in enumerate(shapes):
        size = 2
        for dim in shape:
            size *= dim
        header[f"h.{i}.w"] = entry(list(shape), position, position + size, "BF16")
        position += size
    content = json.dumps(header).encode()
    found = parse_header(content, "file", 8 + len(content) + position)
    assert [list(t.shape) for t in found.tensors] == shapes


INDEXES = {
    "no map": (b"{}", "has no weight_map"),
    "empty map": (b'{"weight_map": {}}', "has no weight_map"),
    "number": (b'{"weight_map": {"w": 3}}', "places 'w' in '3'"),
    "climbs out": (b'{"weight_map": {"w": "../a.safetensors"}}', "'../a.safetensors'"),
    "absolute": (b'{"weight_map": {"w": "/etc/a.safetensors"}}', "'/etc/a.safetensors'"),
    "windows": (b'{"weight_map": {"w": "C:\\\\a.safetensors"}}', "beside it"),
    "pickled": (b'{"weight_map": {"w": "a.bin"}}', "'a.bin'"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_refused(case: str) -> None:
    content, words = INDEXES[case]
    with pytest.raises(BrokenFileError) as caught:
        parse_index(content, "the index")
    assert words in str(caught.value)


def test_a_missing_or_foreign_shard_is_named(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    (tmp_path / names[0]).write_bytes(file_of({"a": entry([1], 0, 4)}, 4))
    with pytest.raises(
        BrokenFileError, match=f"names 2 files and 1 are missing, such as {names[1]}"
    ):
        read_index(index)
    (tmp_path / names[1]).write_bytes(file_of({"other": entry([1], 0, 4)}, 4))
    with pytest.raises(BrokenFileError, match=f"{names[1]} lacks 1 tensors .* such as 'b'"):
        read_index(index)
