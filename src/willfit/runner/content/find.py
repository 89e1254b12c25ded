"""Where a model's files lie: a folder, a file, or a snapshot in huggingface_hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from willfit.errors import InputError, ModelAccessError, ModelNotFoundError
from willfit.runner.content.digests import regular
from willfit.runner.content.files import SUBFOLDERS, PartName, part_of, set_of, why_incomplete
from willfit.sources.hub import HUB_ID, _cache_path
from willfit.sources.limits import MAX_CONFIG_BYTES, json_object, read_bounded, unreadable
from willfit.sources.local import is_path_like

Files = Mapping[PartName, Mapping[str, Path]]

_IN_SNAPSHOTS: Final = (
    "config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json",
    "modules.json", "model.safetensors", "params.json",
)  # fmt: skip
"""Files by one of which the snapshot of any model, adapter or tokenizer is found."""
_GGUF_ON_HUB: Final = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^:?#]+\.gguf)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files of a model by part."""

    path: Path
    """What was named: a folder, a snapshot or a file."""
    folder: Path
    files: Files
    """Files of each part by their names from the folder."""

    def paths(self) -> Iterator[Path]:
        """All files, part by part."""
        for files in self.files.values():
            yield from files.values()


def find_model(
    source: str,
    revision: str | None,
    parts: Collection[PartName],
    *,
    trust_remote_code: bool,
) -> Found:
    """The files that the wanted parts of a model consist of; raises `InputError`."""
    path = _local(source) or _snapshot(source, revision)
    folder = path if path.is_dir() else path.parent
    names = _in_folder(folder) if path.is_dir() else _with_file(path)
    if "weights" in parts:
        _check_complete(source, path, names)
    wanted = set(parts) if trust_remote_code else set(parts) - {"code"}
    files: dict[PartName, dict[str, Path]] = {}
    for name in names:
        part = part_of(name)
        if part is not None and part in wanted:
            files.setdefault(part, {})[name] = folder / name
    if "code" in wanted:
        files.setdefault("code", {}).update(_code_elsewhere(folder))
    if not any(files.values()):
        raise ModelNotFoundError(
            f"{path} holds no {' or '.join(parts)}: expected the files of a model"
        )
    return Found(path=path, folder=folder, files=files)


def _local(source: str) -> Path | None:
    """The path, if it is one; as for transformers, what lies on this disk comes first."""
    if not source.strip() or not source.isprintable():
        raise InputError(f"{source[:60]!r} names no model: expected a folder, a file or a Hub id")
    path = Path(source).expanduser() if source.startswith("~") else Path(source)
    if os.path.lexists(path):
        try:
            path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        return path.absolute()
    if is_path_like(source) or path.is_absolute():
        raise ModelNotFoundError(f"there is no file or folder {source}: check the path")
    return None


def _snapshot(source: str, revision: str | None) -> Path:
    """Folder (or GGUF file) of a Hub id at a revision, as the cache has it."""
    file = _GGUF_ON_HUB.fullmatch(source)
    if file and ".." not in source:
        path = _cache_path(file["repo"], file["file"], revision)
        if path is not None:
            return path
    elif HUB_ID.fullmatch(source) and ".." not in source:
        tried = (_cache_path(source, name, revision) for name in _IN_SNAPSHOTS)
        path = next((path for path in tried if path is not None), None)
        if path is not None:
            return path.parent
    else:
        raise ModelNotFoundError(
            f"there is no file or folder {source[:200]!r}, and it is no Hub id such as "
            "google/gemma-2-9b-it: check the name"
        )
    at = f" at revision {revision}" if revision else ""
    raise ModelAccessError(
        f"{source} is not in the cache of huggingface_hub{at}: download it first "
        f"(hf download {_download(source, revision)}), or name a folder"
    )


def _download(source: str, revision: str | None) -> str:
    file = _GGUF_ON_HUB.fullmatch(source)
    what = f"{file['repo']} {file['file']}" if file else source
    return f"{what} --revision {revision}" if revision else what


def _in_folder(folder: Path) -> list[str]:
    """Names of the files in a folder and in those below that loading reads."""
    names = _listed(folder)
    for below in (*SUBFOLDERS, *_modules(folder, names)):
        if (folder / below).is_dir():
            names += [f"{below}/{name}" for name in _listed(folder / below)]
    return names


def _listed(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
    except OSError as error:
        raise unreadable(folder, error) from error
    return [name for name in names if not (folder / name).is_dir()]


def _modules(folder: Path, names: Iterable[str]) -> list[str]:
    """Folders of a sentence-transformers model, which its ``modules.json`` lists."""
    path = folder / "modules.json"
    if path.name not in names:
        return []
    content = b'{"modules": %s}' % _small(path)  # it is a list
    listed = json_object(content, str(path))["modules"]
    rows = listed if isinstance(listed, list) else []
    given = [row.get("path") for row in rows if isinstance(row, dict)]
    return [path for path in given if isinstance(path, str) and _is_below(path)]


def _small(path: Path) -> bytes:
    regular(path)  # a pipe would be waited for
    return read_bounded(path, MAX_CONFIG_BYTES)


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not path.startswith("/") and "\0" not in path


def _with_file(path: Path) -> list[str]:
    """A weight file with the rest of its set, and what lies beside it that is no weights."""
    if part_of(path.name) != "weights":
        raise InputError(
            f"{path} holds no weights: name the model's folder, or a file such as "
            "model.safetensors or model.gguf"
        )
    beside = [name for name in _listed(path.parent) if part_of(name) != "weights"]
    return [*set_of(path.name), *beside]


def _check_complete(source: str, path: Path, names: list[str]) -> None:
    why = _why_incomplete(names) if path.is_dir() else _why_broken_off(path.parent, names)
    if why:
        raise ModelAccessError(
            f"{source} cannot be loaded from {path} ({why}): download it completely"
        )


def _why_incomplete(names: list[str]) -> str:
    """What is missing in any of the folders that hold weights; "" where nothing is."""
    folders: dict[str, list[str]] = {}
    for name in names:
        above, _, last = name.rpartition("/")
        folders.setdefault(above, []).append(last)
    stored = [inner for inner in folders.values() if any(part_of(n) == "weights" for n in inner)]
    if not stored:
        return "it holds no weights"
    return next(filter(None, map(why_incomplete, stored)), "")


def _why_broken_off(folder: Path, names: list[str]) -> str:
    lost = (name for name in names if not os.path.lexists(folder / name))
    return next((f"{name} is missing" for name in lost), "")


def _code_elsewhere(folder: Path) -> dict[str, Path]:
    """Python files of other repositories, which ``auto_map`` names: ``owner/name--file.Class``."""
    found = {}
    for repo in sorted(_repos(folder / "config.json") | _repos(folder / "tokenizer_config.json")):
        home = _code_folder(repo)
        found.update({f"{repo}--{n}": home / n for n in _listed(home) if part_of(n) == "code"})
    return found


def _code_folder(repo: str) -> Path:
    if os.path.isdir(repo):  # noqa: PTH112 - any text is asked for
        return Path(repo)
    return _snapshot(repo, None)


def _repos(path: Path) -> set[str]:
    try:
        config = json_object(_small(path), str(path))
    except InputError:  # absent, or broken: who loads it will say so
        return set()
    auto_map = config.get("auto_map")
    return {text.partition("--")[0] for text in _texts(auto_map) if "--" in text}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
