"""What changed between two lists of ingredients, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.runner.content.canonical import canonical, plain_copy, without_none

SHORT_TEXT: Final = 40
"""Characters of a text that is shown whole."""
_MOST_NAMES: Final = 3
_DIGEST: Final = re.compile(r"(?:(?P<kind>[a-z]+):)?[0-9a-f]{32,64}")
_WORD: Final = re.compile(r"[\w.+/:-]{1,40}")
_MODEL_PARTS: Final = frozenset({"weights", "config", "tokenizer", "code"})
_KINDS: Final = {"hub": "the Hub's digests", "full": "all bytes", "quick": "samples"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, of: str = "") -> tuple[str, ...]:
    """What changed between two lists of ingredients, a phrase each; none where keys are equal.

    ``of`` names the model in the phrases about its files: "weights of gemma changed: …".
    """
    before, now = without_none(plain_copy(old)), without_none(plain_copy(new))
    return tuple(_between(before, now, _Say(of=of)))


@dataclass(frozen=True, kw_only=True)
class _Say:
    """Where in the ingredients a phrase stands."""

    of: str
    path: tuple[str, ...] = ()

    def under(self, name: str) -> _Say:
        return _Say(of=self.of, path=(*self.path, name))

    @property
    def name(self) -> str:
        """``generation.temperature``; data has its article."""
        return "the data" if self.path == ("data",) else ".".join(self.path)

    @property
    def files(self) -> str:
        """``weights of gemma``, ``weights of the adapter``."""
        *above, last = self.path
        if last not in _MODEL_PARTS:
            return self.name
        if above == [last]:  # a tokenizer that is named on its own
            return last
        owner = self.of if above in ([], ["model"]) else f"the {'.'.join(above)}"
        return f"{last} of {owner}" if owner else last


def _between(old: Mapping[str, Any], new: Mapping[str, Any], say: _Say) -> Iterator[str]:
    for name in (*new, *(name for name in old if name not in new)):
        here, before, now = say.under(name), old.get(name), new.get(name)
        if canonical(before) != canonical(now):
            yield from _phrases(before, now, here)


def _phrases(old: Any, new: Any, say: _Say) -> Iterator[str]:
    """How a value that changed is told: the first that knows its kind."""
    if say.path == ("data",):
        yield _data(old, new)
    elif _is_files(old) and _is_files(new):
        yield from _files(old, new, say)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _between(old, new, say)
    else:
        yield next(filter(None, (tell(old, new, say) for tell in _TELLERS)))


def _data(old: Any, new: Any) -> str:
    return "the data changed" + _rows(old, new)


def _rows(old: Any, new: Any) -> str:
    both = [part.get("rows") if isinstance(part, Mapping) else None for part in (old, new)]
    known = all(type(count) is int for count in both) and both[0] != both[1]
    return f": {both[0]:,} → {both[1]:,} rows" if known else ""


def _files(old: Mapping[str, str], new: Mapping[str, str], say: _Say) -> Iterator[str]:
    """Files by name and digest; code speaks for itself."""
    if all(name.endswith(".py") for name in (*old, *new)):
        yield f"{_list(_changed(old, new))} changed"
    elif _kind(old) and _kind(new) and _kind(old) != _kind(new) and old.keys() == new.keys():
        yield f"{say.files} known by {_KINDS[_kind(new)]} instead of {_KINDS[_kind(old)]}"
    else:
        yield f"{say.files} changed: {_list(_changed(old, new))}"


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    changed = [name for name in sorted(new) if name in old and old[name] != new[name]]
    added = [f"{name} (new)" for name in sorted(new) if name not in old]
    return changed + added + [f"{name} (gone)" for name in sorted(old) if name not in new]


def _list(names: list[str]) -> str:
    shown, more = names[:_MOST_NAMES], len(names) - _MOST_NAMES
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _is_files(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_digest, value.values()))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _kind(files: Mapping[str, str]) -> str:
    """The one way in which all the files are known; "" where they differ."""
    kinds = {digest.rpartition(":")[0] for digest in files.values()}
    kind = kinds.pop() if len(kinds) == 1 else ""
    return kind if kind in _KINDS else ""


def _came_or_went(old: Any, new: Any, say: _Say) -> str:
    """For what is too large to show; a number or word that comes is ``none → it``."""
    value = new if old is None else old
    if (old is not None and new is not None) or (_is_small(value) and not _is_digest(value)):
        return ""
    name = say.files if _is_files(value) else say.name
    return f"{name} {'added' if old is None else 'removed'}"


def _digests(old: Any, new: Any, say: _Say) -> str:
    return f"{say.name} changed" if _is_digest(old) or _is_digest(new) else ""


def _small(old: Any, new: Any, say: _Say) -> str:
    return f"{say.name} {_show(old)} → {_show(new)}" if _is_small(old) and _is_small(new) else ""


def _texts(old: Any, new: Any, say: _Say) -> str:
    if not isinstance(old, str) or not isinstance(new, str):
        return ""
    if max(len(old), len(new)) <= SHORT_TEXT:
        return f"{say.name} changed: {_quoted(old)} → {_quoted(new)}"
    at = _first_difference(old, new)
    return (
        f"{say.name} changed from character {at + 1} on: {_excerpt(old, at)} → "
        f"{_excerpt(new, at)} ({len(old):,} → {len(new):,} characters)"
    )


def _lists(old: Any, new: Any, say: _Say) -> str:
    if not isinstance(old, list) or not isinstance(new, list):
        return ""
    counts = f": {len(old)} → {len(new)} entries" if len(old) != len(new) else ""
    return f"{say.name} changed{counts}"


def _anything(_old: Any, _new: Any, say: _Say) -> str:
    return f"{say.name} changed"


_TELLERS: Final[tuple[Callable[[Any, Any, _Say], str], ...]] = (
    _came_or_went, _digests, _small, _texts, _lists, _anything,
)  # fmt: skip


def _is_small(value: Any) -> bool:
    """Whether a value is shown as it is: numbers, words, short lists."""
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, list):
        return len(_show(value)) <= SHORT_TEXT
    return not isinstance(value, Mapping)


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    """The text on one line between quotes."""
    return json.dumps(text, ensure_ascii=False)


def _first_difference(old: str, new: str) -> int:
    pairs = enumerate(zip(old, new, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))


def _excerpt(text: str, at: int) -> str:
    """What stands there, with some characters before it."""
    start, end = max(0, at - SHORT_TEXT // 4), at + SHORT_TEXT // 2
    before, after = "…" if start else "", "…" if end < len(text) else ""
    return f"{before}{_quoted(text[start:end])}{after}"
