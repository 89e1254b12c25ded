"""The look of each component in every picture: one fixed colour, and its name in words.

The colours were searched for: as far apart as fourteen can be in OKLab, for people who see all
colours and for those who lack red, green or blue receptors; `tests/test_pictures.py` computes how
far. Everything else in a picture takes the text's own colour, so that it follows light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

INK: Final = "currentColor"
"""Of text, lines and hatching: what the surroundings write with."""
LIGHT_PAPER, LIGHT_INK = "#ffffff", "#1f2328"
DARK_PAPER, DARK_INK = "#0d1117", "#e6edf3"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a component is shown."""

    color: str
    """``#rrggbb``."""
    words: str


LOOKS: Final[Mapping[str, Look]] = {
    "weights": Look(color="#4f80c9", words="weights"),
    "quantization_state": Look(color="#70b9ff", words="quantisation state"),
    "adapters": Look(color="#ef7700", words="adapters"),
    "gradients": Look(color="#776f53", words="gradients"),
    "optimizer_states": Look(color="#f9cc1d", words="optimizer states"),
    "activations": Look(color="#58aa5b", words="activations"),
    "logits": Look(color="#a0c99c", words="logits"),
    "kv_cache": Look(color="#9233b6", words="KV cache"),
    "temporaries": Look(color="#cf3a1c", words="temporaries"),
    "workspaces": Look(color="#bf9ebc", words="workspaces"),
    "communication": Look(color="#087186", words="communication"),
    "fragmentation": Look(color="#d2d2d2", words="fragmentation"),
    "cuda_context": Look(color="#8f8f8f", words="CUDA context"),
    "other_processes": Look(color="#6b4d56", words="other processes"),
}
"""Components in the order in which they are stacked."""
_PLACES: Final = {name: number for number, name in enumerate(LOOKS)}
_UNKNOWN: Final = "#a08f7a"


def look(name: str) -> Look:
    """A component's look; one that the table lacks keeps its own name."""
    return LOOKS.get(name) or Look(color=_UNKNOWN, words=name.replace("_", " ")[:40])


def place(name: str) -> int:
    """Where a component is stacked: its row of the table, before all of them where it has none."""
    return _PLACES.get(name, -1)


def ink_on(color: str) -> str:
    """The dark ink or white, whichever is read better on ``#rrggbb``."""
    return max(("#101418", "#ffffff"), key=lambda ink: contrast(ink, color))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two ``#rrggbb``, 1 to 21, as WCAG 2.2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 to 1, as WCAG 2.2 defines it."""
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def linear(color: str) -> tuple[float, float, float]:
    """Linear light of ``#rrggbb``, each channel 0 to 1 (sRGB, IEC 61966-2-1)."""
    red, green, blue = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return _linear(red), _linear(green), _linear(blue)


def _linear(channel: float) -> float:
    return float(channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4)
