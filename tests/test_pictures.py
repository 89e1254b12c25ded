"""Pictures: what they show is to scale, nothing overlaps or is cut off, and everybody sees it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, cast, get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont
from tests.support.reports import HOSTILE, gpu_of
from tests.support.vision import VISIONS, distance

from willfit.formulas.phase import ComponentName
from willfit.report.bitmap import SCALE
from willfit.report.drawing import Area, Drawing, Line, Words, svg
from willfit.report.palette import (
    DARK_INK,
    DARK_PAPER,
    LIGHT_INK,
    LIGHT_PAPER,
    LOOKS,
    contrast,
    ink_on,
    look,
)
from willfit.report.panel import Card
from willfit.report.peak import (
    MOST_BARS,
    NARROW,
    WIDE,
    Side,
    peak_drawing,
    peak_png,
    peak_svg,
    verdict_words,
)
from willfit.report.stages import Block, Lane, stages_drawing
from willfit.report.timeline import timeline_drawing, timeline_png
from willfit.report.writing import fitted, lines_of, text_width
from willfit.results import Moment, Timeline
from willfit.units import GIB, MIB

COLORS = {name: shown.color for name, shown in LOOKS.items()}
SVG = "{http://www.w3.org/2000/svg}"


# the palette


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [("#000000", "#ffffff", 21.0), ("#777777", "#ffffff", 4.48), ("#ff0000", "#ffffff", 4.0)],
)
def test_contrast_is_that_of_the_published_formula(one: str, other: str, ratio: float) -> None:
    assert contrast(one, other) == pytest.approx(ratio, abs=0.01)
    assert contrast(other, one) == contrast(one, other)


def test_text_is_read_on_paper_and_on_every_component() -> None:
    assert contrast(LIGHT_INK, LIGHT_PAPER) > 7
    assert contrast(DARK_INK, DARK_PAPER) > 7
    for color in COLORS.values():
        assert contrast(ink_on(color), color) >= 4.5


def test_components_stand_out_from_both_papers() -> None:
    """Every bar has an outline of ink (above 7:1); the fill alone is still no paper."""
    for color in COLORS.values():
        assert contrast(color, LIGHT_PAPER) >= 1.5
        assert contrast(color, DARK_PAPER) >= 2.5


@pytest.mark.parametrize("vision", VISIONS)
def test_components_are_told_apart_by_everybody(vision: str) -> None:
    """0.02 is about the least difference in OKLab that is seen at all."""
    stacked = list(COLORS.values())
    matrix = VISIONS[vision]
    assert min(distance(a, b, matrix) for a, b in combinations(stacked, 2)) >= 0.07
    neighbours = [*pairwise(stacked), *zip(stacked[:-2], stacked[2:], strict=True)]
    assert min(distance(a, b, matrix) for a, b in neighbours) >= 0.115


def test_every_component_of_the_contract_has_a_look() -> None:
    assert set(get_args(ComponentName)) == set(LOOKS)
    assert look("a_new_one").words == "a new one"


# text


FONTS = [None, *Path("/usr/share/fonts/truetype/dejavu").glob("DejaVuSans.ttf")]


@pytest.mark.parametrize("font", FONTS, ids=str)
@pytest.mark.parametrize(
    "text",
    [
        "WWWWMMMMmmmm%%%%@@@@",
        "the quick brown fox jumps over the lazy dog 0123456789",
        "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
        "98.85 GiB of 14.56 GiB in backward, 84.29 GiB too much",
        "meta-llama/Meta-Llama-3-8B on 2 × NVIDIA T4…",
    ],
)
def test_real_fonts_take_no_more_width_than_is_set_aside(font: Path | None, text: str) -> None:
    drawn: Any = ImageFont.load_default(12) if font is None else ImageFont.truetype(font, 12)
    assert drawn.getlength(text) <= text_width(text, 12)


@given(st.text(max_size=80), st.floats(20, 400), st.integers(1, 4))
def test_lines_fit_the_room(text: str, room: float, most: int) -> None:
    lines = lines_of(text, room, 12, most)
    assert len(lines) <= most
    assert all(text_width(line, 12) <= room or line == "…" for line in lines)


def test_a_name_is_cut_in_its_middle() -> None:
    assert fitted("meta-llama/Meta-Llama-3-8B-Instruct", 120, 12) == "meta-llama…ruct"


# what every drawing must hold


def boxes_of(drawing: Drawing) -> list[tuple[float, float, float, float, str]]:
    """Left, top, right and bottom of every text, by the width that is set aside for it."""
    boxes = []
    for words in drawing.shapes:
        if isinstance(words, Words) and words.text:
            width = text_width(words.text, words.size, bold=words.bold)
            x, y = words.at
            left = {"start": x, "middle": x - width / 2, "end": x - width}[words.anchor]
            boxes.append((left, y - words.size * 0.75, left + width, y, words.text))
    return boxes


def assert_sound(drawing: Drawing) -> None:
    """Inside the page, no text over another, and well formed."""
    for shape in drawing.shapes:
        points = (
            [shape.at] if isinstance(shape, Words) else
            [point for stroke in shape.strokes for point in stroke] if isinstance(shape, Line) else
            shape.points
        )  # fmt: skip
        for x, y in points:
            assert -0.1 <= x <= drawing.width + 0.1 and -0.1 <= y <= drawing.height + 0.1
    boxes = boxes_of(drawing)
    for left, _, right, _, text in boxes:
        assert left >= -0.1 and right <= drawing.width + 0.1, text
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    for embedded in (False, True):
        root = ElementTree.fromstring(svg(drawing, embedded=embedded))
        assert root.attrib["role"] == "img" and root.attrib["aria-label"]
        assert [child.tag for child in root][:2] == [SVG + "title", SVG + "desc"]
        assert not {node.tag for node in root.iter()} & {SVG + "script", SVG + "image", SVG + "a"}


def assert_uncrossed(drawing: Drawing) -> None:
    """No heavy line, which are the limits and the ranges, runs through a text."""
    heavy = [
        (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        for shape in drawing.shapes
        if isinstance(shape, Line) and shape.width > 1
        for stroke in shape.strokes
        for a, b in pairwise(stroke)
    ]
    for left, top, right, bottom, text in boxes_of(drawing):
        for line in heavy:
            apart = line[2] < left or line[0] > right or line[3] < top or line[1] > bottom
            assert apart, (text, line)


# the peak


def segments(drawing: Drawing) -> dict[str, tuple[float, float]]:
    """Left and right of what is drawn of each component, by the first word of its name."""
    found = {}
    for shape in drawing.shapes:
        if isinstance(shape, Area) and shape.name:
            xs = [x for x, _ in shape.points]
            found[shape.name.partition(":")[0]] = (min(xs), max(xs))
    return found


def test_the_peak_is_to_scale() -> None:
    """720 wide with margins of 14: 692 units for 10 GiB, so 4 GiB end at 14 + 276.8, less a gap."""
    gpu = gpu_of({"activations": 2 * GIB, "weights": 4 * GIB}, budget=10 * GIB)
    found = segments(peak_drawing([("a", gpu)], "t"))
    assert found["weights"] == pytest.approx((14, 14 + 276.8 - 1))
    assert found["activations"] == pytest.approx((14 + 276.8, 14 + 276.8 + 138.4 - 1))


def test_the_words_have_the_numbers() -> None:
    gpu = gpu_of({"weights": 20 * GIB}, budget=8 * GIB, spread=GIB)
    said = (
        "does not fit: 20.00 GiB of 8.00 GiB in forward, 12.00 GiB too much "
        "(range 19.00 GiB to 21.00 GiB)"
    )
    assert verdict_words(gpu) == said
    text = peak_svg([("side", gpu)], "t")
    root = ElementTree.fromstring(text)
    assert root[1].text == f"side: {said}. Of it weights 20.00 GiB."
    drawn = "".join(node.text or "" for node in root.iter(SVG + "text"))
    assert "too much" in drawn and "weights 20.00 GiB" in drawn
    free = verdict_words(gpu_of({"weights": 6 * GIB}, budget=8 * GIB))
    assert free == "fits: 6.00 GiB of 8.00 GiB in forward, 2.00 GiB free"
    assert verdict_words(gpu_of({"weights": GIB})) == "1.00 GiB in forward"


@pytest.mark.parametrize(
    ("used", "has_hatch", "has_free"),
    [
        (4 * GIB, False, True),
        (8 * GIB, False, True),
        (9 * GIB, True, False),
        (160 * GIB, True, False),
    ],
)
def test_too_much_is_hatched_and_free_room_is_dashed(
    used: int, has_hatch: bool, has_free: bool
) -> None:
    """Of 8 GiB; hatching is the one line with many strokes, free room the one dashed ring."""
    drawing = peak_drawing([("a", gpu_of({"weights": used}, budget=8 * GIB))], "t")
    words = {shape.text for shape in drawing.shapes if isinstance(shape, Words)}
    assert ("too much" in words) == has_hatch
    dashed = [s for s in drawing.shapes if isinstance(s, Line) and s.dashed]
    assert bool(dashed) == has_free
    assert_sound(drawing)


names = st.sampled_from([*LOOKS, "something_new"])
amounts = st.one_of(st.just(0), st.integers(1, 2048), st.integers(MIB, 500 * GIB))
labels = st.one_of(st.just(HOSTILE), st.text(max_size=300), st.just("word " * 60))


@st.composite
def sides(draw: st.DrawFn) -> list[Side]:
    found = []
    for index in range(draw(st.integers(0, 6))):
        parts = draw(st.dictionaries(names, amounts, max_size=8))
        budget = draw(st.one_of(st.none(), st.integers(1, 200 * GIB)))
        spread = draw(st.sampled_from((0, 1, MIB, 3 * GIB)))
        found.append((draw(labels), gpu_of(parts, budget, spread, index)))
    return found


@given(sides(), labels, st.sampled_from((WIDE, NARROW)), st.booleans())
def test_no_peak_overlaps_or_is_cut_off(
    shown: list[Side], title: str, width: int, titled: bool
) -> None:
    drawing = peak_drawing(shown, title or "t", width=width, titled=titled)
    assert_sound(drawing)
    assert_uncrossed(drawing)
    areas = sum(isinstance(shape, Area) and bool(shape.name) for shape in drawing.shapes)
    assert areas == sum(part.num_bytes > 0 for _, gpu in shown for part in gpu.peak.components)


@pytest.mark.parametrize("budget", [1, 7, 10, 13, 19])
def test_the_limit_runs_through_no_label(budget: int) -> None:
    """Of 20 GiB: the label is in the larger part beside the line, where it still has its room."""
    drawing = peak_drawing([("a", gpu_of({"weights": 20 * GIB}, budget=budget * GIB))], "t")
    assert_uncrossed(drawing)
    assert "weights 20.00 GiB" in [s.text for s in drawing.shapes if isinstance(s, Words)]


def test_hostile_names_are_text() -> None:
    text = peak_svg([(HOSTILE, gpu_of({"weights": GIB}))], HOSTILE)
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text
    assert "&lt;script&gt;" in text
    assert text.encode("utf-8")


def test_nothing_at_all_is_drawn_as_nothing() -> None:
    drawing = peak_drawing([("empty", gpu_of({"weights": 0}, budget=0))], "t")
    assert_sound(drawing)
    assert_sound(peak_drawing([], "t"))


def test_bars_beyond_what_says_something_are_counted() -> None:
    many = [(f"GPU {i}", gpu_of({"weights": GIB}, index=i)) for i in range(MOST_BARS + 5)]
    drawing = peak_drawing(many, "t")
    words = [shape.text for shape in drawing.shapes if isinstance(shape, Words)]
    assert "5 more are not drawn" in words
    assert_sound(drawing)


def test_the_bitmap_is_the_same_picture(tmp_path: Path) -> None:
    gpu = gpu_of({"weights": 4 * GIB, "kv_cache": 4 * GIB}, budget=10 * GIB)
    drawing = peak_drawing([(HOSTILE, gpu)], "t")
    path = tmp_path / "peak.png"
    path.write_bytes(peak_png([(HOSTILE, gpu)], "t"))
    image = Image.open(path).convert("RGB")
    assert image.size == (drawing.width * SCALE, drawing.height * SCALE)
    for name, (left, right) in segments(drawing).items():
        area = next(s for s in drawing.shapes if isinstance(s, Area) and s.name.startswith(name))
        top = min(y for _, y in area.points) + 3
        point = (round((left + right) / 2 * SCALE), round(top * SCALE))
        color = "#{:02x}{:02x}{:02x}".format(*cast("tuple[int, int, int]", image.getpixel(point)))
        assert color in {shown.color for shown in LOOKS.values() if shown.words == name}


def test_it_follows_light_and_dark_and_takes_a_page_s_colour() -> None:
    gpu = [("a", gpu_of({"weights": GIB}))]
    alone, inside = peak_svg(gpu, "t"), peak_svg(gpu, "t", embedded=True)
    assert "prefers-color-scheme:dark" in alone and DARK_PAPER in alone
    assert "<style" not in inside and "<rect" not in inside and "currentColor" in inside
    assert re.search(r'viewBox="0 0 720 \d+"', inside) and "max-width:100%" in inside


# the timeline and the stages


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    phases = sorted(draw(st.lists(st.sampled_from("abcdef"), max_size=30)))
    found = []
    for phase in phases:
        parts = draw(st.dictionaries(names, amounts, max_size=4))
        found.append(Moment(phase=phase * 12, components=parts, reserved_bytes=sum(parts.values())))
    return Timeline(moments=tuple(found))


cards = st.builds(
    Card,
    outside_bytes=st.sampled_from((0, 115 * MIB, 9 * GIB)),
    budget_bytes=st.one_of(st.none(), st.integers(1, 100 * GIB)),
)


@given(st.dictionaries(st.integers(0, 7), timelines(), max_size=3), labels,
       st.sampled_from((WIDE, NARROW)), cards)  # fmt: skip
def test_no_timeline_overlaps_or_is_cut_off(
    drawn: dict[int, Timeline], title: str, width: int, card: Card
) -> None:
    assert_sound(
        timeline_drawing(drawn, title or "t", cards=dict.fromkeys(drawn, card), width=width)
    )


def test_a_level_stretch_is_one_line_and_keeps_its_shape() -> None:
    """1, 1, 1, 5, 1, 1 GiB: the spike and the corners stay, the points within a level go."""
    levels = (1, 1, 1, 5, 1, 1)
    moments = tuple(
        Moment(phase="p", components={"weights": n * GIB}, reserved_bytes=n * GIB) for n in levels
    )
    drawing = timeline_drawing({0: Timeline(moments=moments)}, "t", width=WIDE)
    line = next(s for s in drawing.shapes if isinstance(s, Line) and s.dashed)
    step = (WIDE - 84 - 14) / 5
    assert [x for x, _ in line.strokes[0]] == pytest.approx(
        [84 + step * i for i in (0, 2, 3, 4, 5)]
    )
    heights = [line.strokes[0][i][1] for i in (1, 2)]
    base = max(y for _, y in next(s for s in drawing.shapes if isinstance(s, Area)).points)
    assert (base - heights[1]) == pytest.approx(5 * (base - heights[0]))
    assert timeline_png({0: Timeline(moments=moments)}, "t").startswith(b"\x89PNG")


@given(
    st.lists(
        st.builds(
            Block, name=labels, before_bytes=amounts, peak_bytes=amounts, after_bytes=amounts,
            estimated_bytes=st.one_of(st.none(), amounts),
        ),
        max_size=12,
    ),
    st.sampled_from((WIDE, NARROW)),
)  # fmt: skip
def test_no_run_overlaps_or_is_cut_off(blocks: list[Block], width: int) -> None:
    lane = Lane(name=HOSTILE, blocks=blocks, capacity_bytes=16 * GIB)
    assert_sound(stages_drawing([lane, replace(lane, capacity_bytes=None)], "t", width=width))
