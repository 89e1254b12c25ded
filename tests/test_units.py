"""Amounts of memory as text, and element types as blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.dtypes import DTYPES, parse_dtype
from willfit.errors import InputError
from willfit.units import format_bytes, format_exact, parse_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1024", 1024),
        ("600MB", 600_000_000),
        ("1GB", 1_000_000_000),
        ("1 GiB", 2**30),
        ("14.5GiB", 29 * 2**29),
        ("0.5 kib", 512),
        (".5MB", 500_000),
        (7, 7),
    ],
)
def test_amounts_are_read_in_the_unit_they_name(text: str | int, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GB", "1e9", "12 XB", "1.2.3GB", "٣GB", "9" * 60, True]
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_exact_text_reads_back_to_the_same_bytes(num_bytes: int) -> None:
    assert parse_bytes(format_exact(num_bytes)) == num_bytes


@given(st.integers(min_value=0, max_value=2**50))
def test_text_for_people_is_within_one_in_the_last_digit(num_bytes: int) -> None:
    shown = parse_bytes(format_bytes(num_bytes).replace(",", ""))
    assert abs(shown - num_bytes) <= max(0.005 * 2**30 if num_bytes >= 2**30 else 0.05 * 2**20, 1)


def test_gib_is_never_called_gb() -> None:
    assert format_bytes(16_060_522_496) == "14.96 GiB"


@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 10**9), st.integers(0, 10**9))
def test_bytes_of_whole_blocks_add_up(name: str, first: int, second: int) -> None:
    dtype = DTYPES[name]
    first -= first % dtype.block_size
    second -= second % dtype.block_size
    assert dtype.num_bytes(first) + dtype.num_bytes(second) == dtype.num_bytes(first + second)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_is_found_by_its_name(name: str) -> None:
    assert parse_dtype(name) == DTYPES[name]
    assert parse_dtype(name.upper()) == DTYPES[name]


@pytest.mark.parametrize(
    ("alias", "name"),
    [("bf16", "bfloat16"), ("torch.float16", "float16"), ("F8_E4M3", "float8_e4m3fn"),
     ("fp32", "float32"), ("Q4_K", "q4_k")],
)  # fmt: skip
def test_usual_spellings(alias: str, name: str) -> None:
    assert parse_dtype(alias).name == name


def test_gguf_blocks_equal_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for kind, (block_size, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        ours = DTYPES.get(kind.name.lower())
        if ours is not None and kind.name.lower() not in ("f16", "f32"):
            assert (ours.block_size, ours.block_bytes) == (block_size, block_bytes), kind


def test_torch_dtypes_have_the_size_that_torch_gives_them() -> None:
    torch = pytest.importorskip("torch")
    for name, dtype in DTYPES.items():
        theirs = getattr(torch, name, None)
        if isinstance(theirs, torch.dtype) and dtype.block_size == 1:
            assert theirs.itemsize == dtype.block_bytes, name


def test_an_unknown_dtype_names_what_is_expected() -> None:
    with pytest.raises(InputError, match="bfloat16"):
        parse_dtype("bfloat17")
