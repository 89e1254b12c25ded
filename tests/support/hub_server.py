"""A small Hub on 127.0.0.1: the endpoints that huggingface_hub's client uses, good and bad.

It counts what it serves of every file, and can be gated, slow or broken by repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+|[^/]+)(?:/revision/(?P<rev>[^/]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")


@dataclass
class Sparse:
    """A file of which only the beginning is real; the rest is zeros that nobody should read."""

    start: bytes
    total: int

    def __len__(self) -> int:
        return self.total

    def slice(self, first: int, last: int) -> bytes:
        """Bytes ``first`` to ``last``, both included."""
        real = self.start[first : last + 1]
        return real + bytes(last + 1 - first - len(real))


@dataclass
class Repo:
    files: dict[str, bytes | Sparse] = field(default_factory=dict)
    mode: str = "ok"
    """ok, gated, private, bad_token, disabled, html, broken, busy, slow, drops, no_ranges, cdn."""
    unlisted: tuple[str, ...] = ()
    """Files that the listing names and the server does not have."""
    listed_sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that the listing claims instead of the true ones."""


class HubServer:
    """``with HubServer({"org/name": Repo(...)}) as hub`` serves them at ``hub.url``."""

    def __init__(self, repos: dict[str, Repo], slow_seconds: float = 6.0) -> None:
        self.repos, self.slow_seconds = repos, slow_seconds
        self.served: Counter[str] = Counter()
        """Body bytes sent, by ``repo/file``."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, headers) of everything that was asked."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, self.path, dict(self.headers.items())))
        if path.startswith("/cdn/"):
            return self._file(path.removeprefix("/cdn"), from_cdn=True)
        api = _API.fullmatch(path)
        if api:
            return self._listing(api["repo"], api["rev"])
        if _FILE.fullmatch(path):
            return self._file(path, from_cdn=False)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _listing(self, name: str, revision: str | None) -> None:
        repo = self._repo(name)
        if repo is None or self._refused(repo, name, listing=True):
            return None
        if revision not in (None, "main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        names = [*repo.files, *repo.unlisted]
        siblings = [
            {"rfilename": file, "size": repo.listed_sizes.get(file, len(repo.files.get(file, b"")))}
            for file in names
        ]
        info = {
            "_id": "1",
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str, *, from_cdn: bool) -> None:
        match = _FILE.fullmatch(path)
        repo = self._repo(match["repo"]) if match else None
        if match is None or repo is None or self._refused(repo, match["repo"], listing=False):
            return None
        content = repo.files.get(match["file"])
        if content is None:
            return self._send(
                404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            )
        heavy = match["file"].endswith((".safetensors", ".gguf"))
        if repo.mode == "cdn" and heavy and not from_cdn:
            location = f"http://localhost:{self.server_hub.port}/cdn{path}"
            etag = hashlib.sha1(path.encode()).hexdigest()
            return self._send(
                302,
                b"",
                {
                    "Location": location,
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-ETag": etag,
                    "X-Linked-Size": str(len(content)),
                },
            )
        return self._content(repo, f"{match['repo']}/{match['file']}", content)

    def _content(self, repo: Repo, name: str, content: bytes | Sparse) -> None:
        total = len(content)
        headers = {
            "ETag": f'"{hashlib.sha1(name.encode()).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and repo.mode != "no_ranges":
            first, last = int(asked[1]), min(int(asked[2]), total - 1)
            if first >= total:
                return self._send(416, b"", {"Content-Range": f"bytes */{total}"})
            body = _slice(content, first, last)
            self.server_hub.served[name] += len(body) if self.command == "GET" else 0
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
            return self._send(206, body, headers)
        if self.command == "HEAD":
            return self._send(200, b"", {**headers, "Content-Length": str(total)})
        self._head(200, {**headers, "Content-Length": str(total)})
        for start in range(0, total, 65536):  # counted piece by piece: the reader may hang up
            piece = _slice(content, start, min(start + 65536, total) - 1)
            try:
                self.wfile.write(piece)
            except OSError:
                return None
            self.server_hub.served[name] += len(piece)
        return None

    def _repo(self, name: str) -> Repo | None:
        repo = self.server_hub.repos.get(name)
        if repo is None:
            self._send(401, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        return repo

    def _refused(self, repo: Repo, name: str, *, listing: bool) -> bool:
        """Whether the repository's mode already answered."""
        answers = {
            "private": (401, b"", {"X-Error-Code": "RepoNotFound"}),
            "bad_token": (
                401,
                b"{}",
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            ),
            "disabled": (403, b"{}", {"X-Error-Message": "Access to this resource is disabled."}),
            "html": (200, b"<!DOCTYPE html><html>Please log in to this network</html>", {}),
            "broken": (502, b"<html>Bad gateway</html>", {}),
            "busy": (429, b"", {}),
        }
        if repo.mode == "slow":
            time.sleep(self.server_hub.slow_seconds)
        if repo.mode == "drops":
            self.close_connection = True
            return True
        if repo.mode == "gated" and not listing:
            self._send(
                403,
                b"",
                {
                    "X-Error-Code": "GatedRepo",
                    "X-Repo-Commit": COMMIT,
                    "X-Error-Message": f"Access to model {name} is restricted",
                },
            )
            return True
        if repo.mode in answers:
            self._send(*answers[repo.mode])
            return True
        return False

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # a reader that gave up waiting
            self._head(status, {"Content-Length": str(len(body)), **headers})
            if self.command == "GET":
                self.wfile.write(body)


def _slice(content: bytes | Sparse, first: int, last: int) -> bytes:
    return content.slice(first, last) if isinstance(content, Sparse) else content[first : last + 1]
