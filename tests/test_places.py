"""Places: every figure has its source, every machine can be asked, what cannot run says why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from willfit.devices import find_gpu
from willfit.devices.places import FILE, Place, _place, all_places, find_places
from willfit.devices.wheels import no_kernels
from willfit.errors import InputError
from willfit.scenario import Stack
from willfit.scenario.stack import TESTED

ROWS: list[dict[str, Any]] = json.loads(FILE.read_bytes())
FIGURES = ("gpus", "ram_gb", "ram_bytes", "disk_gb", "saved_gb", "session_hours", "weekly_hours")


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_every_figure_needs_its_source(row: dict[str, Any]) -> None:
    place = _place(row)
    assert place.checked and bool(place.gpus) != bool(place.why_not)
    for figure in FIGURES:
        if figure in row:
            source = figure.rsplit("_", 1)[0] if figure[-2:] in ("gb", "es") else figure
            without = {k: v for k, v in row["sources"].items() if k != source}
            with pytest.raises(ValueError, match="no source"):
                _place({**row, "sources": without})


def test_a_row_is_complete_or_does_not_load() -> None:
    row = next(row for row in ROWS if row["name"] == "kaggle-t4x2")
    with pytest.raises(ValueError, match="no source for its date"):
        _place({**row, "checked": ""})
    with pytest.raises(ValueError, match="no GPU, and no reason"):
        _place({**row, "gpus": ""})


def test_names_are_unique_and_found() -> None:
    assert len({place.name for place in all_places()}) == len(all_places())
    for place in all_places():
        assert find_places([place.name]) == find_places([place.title.upper()]) == (place,)
    assert {place.provider for place in find_places(["kaggle"])} == {"Kaggle"}
    assert len(find_places(["kaggle", "kaggle-t4x2"])) == len(find_places(["kaggle"]))
    with pytest.raises(InputError, match="did you mean kaggle-t4x2"):
        find_places(["kagle-t4"])


def test_a_submission_has_no_internet_and_one_session_of_nine_hours() -> None:
    (place,) = find_places(["kaggle-submission"])
    assert (place.internet, place.resumable, place.session_hours) == (False, False, 9)
    assert all(other.internet for other in all_places() if other is not place)


def stack(torch: str) -> Stack:
    return Stack(versions={**TESTED, "torch": torch})


WHEELS = [
    # GPU, torch, runs; from the architectures of the published wheels
    ("P100", "2.7.1", True), ("P100", "2.8.0", False), ("P100", "2.13.0", False),
    ("V100", "2.10.0", True), ("V100", "2.11.0", False), ("V100", "2.13.0+cu130", False),
    ("T4", "2.13.0", True), ("A100-40GB", "2.13.0", True), ("H100", "2.6.0", True),
    ("RTX 5090", "2.6.0", False), ("RTX 5090", "2.8.0", True), ("B200", "2.7.0", False),
    ("K80", "2.6.0", False), ("MI300X", "2.13.0", True), ("Apple M4 16GB", "2.13.0", True),
]  # fmt: skip


@pytest.mark.parametrize(("gpu", "torch", "runs"), WHEELS)
def test_wheels_have_kernels_for_some_gpus(gpu: str, torch: str, runs: bool) -> None:
    reason = no_kernels(find_gpu(gpu), stack(torch))
    assert (reason is None) == runs
    if reason is not None:
        assert find_gpu(gpu).name in reason and f"sm_{find_gpu(gpu).sm}" in reason


def test_the_wheel_that_is_installed_is_the_one_that_is_described() -> None:
    torch = pytest.importorskip("torch")
    flags = torch._C._cuda_getArchFlags() if hasattr(torch._C, "_cuda_getArchFlags") else ""
    if not flags:
        pytest.skip("a wheel without CUDA")
    oldest = min(int("".join(filter(str.isdigit, flag))) for flag in flags.split())
    card = replace(find_gpu("T4"), compute_capability=(oldest // 10, oldest % 10))
    older = replace(card, compute_capability=((oldest - 1) // 10, (oldest - 1) % 10))
    assert no_kernels(card, stack(torch.__version__)) is None
    assert no_kernels(older, stack(torch.__version__)) is not None


def test_a_place_is_a_value() -> None:
    (one,) = find_places(["rtx-4090"])
    assert isinstance(one, Place) and replace(one, notes=()) == one
