"""Wheels for a bundle: downloaded for the image's Python, or taken from a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from willfit.errors import BrokenFileError, InputError
from willfit.runner.bundle.image import Image, normal
from willfit.runner.content.digests import CHUNK_BYTES

MACHINE: Final = "x86_64"
"""Of every notebook with NVIDIA GPUs that Kaggle has."""
LOWEST_GLIBC: Final = 5
"""Minor version of the oldest glibc that wheels are made for (manylinux1)."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel's file and what its metadata says."""

    path: Path
    name: str
    """Normal name."""
    version: str
    requires: Mapping[str, str]
    """Specifier by normal name, of what it needs on the image, extras aside."""
    python: str
    """Versions of Python that it is for, as a specifier."""

    def json(self) -> dict[str, Any]:
        """As ``bundle.json`` has it."""
        return {
            "name": self.name,
            "version": self.version,
            "file": self.path.name,
            "bytes": self.path.stat().st_size,
            "sha256": _sha256(self.path),
            "requires": dict(self.requires),
            "python": self.python,
        }


def collect(
    names: Sequence[str], folder: Path, *, image: Image, python: str, given: Path | None
) -> tuple[Wheel, ...]:
    """Wheels of these packages in ``folder``, and of what they need that the image lacks.

    Each has the version that is installed here, else the latest; with ``given`` it is the newest in
    that folder which runs on the image. Raises `InputError` where there is none.
    """
    waiting, found = list(names), dict[str, Wheel]()
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        if given is not None:
            path = _copied(name, folder, image=image, python=python, given=given)
        else:
            path = _downloaded(name, folder, image=image, python=python)
        found[name] = read_wheel(path, python)
        waiting += [other for other in found[name].requires if not image.has(other)]
    return tuple(found.values())


def read_wheel(path: Path, python: str) -> Wheel:
    """What a wheel's name and metadata say; raises `BrokenFileError` where it is none."""
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            member = next(m for m in members if m.endswith(".dist-info/METADATA"))
            headers = HeaderParser().parsestr(archive.read(member).decode("utf-8", "replace"))
        requires = dict(_requires(headers.get_all("Requires-Dist") or [], python))
    except (InvalidWheelFilename, InvalidRequirement, zipfile.BadZipFile, StopIteration) as error:
        raise BrokenFileError(
            f"{path} is no whole wheel ({str(error)[:80] or 'no METADATA'}): download it again"
        ) from error
    return Wheel(
        path=path,
        name=normal(name),
        version=str(version),
        requires=requires,
        python=headers.get("Requires-Python") or "",
    )


def _requires(lines: Sequence[str], python: str) -> Iterator[tuple[str, str]]:
    """Requirements that hold on the image."""
    there = {
        "python_version": python, "python_full_version": f"{python}.0", "extra": "",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
        "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux",
        "platform_machine": MACHINE,
    }  # fmt: skip
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(there):
            yield normal(requirement.name), str(requirement.specifier)


def platforms(image: Image) -> list[str]:
    """Names of the image's platform in wheels, the newest glibc first."""
    major, minor = image.glibc
    newer = [f"manylinux_{major}_{m}_{MACHINE}" for m in range(minor, LOWEST_GLIBC - 1, -1)]
    older = [f"{name}_{MACHINE}" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    return [*newer, *older, f"linux_{MACHINE}"]


def _tags(image: Image, python: str) -> list[Tag]:
    """Tags of wheels that run on the image, the best first."""
    version = [int(part) for part in python.split(".")]
    names = platforms(image)
    interpreter = f"cp{''.join(map(str, version))}"
    return [
        *cpython_tags(version, platforms=names),
        *compatible_tags(version, interpreter=interpreter, platforms=names),
    ]


def _copied(name: str, folder: Path, *, image: Image, python: str, given: Path) -> Path:
    order = {tag: rank for rank, tag in enumerate(_tags(image, python))}
    fitting: list[tuple[Version, int, Path]] = []
    for path in sorted(given.glob("*.whl")):
        try:
            found, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        ranks = [order[tag] for tag in tags if tag in order]
        if normal(found) == name and ranks:
            fitting.append((version, -min(ranks), path))
    if not fitting:
        raise InputError(
            f"{given} has no wheel of {name} for Python {python}: put one there (pip download "
            f"--no-deps -d {given} {_pinned(name)}), or leave out --wheels to have it downloaded"
        )
    return Path(shutil.copy2(max(fitting)[2], folder))


def _downloaded(name: str, folder: Path, *, image: Image, python: str) -> Path:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download",
            "--no-deps", "--only-binary=:all:", "--dest", temporary, "--implementation", "cp",
            "--python-version", python,
            *(f"--platform={platform}" for platform in platforms(image)), _pinned(name),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError(
                f"{_pinned(name)} could not be downloaded for Python {python} "
                f"({_reason(done.stderr)}): give a folder that has it with --wheels"
            )
        return wheels[0].replace(folder / wheels[0].name)


def _pinned(name: str) -> str:
    """With the version that is installed here, if one is."""
    try:
        return f"{name}=={Version(importlib.metadata.version(name)).public}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1][:200].rstrip(".")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()
