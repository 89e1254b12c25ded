"""The site builds without a warning and without network, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tools.pages import DOCS, ROOT

pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install 'willfit[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser fetches by itself for a page, and the ids that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "source", "iframe", "video", "audio", "embed"):
            self.resources += [given[name] for name in ("src", "srcset") if name in given]
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.resources.append(given.get("href", ""))
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])


def built(site: Path) -> Iterator[tuple[Path, Loaded]]:
    for path in sorted(site.rglob("*.html")):
        yield path, Loaded(path.read_text(encoding="utf-8"))


def test_every_page_is_built(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file(), page
    assert "Unreleased" in (site / "changelog.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(built(site))
    assert len(pages) > 20
    for path, page in pages:
        for resource in page.resources:
            assert not re.match(r"(?:[a-z]+:)?//", resource), f"{path.name} loads {resource}"
            here = resource.partition("#")[0].partition("?")[0]
            if here and not here.startswith("data:") and path.name != "404.html":
                assert (path.parent / here).is_file(), f"{path.name} loads {resource}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", text), style.name


def test_the_parser_would_see_it() -> None:
    page = Loaded(
        '<script src="//cdn.example/x.js"></script><link rel=stylesheet href=https://a/b>'
    )
    assert page.resources == ["//cdn.example/x.js", "https://a/b"]


def test_search_knows_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    for words in ("expandable_segments", "gradient_checkpointing", "kv_cache"):
        assert words in index
