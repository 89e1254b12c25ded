"""What a model's name may mean on the page: the catalogue, the Hub, an upload; never this disk."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Final

from willfit.errors import InputError, ModelAccessError, ModelNotFoundError
from willfit.scenario import ModelSpec
from willfit.units import MIB

HUB_CACHE: Final = "WILLFIT_WEB_HUB_CACHE"
"""Environment of a worker: the folder that it may empty."""
UPLOADED: Final = "config.json"
"""The name of an uploaded config; no catalogue name and no Hub id has it."""
MAX_CONFIG: Final = 2 * MIB
"""Bytes of an upload; the largest real configs, with 21,841 labels, stay below."""
_HUB_ID: Final = re.compile(
    r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(?:/[\w.-]{1,120}\.gguf|:[\w.-]{2,40})?", re.ASCII
)
_ENDINGS: Final = (".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".yaml", ".yml")


def finder(named: Collection[str], config: str, *, network: bool) -> Callable[[str], ModelSpec]:
    """What a name means: only those that the visitor ``named`` are asked of the Hub."""

    def find(name: str) -> ModelSpec:
        if config and name == UPLOADED:
            return uploaded(config)
        known = in_catalogue(name)
        if known is not None:
            return known
        return from_hub(name, network=network and name in named)

    return find


@lru_cache(maxsize=256)
def in_catalogue(name: str) -> ModelSpec | None:
    """The catalogue's checkpoint of that name or alias."""
    from willfit.sources import catalogue

    return catalogue.load(name)


def uploaded(text: str) -> ModelSpec:
    """The model of a ``config.json``'s text, as data; raises `InputError` on any other."""
    from willfit.sources.checkpoint import spec_of_config
    from willfit.sources.limits import json_object

    content = text.encode("utf-8", "replace")
    if len(content) > MAX_CONFIG:
        raise InputError("the config.json has more than 2 MiB, which no real one has: check it")
    config = json_object(content, UPLOADED)
    if "peft_type" in config:
        raise InputError(
            "the upload is an adapter_config.json, not a model's: name the model that it adapts, "
            "and put its r and target_modules into the LoRA settings"
        )
    return spec_of_config(config, UPLOADED, "an uploaded config: shapes from the config")


def from_hub(name: str, *, network: bool) -> ModelSpec:
    """The model of that Hub id; raises `InputError` on what is none, or must not be asked."""
    if not is_hub_id(name):
        raise _no_name(name)
    if not network:
        raise ModelAccessError(
            f"{name} is not in the catalogue, and the Hub is not asked here: upload its "
            "config.json, or name a model of the list"
        )
    from willfit.sources.gguf_remote import RemoteGgufSource
    from willfit.sources.hub import HubSource

    try:
        found = RemoteGgufSource().find(name) or HubSource().find(name)
    finally:
        _forget()
    if found is None:
        raise _no_name(name)
    return found


def is_hub_id(name: str) -> bool:
    """Whether a name can only be ``owner/name`` on the Hub, a GGUF file there, or a tag of one."""
    if _HUB_ID.fullmatch(name) is None or ".." in name or "--" in name:
        return False
    return not name.lower().endswith(_ENDINGS)


def _no_name(name: str) -> InputError:
    from willfit.sources.catalogue import nearest

    if re.search(r"[/\\~:]|\.\w+$", name) and not is_hub_id(name):
        return InputError(
            f"{name[:60]!r} is neither in the catalogue nor a Hub id such as "
            "meta-llama/Meta-Llama-3-8B: files and addresses are not read by name, upload the "
            "model's config.json"
        )
    close = " or ".join(nearest(name[:100], 3))
    return ModelNotFoundError(f"no model is called {name[:60]!r}: did you mean {close}?")


def _forget() -> None:
    """Empty the Hub client's cache, where the page has made one for this process alone."""
    cache = os.environ.get(HUB_CACHE)
    if cache:
        for entry in Path(cache).iterdir():
            shutil.rmtree(entry, ignore_errors=True)
