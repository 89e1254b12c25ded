"""The page under many visitors at once: what they wait, what the server takes, and its memory.

``python -m benchmarks.serve_load``: starts ``willfit serve`` on loopback, where 50 visitors ask for
estimates, plans, diagnoses and what cannot be, with or without
pauses (``--pause``). Bounded in count and time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parents[1]
MESSAGE: Final = ROOT / "examples" / "doctor" / "error.log"
_MODELS: Final = (
    "llama-3-8b",
    "mistral-7b",
    "gemma-2-9b-it",
    "qwen2.5-7b-instruct",
    "gpt2",
    "bert",
)
_GPUS: Final = ("T4", "T4x2", "L4", "RTX 4090", "A100-80GB")
_BAD: Final = (
    {"model": "/etc/passwd"}, {"model": "no-such-model-7b"}, {"model": "gpt2", "gpu": "T9000"},
    {"model": "gpt2", "work": "qlora", "lora_r": "-1"}, {"model": "http://169.254.169.254/"},
)  # fmt: skip


class Page:
    """The page as a program sees it: its controls by name, its events by the button's name."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        config = json.loads(self.get("/config")[1])
        names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self._usual = {part["id"]: part["props"].get("value") for part in config["components"]}
        self._names = names
        self._events = {
            str(names.get(target, "load")): event
            for event in config["dependencies"]
            for target, _ in event["targets"]
        }

    def connection(self, seconds: float = 120.0) -> http.client.HTTPConnection:
        """A connection of one's own."""
        return http.client.HTTPConnection(self.address, timeout=seconds)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and content of an address."""
        connection = self.connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def body(self, tab: str, held: Mapping[str, Any], session: str) -> dict[str, Any]:
        """What the page would send for this tab with these contents of its controls."""
        event = self._events[f"wf-ask-{tab}"]
        data = [
            held.get(str(self._names[number]).removeprefix("wf-"), self._usual[number])
            for number in event["inputs"]
        ]
        return {"fn_index": event["id"], "session_hash": session, "data": data}

    def join(self, body: object, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and content of a question's acceptance."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connection()
        try:
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request("POST", "/gradio_api/queue/join", content, given)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, tab: str, held: Mapping[str, Any], session: str = "") -> str:
        """HTML of the answer; raises `OSError` where there is none."""
        session = session or f"s{random.getrandbits(48):x}"
        status, content = self.join(self.body(tab, held, session))
        if status != 200:
            raise OSError(f"{status}: {content[:200]!r}")
        for message in self.messages(session):
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise OSError(f"failed: {message['output']}")
                return str(message["output"]["data"][0])
        raise OSError("the stream ended without an answer")

    def messages(self, session: str) -> Iterator[dict[str, Any]]:
        """What the server says of a session's questions, until they are answered."""
        connection = self.connection()
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
        finally:
            connection.close()


@contextmanager
def serving(*words: str, **environment: str) -> Iterator[tuple[Page, subprocess.Popen[str]]]:
    """``willfit serve`` on a free port, in a home of its own, which ends as it was."""
    with tempfile.TemporaryDirectory() as home:
        own = {"HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home}
        process = subprocess.Popen(
            [sys.executable, "-m", "willfit", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=home,
            env={**os.environ, **own, **environment},
        )
        assert process.stdout is not None
        try:
            yield Page(process.stdout.readline().strip()), process
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()
        left = os.listdir(home)  # noqa: PTH208 - names
        if left:
            raise RuntimeError(f"left behind: {left}")


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children; 0 where the system does not tell."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            text = path.read_text()
        except OSError:
            continue
        parent = re.search(r"PPid:\s+(\d+)", text)
        if int(path.parent.name) == pid or (parent is not None and int(parent[1]) == pid):
            used = re.search(r"VmRSS:\s+(\d+) kB", text)
            total += int(used[1]) if used else 0
    return total / 1024


def said(html: str) -> str:
    """The sentence of an answer."""
    found = re.search(r'data-said="([^"]*)"', html)
    return found[1] if found else ""


@dataclass(kw_only=True)
class Load:
    """What all visitors saw together."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)


def question(chance: random.Random) -> tuple[str, str, dict[str, Any]]:
    """Its kind, its tab, and what the controls hold."""
    kind = chance.choices(("estimate", "plan", "doctor", "bad"), (60, 10, 15, 15))[0]
    held = {"model": chance.choice(_MODELS), "gpu": chance.choice(_GPUS)}
    if kind == "bad":
        return kind, "estimate", dict(chance.choice(_BAD))
    if kind == "doctor":
        return kind, "doctor", {"pasted": MESSAGE.read_text(encoding="utf-8"), "gpu": "T4"}
    if kind == "plan":
        return kind, "plan", {**held, "work": chance.choice(("inference", "qlora"))}
    return kind, "estimate", {**held, "context": str(chance.randint(128, 8192))}


def visit(page: Page, number: int, count: int, until: float, pause: float, load: Load) -> None:
    """One visitor: the page, then questions, one after another, as a tab of a browser asks them."""
    chance = random.Random(number)
    session = f"visitor{number}"
    time.sleep(chance.uniform(0, 2 * pause))  # people do not arrive together
    began = time.perf_counter()
    page.get("/")
    load.seconds["the page itself"].append(time.perf_counter() - began)
    for _ in range(count):
        if time.monotonic() > until:
            return
        kind, tab, held = question(chance)
        began = time.perf_counter()
        try:
            answer = page.ask(tab, held, session)
            if not said(answer):
                load.errors.append(f"{kind}: no sentence in the answer")
        except (OSError, ValueError) as error:
            load.errors.append(f"{kind}: {error}")
        load.seconds[kind].append(time.perf_counter() - began)
        time.sleep(chance.uniform(0, 2 * pause))


def alone(page: Page, count: int = 40) -> list[float]:
    """Seconds of estimates that nobody asked before, with no other visitor."""
    found = []
    for number in range(count):
        held = {"model": _MODELS[number % len(_MODELS)], "gpu": "T4", "context": str(200 + number)}
        began = time.perf_counter()
        page.ask("estimate", held)
        found.append(time.perf_counter() - began)
    return found


def worker_seconds(count: int = 120) -> list[float]:
    """Seconds of a worker for estimates over the whole catalogue, each model for the first time."""
    from willfit.sources.catalogue import entries
    from willfit.web.answers import answer

    names = [entry.id for entry in entries()]
    found = []
    for name in names[:: max(1, len(names) // count)]:
        began = time.perf_counter()
        answer({"form": {"tab": "estimate", "model": name, "gpu": "A100-80GB"}})
        found.append(time.perf_counter() - began)
    return found


def row(name: str, seconds: Sequence[float]) -> str:
    """Count, median, 95th percentile and worst, in milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    figures = (statistics.median(ordered), p95, ordered[-1])
    return f"{name:34} {len(ordered):6}" + "".join(f"{1e3 * value:10.0f}" for value in figures)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the visitors waited; 1 where one of them saw an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--questions", type=int, default=20, help="of each visitor")
    parser.add_argument("--pause", type=float, default=0.0, help="mean seconds between questions")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which nobody asks more")
    arguments = parser.parse_args(argv)
    print(f"{'milliseconds':34} {'count':>6}{'median':>10}{'p95':>10}{'worst':>10}")
    print(row("estimate, in a worker, cold model", worker_seconds()))
    load = Load()
    with serving("--offline") as (page, process):
        print(row("estimate by HTTP, one visitor", alone(page)))
        before = memory_mib(process.pid)
        until = time.monotonic() + arguments.seconds
        began = time.perf_counter()
        visitors = [
            threading.Thread(
                target=visit, args=(page, n, arguments.questions, until, arguments.pause, load)
            )
            for n in range(arguments.users)
        ]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        took = time.perf_counter() - began
        after = memory_mib(process.pid)
    for kind, seconds in sorted(load.seconds.items()):
        print(row(f"{kind}, {arguments.users} visitors", seconds))
    count = sum(map(len, load.seconds.values()))
    print(f"{count} questions in {took:.1f} s, {count / took:.1f} a second")
    print(f"memory of server and workers: {before:.0f} MiB before, {after:.0f} MiB after")
    print(f"errors: {len(load.errors)} {load.errors[:3] or ''}")
    return 1 if load.errors else 0


if __name__ == "__main__":
    sys.exit(main())
