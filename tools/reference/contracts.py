"""The JSON Schemas as files, and as a page to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from tools.reference.markdown import GENERATED, plain, table
from tools.schemas import CONTRACTS
from tools.schemas.shape import Contract, Schema

_INTRO: Final = """# JSON

Every command with `--json` prints one object whose `schema` names its contract. Keys are added,
never renamed or removed; a reader should ignore those that it does not know. Bytes are integers,
GiB appear in text alone. The files are JSON Schema, draft 2020-12:

"""
_DEPTH: Final = 3
"""How far records in records are listed."""


def files() -> dict[str, str]:
    """Text by name of file."""
    return {
        f"{contract.name}.json": json.dumps(contract.document, indent=2, ensure_ascii=False) + "\n"
        for contract in CONTRACTS
    }


def page() -> str:
    """The page that lists them."""
    rows = [
        (f"[`willfit.{each.name}/1`](schemas/{each.name}.json)", f"`{each.command}`")
        for each in CONTRACTS
    ]
    sections = "\n".join(_section(contract) for contract in CONTRACTS)
    return f"{GENERATED}{_INTRO}{table(('contract', 'printed by'), rows)}\n{sections}"


def _section(contract: Contract) -> str:
    rows = list(_rows(contract.schema, "", 0))
    return (
        f"## willfit.{contract.name}/1\n\n`{contract.command}`\n\n"
        f"{table(('key', 'value', 'meaning'), rows)}"
    )


def _rows(schema: Schema, prefix: str, depth: int) -> Iterator[tuple[str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        bare, null = _bare(field)
        meaning = field.get("description", bare.get("description", ""))
        optional = "" if name in schema["required"] else "; may be absent"
        yield (
            f"`{prefix}{name}`",
            _kind(bare) + (" or null" if null else ""),
            plain(meaning + optional),
        )
        inner, mark = (bare.get("items"), "[].") if bare.get("type") == "array" else (bare, ".")
        if inner is not None and depth < _DEPTH:
            yield from _rows(_bare(inner)[0], f"{prefix}{name}{mark}", depth + 1)


def _bare(schema: Schema) -> tuple[Schema, bool]:
    """Without the null that may stand for it."""
    if "anyOf" in schema:
        return schema["anyOf"][0], True
    return schema, False


def _kind(schema: Schema) -> str:
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[willfit.{name}/1](#willfit{name}1)"
    kind = str(schema.get("type", "any"))
    return f"list of {_kind(_bare(schema['items'])[0])}" if kind == "array" else kind
