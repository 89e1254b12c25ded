"""huggingface/peft ``method_comparison/image-gen``: FLUX.2-klein-base-4B fine-tuned on an L40S.

A diffusion transformer of diffusers beside its text encoder and its autoencoder: willfit has
neither its tensor table nor its code, and estimates what transformers builds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.row import About, NotExpressed, PublishedRow

ABOUT: Final = About(
    title="huggingface/peft, method comparison (image generation)",
    notes=(
        "What is allocated at the end of a step is, in 11 of 19 runs, two bytes for each frozen "
        "parameter, 16 for each of the adapter's (float32, gradient, two states) and 474 to 491 "
        "MiB, and of full fine-tuning 8 bytes a parameter and 477 MiB: the rest is the "
        "autoencoder, the batch and cuBLAS's workspaces. The source counted the parameters, so "
        "that this is no estimate.",
    ),
)
_REASON: Final = (
    "a diffusion transformer of diffusers (Flux2Transformer2DModel): willfit builds classes of "
    "transformers and timm alone, and its catalogue has no table of its tensors"
)


def express(row: PublishedRow) -> Iterator[NotExpressed]:
    """Nothing, and why."""
    for entry in row["measured"]:
        yield NotExpressed(kind=entry["kind"], reason=_REASON)
