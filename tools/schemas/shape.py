"""Words to write a JSON Schema with: records, lists, amounts of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

Schema = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

TEXT: Final[Schema] = {"type": "string"}
BOOL: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
BYTES: Final[Schema] = {"type": "integer", "minimum": 0, "description": "bytes"}
SIGNED: Final[Schema] = {"type": "integer", "description": "bytes; negative where it is less"}
NUMBER: Final[Schema] = {"type": "number"}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0, "description": "seconds"}
TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
ANY: Final[Schema] = {"type": "object"}


@dataclass(frozen=True, kw_only=True)
class Contract:
    """One command's JSON."""

    name: str
    """``estimate``: of the file, and of ``willfit.estimate/1``."""
    command: str
    """What prints it."""
    schema: Schema
    """Without the heading."""

    @property
    def document(self) -> Schema:
        """The whole file."""
        return {"$schema": DRAFT, "title": f"willfit.{self.name}/1", **self.schema}


def contract(name: str, command: str, fields: Mapping[str, Schema], **more: Any) -> Contract:
    """A contract whose object begins with its own name."""
    named = {"schema": {"const": f"willfit.{name}/1"}, **fields}
    return Contract(name=name, command=command, schema={**record(named), **more})


def with_optional(given: Contract, fields: Mapping[str, Schema]) -> Contract:
    """The contract with keys that may be absent."""
    properties = {**given.schema["properties"], **fields}
    return replace(given, schema={**given.schema, "properties": properties})


def record(fields: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object with these keys, all but the optional ones always there; others may be added."""
    return {
        "type": "object",
        "required": [name for name in fields if name not in optional],
        "properties": dict(fields),
    }


def each(item: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": item}


def by_name(value: Schema) -> Schema:
    """An object whose keys are names of the user's or the machine's."""
    return {"type": "object", "additionalProperties": value}


def one_of(*values: str) -> Schema:
    """One of these words."""
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def said(schema: Schema, words: str) -> Schema:
    """The same, explained."""
    return {**schema, "description": words}
