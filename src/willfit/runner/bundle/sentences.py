"""What a pipeline still lacks where it will run, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from packaging.specifiers import SpecifierSet

from willfit.devices.places import Place, find_places
from willfit.runner.bundle.code import Code, foreign
from willfit.runner.bundle.disk import Disk
from willfit.runner.bundle.image import Image
from willfit.runner.bundle.needs import Need
from willfit.runner.bundle.placing import INPUTS, Placed
from willfit.runner.bundle.wheels import Wheel
from willfit.runner.pipeline import Pipeline, format_duration
from willfit.units import format_bytes

MARGIN_HOURS: Final = 0.25
"""Of a session, for starting, loading and the rest of the notebook."""


def kaggle() -> Place:
    """A submission, which has the narrowest limits of Kaggle's notebooks."""
    return find_places(["kaggle-submission"])[0]


def outside(placed: Sequence[Placed]) -> Iterator[str]:
    """What stays on this machine, or on the Hub."""
    for each in placed:
        where, value = each.reference.where, each.reference.value
        if each.bundled or each.attached or each.written:
            continue
        name = Path(value).name.lower() or "NAME"
        there = f"{INPUTS}/{name}"
        if each.here is None:
            yield (
                f"{where} is {value}, which the notebook cannot download: attach it as a model or "
                f"a dataset and add --map {value}={there}"
            )
            continue
        what = "a folder" if each.here.is_dir() else "a file"
        yield (
            f"{where} is {each.here}, {what} of this machine: upload it and add --map "
            f"{each.here}={there}, or put it into the bundle with --include {each.here}"
        )


def settings(pipeline: Pipeline, placed: Sequence[Placed]) -> Iterator[str]:
    """Settings that suit a notebook badly."""
    hours = (kaggle().session_hours or 0) - MARGIN_HOURS
    limit = format_duration(hours * 3600)
    deadline = pipeline.file.deadline
    if deadline is None:
        yield (
            f"the pipeline has no deadline, and a submission that takes over "
            f"{kaggle().session_hours:g} hours counts for nothing: write deadline: {limit}"
        )
    elif deadline > hours * 3600:
        yield (
            f"the deadline is {format_duration(deadline)} and a submission has "
            f"{kaggle().session_hours:g} hours: write deadline: {limit} or less"
        )
    if pipeline.file.output is None:
        yield "the pipeline has no output, and a competition wants submission.csv: name it"
    for each in placed:
        if each.written is not None and Path(each.reference.value).name != each.written:
            yield f"the output {each.reference.value} is written as /kaggle/working/{each.written}"
    if pipeline.file.backend == "ray":
        yield "backend is ray, and a notebook is one machine: write backend: local"


def code(found: Code, image: Image, wheels: Sequence[Wheel]) -> Iterator[str]:
    """Packages that the user's code imports and nothing brings."""
    names = [wheel.name for wheel in wheels]
    for file, package in foreign(found, image, names):
        yield (
            f"{file} imports {package}, which the image is not known to have: add --with {package}"
        )


def versions(wanted: Sequence[Need], wheels: Sequence[Wheel], image: Image) -> Iterator[str]:
    """Versions of the image, as it was published, that would not do."""
    bundled = {wheel.name for wheel in wheels}
    asked = [(need.name, need.specifier, need.why) for need in wanted]
    for wheel in wheels:
        if not image.has(wheel.name):
            own = f"{wheel.name} {wheel.version}"
            asked += [(name, specifier, own) for name, specifier in wheel.requires.items()]
    for name, specifier, why in asked:
        version = image.packages.get(name, "")
        if version and not SpecifierSet(specifier).contains(version, prereleases=True):
            yield (
                f"{why} needs {name}{specifier} and the image had {version} ({image.checked}): "
                "install.py will refuse unless the image has moved on"
            )
        elif not image.has(name) and name not in bundled:
            yield f"{why} needs {name}, which the image is not known to have: add --with {name}"


def room(disk: Disk) -> str:
    """How much of the working disk the run takes."""
    saved = kaggle().saved_bytes or 0
    for_rows = f"{disk.num_rows:,} rows" if disk.rows_known else (
        f"every {disk.num_rows:,} rows (the data is not here: --rows says how many)"
    )  # fmt: skip
    return (
        f"the run's folder takes at most {format_bytes(disk.num_bytes)} for {for_rows}, of the "
        f"{saved / 1e9:g} GB that /kaggle/working keeps"
    )


def is_too_large(disk: Disk) -> bool:
    """Whether the working disk would not hold it."""
    return disk.num_bytes > (kaggle().saved_bytes or 0)
