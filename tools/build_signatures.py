"""Writes data/signatures.json: the keywords of the libraries' classes and functions, by release.

``python -m tools.build_signatures FOLDER[,FOLDER…] …``: each argument is a folder with libraries
as installed; the libraries of its first folder are recorded, the others are there for base
classes. Their source text is read, nothing of them is imported. Also data/transformers_names.json:
what configurations and models take, which ``from_pretrained`` and ``generate`` hand on.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from willfit.doctor.lint.known import KNOWN
from willfit.doctor.lint.signatures import LIBRARIES
from willfit.doctor.lint.sources import Parameters, Sources
from willfit.scenario.stack import release

DATA: Final = Path(__file__).parents[1] / "src" / "willfit" / "data"
GROUPS: Final = ("names", "unused", "booleans", "on")
METHODS: Final = frozenset({"__init__", "forward", "prepare_inputs_for_generation"})


def versions(folder: Path) -> dict[str, str]:
    """Release of each library in a folder, from its metadata."""
    found = {}
    for info in folder.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        if name in LIBRARIES:
            found[name] = version.partition("+")[0]
    return found


def span(held: list[str], releases: list[str]) -> str:
    """First and last release that has something; an end that is the table's own is left open."""
    first, last = held[0], held[-1]
    start = "" if first == releases[0] else first
    end = "" if last == releases[-1] else last
    return f"{start}-{end}" if start or end else ""


def row(by_release: Mapping[str, Parameters]) -> dict[str, Any]:
    """One callable: what became of unknown names in each release, and each name's span."""
    releases = sorted(by_release, key=release)
    content: dict[str, Any] = {"unknown": {r: by_release[r].unknown for r in releases}}
    base = next((p.base for p in by_release.values() if p.base), "")
    if base:
        content["base"] = base
    for group in GROUPS:
        found: dict[str, list[str]] = {}
        for version in releases:
            for name in getattr(by_release[version], group):
                found.setdefault(name, []).append(version)
        key = "parameters" if group == "names" else group
        spans = {name: span(held, releases) for name, held in sorted(found.items())}
        if spans or group == "names":
            content[key] = spans
    return content


def open_names(folder: Path) -> Iterator[str]:
    """Fields of configurations and arguments of models of one transformers release."""
    root = folder / "transformers"
    files = [*root.glob("models/*/configuration_*.py"), *root.glob("models/*/modeling_*.py")]
    for path in [*files, root / "configuration_utils.py"]:
        if path.name.startswith(("modeling_tf_", "modeling_flax_")):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            yield from _names(node, fields="configuration" in path.name)


def _names(node: ast.AST, *, fields: bool) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and node.name in METHODS:
        yield from (a.arg for a in (*node.args.args, *node.args.kwonlyargs))
    elif fields and isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif fields and isinstance(node, ast.Attribute) and _is_self(node.value):
        yield node.attr


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def main() -> None:
    """Write both files, a callable's row and its names a line each."""
    found: dict[str, dict[str, Parameters]] = {}
    releases: dict[str, set[str]] = {library: set() for library in LIBRARIES}
    names: set[str] = set()
    for argument in sys.argv[1:]:
        folders = tuple(Path(part) for part in argument.split(","))
        sources = Sources(folders)
        for library, version in sorted(versions(folders[0]).items()):
            releases[library].add(version)
            for known in (k for k in KNOWN if k.library == library):
                parameters = sources.parameters(known)
                if parameters is not None:
                    found.setdefault(known.key, {})[version] = parameters
            if library == "transformers":
                names.update(open_names(folders[0]))
    ordered = {library: sorted(got, key=release) for library, got in releases.items()}
    rows = {key: row(by) for key, by in found.items()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
    source = "source text of the named releases, parsed"
    (DATA / "signatures.json").write_text(
        f'{{"source": {json.dumps(source)},\n"releases": {json.dumps(ordered)},\n'
        f'"callables": {{\n{lines}\n}}}}\n'
    )
    listed = sorted(name for name in names if name.isidentifier() and name != "self")
    words = ",\n".join(json.dumps(name) for name in listed)
    source = f"transformers {', '.join(ordered['transformers'])}"
    (DATA / "transformers_names.json").write_text(
        f'{{"source": {json.dumps(source)}, "names": [\n{words}\n]}}\n'
    )
    print(f"{len(rows)} callables, {len(listed)} open names")


if __name__ == "__main__":
    main()
