"""Facts: what the lines of a log have told so far, each with how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from willfit.settings.settings import Settings


@dataclass(kw_only=True)
class Facts:
    """Gathered over the lines of a log; a later line counts over an earlier of its kind."""

    flags: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    model_is_certain: bool = False
    """Whether a setting named it; a file's address that was read in passing is less."""
    gpus: dict[str, str] = field(default_factory=dict)
    """Names of GPUs by index, "" where the line gives none."""
    gpu_count: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    trainable: tuple[int, int] | None = None
    """Parameters that are trained, and all of them."""
    families: list[str] = field(default_factory=list)
    """Of the modelling files that frames name."""
    ignored: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    wasted: int = 0
    """Characters of brackets that had no partner."""

    def name_model(self, name: str, *, certain: bool = True) -> None:
        """A model's name or path; one that a setting gave is kept over one seen in passing."""
        if name and len(name) < 300 and (certain or not self.model_is_certain):
            self.model, self.model_is_certain = name, certain or self.model_is_certain

    def assume(self, sentence: str) -> None:
        """One sentence, once; a few dozen at most."""
        if sentence not in self.assumptions and len(self.assumptions) < 40:
            self.assumptions.append(sentence)

    def ignore(self, sentence: str) -> None:
        """The same for what could not be used."""
        if sentence not in self.ignored and len(self.ignored) < 40:
            self.ignored.append(sentence)

    def add(self, settings: Settings) -> None:
        """What another format's reader made of a part of the log."""
        self.flags.update(settings.flags)
        if settings.model is not None:
            self.name_model(settings.model)
        for sentence in settings.assumptions:
            self.assume(sentence)
        for sentence in settings.ignored:
            self.ignore(sentence)
