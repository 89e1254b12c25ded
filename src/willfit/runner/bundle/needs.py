"""Packages that a pipeline needs where it runs, and which of them a bundle carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.errors import InputError
from willfit.runner.bundle.image import Image
from willfit.runner.pipeline import Pipeline, StageFile

RUNNER: Final = {
    "huggingface-hub": ">=0.30", "pyyaml": ">=6", "nvidia-ml-py": ">=12",
    "pyarrow": ">=16", "tokenizers": ">=0.20", "numpy": ">=1.24", "pydantic": ">=2.9",
    "psutil": ">=5.9", "rich": ">=13", "cloudpickle": ">=2.2",
    "packaging": ">=22",
}  # fmt: skip
"""What ``willfit[run]`` requires, as pyproject.toml has it."""
MODELS: Final = {
    "torch": ">=2.6", "transformers": ">=4.46", "accelerate": ">=1.0", "peft": ">=0.13",
    "bitsandbytes": ">=0.45",
}  # fmt: skip
"""What ``willfit[trace]`` requires of the libraries that run models."""
CARRIED: Final = frozenset({"bitsandbytes", "peft", "nvidia-ml-py", "cloudpickle"})
"""In a bundle whether the image is known to have them or not: they came to it late, or are not in
it, a notebook may be pinned to an older image, and they need no other version of anything."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """A package, and who needs it."""

    name: str
    """Its normal name."""
    specifier: str
    """Versions that do, such as ``>=2.6``; "" for any."""
    why: str


def needs(pipeline: Pipeline, extra: tuple[str, ...] = ()) -> tuple[Need, ...]:
    """What willfit needs to run a pipeline's stages, and the packages that the user adds.

    Raises `InputError` for an engine that no bundle can carry.
    """
    found = [Need(name=n, specifier=s, why="willfit") for n, s in RUNNER.items()]
    for name, stage in pipeline.stages.items():
        found += [
            Need(name=n, specifier=MODELS[n], why=f"willfit for stage {name}")
            for n in _libraries(name, stage)
        ]
    found += [Need(name=name, specifier="", why="the pipeline's code") for name in extra]
    return tuple({need.name: need for need in reversed(found)}.values())[::-1]


def _libraries(name: str, stage: StageFile) -> Iterator[str]:
    if stage.run is not None:
        return
    if stage.engine == "vllm":
        raise InputError(
            f"stage {name} has engine vllm, which brings a torch of its own and cannot be added to "
            "an image without changing it: use engine: transformers"
        )
    yield from ("torch", "transformers", "accelerate")
    if stage.adapter is not None:
        yield "peft"
    if stage.quantize is not None:
        yield "bitsandbytes"


def carried(wanted: tuple[Need, ...], image: Image) -> tuple[str, ...]:
    """Names of the packages whose wheels go into the bundle."""
    return tuple(need.name for need in wanted if need.name in CARRIED or not image.has(need.name))
