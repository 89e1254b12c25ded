"""Guard: which requests reach the page at all; everything that it does not need is refused.

Gradio serves files, takes uploads, fetches addresses and describes an API; the page needs none of
that, so what may pass is listed, and no list of dangers has to be complete.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Final

from willfit.units import MIB

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY: Final = 8 * MIB
"""A question: 2 MiB each of text, script and config, with room for JSON's escapes."""
MAX_QUERY: Final = 8192
BODY_SECONDS: Final = 30.0
"""Longest time for a body to arrive."""
_READ: Final = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon"
    r"|/(?:assets|static)/[\w.@/-]{1,200}|/gradio_api/queue/data|/gradio_api/startup-events"
    r"|/gradio_api/heartbeat/\w{1,64}",
    re.ASCII,
)
_WRITE: Final = re.compile(r"/gradio_api/queue/join|/gradio_api/(?:cancel|reset)", re.ASCII)
ELSEWHERE: Final = (
    "this page is for the address that it was started with; behind a proxy such as Jupyter's or "
    "Colab's start it with --url and the address that the browser shows"
)
_SESSION: Final = re.compile(r"\w{1,64}", re.ASCII)
_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""A browser enforces with them that the page loads nothing from elsewhere."""


class Guard:
    """ASGI: passes what the page needs on to ``app``, and answers the rest itself."""

    def __init__(self, app: App, hosts: Collection[str] | None, origin: str = "") -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(hosts)
        """Names in the Host header that are meant for us; None takes every one."""
        self._origin = origin.encode()
        """Of the address that a proxy shows the page under; it may pass its own Host on."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a websocket that nobody accepts is closed
        refusal = self._refusal(scope)
        if refusal is not None:
            await _say(send, *refusal)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and sentence of what does not pass."""
        path, method = str(scope["path"]), str(scope["method"])
        headers = dict(scope["headers"])
        if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
            return 403, ELSEWHERE
        if len(scope.get("query_string", b"")) > MAX_QUERY:
            return 414, f"the address is longer than {MAX_QUERY} characters"
        allowed = {"GET": _READ, "HEAD": _READ, "POST": _WRITE}.get(method)
        if allowed is None or not allowed.fullmatch(path) or ".." in path or "//" in path:
            return 404, "there is no such thing on this page"
        if method == "POST" and not self._is_own(headers):
            return 403, "questions are asked from the page itself"
        return None

    def _is_own(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a page of this server asks; programs send no origin."""
        origin = headers.get(b"origin")
        own = headers.get(b"host", b"")
        return origin is None or origin == self._origin or origin.partition(b"://")[2] == own

    async def _post(self, scope: Message, receive: Receive, send: Send) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY:
            await _say(send, 413, f"a question has at most {MAX_BODY:,} bytes")
            return
        try:
            body = await asyncio.wait_for(_body(receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            await _say(send, 408, "the question did not arrive in time")
            return
        if body is None:
            await _say(send, 413, f"a question has at most {MAX_BODY:,} bytes")
            return
        if not is_question(body, str(scope["path"])):
            await _say(send, 422, "this is no question that the page asks")
            return
        await self._app(scope, _once(body, receive), _with_headers(send))


def is_question(body: bytes, path: str = "") -> bool:
    """Whether a body has the shape in which the page asks, or calls a question off."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    name = "event_id" if path.endswith("/reset") else "session_hash"
    if not isinstance(found, dict) or not _is_session(found.get(name)):
        return False
    index, data = found.get("fn_index", 0), found.get("data", [])
    return type(index) is int and isinstance(data, list) and all(map(_is_value, data))


def _is_session(name: object) -> bool:
    return isinstance(name, str) and _SESSION.fullmatch(name) is not None


def _is_value(value: object) -> bool:
    """A control's content: text, a number, a tick, or nothing."""
    return value is None or isinstance(value, (str, int, float, bool))


def _host(header: bytes) -> str:
    """The name without its port."""
    return re.sub(r":\d{1,5}$", "", header.decode("latin-1").lower())


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is too long."""
    pieces, size = [], 0
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(pieces)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever else comes."""
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending


async def _say(send: Send, status: int, sentence: str) -> None:
    body = f"{sentence}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *_HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
