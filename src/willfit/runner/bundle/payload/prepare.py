"""Put what this machine lacks beside the bundle, in ``site``; nothing installed is changed.

Standard library alone: it runs before anything else is there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OWN = "willfit"


def main() -> int:
    """Unpack the wheels that are needed; 1 where a library that cannot be brought is missing."""
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            print(f"{sys.executable} has no {module}: name one that has it, as PYTHON=… sh run.sh")
            return 1
    facts = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    site = HERE / "site"
    if site.is_dir():
        shutil.rmtree(site)
    site.mkdir()
    for wheel in facts["wheels"]:
        reason = "" if wheel["name"] == OWN else not_needed(wheel)
        if reason:
            print(f"{wheel['name']}: {reason}")
            continue
        with zipfile.ZipFile(HERE / "wheels" / wheel["file"]) as archive:
            archive.extractall(site)
        print(f"{wheel['name']} {wheel['version']}: from the bundle")
    return 0


def not_needed(wheel: dict[str, str]) -> str:
    """Why a wheel stays packed; "" where it is needed and runs here."""
    try:
        return f"{importlib.metadata.version(wheel['name'])} is installed here"
    except importlib.metadata.PackageNotFoundError:
        pass
    python = wheel["file"].removesuffix(".whl").split("-")[-3]
    version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    if python.startswith("py") or version in python.split(".") or "-abi3-" in wheel["file"]:
        return ""
    return f"its wheel is for {python}, and this is {version}: cases that need it are refused"


if __name__ == "__main__":
    sys.exit(main())
