"""Growth: which components of a peak are more than they were, past what is allowed, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.comparing.moved import moved
from willfit.comparing.recorded import Recorded
from willfit.comparing.result import Moved, Part
from willfit.comparing.words import title
from willfit.errors import InputError
from willfit.units import parse_bytes

LASTING: Final = (
    "weights", "quantization_state", "adapters", "kv_cache", "optimizer_states", "cuda_context",
    "left_behind",
)  # fmt: skip
"""Components that are the same at every moment of a phase."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How much a component, and the peak, may grow."""

    text: str = "0"
    """As it was given."""
    num_bytes: int = 0
    millionths: int = 0
    """Of the recorded peak."""

    def of(self, peak_bytes: int) -> int:
        """Bytes, rounded down."""
        return self.num_bytes + peak_bytes * self.millionths // 10**6


def parse_allowance(text: str | None) -> Allowance:
    """``1%`` of the recorded peak, or an amount such as ``64MiB``; None allows nothing."""
    if text is None:
        return Allowance()
    try:
        if text.strip().endswith("%"):
            share = float(text.strip()[:-1])
            if not 0 <= share <= 100:
                raise ValueError(text)
            return Allowance(text=text.strip(), millionths=round(share * 10**4))
        return Allowance(text=text.strip(), num_bytes=parse_bytes(text))
    except (ValueError, InputError):
        raise InputError(
            f"cannot allow {text[:40]!r}: expected a share of the peak such as 1%, or an amount "
            "such as 64MiB"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One peak against another."""

    before: Recorded
    after: Recorded
    peak: Moved
    grown: tuple[Moved, ...]
    """Components that grew by more than is allowed, the largest first."""
    shrunk: tuple[Moved, ...]
    allowance: Allowance
    settings: tuple[Part, ...]
    """What was changed between them: model, workload, versions, machine."""

    @property
    def allowed_bytes(self) -> int:
        """For each component, and for the peak."""
        return self.allowance.of(self.before.peak_bytes)

    @property
    def peak_grew(self) -> bool:
        """Whether the whole grew by more than is allowed."""
        return self.peak.change_bytes > self.allowed_bytes

    @property
    def passes(self) -> bool:
        """Whether nothing grew by more than is allowed."""
        return not self.grown and not self.peak_grew

    @property
    def differs(self) -> bool:
        """Whether any component is not what it was."""
        return self.before.components != self.after.components

    @property
    def by_willfit(self) -> bool:
        """Whether no setting differs, so that willfit itself finds another number."""
        return not self.settings and self.after.level != "measured"


def growth(before: Recorded, after: Recorded, allowance: Allowance) -> Growth:
    """What grew from one to the other.

    Components are those at the peak, and a peak that is no higher may be another moment's, when
    what comes and goes is divided otherwise: there only what lasts can have grown.
    """
    allowed = allowance.of(before.peak_bytes)
    parts = moved(before.components, after.components)
    lower = after.peak_bytes <= before.peak_bytes
    lasting = LASTING if before.phase == after.phase else ()
    return Growth(
        before=before,
        after=after,
        peak=Moved(name="device", a_bytes=before.peak_bytes, b_bytes=after.peak_bytes),
        grown=tuple(
            part
            for part in parts
            if part.change_bytes > allowed and (not lower or part.name.startswith(lasting))
        ),
        shrunk=tuple(part for part in parts if part.change_bytes < 0),
        allowance=allowance,
        settings=_changed(before, after),
    )


def _changed(before: Recorded, after: Recorded) -> tuple[Part, ...]:
    old = {"level": before.level, **before.settings}
    new = {"level": after.level, **after.settings}
    return tuple(
        Part(
            path=path, title=_title(path), before=old.get(path, "none"), after=new.get(path, "none")
        )
        for path in {**old, **new}
        if old.get(path) != new.get(path)
    )


_TITLES: Final = {
    "level": "the level",
    "model": "the model",
    "model.num_params": "its parameters",
    "machine.gpus": "--gpu",
    "workload.loading.quantization.scheme": "--quantize",
    "workload.loading.quantization.compute_dtype": "--bnb-4bit-compute-dtype",
    "workload.loading.quantization.skip_modules": "--llm-int8-skip-modules",
}
"""Places of a record that a scenario does not have as such."""


def _title(path: str) -> str:
    return _TITLES.get(path) or (title(tuple(path.split("."))) if "." in path else path)
