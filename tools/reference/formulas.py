"""The closed formulas as pages: equations, shapes and sources of the code's own docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.reference.markdown import GENERATED, one_line, plain, prose, table
from tools.reference.sources import SRC, Documented, fields, functions, parsed

HOME: Final = SRC / "willfit" / "formulas"
GROUPS: Final = {
    "weights": ("Weights, quantisation and loading",
                ("weights", "quantization", "gemm", "experts", "loading", "largest_layer",
                 "modules")),
    "attention": ("Attention and the KV cache", ("attention", "kv_cache", "positions")),
    "inference": ("Inference", ("inference", "phase")),
    "training": ("Training", ("training",)),
    "placement": ("Several devices", ("placement",)),
    "timing": ("Time", ("timing",)),
}  # fmt: skip
"""Pages, each with its title and the modules or folders of ``willfit.formulas`` on it."""
LONGEST: Final = 120
"""Characters of a constant's value that are shown."""
_INTRO: Final = """# Formulas

Every number of `willfit estimate` without `--trace` comes from these functions. Each is short and
pure; its docstring has the equation, the shapes and the source, and these pages are made of those
docstrings. Letters: B batch, S tokens, h hidden size, I intermediate size, Hq and Hk query and KV
heads, D head size, V vocabulary, L layers, e bytes of an element.

An equation is held against the trace over a grid of models and workloads, and both are held against
measurements: [how accurate](../accuracy.md).

"""


def pages() -> dict[str, str]:
    """Text by name of file."""
    made = {f"{name}.md": _page(title, names) for name, (title, names) in GROUPS.items()}
    rows = [
        (f"[{title}]({name}.md)", ", ".join(f"`{each}`" for each in names))
        for name, (title, names) in GROUPS.items()
    ]
    made["index.md"] = f"{GENERATED}{_INTRO}{table(('page', 'of willfit.formulas'), rows)}"
    return made


def modules(names: tuple[str, ...]) -> Iterator[Path]:
    """Files of these modules and folders that define something."""
    for name in names:
        folder = HOME / name
        found = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        yield from (path for path in found if path.name != "__init__.py")


def shown(path: Path) -> list[Documented]:
    """Public functions, and private ones that have more than a sentence to say."""
    return [
        each
        for each in functions(parsed(path).body)
        if each.docstring and (not each.name.startswith("_") or "\n" in each.docstring)
    ]


def constants(path: Path) -> list[Documented]:
    """Public constants with their sources."""
    return [
        each
        for each in fields(parsed(path).body)
        if each.docstring and each.name.isupper() and not each.name.startswith("_")
    ]


def _page(title: str, names: tuple[str, ...]) -> str:
    return f"{GENERATED}# {title}\n\n" + "\n".join(_module(path) for path in modules(names))


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(HOME).with_suffix("").parts)
    parts = [f"## {name}", prose(ast.get_docstring(parsed(path)) or "").rstrip()]
    known = constants(path)
    if known:
        rows = [(f"`{each.name}`", _value(each), one_line(each.docstring)) for each in known]
        parts.append(table(("constant", "value", "meaning and source"), rows).rstrip())
    for each in shown(path):
        parts += [f"### {plain(each.name)}", f"```python\n{each.text}\n```"]
        parts.append(prose(each.docstring).rstrip())
    return "\n\n".join(parts) + "\n"


def _value(each: Documented) -> str:
    value = each.text.partition(" = ")[2]
    return f"`{value}`" if len(value) <= LONGEST else "a table, see the source"
