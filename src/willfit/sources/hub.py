"""Models on the Hugging Face Hub: config and file headers, never a weight.

One listing, the config (cached by huggingface_hub), and one or two range requests a weight file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError, ModelAccessError
from willfit.scenario.collapse import NamedTensor
from willfit.scenario.model import ModelSpec
from willfit.sources.checkpoint import spec_of
from willfit.sources.configs import check_config
from willfit.sources.hub_errors import asking, offline
from willfit.sources.limits import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    json_object,
    read_bounded,
)
from willfit.sources.remote import fetch_part
from willfit.sources.safetensors import (
    PREFIX_BYTES,
    Header,
    check_complete,
    header_length,
    joined,
    parse_header,
    parse_index,
    read_header,
)
from willfit.sources.source import Asked, Source
from willfit.sources.structure import Checkpoint
from willfit.sources.weight_files import WeightFiles, pick_weights
from willfit.units import KIB, format_bytes

HUB_ID: Final = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
"""``owner/name``, or a name alone as the oldest models have."""

PROBE_BYTES: Final = 64 * KIB
"""First range of a weight file: most headers end within it, which saves the second request."""
_THREADS: Final = 8
_QUIET_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Repo:
    """A repository at one commit."""

    id: str
    commit: str
    revision: str | None
    """As asked for: the cache remembers branches by name, which serves later runs offline."""
    sizes: Mapping[str, int | None]
    """Bytes of each file, None where the Hub does not say."""


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """Models by their Hub id."""

    asked: Asked = field(default_factory=Asked)

    def find(self, name: str) -> ModelSpec | None:
        """The model of that id; None where the name cannot be one."""
        if not HUB_ID.fullmatch(name) or ".." in name:
            return None
        if self.asked.offline or offline_mode():
            return self._cached(name, offline(name), "")
        try:
            repo = list_repo(name, self.asked)
        except ModelAccessError as error:
            note = "the Hub cannot be read: shapes are those of the copy in its cache"
            return self._cached(name, error, note)
        return self._read(repo)

    def _read(self, repo: Repo) -> ModelSpec:
        weights = pick_weights(repo.sizes)
        self._refuse_what_is_no_model(repo, weights)
        config = self._config(repo) if "config.json" in repo.sizes else {}
        tensors = read_tensors(repo, weights, self.asked)
        return self._spec(repo.id, config, tensors, weights.why_none)

    def _config(self, repo: Repo) -> dict[str, Any]:
        where = f"config.json of {repo.id}"
        config = json_object(download(repo, "config.json", MAX_CONFIG_BYTES), where)
        check_config(config, where)
        return config

    def _refuse_what_is_no_model(self, repo: Repo, weights: WeightFiles) -> None:
        stored = weights.index or weights.files
        if weights.gguf and not stored and "pickled" not in weights.why_none:
            raise InputError(_only_gguf(repo.id, weights.gguf))
        if "config.json" in repo.sizes or (stored and "adapter_config.json" not in repo.sizes):
            return
        if "adapter_config.json" in repo.sizes:
            raise InputError(
                f"{repo.id} is a PEFT adapter, not a model: name the model that it adapts, and "
                "add --peft-config with its adapter_config.json to train it"
            )
        if "model_index.json" in repo.sizes:
            raise InputError(
                f"{repo.id} is a diffusers pipeline of several models: download the one you mean "
                "and name its folder"
            )
        raise ModelAccessError(
            f"{repo.id} has no config.json and no .safetensors or .gguf file, so nothing tells "
            f"its shapes: it holds {', '.join(sorted(repo.sizes)[:4]) or 'nothing'}"
        )

    def _cached(self, name: str, error: InputError, note: str) -> ModelSpec:
        """The copy in huggingface_hub's cache, with its weights if they are there."""
        path = _cache_path(name, "config.json", self.asked.revision)
        if path is None:
            raise error
        from willfit.sources.local import read_checkpoint_folder

        config, tensors, why_none = read_checkpoint_folder(path.parent)
        return self._spec(name, config, tensors, "; ".join(filter(None, (why_none, note))))

    def _spec(
        self, repo: str, config: Mapping[str, Any], tensors: tuple[NamedTensor, ...], note: str
    ) -> ModelSpec:
        return spec_of(
            Checkpoint(
                id=repo,
                source="hub",
                config=config,
                tensors=tensors,
                why_no_headers=note,
            )
        )


def list_repo(name: str, asked: Asked) -> Repo:
    """Files of a repository with their sizes, in one request."""
    from huggingface_hub import HfApi, constants

    info = asking(
        name,
        lambda: HfApi(library_name="willfit").model_info(
            name,
            revision=asked.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        ),
    )
    sizes = {str(file.rfilename): file.size for file in info.siblings or ()}
    commit = info.sha or asked.revision or "main"
    return Repo(id=name, commit=commit, revision=asked.revision, sizes=sizes)


def download(repo: Repo, file: str, limit: int) -> bytes:
    """Content of a small file, through the client's cache."""
    from huggingface_hub import hf_hub_download

    size = repo.sizes.get(file)
    if size is not None and size > limit:
        raise BrokenFileError(
            f"{file} of {repo.id} has {format_bytes(size)}, more than {format_bytes(limit)}, "
            "which no real one has: it is not read"
        )
    path = asking(
        repo.id,
        lambda: hf_hub_download(repo.id, file, revision=repo.revision, library_name="willfit"),
    )
    return read_bounded(Path(path), limit)


def read_tensors(repo: Repo, weights: WeightFiles, asked: Asked) -> tuple[NamedTensor, ...]:
    """Tensors of all weight files of a repository, from their headers."""
    index: dict[str, list[str]] = {}
    if weights.index:
        where = f"{weights.index} of {repo.id}"
        index = parse_index(download(repo, weights.index, MAX_INDEX_BYTES), where)
        missing = sorted(index.keys() - repo.sizes.keys())
        if missing:
            raise BrokenFileError(
                f"{where} names {len(index)} files and {len(missing)} are not in the repository, "
                f"such as {missing[0]}: its upload is incomplete"
            )
    headers = _read_headers(repo, tuple(index) or weights.files, asked)
    check_complete(index, headers, repo.id)
    return joined(headers.values(), repo.id)


def _read_headers(repo: Repo, files: tuple[str, ...], asked: Asked) -> dict[str, Header]:
    began, found = time.monotonic(), {}
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        waiting = {pool.submit(remote_header, repo, file): file for file in files}
        try:
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                if time.monotonic() - began > _QUIET_SECONDS:
                    asked.progress(f"{repo.id}: {len(found)} of {len(files)} file headers read")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {file: found[file] for file in files}


def remote_header(repo: Repo, file: str) -> Header:
    """Header of one weight file: from the cache if it is there, else by range requests."""
    from huggingface_hub import hf_hub_url

    cached = _cache_path(repo.id, file, repo.commit)
    if cached is not None:
        return read_header(cached)
    url, where = hf_hub_url(repo.id, file, revision=repo.commit), f"{file} of {repo.id}"
    part = asking(repo.id, lambda: fetch_part(url, 0, PROBE_BYTES, where=where))
    size = part.file_bytes or repo.sizes.get(file)
    length = header_length(part.content, where, size)
    content = part.content[PREFIX_BYTES : PREFIX_BYTES + length]
    if len(content) < length:
        start, rest = PREFIX_BYTES + len(content), length - len(content)
        more = asking(repo.id, lambda: fetch_part(url, start, rest, where=where))
        content += more.content
    if len(content) < length:
        raise BrokenFileError(
            f"{where} ends after {len(content):,} of the {length:,} bytes of its header: "
            "its upload is incomplete"
        )
    return parse_header(content, where, size)


def _only_gguf(repo: str, files: tuple[str, ...]) -> str:
    shown = ", ".join(files[:6]) + (f" and {len(files) - 6} more" if len(files) > 6 else "")
    return (
        f"{repo} holds GGUF files only, each another quantisation: name one, for example "
        f"{repo}/{files[0]} (there are {shown})"
    )


def offline_mode() -> bool:
    """Whether the user switched huggingface_hub offline (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    asked = getattr(constants, "isoffline_mode", None)
    return bool(asked()) if callable(asked) else bool(constants.HF_HUB_OFFLINE)


def _cache_path(repo: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repo, file, revision=revision)
    except (OSError, ValueError):  # an unreadable cache is no cache
        return None
    return Path(found) if isinstance(found, str) else None
