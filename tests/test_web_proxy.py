"""The page behind a proxy that shows it under a path and a name of its own, as Jupyter's does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.browser import browsing, needed
from tests.support.proxy import PREFIX, proxying

from willfit.errors import InputError
from willfit.web.guard import ELSEWHERE, Guard
from willfit.web.server import behind, hosts_of, origin_of

URL = "https://hub.example/user/me/proxy/7860"
QUESTION = json.dumps({"fn_index": 1, "session_hash": "abc", "data": []}).encode()


def asked(
    guard: Guard, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """Status and content of a request."""
    said: list[dict[str, object]] = []
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    named.append((b"content-length", str(len(body)).encode()))
    scope = {"type": "http", "method": method, "path": path, "headers": named}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, object]) -> None:
        said.append(message)

    asyncio.run(guard(scope, receive, send))  # type: ignore[arg-type]
    return said[0]["status"], said[1]["body"]  # type: ignore[return-value]


async def passed(scope, receive, send) -> None:
    """An application that takes everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("hub.example", "https://hub.example", 200),  # a proxy that leaves the name
        ("localhost:7860", "https://hub.example", 200),  # one that puts ours
        ("127.0.0.1:7860", "http://127.0.0.1:7860", 200),
        ("hub.example", "https://evil.example", 403),
        ("localhost:7860", "https://evil.example", 403),
        ("localhost:7860", "http://hub.example", 403),  # not the address that was given
        ("localhost:7860", "null", 403),
        ("evil.example", "https://hub.example", 403),
        ("hub.example.evil", "https://hub.example", 403),
    ],
)
def test_the_name_and_origin_of_the_address_are_ours_and_no_others(host, origin, status):
    guard = Guard(passed, hosts_of("127.0.0.1", URL), origin_of(URL))
    join = "/gradio_api/queue/join"
    assert asked(guard, "POST", join, QUESTION, host=host, origin=origin)[0] == status


def test_who_comes_by_another_name_reads_what_to_do():
    guard = Guard(passed, hosts_of("127.0.0.1"), origin_of(""))
    status, said = asked(guard, "GET", "/", host="hub.example")
    assert (status, said) == (403, f"{ELSEWHERE}\n".encode())
    assert "--url" in ELSEWHERE and asked(guard, "GET", "/", host="localhost:7860")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("reset", {"event_id": "a1"}, 200), ("reset", {"session_hash": "a1"}, 422),
        ("reset", {"event_id": "../a"}, 422), ("reset", {}, 422),
        ("cancel", {"session_hash": "a1", "fn_index": 0, "event_id": "b"}, 200),
        ("cancel", {"event_id": "b"}, 422),
    ],
    ids=range(6),
)  # fmt: skip
def test_a_question_may_be_called_off_as_the_page_does_it(path, body, status):
    guard = Guard(passed, hosts_of("127.0.0.1"))
    content = json.dumps(body).encode()
    assert asked(guard, "POST", f"/gradio_api/{path}", content, host="localhost")[0] == status


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (f"{URL}/", URL), (URL, URL), ("http://[::1]:8000/a/", "http://[::1]:8000/a"),
        ("https://x-7860.prod.colab.dev", "https://x-7860.prod.colab.dev"),
    ],
)  # fmt: skip
def test_an_address_is_taken_without_its_last_slash(url, found):
    assert behind(url) == found


@pytest.mark.parametrize(
    "url",
    ["hub.example/x", "ftp://hub.example/", "https://", "https:///x", "https://me:pw@hub.example/",
     "https://hub.example/?token=1", "https://hub.example/#x", "https://hub.example:99999/", "https://[::1/",
     'https://hub.example/"><script>', "https://hub.example/ x", "javascript:alert(1)", "https://h" + "x" * 2000],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_address_is_said(url):
    with pytest.raises(InputError, match="give the address that the browser shows"):
        behind(url)


@contextmanager
def served_at(port: int, url: str) -> Iterator[None]:
    """The page on a port, under an address."""
    words = ["serve", "--offline", "--port", str(port), "--url", url]
    process = subprocess.Popen(
        [sys.executable, "-m", "willfit", *words], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == url + "\n"
        yield
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.mark.parametrize("host", [None, "localhost:1"], ids=["name-kept", "name-replaced"])
def test_the_page_works_in_a_browser_behind_a_proxy(host):
    needed("gradio", "gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with browsing() as browser, proxying(port, host) as (shown, outside):
        url = f"http://hub.localhost:{shown}{PREFIX}/"  # browsers take *.localhost for loopback
        with served_at(port, url):
            page = browser.new_page()
            page.goto(f"{url}?model=gpt2&gpu=T4")
            page.wait_for_selector("#wf-result-estimate .wf-answer")
            page.fill("#wf-batch_size :is(textarea, input)", "3")
            page.click("#wf-ask-estimate")
            page.wait_for_function("location.search.includes('batch_size=3')")
            assert page.url.startswith(url) and "Fits" in page.inner_text(".wf-said")
            page.close()
    assert set(outside) <= {"/favicon.ico"}  # which browsers ask for by themselves
