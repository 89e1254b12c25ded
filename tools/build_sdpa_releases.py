"""Writes data/sdpa_releases.json: which releases of transformers take SDPA for a model type.

``python -m tools.build_sdpa_releases FOLDER``: a folder of transformers' wheels, one of each minor
release. Their source is read, nothing of them is imported. Recorded are the types that changed
after they came, or after the first wheel; a class may support SDPA and still take eager attention
by default (Gemma-2 from 4.45 to 4.47), which counts as eager.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from willfit.scenario.stack import release

TARGET: Final = Path(__file__).parents[1] / "src" / "willfit" / "data" / "sdpa_releases.json"
_WHEEL: Final = re.compile(r"transformers-(\d+\.\d+)[.\d]*-py3")
_MODELLING: Final = re.compile(r"transformers/models/(\w+)/modeling_\1\.py")
_DECLARED: Final = re.compile(r"_supports_sdpa\s*=\s*(True|False)")


def takes_sdpa(source: str) -> bool:
    """Whether the first class of a modelling file that says so takes SDPA by default."""
    declared = _DECLARED.search(source)
    overridden = "_check_and_enable_sdpa" in source and '_attn_implementation = "eager"' in source
    return declared is not None and declared.group(1) == "True" and not overridden


def read(wheel: Path) -> Iterator[tuple[str, bool]]:
    """Model types of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            found = _MODELLING.fullmatch(name)
            if found is not None:
                yield found.group(1), takes_sdpa(archive.read(name).decode(errors="replace"))


def spans(by_release: Mapping[str, bool]) -> list[list[str]]:
    """First release and the one after the last of every stretch with SDPA; "" is the end."""
    found: list[list[str]] = []
    for version in sorted(by_release, key=release):
        if by_release[version] and (not found or found[-1][1]):
            found.append([version, ""])
        elif not by_release[version] and found and not found[-1][1]:
            found[-1][1] = version
    return found


def main(folder: Path) -> None:
    """Read the wheels and write the table."""
    types: dict[str, dict[str, bool]] = {}
    versions: list[str] = []
    for wheel in folder.glob("*.whl"):
        match = _WHEEL.match(wheel.name)
        if match is None:
            continue
        versions.append(match.group(1))
        for model_type, takes in read(wheel):
            types.setdefault(model_type, {})[match.group(1)] = takes
    changed = {
        name: spans(by_release)
        for name, by_release in sorted(types.items())
        if len(set(by_release.values())) > 1
    }
    versions.sort(key=release)
    source = f"transformers {versions[0]} to {versions[-1]}, modelling files of every minor release"
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in changed.items())
    TARGET.write_text(f'{{"source": {json.dumps(source)}, "releases": {{\n{lines}\n}}}}\n')
    print(f"{len(changed)} model types of {len(versions)} releases")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
