"""The project's own pictures are those that the formulas draw today."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from tools.build_pictures import FOLDER, FORMULA, KEPT_BYTES, TRACED

from willfit.report.drawing import svg
from willfit.units import format_bytes

SVG = "{http://www.w3.org/2000/svg}"
BUILD = "out of date: run 'python -m tools.build_pictures'"


@pytest.mark.parametrize("name", FORMULA)
def test_a_picture_by_formula_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == svg(FORMULA[name]()), BUILD


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_picture_shows_a_step(name: str) -> None:
    """Two steps, each with its forward and backward; the words name every phase."""
    root = ElementTree.parse(FOLDER / name).getroot()
    drawn = [node.text for node in root.iter(SVG + "text")]
    assert drawn.count("forward") == drawn.count("backward") == 2
    assert "activations" in drawn and "reserved by the allocator" in drawn
    assert all(phase in (root[1].text or "") for phase in ("load", "forward", "backward", "step"))


def test_no_picture_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.svg")} >= set(FORMULA) | set(TRACED)


def test_the_thread_s_story_is_in_its_picture() -> None:
    """As asked it does not fit, after the first plan it does: both against 14.56 GiB."""
    words = svg(FORMULA["qlora-t4.svg"]())
    assert "As asked: does not fit" in words and "After the first plan: gradient" in words
    assert words.count("of 14.56 GiB") >= 2
    ensemble = svg(FORMULA["ensemble.svg"]())
    assert f"{format_bytes(KEPT_BYTES)} before" in ensemble
