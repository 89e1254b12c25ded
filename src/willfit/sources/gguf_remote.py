"""GGUF models that are not on this disk: a URL, ``org/repo/file.gguf`` or ``org/repo:Q4_K_M``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from willfit.errors import InputError, ModelAccessError, ModelNotFoundError
from willfit.scenario.model import ModelSpec
from willfit.sources.gguf import gguf_spec, grow_header, shard_names
from willfit.sources.gguf_header import GgufHeader
from willfit.sources.source import Asked, Source

_FILE: Final = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})/(?P<file>[^:?#]+\.gguf)", re.ASCII)
_TAG: Final = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96}):(?P<tag>[\w.-]{2,40})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RemoteGgufSource(Source):
    """GGUF files by URL or by their place on the Hub."""

    asked: Asked = field(default_factory=Asked)

    def find(self, name: str) -> ModelSpec | None:
        """The model of that file; None for names of any other kind."""
        if "://" in name:
            return self._by_url(name)
        file, tag = _FILE.fullmatch(name), _TAG.fullmatch(name)
        if file:
            return self._by_file(file["repo"], file["file"], name)
        return self._by_tag(tag["repo"], tag["tag"], name) if tag else None

    def _by_url(self, name: str) -> ModelSpec:
        parts = urlsplit(name)
        if parts.scheme not in ("http", "https") or not parts.path.endswith(".gguf"):
            raise InputError(
                f"{name[:200]} is no address of a GGUF file: expected https://….gguf, a Hub id "
                "or a path"
            )
        path = parts.path.replace("/blob/", "/resolve/", 1)
        folder, _, file = path.rpartition("/")
        urls = [
            urlunsplit((parts.scheme, parts.netloc, f"{folder}/{part}", parts.query, ""))
            for part in shard_names(file)
        ]
        return self._read(urls, name)

    def _by_file(self, repo: str, file: str, name: str) -> ModelSpec:
        from huggingface_hub import hf_hub_url

        folder, _, last = file.rpartition("/")
        prefix = f"{folder}/" if folder else ""
        revision = self.asked.revision
        urls = [hf_hub_url(repo, prefix + part, revision=revision) for part in shard_names(last)]
        return self._read(urls, name)

    def _by_tag(self, repo: str, tag: str, name: str) -> ModelSpec:
        from willfit.sources.hub import list_repo
        from willfit.sources.weight_files import is_first_shard

        self._refuse_offline(name)
        files = [f for f in list_repo(repo, self.asked).sizes if f.endswith(".gguf")]
        found = [f for f in files if is_first_shard(f) and has_tag(f, tag)]
        if len(found) == 1:
            return self._by_file(repo, found[0], name)
        tags = ", ".join(sorted(f for f in files if is_first_shard(f))[:6]) or "none"
        raise ModelNotFoundError(
            f"{repo} has {len(found)} GGUF files for {tag!r}, expected one: name the file as "
            f"{repo}/FILE, of {tags}"
        )

    def _read(self, urls: list[str], name: str) -> ModelSpec:
        self._refuse_offline(name)
        headers = [self._header(url, name) for url in urls]
        return gguf_spec(headers, name=name, where=name)

    def _header(self, url: str, name: str) -> GgufHeader:
        from willfit.sources.hub_errors import asking
        from willfit.sources.remote import fetch_part

        content = bytearray()

        def start(length: int) -> tuple[bytes, int | None]:
            have = len(content)
            self.asked.progress(f"{name}: reading up to {length:,} bytes of its header")
            part = asking(name, lambda: fetch_part(url, have, length - have, where=name))
            content.extend(part.content)
            return bytes(content), part.file_bytes

        return grow_header(start, name)

    def _refuse_offline(self, name: str) -> None:
        from willfit.sources.hub import offline_mode

        if self.asked.offline or offline_mode():
            raise ModelAccessError(
                f"{name} is on the network, and offline mode is on: unset HF_HUB_OFFLINE, or "
                "name a .gguf file on this disk"
            )


def has_tag(file: str, tag: str) -> bool:
    """Whether a file name carries a quantisation tag: ``model-Q4_K_M.gguf`` has ``q4_k_m``."""
    wanted = re.escape(tag.lower().removesuffix(".gguf"))
    return re.search(rf"(?:^|[-./_]){wanted}(?:[-./]|$)", file.lower()) is not None
