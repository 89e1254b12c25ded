"""Gathered: flags of one model's scenario, with what was left out and what was assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from willfit.errors import InputError
from willfit.settings.code.values import Dotted, Given, Made, Record, Unknown
from willfit.settings.settings import Convert, convert_all

_DTYPES: Final = {
    "half": "float16", "float": "float32", "double": "float64", "fp16": "float16",
    "bf16": "bfloat16", "fp32": "float32", "float16": "float16", "bfloat16": "bfloat16",
    "float32": "float32", "float64": "float64", "auto": "auto",
}  # fmt: skip
_LARGEST: Final = 2**31
"""Bound on numbers of a setting: what is larger is no setting."""
MISSING: Final = object()
"""Stands for a value that the text does not tell."""


def plain(value: Any) -> Any:
    """A value as a settings file would hold it; `MISSING` where it is not known."""
    if isinstance(value, Dotted):
        return _of_name(value)
    if isinstance(value, (Unknown, Made)) or value is Ellipsis:
        return MISSING
    if isinstance(value, (bool, float, str)) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST else MISSING
    if isinstance(value, Record):
        return {str(key): item for key, item in _items(value) if item is not MISSING}
    if isinstance(value, (list, tuple)):
        items = [plain(item) for item in value[:1000]]
        return MISSING if any(item is MISSING for item in items) else items
    return MISSING


def _items(record: Record) -> list[tuple[Any, Any]]:
    return [(key, plain(item)) for key, item in list(record.items())[:1000]]


def _of_name(value: Dotted) -> Any:
    """``torch.bfloat16``, ``TaskType.SEQ_CLS``, ``OptimizerNames.ADAMW_8BIT``."""
    owner = value.name.rpartition(".")[0].rpartition(".")[2]
    if owner == "torch" and value.last in _DTYPES:
        return _DTYPES[value.last]
    if owner == "TaskType":
        return value.last
    return value.last.lower() if owner == "OptimizerNames" else MISSING


def dtype_name(value: Any) -> str | None:
    """``bfloat16`` of ``torch.bfloat16``, ``"bf16"``; None where it tells no type."""
    found = plain(value)
    name = found.removeprefix("torch.") if isinstance(found, str) else ""
    return _DTYPES.get(name) if name != "auto" else None


@dataclass(kw_only=True)
class Gathered:
    """What becomes `Settings`."""

    flags: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    def default(self, name: str, value: Any) -> None:
        """A flag where nothing said otherwise yet."""
        if value is not None:
            self.flags.setdefault(name, value)

    def assume(self, sentence: str) -> None:
        """One sentence, once."""
        if sentence not in self.assumptions:
            self.assumptions.append(sentence)

    def ignore(self, sentence: str) -> None:
        """One sentence on what could not be used, once."""
        if sentence not in self.ignored:
            self.ignored.append(sentence)

    def convert(
        self,
        given: Mapping[str, Given],
        table: Mapping[str, Convert],
        harmless: Iterable[str],
        *,
        of: str,
        unread: Iterable[str] = (),
    ) -> None:
        """Flags of a call's arguments by a table of conversions."""
        content: dict[str, Any] = {}
        quiet = frozenset(harmless) - table.keys()
        for name, item in given.items():
            if name in quiet:
                continue
            value = plain(item.value)
            if value is not MISSING:
                if self._fits(name, value, table):
                    content[name] = value
            elif name in table:
                self.assume(f"{name} of {of} is{_quoted(item.value)} not in the text: its default")
        flags, left = convert_all(content, table, ())
        self.flags.update(flags)
        for sentence in left:
            self.ignore(f"{of}: {sentence}")
        for text in unread:
            self.ignore(f"{of} is also given **{text}, which is not in the text")

    def _fits(self, name: str, value: Any, table: Mapping[str, Convert]) -> bool:
        try:
            convert_all({name: value}, table, ())
        except InputError as error:
            self.ignore(str(error))
            return False
        return True


def _quoted(value: Any) -> str:
    text = value.text if isinstance(value, Unknown) else getattr(value, "name", "")
    return f" {text!r}, which is" if text else ""
