"""Naming: a way from a place down to a tensor, in words, with the line of code that cuts it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from willfit.live.memory.climb import Path
from willfit.live.memory.cutting import Stop, cut, delete, line_for
from willfit.live.memory.kinds import is_below
from willfit.live.memory.roots import Root
from willfit.live.memory.specials import special_at
from willfit.live.memory.steps import Step, step


@dataclass(frozen=True, kw_only=True)
class Named:
    """A way in words."""

    kind: str
    path: str
    line: str
    special: Any = None
    """The object that a special line speaks to; hold it no longer than needed."""


def name(path: Path, *, by_graph: bool) -> Named:
    """Words for a way; ``by_graph``: the object at its end holds by autograd's graph."""
    try:
        return _named(path, by_graph=by_graph)
    except Exception:  # an object of a stranger on the way that does not let itself be looked at
        root = path.root
        return Named(
            kind=root.kind, path=_place(root), line=line_for(root, f"del {root.expression}")
        )


def _named(path: Path, *, by_graph: bool) -> Named:
    way, root = path.objects, path.root
    stops = _stops(way, root.expression)
    first = None if root.kind in _SELF_EVIDENT else _first(stops)
    inner = [*_inner(stops, first), *_end(way[-1], by_graph=by_graph)]
    if first is None or first.special is None:
        return Named(
            kind=_kind(root, way[-1], by_graph=by_graph),
            path=_joined(_place(root, _container(way)), inner),
            line=line_for(root, cut(way, stops, root, path.width)),
        )
    holder, special = way[first.place], first.special
    outer = [stop.step.words for stop in stops if stop.place < first.place and stop.step.words]
    line = cut(way, stops[: stops.index(first) + 1], root, 1)
    if first.expression is not None or special.line.startswith("#"):
        line = special.line.replace("{x}", first.expression or "")
        line = delete(way, stops[: stops.index(first) + 1]) if special.deletes else line
    return Named(
        kind=special.kind if root.kind != "output" else root.kind,
        path=_joined(f"{special.words(holder)}, kept in {_joined(_place(root), outer)}", inner),
        line=line_for(root, line),
        special=holder,
    )


_SELF_EVIDENT: Final = frozenset({"last exception", "handled exception", "ipython"})
"""Places whose name says what kind of holder it is."""


def _kind(root: Root, end: Any, *, by_graph: bool) -> str:
    if root.kind not in ("variable", "local"):
        return root.kind
    if is_below(end, "peft.", "PeftModel"):
        return "peft"
    return "grad graph" if by_graph else root.kind


def _first(stops: Sequence[Stop]) -> Stop | None:
    return next((stop for stop in stops if stop.special), None)


def _stops(way: Sequence[Any], expression: str | None) -> list[Stop]:
    stops = []
    place = 0
    while place < len(way) - 1:
        here = _step(way, place)
        stops.append(
            Stop(place=place, expression=expression, step=here, special=special_at(way, place))
        )
        access = here.access
        expression = expression + access if expression is not None and access else None
        place += here.over
    return stops


def _step(way: Sequence[Any], place: int) -> Step:
    try:
        return step(way, place)
    except Exception:  # an object of a stranger that does not let itself be looked at
        return Step(words=f"an object of type {type(way[place]).__name__}")


def _inner(stops: Sequence[Stop], first: Stop | None) -> list[str]:
    """What lies between the holder and the end, in a few words each."""
    begin = first.place if first else 0
    words = [stop.step.words for stop in stops if stop.place >= begin and stop.step.words]
    if first is not None:
        words = [one for one in words if one.startswith(_TELLING)]
    return words if len(words) <= 4 else [*words[:2], "…", words[-1]]


_TELLING: Final = ("frame ", "local ", "as ", "result of", "exception of")
"""What is said of the inside of a special holder: of an optimizer's lists nobody wants to hear."""


def _end(end: Any, *, by_graph: bool) -> list[str]:
    """What is held, where that is not a model as such."""
    if by_graph:
        return ["tensor with grad graph"]
    if isinstance(end, nn.Module):
        return [f"PEFT wrapper `{type(end).__name__}`"] if is_below(end, *_PEFT) else []
    if end.untyped_storage().nbytes() > 2 * end.numel() * end.element_size():
        return ["a view that keeps the whole tensor"]
    return []


_PEFT: Final = ("peft.", "PeftModel")


def _joined(head: str, parts: Sequence[str]) -> str:
    return ", ".join([head, *parts]) if parts else head


_CONTAINERS: Final[frozenset[type]] = frozenset({list, dict, tuple, set, deque})


def _container(way: Sequence[Any]) -> str:
    """``list``: said of a variable that holds one."""
    kind = type(way[0])
    return kind.__name__ if len(way) > 1 and kind in _CONTAINERS else ""


def _place(root: Root, container: str = "") -> str:
    if root.kind in _PLACES:
        return _PLACES[root.kind].format(name=root.name, place=root.place)
    word = container or _WORDS.get(root.kind, "variable")
    return f"{word} `{root.name}` {root.place}".rstrip()


_PLACES: Final = {
    "last exception": "{name}",
    "handled exception": "the exception that is being handled {place}",
    "ipython": "IPython (its last result or error)",
    "hidden": "{place}",
    "returned": "{place}",
}
_WORDS: Final = {
    "local": "local", "thread": "local", "class": "attribute", "output": "output",
    "context": "context variable", "signal": "signal handler", "logger": "logger",
}  # fmt: skip
