"""Service: hands each question to a worker, and keeps the answers that cannot change."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from willfit.web.answers import refused
from willfit.web.fields import BY_NAME
from willfit.web.pool import PATIENCE, Pool, once
from willfit.web.worker import MAX_LINE

QUICK: Final = 2
SLOW: Final = 2
"""Workers for estimates, and for all that takes longer, so that nobody waits for a plan."""
TRACE_SECONDS: Final = 120.0
"""One trace, with the import of torch; the largest models take a tenth of it."""
MODELS: Final = 64
"""Characters of a model's name that the catalogue may have; its longest has 58."""
_FORM: Final = frozenset({"model", "gpu", "work", "others", *BY_NAME})
_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")


class Service:
    """Answers questions of any thread; its workers end with it."""

    def __init__(self, folder: Path, *, online: bool) -> None:
        self.online = online
        environment = worker_environment(os.environ, folder, online=online)
        self._environment, self._folder = environment, folder
        self._tracing = threading.Semaphore(1)
        self.quick = Pool(QUICK, environment, folder)
        self.slow = Pool(SLOW, environment, folder)

    def ask(self, tab: str, held: Mapping[str, Any]) -> str:
        """HTML of the answer to what the controls hold."""
        question = question_for(tab, held, online=self.online)
        known = _is_known(question)
        quick = tab == "estimate" and (known or bool(question["config"]))
        pool = self.quick if quick else self.slow
        return pool.ask(question, keep=known and tab != "doctor" and not question["config"])["html"]

    def trace(self, held: Mapping[str, Any]) -> str:
        """HTML of what the real code comes to, run in a process of its own, one at a time."""
        question = {**question_for("estimate", held, online=self.online), "trace": True}
        if not self._tracing.acquire(timeout=PATIENCE):
            return refused("other traces are running: try again in a minute")["html"]
        try:
            found = once(question, self._environment, self._folder, TRACE_SECONDS)
        finally:
            self._tracing.release()
        said = f"no trace within {TRACE_SECONDS:.0f} s and the memory allowed"
        return (found or refused(f"{said}: use 'willfit estimate … --trace'"))["html"]

    def close(self) -> None:
        """End the workers."""
        self.quick.close()
        self.slow.close()


def question_for(tab: str, held: Mapping[str, Any], *, online: bool) -> dict[str, Any]:
    """The question that a worker is asked."""
    form = {name: value for name, value in held.items() if name in _FORM}
    return {
        "form": {**form, "tab": tab},
        "config": str(held.get("config") or "")[:MAX_LINE],
        **(_texts(held) if tab == "doctor" else {}),
        "network": online and not held.get("opened"),
    }


def _texts(held: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(held.get(name) or "")[:MAX_LINE] for name in ("pasted", "script")}


def _is_known(question: Mapping[str, Any]) -> bool:
    """Whether the catalogue alone answers: then the same question has the same answer."""
    from willfit.sources import catalogue

    form = question["form"]
    name = str(form.get("model") or "")
    if form["tab"] == "compare" or not name or len(name) > MODELS:
        return False
    return catalogue.find(name) is not None


def worker_environment(given: Mapping[str, str], folder: Path, *, online: bool) -> dict[str, str]:
    """The environment of a worker: nothing of the user's own is sent to the Hub, or left behind."""
    kept = {name: value for name, value in given.items() if name not in _SECRETS}
    kept |= {
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "TMPDIR": str(folder),
    }
    paths = given.get("PYTHONPATH", "")
    if paths:  # a worker does not start where the server did
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(p).resolve()) for p in paths.split(os.pathsep)
        )
    if not online:
        kept["HF_HUB_OFFLINE"] = "1"
    return kept
