"""Parts of remote files by HTTP range requests, through huggingface_hub's own session."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from willfit.errors import ModelAccessError
from willfit.units import MIB

MAX_SECONDS: Final = 120.0
"""Longest time for one range: a server that drips bytes is given up after that."""
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes of a remote file from a position on."""

    content: bytes
    file_bytes: int | None
    """Size of the whole file, None where the server does not say."""


def fetch_part(url: str, start: int, length: int, *, where: str) -> Part:
    """At most ``length`` bytes from ``start``; fewer only at the end of the file.

    Never reads more, even from a server that ignores the range. Raises what huggingface_hub
    raises for an error status, and `ModelAccessError` for a server without ranges.
    """
    wanted = f"bytes={start}-{start + length - 1}"
    with _opened(url, {**_headers(url), "Range": wanted}) as response:
        _raise_for_status(response)
        if response.status_code == 206:
            return Part(content=_bounded(response, length, where), file_bytes=_total(response))
        if start:
            raise ModelAccessError(
                f"the server of {where} does not answer range requests, so its header cannot be "
                "read without downloading the weights: download it and name the folder"
            )
        size = response.headers.get("Content-Length")
        return Part(
            content=_bounded(response, length, where),
            file_bytes=int(size) if size and size.isdigit() else None,
        )


def _client() -> Any:
    """huggingface_hub's public helpers, which its stubs do not export by name."""
    import huggingface_hub.utils

    return huggingface_hub.utils


def _headers(url: str) -> dict[str, str]:
    """The client's headers; the token goes to the Hub's own host and nowhere else."""
    from huggingface_hub import constants

    own = urlsplit(url).netloc == urlsplit(constants.ENDPOINT).netloc
    headers: dict[str, str] = _client().build_hf_headers(
        token=None if own else False, library_name="willfit"
    )
    return {**headers, "Accept-Encoding": "identity"}


@contextmanager
def _opened(url: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """A streamed response: httpx (huggingface_hub ≥ 1) or requests (0.x)."""
    from huggingface_hub import constants

    session = _client().get_session()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(getattr(session, "stream", None)):
        with session.stream(
            "GET", url, headers=dict(headers), timeout=timeout, follow_redirects=True
        ) as response:
            yield response
    else:
        with session.get(url, headers=dict(headers), timeout=timeout, stream=True) as response:
            yield response


def _raise_for_status(response: Any) -> None:
    if response.status_code >= 400 and callable(getattr(response, "read", None)):
        size = response.headers.get("Content-Length", "")
        if size.isdigit() and int(size) <= MIB:
            response.read()
    _client().hf_raise_for_status(response)


def _bounded(response: Any, length: int, where: str) -> bytes:
    chunks = getattr(response, "iter_raw", None)
    stream = chunks(_CHUNK_BYTES) if chunks else response.iter_content(_CHUNK_BYTES)
    content, began = bytearray(), time.monotonic()
    for chunk in stream:
        content += chunk
        if len(content) >= length:
            break
        if time.monotonic() - began > MAX_SECONDS:
            raise ModelAccessError(
                f"{where} answers too slowly: {len(content):,} bytes in {MAX_SECONDS:.0f} s: "
                "try again later, or download it and name the folder"
            )
    return bytes(content[:length])


def _total(response: Any) -> int | None:
    match = re.fullmatch(
        r"bytes \d+-\d+/(\d{1,18})", response.headers.get("Content-Range", "").strip()
    )
    return int(match[1]) if match else None
