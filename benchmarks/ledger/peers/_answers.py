"""A tool's answer, kept by what it was asked and by the code that asks."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.ledger.peers._peer import Answer, NotPredicted, Peer
from benchmarks.ledger.peers._places import home
from willfit.scenario import Scenario

_ANSWERS: dict[str, Answer] = {}


def answer(peer: Peer, scenario: Scenario) -> Answer:
    """Bytes, or why there are none: an error of the tool is its answer."""
    key = _key(peer, scenario)
    if key not in _ANSWERS:
        _ANSWERS[key] = _kept(key) or _ask(peer, scenario)
        found = _ANSWERS[key]
        if not isinstance(found, NotPredicted) or found.is_kept:
            _keep(key, found)
    return _ANSWERS[key]


def _ask(peer: Peer, scenario: Scenario) -> Answer:
    try:
        return peer.predict(scenario)
    except Exception as error:  # code of others: whatever it raises, a user would have no figure
        said = " ".join(str(error).split())[:160]
        return NotPredicted(reason=f"it ends in an error: {type(error).__name__}: {said}")


def _key(peer: Peer, scenario: Scenario) -> str:
    model, machine = scenario.model, scenario.machine
    question: Any = [
        _code(peer.path, alone=peer.about.slow), peer.about.version,
        model.id, model.library, model.model_class,
        dict(model.config), model.stored_dtype.name, repr(model.tensors), repr(scenario.workload),
        len(machine.gpus) if machine else 0, dict(scenario.stack.versions),
    ]  # fmt: skip
    text = json.dumps(question, sort_keys=True, default=str)
    return f"{peer.name}-{hashlib.sha256(text.encode()).hexdigest()}"


@lru_cache
def _code(path: str, *, alone: bool) -> str:
    """Of a slow tool its module alone decides; the quick ones share code and are asked again."""
    files = [Path(path)] if alone else sorted(Path(path).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _path(key: str) -> Path:
    return home() / "answers" / f"{key}.json"


def _kept(key: str) -> Answer | None:
    try:
        found: dict[str, Any] = json.loads(_path(key).read_text())
        return NotPredicted(reason=found["reason"]) if "reason" in found else int(found["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(key: str, found: Answer) -> None:
    path = _path(key)
    known = {"reason": found.reason} if isinstance(found, NotPredicted) else {"bytes": found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known))
