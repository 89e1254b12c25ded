"""A proxy as Jupyter's: it shows a server of this machine under a path, and takes the path off."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PREFIX = "/user/me/proxy/7860"


@contextmanager
def proxying(port: int, host: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Its port, and what was asked outside its path; ``host`` is sent on instead of the browser's."""
    outside: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(PREFIX):
                outside.append(self.path)
                self.send_error(404)
                return
            server = http.client.HTTPConnection("127.0.0.1", port)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = dict(self.headers.items()) | ({"Host": host} if host else {})
            server.request(self.command, self.path.removeprefix(PREFIX), body or None, headers)
            self._pass_on(server.getresponse())

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def _pass_on(self, response: http.client.HTTPResponse) -> None:
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            while piece := response.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy.server_port, outside
    finally:
        proxy.shutdown()
        proxy.server_close()
