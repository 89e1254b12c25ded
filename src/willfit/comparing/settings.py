"""The settings that two scenarios do not share, each of which can be put into the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final

from willfit.comparing.words import spoken
from willfit.scenario import Machine, Scenario
from willfit.scenario.workload import Quantization

Path = tuple[str, ...]

MODEL: Final[tuple[Path, ...]] = (
    ("model",), ("workload", "loading", "auto_class"), ("workload", "loading", "num_labels"),
)  # fmt: skip
"""The model with what chooses its class: they go together."""
TASK: Final[tuple[Path, ...]] = (("workload", "inference"), ("workload", "training"))
"""What is done with the model: one goes where the other comes."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Fields of a scenario that go together, as two sides have them."""

    paths: tuple[Path, ...]
    before: tuple[Any, ...]
    after: tuple[Any, ...]

    def put_into(self, scenario: Scenario) -> Scenario:
        """The scenario with the other side's value."""
        changed: Any = scenario
        for path, value in zip(self.paths, self.after, strict=True):
            changed = _put(changed, path, value)
        found: Scenario = changed
        return found

    @property
    def is_model(self) -> bool:
        """Whether it is the model, not a setting."""
        return self.paths == MODEL

    def texts(self) -> tuple[str, str]:
        """Both values for people."""
        triples = zip(self.paths, self.before, self.after, strict=True)
        shown = [(spoken(path, a), spoken(path, b)) for path, a, b in triples if a != b]
        if self.paths == TASK:  # of which a side has one at most
            return _task(self.before), _task(self.after)
        return ", ".join(a for a, _ in shown), ", ".join(b for _, b in shown)


def differing(a: Scenario, b: Scenario) -> tuple[Setting, ...]:
    """What ``b`` has otherwise than ``a``: the model, the work, the libraries, the machine."""
    together = [MODEL, *([TASK] if a.workload.task != b.workload.task else [])]
    taken = {path for paths in together for path in paths}
    alone = [(path,) for path in _leaves(a, b, ()) if not _covered(path, taken)]
    order = [*together, *sorted(alone, key=lambda paths: _RANK[paths[0][0]])]
    found = (_setting(paths, a, b) for paths in order)
    return tuple(setting for setting in found if setting is not None)


_RANK: Final = {"model": 0, "workload": 1, "stack": 2, "machine": 3}


def _setting(paths: tuple[Path, ...], a: Scenario, b: Scenario) -> Setting | None:
    before, after = (tuple(_get(side, path) for path in paths) for side in (a, b))
    return None if before == after else Setting(paths=paths, before=before, after=after)


def _task(works: tuple[Any, ...]) -> str:
    given = next(((p, work) for p, work in zip(TASK, works, strict=True) if work is not None), None)
    return spoken(*given) if given is not None else "loading"


def _covered(path: Path, taken: set[Path]) -> bool:
    return any(path[: len(known)] == known for known in taken)


def _leaves(a: Any, b: Any, path: Path) -> Iterator[Path]:
    """Paths of the innermost values that differ and that both sides have."""
    if a == b or path == ("model",):
        return
    if path == ("stack", "versions"):
        yield from ((*path, name) for name in {**a, **b} if a.get(name) != b.get(name))
    elif _is_whole(a, b):
        yield path
    else:
        for field in fields(a):
            yield from _leaves(getattr(a, field.name), getattr(b, field.name), (*path, field.name))


def _is_whole(a: Any, b: Any) -> bool:
    """Whether a value is one thing to its user; other GPUs are another machine."""
    if isinstance(a, Machine) and isinstance(b, Machine):
        return a.gpus != b.gpus
    return not is_dataclass(a) or type(a) is not type(b) or isinstance(a, Quantization)


def _get(value: Any, path: Path) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
    return value


def _put(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    name, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key != name}
        return kept if new is None else {**value, name: new}
    return replace(value, **{name: _put(getattr(value, name), rest, new)})
