"""The user's code in a bundle: the modules of functions, what they import from beside them."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from willfit.runner.bundle.image import Image, normal
from willfit.runner.content import source_content
from willfit.runner.pipeline.pipeline import _function

NAMED_OTHERWISE: Final = {
    "sklearn": "scikit-learn", "skimage": "scikit-image", "PIL": "pillow", "cv2": "opencv-python",
    "yaml": "pyyaml", "dateutil": "python-dateutil", "bs4": "beautifulsoup4",
    "pynvml": "nvidia-ml-py",
}  # fmt: skip
"""Packages by their modules, for those that are not installed here to be asked."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Files by their names in the bundle, which lie to each other as they do here."""

    files: Mapping[str, Path]
    names: Mapping[str, str]
    """``file.py:function`` in the bundle, by what the pipeline has for it."""

    def copy(self, folder: Path) -> None:
        """Put the files into ``folder``."""
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / name)


def code_of(references: Sequence[str], folder: Path) -> Code:
    """The code behind functions as a pipeline in ``folder`` names them; raises `InputError`."""
    found = {text: source_content(_function(text, folder)) for text in references}
    paths = [
        Path(os.path.normpath(content.path.parent / name))
        for content in found.values()
        for name in content.files
    ]
    top = Path(os.path.commonpath([path.parent for path in paths])) if paths else folder
    return Code(
        files={path.relative_to(top).as_posix(): path for path in paths},
        names={
            text: f"{content.path.relative_to(top).as_posix()}:{content.function}"
            for text, content in found.items()
        },
    )


def foreign(code: Code, image: Image, wheels: Sequence[str]) -> list[tuple[str, str]]:
    """(file, package) for what the code imports that neither the image nor the bundle has."""
    own = {Path(name).parts[0].removesuffix(".py") for name in code.files}
    own |= {path.stem for path in code.files.values()}
    known = importlib.metadata.packages_distributions()
    found: dict[str, str] = {}
    for name, path in code.files.items():
        for module in _imported(ast.parse(path.read_bytes())):
            if module in sys.stdlib_module_names or module in own or module == "willfit":
                continue
            by_name = [NAMED_OTHERWISE.get(module, module)]
            packages = [normal(each) for each in known.get(module, by_name)]
            if not any(image.has(each) or each in wheels for each in packages):
                found.setdefault(packages[0], name)
    return [(file, package) for package, file in found.items()]


def _imported(tree: ast.Module) -> Iterator[str]:
    """First parts of the names of modules that are imported, relative ones aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]
