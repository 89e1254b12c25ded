"""Frozen modules: parameters of full fine-tuning that get neither gradient nor state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from willfit.errors import InputError
from willfit.formulas.weights import LoadedRow
from willfit.identity import by_identity
from willfit.scenario.collapse import split_row

EMBEDDINGS: Final = (
    "embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "tok_embeddings",
)  # fmt: skip
"""Names under which transformers' classes have the embedding of tokens."""


@by_identity(64)
def trained_rows(rows: tuple[LoadedRow, ...], freeze: tuple[str, ...]) -> tuple[LoadedRow, ...]:
    """Rows of parameters that are trained; raises `InputError` where none is left.

    A name stands for every module whose path ends with it, and for what is inside of that. A tied
    tensor is frozen with the one whose storage it shares.
    """
    own = [loaded for loaded in rows if loaded.row.is_parameter and loaded.dtype.is_floating]
    shared = {r.row.tied_to for r in own if r.row.tied_to and is_frozen(r.row.name, freeze)}
    by_layer = any(character.isdigit() for name in freeze for character in name)
    trained = tuple(
        replace(loaded, row=part)
        for loaded in own
        if loaded.weight_bytes and loaded.row.name not in shared
        for part, frozen in split_row(
            loaded.row, lambda name: is_frozen(name, freeze), by_layer=by_layer
        )
        if not frozen
    )
    if freeze and not trained:
        raise InputError(f"--freeze {' '.join(freeze)} leaves nothing to train: name less")
    return trained


def is_frozen(name: str, freeze: Collection[str]) -> bool:
    """Whether the parameter is of a module that is named, or inside of one."""
    owner = f".{name.rpartition('.')[0]}."
    return any(f".{wanted}." in owner for wanted in freeze)
