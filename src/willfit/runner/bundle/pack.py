"""A wheel made again from an installed package: its files by its RECORD, or its source folder."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from willfit.errors import InputError

_OF_INSTALLERS: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
"""Files in a ``.dist-info`` that whoever installs writes."""
_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""Of every member: the same files make the same bytes."""


def pack(name: str, folder: Path, *, path: list[str] | None = None) -> Path:
    """The wheel of an installed package of pure Python, in ``folder``.

    Works for an installed wheel and for an editable install, whose files are those of its source
    folder. ``path``: where packages are looked for, ``sys.path`` by default. Raises `InputError`
    where the package is not installed, or its metadata is that of another version.
    """
    distribution = _distribution(name, path)
    files = _installed(distribution) or _source(name, distribution)
    info = _info_folder(distribution)
    own = {f"{info}/{file}": content for file, content in _metadata(distribution, info).items()}
    members = {arc: where.read_bytes() for arc, where in sorted(files.items())} | own
    target = folder / f"{info.removesuffix('.dist-info')}-{_tags(own[f'{info}/WHEEL'])}.whl"
    _write(target, members, f"{info}/RECORD")
    return target


def _distribution(name: str, path: list[str] | None) -> importlib.metadata.Distribution:
    where = sys.path if path is None else path
    found = next(iter(importlib.metadata.distributions(name=name, path=where)), None)
    if found is None or found.files is None:
        raise InputError(
            f"{name} is not installed as a package with a record of its files: pip install it, "
            "so that a wheel can be made of it"
        )
    return found


def _info_folder(distribution: importlib.metadata.Distribution) -> str:
    tops = {file.parts[0] for file in distribution.files or ()}
    return next(top for top in sorted(tops) if top.endswith(".dist-info"))


def _installed(distribution: importlib.metadata.Distribution) -> dict[str, Path]:
    """Files of the package by their place in the wheel; none for an editable install."""
    return {
        file.as_posix(): Path(str(file.locate()))
        for file in distribution.files or ()
        if _is_packed(file) and not file.parts[0].endswith(".dist-info")
    }


def _is_packed(file: PurePosixPath) -> bool:
    """Not scripts, which are made anew, nor what Python compiles, nor what makes it editable."""
    return (
        ".." not in file.parts
        and not file.is_absolute()
        and "__pycache__" not in file.parts
        and file.suffix not in (".pyc", ".pth")
        and not file.name.startswith("__editable__")
    )


def _source(name: str, distribution: importlib.metadata.Distribution) -> dict[str, Path]:
    """Files of the folder that an editable install points to."""
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise InputError(f"{name} is installed and cannot be imported: install it again")
    folder = Path(spec.origin).parent
    _require_current(name, folder, distribution.version)
    return {
        f"{folder.name}/{file.relative_to(folder).as_posix()}": file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and _is_packed(PurePosixPath(file.relative_to(folder).as_posix()))
    }


def _require_current(name: str, folder: Path, version: str) -> None:
    stated = folder / "_version.py"
    if stated.is_file() and f'"{version}"' not in stated.read_text(encoding="utf-8"):
        raise InputError(
            f"{name} was installed as {version} and its source folder {folder} has gone on since: "
            "pip install -e it again"
        )


def _metadata(distribution: importlib.metadata.Distribution, info: str) -> dict[str, bytes]:
    """What the wheel's ``.dist-info`` had, by name in it."""
    return {
        file.relative_to(info).as_posix(): Path(str(file.locate())).read_bytes()
        for file in distribution.files or ()
        if file.parts[0] == info and file.name not in _OF_INSTALLERS
    }


def _tags(wheel: bytes) -> str:
    """The tags of a WHEEL file as names have them: ``py2.py3-none-any``."""
    tags = [
        line.partition(": ")[2] for line in wheel.decode().splitlines() if line.startswith("Tag: ")
    ]
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(dict.fromkeys(column)) for column in columns)


def _write(target: Path, members: Mapping[str, bytes], record: str) -> None:
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in members.items()]
    listed = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, record: listed}.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
