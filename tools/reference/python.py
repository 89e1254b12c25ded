"""The public names of the package as a page, from their docstrings."""

from __future__ import annotations

import ast
from typing import Final

import willfit
from tools.reference.markdown import GENERATED, one_line, prose, table
from tools.reference.sources import fields, functions, parsed, path_of, signature

_INTRO: Final = """# Python

Everything is reached as `willfit.NAME` and loaded on first use: `import willfit` costs no torch.
Names that load or watch models (`load`, `measure`, `watch`, `release`, `FirstStepCallback`) need
`pip install 'willfit[trace]'`, `run` and `isolated` need `'willfit[run]'`.

"""


PARTS: Final = {
    "willfit.scenario": (
        "Gpu", "Inference", "Loading", "Lora", "Quantization", "Training",
    ),
    "willfit.results": (
        "GpuEstimate", "PhaseEstimate", "Component", "HostEstimate", "DtypeRow", "Limits",
        "Failure", "Alive",
    ),
    "willfit.planning.result": ("Planning", "Plan", "Step", "Duration"),
    "willfit.formulas.timing.span": ("Span",),
}  # fmt: skip
"""Types that the public ones are made of, by the module to import them from."""


def page() -> str:
    """The whole page."""
    public = [name for name in willfit.__all__ if not name.startswith("__")]
    sections = [_section(name, *willfit._HOMES[name]) for name in public]
    parts = [
        _section(name, module, name, public=False)
        for module, names in PARTS.items()
        for name in names
    ]
    listed = [*public, *(name for names in PARTS.values() for name in names)]
    links = ", ".join(f"[`{name}`](#{name.lower()})" for name in listed)
    return f"{GENERATED}{_INTRO}{links}\n\n" + "\n".join([*sections, *parts])


def _section(name: str, module: str, attribute: str, *, public: bool = True) -> str:
    found, home = _defined(module, attribute)
    short = f"`willfit.{name}`" if public else f"`from {module} import {attribute}`"
    parts = [f"## {name}", f"{short}, of `{home}`"]
    if isinstance(found, ast.ClassDef):
        parts += [prose(ast.get_docstring(found) or "").rstrip(), *_members(found)]
    else:
        parts += [f"```python\n{signature(found)}\n```"]
        parts.append(prose(ast.get_docstring(found) or "").rstrip())
    return "\n\n".join(parts) + "\n"


def _defined(module: str, attribute: str) -> tuple[ast.ClassDef | ast.FunctionDef, str]:
    """The definition of a name, followed through the packages that pass it on."""
    for node in parsed(path_of(module)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == attribute:
            return node, module
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                if (name.asname or name.name) == attribute:
                    return _defined(node.module, name.name)
    raise LookupError(f"{module} has no {attribute}")


def _members(found: ast.ClassDef) -> list[str]:
    parts = []
    rows = [
        (f"`{each.name}`", f"`{each.text}`", one_line(each.docstring))
        for each in fields(found.body)
        if not each.name.startswith("_")
    ]
    if rows:
        parts.append(table(("field", "type and default", "meaning"), rows).rstrip())
    methods = [each for each in functions(found.body) if each.name[0] != "_" and each.docstring]
    if methods:
        called = [(f"`{each.name}`", one_line(each.docstring)) for each in methods]
        parts.append(table(("method or property", "what it gives"), called).rstrip())
    return parts
