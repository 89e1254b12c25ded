"""Installs what a notebook's image lacks, from the wheels beside this file, and nothing else.

``python install.py`` reads ``bundle.json``, asks the image which versions it has, and gives pip the
wheels of what is not there, without index and without dependencies. Whatever is installed keeps its
version: where one does not do, it says so in one sentence and changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import itertools
import json
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WHEELS = "wheels"


class RefusedError(Exception):
    """The image is not changed; the message says why in one sentence."""


def main() -> int:
    """Install; returns 0, or 1 where it is refused."""
    bundle = json.loads((HERE / "bundle.json").read_text(encoding="utf-8"))
    before = snapshot()
    try:
        lacking = lacks(bundle, before)
        for wheel in lacking:
            check_wheel(wheel)
        for wheel in bundle["wheels"]:
            check_same(wheel, before)
        if lacking:
            pip_install(lacking)
        check_unchanged(before, snapshot(), lacking)
    except RefusedError as error:
        say(f"install.py: {error}")
        return 1
    there = sorted(f"{n} {before[n]}" for n in wanted(bundle) if n in before)
    new = sorted(f"{wheel['name']} {wheel['version']}" for wheel in lacking)
    say(f"already there: {', '.join(there) or 'nothing'}")
    say(f"installed: {', '.join(new) or 'nothing'}")
    say(f"unchanged: the versions of all {len(before)} packages that were installed")
    return 0


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def snapshot() -> dict[str, str]:
    """Version of every package that this Python sees; the first of a name on the path counts."""
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution.version)
    return found


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(bundle: dict[str, Any]) -> list[str]:
    """Names of what the pipeline needs."""
    return [need["name"] for need in bundle["requires"]]


def lacks(bundle: dict[str, Any], installed: dict[str, str]) -> list[dict[str, Any]]:
    """Wheels of what is needed and not installed, and of what those need in turn.

    Raises `RefusedError` where something has no wheel, or is installed in a version that does not
    do.
    """
    wheels = {wheel["name"]: wheel for wheel in bundle["wheels"]}
    waiting = [(need["name"], need["specifier"], need["why"]) for need in bundle["requires"]]
    chosen: dict[str, dict[str, Any]] = {}
    while waiting:
        name, specifier, why = waiting.pop(0)
        version = installed.get(name)
        if version is None:
            if name not in wheels:
                raise RefusedError(
                    f"{name} is not installed here and the bundle has no wheel of it ({why} needs "
                    f"it): make the bundle again with --with {name}"
                )
            if name not in chosen:
                chosen[name] = wheels[name]
                own = f"{name} {wheels[name]['version']}"
                waiting += [
                    (other, asked, own) for other, asked in wheels[name]["requires"].items()
                ]
            version = wheels[name]["version"]
        if not satisfies(version, specifier):
            where = "installed" if name in installed else "in the bundle"
            raise RefusedError(
                f"{name} {version} is {where} and {why} needs {specifier}: nothing that is "
                "installed is changed, so choose an image that has it (in the notebook's settings, "
                f"Environment), or another version of {why.partition(' ')[0]}"
            )
    return list(chosen.values())


def check_wheel(wheel: dict[str, Any]) -> None:
    """That the file is whole and is for this Python and machine."""
    path = HERE / WHEELS / wheel["file"]
    if not path.is_file() or _sha256(path) != wheel["sha256"]:
        raise RefusedError(
            f"{WHEELS}/{wheel['file']} is not as it was made: upload the bundle again"
        )
    here = ".".join(map(str, sys.version_info[:2]))
    if not satisfies(platform.python_version(), wheel["python"]):
        raise RefusedError(
            f"{wheel['name']} {wheel['version']} needs Python {wheel['python']} and this is {here}:"
            " make the bundle again where an older version of it is installed"
        )
    if not runs_here(wheel["file"]):
        raise RefusedError(
            f"{wheel['file']} is not for Python {here} on {_machine()}: make the bundle again with "
            f"--python {here}"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_same(wheel: dict[str, Any], installed: dict[str, str]) -> None:
    """That willfit, where it is installed already, is the bundle's own to the byte."""
    if wheel["name"] != "willfit" or "willfit" not in installed:
        return
    there = importlib.metadata.distribution("willfit").read_text("RECORD") or ""
    with zipfile.ZipFile(HERE / WHEELS / wheel["file"]) as archive:
        record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        ours = archive.read(record).decode()
    if _modules(there) != _modules(ours):
        raise RefusedError(
            "another willfit of the same version is installed: restart the session, which starts "
            "from the image, and run this cell first"
        )


def _modules(record: str) -> set[str]:
    """Lines of a RECORD that are willfit's Python files, with their digests."""
    return {line for line in record.splitlines() if re.match(r"willfit/[^,]*\.py,", line)}


def pip_install(wheels: list[dict[str, Any]]) -> None:
    """Exactly these, without index and without dependencies."""
    command = [
        sys.executable, "-m", "pip", "--isolated", "-qq", "--disable-pip-version-check", "install",
        "--no-index", "--no-deps", "--no-compile", "--find-links", str(HERE / WHEELS),
        *(f"{wheel['name']}=={wheel['version']}" for wheel in wheels),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines(), "no word of pip's"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise RefusedError(
            f"pip could not install the wheels ({reason.strip()}): restart the session"
        )


def check_unchanged(
    before: dict[str, str], after: dict[str, str], wheels: list[dict[str, Any]]
) -> None:
    """That every package which was there has its version, and what was lacking is there."""
    changed = [
        f"{name} {version} → {after.get(name, 'gone')}"
        for name, version in before.items()
        if after.get(name) != version
    ]
    if changed:
        raise RefusedError(f"installing changed {', '.join(changed)}: restart the session")
    absent = [wheel["name"] for wheel in wheels if after.get(wheel["name"]) != wheel["version"]]
    if absent:
        raise RefusedError(
            f"pip put {', '.join(absent)} where this Python does not look: restart the session"
        )


_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?P<pre_n>\d*))?"
    r"(?:-(?P<post_i>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_n>\d*))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>\d*))?(?:\+(?P<local>[a-z0-9._-]+))?",
    re.IGNORECASE,
)
_PHASES = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_FIRST, _LAST = (-1, "", 0), (1, "", 0)


def key(version: str) -> tuple[Any, ...]:
    """What versions are ordered by (PEP 440), local labels aside: 1.0.dev1 < 1.0rc1 < 1.0."""
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        raise RefusedError(f"{version!r} is no version: expected one such as 2.6.0")
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    is_post = bool(match["post"] or match["post_i"])
    pre: tuple[Any, ...] = _LAST
    if match["pre"]:
        phase = match["pre"].lower()
        pre = (0, _PHASES.get(phase, phase), int(match["pre_n"] or 0))
    elif match["dev"] and not is_post:
        pre = _FIRST
    post = int(match["post_n"] or match["post_i"] or 0) if is_post else -1
    dev = (0, "", int(match["dev_n"] or 0)) if match["dev"] else _LAST
    return (int(match["epoch"] or 0), release, pre, post, dev)


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version meets a requirement such as ``>=2.4,<3``; an empty one is always met."""
    return all(
        _meets(version, *_clause(clause)) for clause in specifier.split(",") if clause.strip()
    )


def _clause(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*(\S+)\s*", text)
    if match is None:
        raise RefusedError(f"{text!r} is no requirement: expected one such as >=2.4")
    return match[1], match[2]


def _meets(version: str, operator: str, bound: str) -> bool:
    if operator == "===":
        return version == bound
    if bound.endswith(".*"):
        same = _same_start(version, bound[:-2])
        return same if operator == "==" else not same
    ours, theirs = key(version), key(bound)
    if operator == "~=":
        return ours >= theirs and _same_start(version, bound.rpartition(".")[0])
    if operator == "<" and ours[:2] == theirs[:2] and theirs[2] == _LAST:
        return False  # a pre-release of 3 is not below 3
    if operator == ">" and ours[:2] == theirs[:2] and theirs[3] == -1:
        return False  # a post-release of 3 is not above 3
    return bool(
        {
            "==": ours == theirs, "!=": ours != theirs, "<=": ours <= theirs,
            ">=": ours >= theirs, "<": ours < theirs, ">": ours > theirs,
        }[operator]
    )  # fmt: skip


def _same_start(version: str, start: str) -> bool:
    parts = [int(part) for part in start.split(".")]
    release = [int(part) for part in _VERSION.fullmatch(version.strip())["release"].split(".")]  # type: ignore[index]
    return [*release, *[0] * len(parts)][: len(parts)] == parts


def runs_here(file: str) -> bool:
    """Whether a wheel's name says that it is for this Python, this machine and its glibc."""
    tags = file.removesuffix(".whl").split("-")[-3:]
    return any(
        _python_fits(python, abi) and _platform_fits(system)
        for python, abi, system in itertools.product(*(tag.split(".") for tag in tags))
    )


def _python_fits(python: str, abi: str) -> bool:
    match = re.fullmatch(r"(py|cp)(\d)(\d*)", python)
    if match is None or int(match[2]) != sys.version_info.major:
        return False
    minor, ours = int(match[3] or 0), sys.version_info.minor
    if match[1] == "py" or abi == "abi3":
        return abi in ("none", "abi3") and minor <= ours
    return minor == ours and abi in ("none", f"cp3{ours}")


_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def _platform_fits(system: str) -> bool:
    if system == "any":
        return True
    match = re.fullmatch(r"(manylinux1|manylinux20\d\d|manylinux_\d+_\d+|linux)_(\w+)", system)
    if match is None or match[2] != platform.machine() or sys.platform != "linux":
        return False
    if match[1] == "linux":
        return True
    least = _OLD_NAMES.get(match[1]) or tuple(map(int, match[1].split("_")[1:]))
    return _glibc() >= least


def _glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split(".")[:2])) if name == "glibc" else (0,)


def _machine() -> str:
    return f"{sys.platform} {platform.machine()} with glibc {'.'.join(map(str, _glibc()))}"


if __name__ == "__main__":
    sys.exit(main())
