"""Requests that no page sends, to the real server: each is refused, and the server lives on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from benchmarks.serve_load import Page, memory_mib, said, serving
from tests.support.browser import needed
from tests.support.hub_server import HubServer, Repo

from willfit.web.pool import Pool
from willfit.web.service import worker_environment

CONFIG = json.dumps(
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
     "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000}
)  # fmt: skip


@pytest.fixture(scope="module")
def served():
    needed("gradio", "gradio")
    with serving("--offline") as (page, process):
        yield page, process
    assert process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def page(served):
    """The page; after the test it must still answer."""
    yield served[0]
    assert said(served[0].ask("estimate", {"model": "gpt2", "gpu": "T4"})).startswith("Fits")


def raw(page: Page, content: bytes, seconds: float = 20.0) -> bytes:
    """What comes back for bytes that no HTTP library would send."""
    host, _, port = page.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(content)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd",
        "/gradio_api/file=C:/Windows/win.ini", "/gradio_api/file=http://169.254.169.254/latest",
        "/gradio_api/proxy=http://169.254.169.254/latest", "/assets/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2f..%2fetc/passwd",
        "/static/fonts/../../../../../../etc/passwd", "/svelte/../../etc/passwd", "//etc/passwd",
        "/gradio_api/info", "/gradio_api/openapi.json", "/docs", "/openapi.json", "/redoc",
        "/monitoring", "/gradio_api/runs", "/gradio_api/deep_link?session_hash=a",
        "/gradio_api/upload_progress?upload_id=a", "/gradio_api/stream/a/1/2/playlist.m3u8",
        "/gradio_api/app_id", "/gradio_api/token", "/gradio_api/vibe-code", "/login", "/dev/reload",
        "/custom_component/a/b/c/d", "/gradio_api/mcp/sse", "/.git/config", "/page.py",
        "/gradio_api/call/x/y", "/gradio_api/profiling/traces",
    ],
)  # fmt: skip
def test_addresses_that_the_page_does_not_need_are_not_there(served, path):
    answer = raw(
        served[0], f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.split(b" ")[1] in (b"404", b"400"), answer[:200]
    assert b"root:" not in answer and b"extensions" not in answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/api/x"),
        ("POST", "/gradio_api/call/x"), ("POST", "/gradio_api/component_server"), ("PUT", "/"),
        ("DELETE", "/"), ("POST", "/"), ("OPTIONS", "/gradio_api/queue/join"), ("TRACE", "/"),
        ("POST", "/gradio_api/process_recording"), ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/login"), ("POST", "/gradio_api/stream/x"),
    ],
)  # fmt: skip
def test_methods_and_calls_that_the_page_does_not_need(served, method, path):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    assert raw(served[0], head.encode() + b"{}").split(b" ")[1] in (b"404", b"405")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1].evil", ""])
def test_a_name_that_is_not_ours_is_no_way_in(served, host):
    answer = raw(served[0], f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert b" 403 " in answer.splitlines()[0]


def test_a_question_from_another_site_is_refused(page):
    body = page.body("estimate", {"model": "gpt2"}, "abc")
    status, _ = page.join(body, {"Origin": "https://evil.example"})
    assert status == 403
    assert page.join(body, {"Origin": f"http://{page.address}"})[0] == 200


def test_a_browser_is_told_to_load_nothing_from_elsewhere(served):
    answer = raw(served[0], b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"default-src 'self'" in head and b"frame-ancestors 'none'" in head
    assert b"nosniff" in head and b"access-control-allow-origin" not in head


def test_two_hundred_megabytes_are_refused_before_they_arrive(page):
    for path in ("/gradio_api/upload", "/gradio_api/queue/join"):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000000\r\n\r\n"
        began = time.monotonic()
        assert raw(page, head.encode() + b"x" * 1000).split(b" ")[1] in (b"404", b"413")
        assert time.monotonic() - began < 10


def test_a_body_without_an_end_is_cut(page):
    head = b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    host, _, port = page.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head)
        with pytest.raises(OSError):  # noqa: PT011 - broken pipe or reset, as the system calls it
            connection.sendall(chunk * 200)


GOOD = {"fn_index": 0, "session_hash": "abc", "data": []}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422), (b"\xff\xfe", 422), (b"[" * 200_000, 422),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 422),
        ({**GOOD, "session_hash": None}, 422), ({**GOOD, "session_hash": "../x"}, 422),
        ({**GOOD, "session_hash": "x" * 1000}, 422), ({**GOOD, "session_hash": 5}, 422),
        ({**GOOD, "fn_index": "0"}, 422), ({**GOOD, "fn_index": True}, 422), ({**GOOD, "fn_index": None}, 422),
        ({**GOOD, "data": {"a": 1}}, 422), ({**GOOD, "data": [{"path": "/etc/passwd"}]}, 422),
        ({**GOOD, "data": [["a", "b"]]}, 422), ({**GOOD, "data": None}, 422),
        ({**GOOD, "fn_index": 9999}, 500), ({**GOOD, "fn_index": -1}, 500),
    ],
    ids=range(20),
)  # fmt: skip
def test_what_is_no_question(page, body, status):
    found, content = page.join(body)
    assert found >= 400 and (found == 422) == (status == 422), (found, content)
    assert b"Traceback" not in content and b"site-packages" not in content


@pytest.mark.parametrize(
    "held",
    [
        {"model": 5}, {"model": True}, {"work": "rm -rf"}, {"work": 7}, {"gpu": "T4" * 4000},
        {"model": "x" * 100_000}, {"batch_size": "9" * 400}, {"batch_size": "-1"}, {"padded": "no"},
        {"max_memory": "{" * 5000}, {"max_memory": '__import__("os").system("id")'},
        {"gpu": "T4x99999999"}, {"stack": "torch=" + "9" * 200}, {"time_limit": "1e400h"},
        {"alloc_conf": "a:b:c"}, {"lora_target_modules": "$(id)"}, {"dtype": "float3"},
        {"quantize": ["int8"]}, {"model": "\x00\x1b[31m"}, {"gpu": "0GiB"}, {"gpu": "1e999GiB"},
    ],
    ids=range(21),
)  # fmt: skip
def test_contents_of_the_wrong_kind_get_a_sentence(page, held):
    body = page.body(
        "estimate", {"model": "gpt2", "gpu": "T4", "work": "qlora", **held}, f"s{id(held)}"
    )
    status, _ = page.join(body)
    if status != 200:
        assert status == 422  # not even a control's content
        return
    *_, last = (m for m in page.messages(body["session_hash"]) if m["msg"] == "process_completed")
    text = json.dumps(last["output"])
    assert "Traceback" not in text and "site-packages" not in text
    assert not last["success"] or "wf-refused" in text or "wf-verdict" in text


def test_a_question_with_too_little_or_too_much_beside_it(page):
    body = page.body("estimate", {"model": "gpt2"}, "short1")
    for number, data in enumerate((body["data"][:3], body["data"] * 3)):
        asked = {**body, "data": data, "session_hash": f"short{number}"}
        assert page.join(asked)[0] in (200, 400, 422, 500)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest",
     "http://127.0.0.1:22/", "~/.ssh/id_rsa", "/proc/self/environ", "org/name", "\\\\host\\share"],
)  # fmt: skip
def test_a_model_is_no_path_and_no_address(page, name):
    html = page.ask("estimate", {"model": name, "gpu": "T4"})
    assert "wf-refused" in html and "root:" not in html


def test_a_flood_of_questions_is_bounded(served):
    """300 plans that nobody kept before, of visitors who never fetch an answer."""
    page, process = served
    before = memory_mib(process.pid)
    statuses: Counter[int] = Counter()

    def flood(start: int) -> None:
        for number in range(start, start + 50):
            held = {"model": "gpt2", "gpu": "T4", "work": "lora", "samples": str(1000 + number)}
            statuses[page.join(page.body("plan", held, f"flood{number}"))[0]] += 1

    threads = [threading.Thread(target=flood, args=(50 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses[503] > 0 and set(statuses) == {200, 503}, statuses
    deadline = time.monotonic() + 60
    while True:  # once the queue has emptied a little, the next visitor is answered
        try:
            html = page.ask("estimate", {"model": "bert", "gpu": "T4"})
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert said(html).startswith("Fits")
    assert memory_mib(process.pid) < before + 300


def test_the_hub_is_asked_only_for_what_was_named_by_hand_and_without_a_token(capfd):
    """For everyone there is a warning. Ctrl-C ends the page at once; `serving` fails where a file of it is left behind."""
    needed("gradio", "gradio")
    with (
        HubServer({"org/name": Repo(files={"config.json": CONFIG.encode()})}) as hub,
        serving(
            "--host", "0.0.0.0", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN="hf_secret"
        ) as (page, process),
    ):
        for question in (
            {"tab": "doctor", "pasted": 'm = AutoModel.from_pretrained("org/name")\nm.cuda()'},
            {"tab": "estimate", "model": "gpt2"},
            {"tab": "estimate", "model": "http://evil.example/org/name"},
        ):
            page.ask(str(question.pop("tab")), question)
        assert hub.requests == []
        assert said(page.ask("estimate", {"model": "org/name", "gpu": "T4"})).startswith("Fits")
        assert said(page.ask("estimate", {"config": CONFIG, "gpu": "T4"})).startswith("Fits")
        asked = [path for _, path, _ in hub.requests]
        assert asked and all("org/name" in path for path in asked)
        assert not any("authorization" in map(str.lower, headers) for *_, headers in hub.requests)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    said_first, said_last = capfd.readouterr().err.splitlines()
    assert "everyone who can reach 0.0.0.0" in said_first and "Ctrl-C" in said_last


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "willfit", "serve", *words], check=False, capture_output=True,
        text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def test_what_cannot_be_listened_on_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr and "--port" in done.stderr
    assert "no port" in run("--port", "99999").stderr
    assert "cannot listen on no.such.host.invalid" in run("--host", "no.such.host.invalid").stderr


def test_without_gradio_it_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'gradio' else find(name, *a)\n"
    )
    done = run(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        4, "willfit: the page needs gradio: pip install 'willfit[web]'\n",
    )  # fmt: skip


@pytest.fixture
def pool(tmp_path):
    made = Pool(1, worker_environment(os.environ, tmp_path, online=False), tmp_path)
    yield made
    made.close()


QUESTION = {"form": {"tab": "estimate", "model": "gpt2", "gpu": "T4"}}


def test_a_worker_that_ends_is_replaced(pool):
    assert "Fits" in pool.ask(QUESTION)["said"]
    for worker in pool._all:
        worker.end()
    assert "Fits" in pool.ask(QUESTION)["said"]


def test_a_worker_that_takes_too_long_is_ended_and_replaced(pool, monkeypatch):
    assert "Fits" in pool.ask(QUESTION)["said"]
    before = list(pool._all)
    monkeypatch.setattr("willfit.web.pool.TIME_LIMIT", 0.01)
    slow = {"form": {"tab": "plan", "model": "llama-3-8b", "gpu": "T4", "work": "qlora"}}
    assert "no answer within" in pool.ask(slow)["said"]
    assert not any(worker.alive for worker in before)
    monkeypatch.undo()
    assert "Fits" in pool.ask(QUESTION)["said"]


def test_an_answer_that_is_kept_is_the_answer(pool):
    first = pool.ask(QUESTION, keep=True)
    asked = len(pool.seconds)
    assert pool.ask(QUESTION, keep=True) == first and len(pool.seconds) == asked
    assert pool.ask({"form": {**QUESTION["form"], "gpu": "L4"}}, keep=True) != first


def test_closing_ends_every_worker(pool):
    pool.close()
    assert not any(worker.alive for worker in pool._all)
