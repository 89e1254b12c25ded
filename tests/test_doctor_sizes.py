"""What a refused size can be, by the model's shapes; arithmetic visible in each row."""

from __future__ import annotations

import pytest

from willfit.doctor.report import Report
from willfit.doctor.sizes import asked_of, factors_of
from willfit.scenario import Inference, Scenario, Training, Workload
from willfit.sources.resolve import resolve
from willfit.units import GIB, MIB

LLAMA = "meta-llama/Meta-Llama-3-8B"


def refused(text: str, release: str = "torch 2.1", family: str = "pytorch-cuda") -> Report:
    number, unit = text.split()
    factor = {"MiB": MIB, "GiB": GIB}[unit]
    return Report(
        family=family,
        fields={"tried_bytes": int(float(number) * factor)},
        printed={"tried_bytes": text},
        line=1,
        last_line=1,
        quote="",
        release=release,
    )


def texts(report: Report, workload: Workload, model: str = LLAMA) -> list[str]:
    asked = asked_of(report)
    assert asked is not None
    return [f.text for f in factors_of(asked, Scenario(model=resolve(model), workload=workload))]


def trained(batch: int, length: int) -> Workload:
    return Workload(training=Training(method="qlora", micro_batch_size=batch, max_length=length))


def test_224_mib_is_a_weight_in_float32_and_activations_of_8192_tokens() -> None:
    # 4,096 × 14,336 × 4 = 8,192 × 14,336 × 2 = 234,881,024 = 224 MiB
    found = texts(refused("224.00 MiB"), trained(1, 1024))
    assert "4,096 × 14,336 × 4 B: a weight of gate_proj, up_proj or down_proj in float32" in found
    assert "8,192 tokens × 14,336 × 2 B: inner activations of an MLP in 16 bit" in found


def test_the_workloads_own_batch_is_named_as_such() -> None:
    found = texts(refused("224.00 MiB"), trained(8, 1024))
    assert found[1] == "8 × 1,024 tokens × 14,336 × 2 B: inner activations of an MLP in 16 bit"


@pytest.mark.parametrize(
    ("asked", "workload", "model", "expected"),
    [
        # 19,820 × 128,256 × 4 B = 10,168,135,680 B = 9.47 GiB (a report of 2024 on a T4)
        ("9.47 GiB", trained(2, 9910), LLAMA, "2 × 9,910 tokens × 128,256 × 4 B: logits over the vocabulary in float32"),
        # 8,030,261,248 × 2 B = 14.96 GiB
        ("14.96 GiB", Workload(), LLAMA, "8,030,261,248 × 2 B: all parameters in one piece, 16 bit"),
        # 4,096 × 32,000 × 4 B = 500 MiB
        ("500.00 MiB", Workload(), "mistralai/Mistral-7B-v0.1", "4,096 × 32,000 × 4 B: a weight of embed_tokens or lm_head in float32"),
        # 1 × 32 × 4,096² × 2 B = 1 GiB, which torch prints as 1024.00 MiB
        ("1024.00 MiB", Workload(inference=Inference(context_len=4096)), LLAMA, "1 × 32 heads × 4,096² × 2 B: attention scores in 16 bit"),
    ],
)  # fmt: skip
def test_products(asked: str, workload: Workload, model: str, expected: str) -> None:
    assert expected in texts(refused(asked), workload, model)


@pytest.mark.parametrize("size", ["2.00 MiB", "20.00 MiB"])
def test_the_segments_of_small_tensors_say_nothing(size: str) -> None:
    asked = asked_of(refused(size))
    assert asked is not None
    assert not asked.tells
    assert texts(refused(size), trained(8, 1024)) == []


def test_before_segments_the_tensors_own_size_was_printed() -> None:
    old = asked_of(refused("12.50 MiB", release="torch 1.0-1.3"))
    new = asked_of(refused("14.00 MiB"))
    assert old is not None
    assert new is not None
    assert old.bounds == (12 * MIB + MIB // 2 - 5243, 12 * MIB + MIB // 2 + 5243)
    # 14.00 MiB was asked for tensors of more than 12 MiB up to 14 MiB
    assert new.bounds[0] > 11.9 * MIB
    assert new.is_of(13 * MIB)
    assert not new.is_of(12 * MIB)


def test_nothing_is_said_of_a_size_that_no_product_has() -> None:
    assert texts(refused("218.00 MiB"), trained(1, 1000)) == []
