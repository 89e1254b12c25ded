"""A newcomer's path for real: a fresh clone, a fresh environment, the first command of each kind.

``python -m benchmarks.newcomer``: prints the seconds of each step. Packages come from pip's own
index and cache; everything else is made anew in a temporary folder. ``--no-page``: the terminal.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
MODEL: Final = ("meta-llama/Meta-Llama-3-8B", "--gpu", "T4")
PATIENCE: Final = 120.0
"""Seconds for the page to answer."""


@dataclass(kw_only=True)
class Newcomer:
    """The clone, its environment, and what each step took."""

    clone: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def binaries(self) -> Path:
        """Of the environment."""
        return self.clone / ".venv" / "bin"

    def step(self, name: str, act: Callable[[], object]) -> None:
        """Do it and keep its time."""
        began = time.perf_counter()
        act()
        self.seconds[name] = time.perf_counter() - began
        print(f"{name:44} {self.seconds[name]:7.2f} s", flush=True)

    def pip(self, *what: str) -> None:
        """Install into the environment."""
        self.call(str(self.binaries / "pip"), "install", "--quiet", *what)

    def willfit(self, *words: str) -> str:
        """One command as a newcomer types it; its output."""
        return self.call(str(self.binaries / "willfit"), *words)

    def call(self, *words: str) -> str:
        """A process in the clone that sees nothing of this one's environment."""
        kept = {name: value for name, value in os.environ.items() if name not in _OWN}
        done = subprocess.run(
            words, cwd=self.clone, env=kept, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout


_OWN: Final = frozenset({"PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"})


def walk(path: Newcomer, repository: str) -> None:
    """The terminal's part."""
    path.step("git clone", lambda: _clone(repository, path.clone))
    path.step(
        "a virtual environment",
        lambda: subprocess.run(
            [sys.executable, "-m", "venv", str(path.clone / ".venv")], check=True
        ),
    )
    path.step("pip install .", lambda: path.pip("."))
    path.step(
        "first estimate",
        lambda: _with(path.willfit("estimate", *MODEL, "--quantize", "nf4"), "verdict"),
    )
    path.step(
        "first plan", lambda: _with(path.willfit("plan", *MODEL, "--train", "qlora"), "plan 1")
    )
    path.step(
        "first diagnosis",
        lambda: _with(path.willfit("doctor", "examples/doctor/error.log"), "cause:"),
    )
    path.step("pip install '.[run]'", lambda: path.pip(".[run]"))
    path.step(
        "first run",
        lambda: _with(path.willfit("run", "examples/own-function/pipeline.yaml"), "scores.csv"),
    )


def open_page(path: Newcomer) -> None:
    """The page's part: until its first answer."""
    path.step("pip install '.[web]'", lambda: path.pip(".[web]"))
    port = _free_port()
    words = [str(path.binaries / "willfit"), "serve", "--port", str(port)]
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(words, cwd=path.clone, stdout=said, stderr=said)
        try:
            path.step("willfit serve, until the page is there", lambda: _answer(port, server))
            visit(path, f"http://127.0.0.1:{port}/")
        finally:
            server.terminate()
            server.wait(timeout=30)


def visit(path: Newcomer, address: str) -> None:
    """In a browser, where playwright and Chromium are here: the first answer of each tab."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("no playwright or no Chromium here: the page's answers are not timed")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        link = f"{address}?model={MODEL[0]}&gpu=T4"
        for tab, settings in (("estimate", "&quantize=nf4"), ("plan", "&work=qlora")):
            shown = partial(_shown, page, f"{link}&tab={tab}{settings}", tab)
            path.step(f"first {tab} on the page, by a link", shown)
        path.step("first diagnosis on the page, pasted", lambda: _pasted(page, path, address))
        browser.close()


def _shown(page: Any, link: str, tab: str) -> None:
    page.goto(link)
    page.wait_for_selector(f"#wf-result-{tab} .wf-answer", timeout=PATIENCE * 1000)


def _pasted(page: Any, path: Newcomer, address: str) -> None:
    page.goto(f"{address}?tab=doctor")
    page.wait_for_function("document.body.dataset.tab === 'doctor'", timeout=PATIENCE * 1000)
    page.fill("#wf-pasted textarea", (path.clone / "examples/doctor/error.log").read_text())
    page.click("#wf-ask-doctor")
    page.wait_for_selector("#wf-result-doctor .wf-answer", timeout=PATIENCE * 1000)


def _clone(repository: str, target: Path) -> None:
    """What is committed, by the same protocol as from afar."""
    words = ["git", "clone", "--quiet", "--depth", "1", repository, str(target)]
    subprocess.run(words, check=True)


def _with(printed: str, words: str) -> None:
    if words not in printed:
        raise SystemExit(f"expected {words!r} in the output, got:\n{printed}")


def _free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return int(given.getsockname()[1])


def _answer(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"willfit serve ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                page.read(1)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"no answer from the page within {PATIENCE:.0f} s")


def written(text: str, seconds: Mapping[str, float]) -> str:
    """The tour with these steps in its table."""
    head = "| step | seconds |\n|---|---|\n"
    before, _, after = text.partition(head)
    rows = "".join(f"| {name} | {value:.1f} |\n" for name, value in seconds.items())
    return before + head + rows + after[after.index("\n\n") + 1 :]


def main() -> int:
    """Walk it and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-page", action="store_true", help="the terminal alone")
    parser.add_argument("--from", dest="repository", default=ROOT.as_uri(), help="what is cloned")
    parser.add_argument("--write", action="store_true", help="put them into docs/tour.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        path = Newcomer(clone=Path(folder) / "willfit")
        walk(path, given.repository)
        if not given.no_page:
            open_page(path)
    if given.write:
        tour = ROOT / "docs" / "tour.md"
        tour.write_text(written(tour.read_text(encoding="utf-8"), path.seconds), encoding="utf-8")
    print(f"{'in all':44} {sum(path.seconds.values()):7.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
