"""`bundle`: one folder, or one .zip, with all that a pipeline needs where there is no internet."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit._version import __version__
from willfit.errors import InputError
from willfit.runner.bundle import sentences
from willfit.runner.bundle.code import Code, code_of
from willfit.runner.bundle.disk import Disk, disk_of
from willfit.runner.bundle.image import Image, kaggle_image, normal
from willfit.runner.bundle.needs import Need, carried, needs
from willfit.runner.bundle.pack import pack
from willfit.runner.bundle.placing import (
    CODE,
    FILES,
    Included,
    Placed,
    included,
    mappings,
    place,
    unused,
)
from willfit.runner.bundle.text import PipelineText, Reference, read_text
from willfit.runner.bundle.wheels import Wheel, collect, read_wheel
from willfit.runner.bundle.words import PAYLOAD, cell, notebook, readme
from willfit.runner.pipeline import Pipeline, read_pipeline

SCHEMA: Final = "willfit.bundle/1"
WHEELS: Final = "wheels"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What was made."""

    path: Path
    """The folder or the .zip."""
    num_bytes: int
    """Of its files, before they are packed."""
    wheels: tuple[tuple[str, str], ...]
    """(name, version) of each."""
    attached: tuple[str, ...]
    """Paths under /kaggle/input that have to be there."""
    sentences: tuple[str, ...]
    """What still lacks, in one sentence each."""
    room: str
    """What the run's folder will take."""


def bundle(
    pipeline: str | Path,
    *,
    out: str | Path | None = None,
    wheels: str | Path | None = None,
    python: str | None = None,
    maps: Sequence[str] = (),
    include: Sequence[str | Path] = (),
    extra: Sequence[str] = (),
    rows: int | None = None,
) -> Bundle:
    """Make a bundle of a pipeline file, to be uploaded as a dataset of Kaggle.

    ``out``: a folder, or a file that ends in .zip (default: ``NAME-bundle``); an older bundle is
    replaced. ``wheels``: a folder of wheels in place of downloading them. ``python``: the version
    of the image. ``maps``: ``here=/kaggle/input/there``. ``include``: files and folders to put in.
    ``extra``: packages that the user's code needs. ``rows``: of the data, where it is not here.
    Raises `InputError`.
    """
    path = Path(pipeline)
    read = read_pipeline(path)
    image = kaggle_image()
    made = _Making(
        pipeline=read,
        name=path.stem,
        text=read_text(path),
        image=image,
        python=_python(python or image.python),
        given=None if wheels is None else _folder(Path(wheels)),
        included=included([Path(each) for each in include]),
        maps=tuple(maps),
        wanted=needs(read, tuple(map(normal, extra))),
        rows=rows,
    )
    target = Path(out) if out is not None else Path(f"{path.stem}-bundle")
    require_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as temporary:
        return made.make(Path(temporary) / path.stem, target)


@dataclass(frozen=True, kw_only=True)
class _Making:
    pipeline: Pipeline
    name: str
    text: PipelineText
    image: Image
    python: str
    given: Path | None
    included: Included
    maps: tuple[str, ...]
    wanted: tuple[Need, ...]
    rows: int | None

    def make(self, folder: Path, target: Path) -> Bundle:
        code = code_of(self._functions(), self.pipeline.folder)
        placed = self._placed(code)
        attached = tuple(dict.fromkeys(each.attached for each in placed if each.attached))
        (folder / WHEELS).mkdir(parents=True)
        wheels = self._wheels(folder / WHEELS)
        disk = disk_of(self.pipeline, self.rows)
        lacking = self._lacking(placed, code, wheels, disk)
        code.copy(folder / CODE)
        for source, name in self.included.names.items():
            _copy(source, folder / FILES / name)
        room = sentences.room(disk)
        words = readme(
            self.name, attached=attached, wheels=wheels, sentences=lacking, room=room,
            image=self.image,
        )  # fmt: skip
        self._write(folder, placed, attached, wheels, words)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        put(folder, target)
        return Bundle(
            path=target, num_bytes=size, attached=attached, sentences=lacking, room=room,
            wheels=tuple((wheel.name, wheel.version) for wheel in wheels),
        )  # fmt: skip

    def _functions(self) -> list[str]:
        references = self.text.references
        return list(dict.fromkeys(r.value for r in references if r.kind == "function"))

    def _placed(self, code: Code) -> tuple[Placed, ...]:
        maps = mappings(self.maps)
        folder = self.pipeline.folder
        found = tuple(
            place(reference, folder, code, self.included, maps)
            for reference in self.text.references
        )
        idle = unused(maps, found)
        if idle:
            raise InputError(
                f"--map names {idle[0]}, which nothing of the pipeline is or is under: give it as "
                "the pipeline has it"
            )
        return found

    def _wheels(self, folder: Path) -> tuple[Wheel, ...]:
        """Its own of willfit, and those of what the image may lack."""
        own = read_wheel(pack("willfit", folder), self.python)
        names = carried(self.wanted, self.image)
        more = collect(names, folder, image=self.image, python=self.python, given=self.given)
        return (own, *more)

    def _lacking(
        self, placed: Sequence[Placed], code: Code, wheels: Sequence[Wheel], disk: Disk
    ) -> tuple[str, ...]:
        found = [
            *sentences.outside(placed),
            *sentences.settings(self.pipeline, placed),
            *sentences.code(code, self.image, wheels),
            *sentences.versions(self.wanted, wheels, self.image),
        ]
        if sentences.is_too_large(disk):
            found.append(f"{sentences.room(disk)}: shorten max_length, or split the data")
        return tuple(dict.fromkeys(found))

    def _write(
        self, folder: Path, placed: Sequence[Placed], attached: Sequence[str],
        wheels: Sequence[Wheel], words: str,
    ) -> None:  # fmt: skip
        source = cell(self.name, attached)
        by_start = {each.reference.start: each for each in placed}
        self._write_pipeline(folder, by_start)
        texts = {
            "README.md": words,
            "cell.py": source,
            "notebook.ipynb": json.dumps(notebook(source), indent=1, ensure_ascii=False) + "\n",
            "bundle.json": json.dumps(self._facts(by_start, attached, wheels), indent=1) + "\n",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name in ("install.py", "start.py"):
            shutil.copyfile(PAYLOAD / name, folder / name)

    def _write_pipeline(self, folder: Path, placed: dict[int, Placed]) -> None:
        """The pipeline as a person reads it, whose relative paths are the bundle's."""

        def put(reference: Reference) -> str | None:
            text = placed[reference.start].text()
            return None if text is None else json.dumps(text, ensure_ascii=False)

        text = "".join(self.text.pieces(put))
        (folder / "pipeline.yaml").write_text(text, encoding="utf-8")

    def _facts(
        self, placed: dict[int, Placed], attached: Sequence[str], wheels: Sequence[Wheel]
    ) -> dict[str, Any]:
        """What install.py and start.py read."""

        def put(reference: Reference) -> Any:
            found = placed[reference.start]
            return found.piece() or (found.written and json.dumps(found.written))

        own = Need(name="willfit", specifier=f"=={__version__}", why="the bundle")
        return {
            "schema": SCHEMA,
            "name": self.name,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": self.python,
            "refers": list(attached),
            "pipeline": self.text.pieces(put),
            "requires": [vars(need) for need in (own, *self.wanted)],
            "wheels": [wheel.json() for wheel in wheels],
        }


def _python(text: str) -> str:
    major, _, minor = text.partition(".")
    if major != "3" or not minor.isdigit() or int(minor) < 10:
        raise InputError(f"--python {text[:20]!r} is no version: expected one such as 3.12")
    return text


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path} is no folder: expected one with wheels in it (pip download)")
    return path


def require_free(target: Path) -> None:
    """Nothing that is not a bundle is replaced."""
    if target.suffix == ".zip":
        if target.is_dir():
            raise InputError(f"{target} is a folder: name a file")
        return
    if target.is_dir() and any(target.iterdir()) and not (target / "bundle.json").is_file():
        raise InputError(f"{target} has other files in it: name a new folder with --out")
    if target.is_file():
        raise InputError(f"{target} is a file: name a folder, or one that ends in .zip")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def put(folder: Path, target: Path) -> None:
    """Where it was asked for, in place of an older one."""
    if target.suffix != ".zip":
        if target.is_dir():
            shutil.rmtree(target)
        folder.replace(target)
        return
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            how = zipfile.ZIP_STORED if file.suffix == ".whl" else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(folder), how)
    packed.replace(target)
