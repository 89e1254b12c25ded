"""The GPU catalogue: sources, spellings, round trips."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.devices import (
    all_gpus,
    context_of,
    cublas_workspace_bytes,
    find_gpu,
    format_machine,
    parse_machine,
)
from willfit.devices.catalogue import FILE
from willfit.errors import InputError
from willfit.units import GIB, MIB


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("T4", ["NVIDIA T4"]),
        ("t4", ["NVIDIA T4"]),
        ("Tesla T4", ["NVIDIA T4"]),
        ("T4x2", ["NVIDIA T4"] * 2),
        ("2xT4", ["NVIDIA T4"] * 2),
        ("T4 x 2", ["NVIDIA T4"] * 2),
        ("2×T4", ["NVIDIA T4"] * 2),
        ("kaggle", ["NVIDIA T4"] * 2),
        ("T4,L4", ["NVIDIA T4", "NVIDIA L4"]),
        ("NVIDIA GeForce RTX 4090", ["NVIDIA GeForce RTX 4090"]),
        ("rtx4090x8", ["NVIDIA GeForce RTX 4090"] * 8),
        ("RTX 2070", ["NVIDIA GeForce RTX 2070"]),
        ("3090", ["NVIDIA GeForce RTX 3090"]),
        ("4090x2", ["NVIDIA GeForce RTX 4090"] * 2),
        ("4070 Ti Super", ["NVIDIA GeForce RTX 4070 Ti SUPER"]),
        ("NVIDIA A100-SXM4-80GB", ["NVIDIA A100-SXM4-80GB"]),
        ("A100-80", ["NVIDIA A100-SXM4-80GB"]),
        ("8xH100", ["NVIDIA H100 80GB HBM3"] * 8),
        ("RTX 6000 Ada", ["NVIDIA RTX 6000 Ada Generation"]),
        ("M2 Max", ["Apple M2 Max 32GB"]),
    ],
)
def test_usual_spellings(text: str, names: list[str]) -> None:
    assert [gpu.name for gpu in parse_machine(text).gpus] == names


def test_capacities_are_what_torch_reports_and_can_be_given() -> None:
    assert round(find_gpu("T4").capacity_bytes / GIB, 2) == 14.56
    assert parse_machine("T4:14.75GiB").gpus[0].capacity_bytes == 59 * GIB // 4
    assert [g.capacity_bytes for g in parse_machine("T4x2:14.75GiB").gpus] == [59 * GIB // 4] * 2


def test_a_described_card() -> None:
    parsed = parse_machine("24GiB:sm_86")
    assert parsed.gpus[0].capacity_bytes == 24 * GIB
    assert parsed.gpus[0].compute_capability == (8, 6) and not parsed.assumptions
    assumed = parse_machine("24GiB")
    assert assumed.gpus[0].compute_capability == (8, 0)
    assert "sm_80" in assumed.assumptions[0]


@pytest.mark.parametrize(
    "text", ["", "T44", "x2", "T4x0", "T4x99999", "24GiB:sm_x", "0GiB", "T4:lots", "T4,,L4", "🦊"]
)
def test_what_is_no_gpu_is_refused_with_a_way_on(text: str) -> None:
    with pytest.raises(InputError, match=r"GPU|sm_|amount|capacity"):
        parse_machine(text)


@given(st.lists(st.sampled_from(all_gpus()), min_size=1, max_size=4))
def test_text_of_a_machine_reads_back_to_it(gpus: list[object]) -> None:
    assert list(parse_machine(format_machine(gpus)).gpus) == gpus  # type: ignore[arg-type]


@given(st.integers(1, 2**40), st.sampled_from([75, 80, 86, 89, 90, 100, 120]))
def test_text_of_a_described_card_reads_back_to_it(capacity: int, sm: int) -> None:
    gpus = parse_machine(f"{capacity}B:sm_{sm}").gpus
    assert parse_machine(format_machine(gpus)).gpus == gpus


def test_every_figure_has_a_source() -> None:
    for row in json.loads(FILE.read_bytes()):
        sources = row["sources"]
        assert all(sources[name] for name in ("capacity_bytes", "bandwidth", "flops"))
        assert "context_mib" not in row or sources["context_bytes"]


def test_a_figure_without_a_source_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from willfit.devices import catalogue

    row = json.loads(FILE.read_bytes())[0]
    row["sources"]["bandwidth"] = ""
    with pytest.raises(ValueError, match="no source"):
        catalogue._gpu(row)


def test_two_cards_cannot_share_a_name() -> None:
    from willfit.devices import catalogue

    row = json.loads(FILE.read_bytes())[0]
    with pytest.raises(ValueError, match="names both"):
        catalogue._Catalogue([row, {**row, "name": "NVIDIA Other"}])


def test_the_context_of_an_unmeasured_card_lies_between_those_of_its_kin() -> None:
    measured = context_of(find_gpu("RTX 3090"))
    assert measured.low_bytes <= measured.nominal_bytes <= measured.high_bytes
    other = context_of(find_gpu("RTX 3060"))
    assert "not measured" in other.note
    assert 300 * MIB <= other.low_bytes <= other.nominal_bytes <= other.high_bytes <= 500 * MIB


@pytest.mark.parametrize(
    ("gpu", "num_bytes"),
    # one workspace a handle: 8,519,680 B before Hopper, 32 MiB since, in published snapshots
    [("T4", 8_519_680), ("RTX 4090", 8_519_680), ("H100", 32 * MIB), ("B200", 32 * MIB)],
)
def test_cublas_workspaces(gpu: str, num_bytes: int) -> None:
    assert cublas_workspace_bytes(find_gpu(gpu)) == num_bytes


def test_measured_products_have_a_source_and_stay_below_what_is_possible() -> None:
    """PyTorch's float16 products reach a part of the datasheet's rate; a laptop's boost adds a half."""
    for row in json.loads(FILE.read_bytes()):
        if "matmul_tflops" not in row:
            continue
        assert row["sources"]["matmul"]
        for dtype, reached in row["matmul_tflops"].items():
            listed = row["tflops"].get(dtype) or row["tflops"]["float32"]
            assert 0.2 * listed < reached < 1.5 * listed, (row["name"], dtype)
