"""Server: the page behind its guard, on a socket of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from willfit.errors import InputError
from willfit.web.guard import Guard
from willfit.web.service import Service

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_ASSETS: Final = Path(__file__).with_name("assets")
_ADDRESS: Final = re.compile(r"https?://[\w.\-:\[\]]{1,255}(?:/[\w.~%@:+/-]{0,1000})?", re.ASCII)
"""Without a password, a query or a fragment."""
QUEUE: Final = 64
"""Questions that wait; the next one is told that the queue is full."""
STATUS_SECONDS: Final = 5.0
"""How often those who wait are told so; at every answer it would cost more than the answer."""
SESSIONS: Final = 256
"""Visitors that Gradio remembers; one that it forgot is a new one."""
CONNECTIONS: Final = 600
"""Open at a time: a page holds two to four."""


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `InputError` where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OverflowError:
        raise InputError(f"--port {port} is no port: give 0 to 65535, 0 for any free one") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            f"cannot listen on {host} port {port} ({reason.lower()}): choose another with --port"
        ) from None


@contextlib.contextmanager
def running(host: str, *, online: bool, url: str = "") -> Iterator[Guard]:
    """The page as an ASGI application; nothing of it is left behind.

    ``url`` is what `behind` made of the address that a proxy shows the page under.
    """
    with tempfile.TemporaryDirectory(prefix="willfit-page-") as folder:
        service = Service(Path(folder), online=online)  # before the environment is for Gradio alone
        _quiet(Path(folder))
        try:
            yield Guard(application(service, url), hosts_of(host, url), origin_of(url))
        finally:
            service.close()


def hosts_of(host: str, url: str = "") -> frozenset[str] | None:
    """Names by which a visitor may call the server; None is every name.

    A page from elsewhere could otherwise reach a server on loopback by a name of its own.
    """
    if host not in LOOPBACK:
        return None
    return frozenset({"127.0.0.1", "localhost", "[::1]", *_name_of(url)})


def _name_of(url: str) -> Iterator[str]:
    name = urlsplit(url).hostname
    if name:
        yield f"[{name}]" if ":" in name else name


def behind(url: str) -> str:
    """The address that a proxy shows the page under, without the last ``/``.

    Raises `InputError` on what is none.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _ADDRESS.fullmatch(url):
        raise InputError(
            f"--url cannot be {url[:80]!r}: give the address that the browser shows, such as "
            "https://hub.example/user/me/proxy/7860/"
        )
    return url.rstrip("/")


def origin_of(url: str) -> str:
    """Scheme, name and port of an address, as a browser sends them; "" of none."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}" if url else ""


def _quiet(folder: Path) -> None:
    """Settings of Gradio that it reads when it is imported."""
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_RUN_HISTORY="False",
        GRADIO_TEMP_DIR=str(folder),
        GRADIO_MCP_SERVER="False",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )


def application(service: Service, url: str = "") -> Any:
    """Gradio's application for the page."""
    import fastapi
    import gradio as gr

    from willfit.devices import all_gpus
    from willfit.sources.catalogue import entries
    from willfit.web.look import theme
    from willfit.web.page import build

    models = [entry.id for entry in entries()]
    page = build(
        service.ask,
        service.trace if _can_trace() else None,
        models,
        [gpu.name for gpu in all_gpus()],
        online=service.online,
    )
    page.queue(
        status_update_rate=STATUS_SECONDS,
        max_size=QUEUE,
        api_open=False,
        default_concurrency_limit=4,
    )
    page.state_session_capacity = SESSIONS
    outer = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    style, script = (
        (_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return gr.mount_gradio_app(
        outer,
        page,
        path="/",
        root_path=url or None,
        show_error=False,
        footer_links=[],
        run_history=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=theme(),
        head=f"<style>{style}</style><script>{script}</script>",  # css= would rewrite selectors
    )


def _can_trace() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers", "accelerate"))


def serve(app: Guard, listener: socket.socket) -> None:
    """Answer until Ctrl-C; raises `KeyboardInterrupt` then."""
    import uvicorn

    signal.signal(signal.SIGTERM, _leave)
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=0,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
