"""Reports in a real browser: on a phone and a screen, in light and dark, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.browser import browsing
from tests.support.reports import HOSTILE, PAGES, gpu_of
from tools.build_pictures import FOLDER

from willfit.report.drawing import Drawing, Words, svg
from willfit.report.html.markup import Html
from willfit.report.html.page import figure, page
from willfit.report.peak import peak_drawing
from willfit.units import GIB

OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const page = svg.getBoundingClientRect();
  if (!page.width) return [];
  const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim());
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  const found = [];
  boxes.forEach(([name, a], i) => {
    if (a.left < page.left - 1 || a.right > page.right + 1 || a.bottom > page.bottom + 1)
      found.push(name + ' is cut off');
    boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 0.3 * Math.min(a.height, b.height)) found.push(name + ' | ' + other);
    });
  });
  return found;
})"""
"""Texts of the drawings shown that leave their drawing or lie on each other."""
SIZES = """() => [...document.querySelectorAll('svg text')]
  .filter(text => text.getBoundingClientRect().width)
  .map(text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""
"""Sizes of the drawings' text on the screen, in pixels."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as opened:
        yield opened


def crowded() -> str:
    """Eight bars with long and hostile names, tiny parts, 20 times too much, and nothing."""
    tiny = {"weights": 4 * GIB, "workspaces": 1, "fragmentation": 512, "kv_cache": 2**20}
    sides = [
        *(
            (f"GPU {i} of eight in a server far away " * 4, gpu_of(tiny, 16 * GIB))
            for i in range(6)
        ),
        (HOSTILE * 3, gpu_of({"activations": 320 * GIB}, 16 * GIB, spread=9 * GIB)),
        ("empty", gpu_of({"weights": 0}, 16 * GIB)),
    ]
    return page("crowded", figure(lambda width: peak_drawing(sides, HOSTILE, width=width)))


ALL: dict[str, Any] = {**PAGES, "crowded": crowded}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_is_readable(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    shown = browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=True
    )
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    for name, make in ALL.items():
        path = tmp_path / f"{name.replace(' ', '-')}.html"
        path.write_text(make(), encoding="utf-8")
        shown.goto(path.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= width, name
        assert shown.evaluate(OVERLAPS) == [], name
        assert min(shown.evaluate(SIZES), default=12) >= 10, name
        assert shown.get_by_role("heading", level=1).count() == 1
        assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert said == []
    shown.close()


def test_overlaps_and_cuts_are_seen(browser: Any, tmp_path: Path) -> None:
    """So that the check above can fail: two texts on each other, one beyond the edge."""
    texts = [
        Words(at=(10, 30), text="one"), Words(at=(14, 32), text="two"),
        Words(at=(90, 60), text="beyond the edge"),
    ]  # fmt: skip
    drawing = Drawing(width=100, height=80, title="t", shapes=texts)
    path = tmp_path / "p.html"
    path.write_text(page("bad", Html(svg(drawing, embedded=True))), encoding="utf-8")
    shown = browser.new_page(viewport={"width": 1280, "height": 800})
    shown.goto(path.as_uri())
    assert shown.evaluate(OVERLAPS) == ["one | two", "beyond the edge is cut off"]
    shown.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_project_s_own_pictures_are_readable(browser: Any, scheme: str) -> None:
    shown = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    for path in sorted(FOLDER.glob("*.svg")):
        shown.goto(path.as_uri())
        assert shown.evaluate(OVERLAPS) == [], path.name
        paper = shown.evaluate("getComputedStyle(document.querySelector('.willfit-paper')).fill")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    shown.close()


def test_a_drawing_has_its_name_for_who_does_not_see_it(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    path.write_text(PAGES["does not fit"](), encoding="utf-8")
    shown = browser.new_page(viewport={"width": 360, "height": 800})
    shown.goto(path.as_uri())
    pictures = shown.get_by_role("img", name="meta-llama/Meta-Llama-3-8B on NVIDIA T4")
    assert pictures.count() == 1
    shown.close()


def test_a_printed_page_has_the_wide_picture_and_no_colour_of_the_dark(
    browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "p.html"
    path.write_text(PAGES["does not fit"](), encoding="utf-8")
    shown = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme="dark")
    shown.goto(path.as_uri())
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.locator(".willfit-wide").first.is_visible()
    assert not shown.locator(".willfit-narrow").first.is_visible()
    colors = shown.evaluate("[getComputedStyle(document.body).backgroundColor,"
                            "getComputedStyle(document.body).color]")  # fmt: skip
    assert colors == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    shown.close()
