"""Ids of rows: compared whatever their width, found again in another order, named in messages."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from willfit.errors import InputError

_NAMED: Final = 3
"""Ids that a message names."""
ABSENT: Final = -1
"""Position of an id that is nowhere: only within arrays of positions."""


def checked_ids(ids: Any, whose: str, checked: Any = None) -> Any:
    """The ids as a pyarrow array of a type that depends on their kind alone.

    ``checked``: ids that were found good before; the same ones are so too. Raises `InputError` if
    one is null, repeated, or of a kind that cannot be looked up.
    """
    keys = _canonical(ids)
    if checked is not None and keys.equals(checked):
        return checked
    if keys.null_count:
        raise InputError(
            f"{whose} has null for an id in {keys.null_count} of {len(keys)} rows: "
            "give each row an id"
        )
    try:
        repeats = _has_repeats(keys)
    except pa.ArrowException as error:
        raise InputError(
            f"{whose} has ids of type {keys.type}, which cannot be looked up: "
            "use integers or strings"
        ) from error
    if repeats:
        counts = keys.value_counts()
        repeated = np.asarray(counts.field("counts")) > 1
        raise InputError(
            f"{whose} has ids more than once ({first_ids(counts.field('values'), repeated)}): "
            "give each row an id of its own"
        )
    return keys


def _has_repeats(keys: Any) -> bool:
    """Sorting takes a third of a hash table's memory; without ids any type will do."""
    if len(keys) < 2 and pa.types.is_null(keys.type):
        return False
    ordered = keys.take(pc.sort_indices(keys))
    return bool(pc.any(pc.equal(ordered[1:], ordered[:-1])).as_py())


def positions(wanted: Any, among: Any, whose: str) -> npt.NDArray[np.int64]:
    """Where each of ``wanted`` stands in ``among``, `ABSENT` where it does not.

    Both as `checked_ids` gives them. Raises `InputError` if the kinds differ, or if ``among`` has
    ids that are not wanted: it belongs to other data then.
    """
    if wanted.type != among.type and len(wanted) and len(among):
        raise InputError(
            f"{whose} has ids of type {among.type}, but the output's are {wanted.type}: "
            "give both the same type"
        )
    if wanted is among:
        return np.arange(len(wanted), dtype=np.int64)
    places = _index_in(wanted, among)
    stray = np.ones(len(among), dtype=np.bool_)
    stray[places[places != ABSENT]] = False
    if stray.any():
        raise InputError(
            f"{whose} has ids that the output does not have (of {len(among)} these {stray.sum()}: "
            f"{first_ids(among, stray)}): score the data that the output is for"
        )
    return places


def _index_in(wanted: Any, among: Any) -> npt.NDArray[np.int64]:
    if not (len(wanted) and len(among)):  # an array without ids may have any type
        return np.full(len(wanted), ABSENT, dtype=np.int64)
    found = pc.index_in(wanted, value_set=among).fill_null(ABSENT)
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def first_ids(ids: Any, mask: npt.NDArray[np.bool_]) -> str:
    """The first few ids where ``mask`` is true, for messages: ``17, 42, 99, …``."""
    chosen = np.flatnonzero(mask)
    named = [repr(ids[int(index)].as_py()) for index in chosen[:_NAMED]]
    return ", ".join(named + ["…"] * (len(chosen) > _NAMED))


def _canonical(ids: Any) -> Any:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if pa.types.is_integer(ids.type) and not pa.types.is_uint64(ids.type):
        return ids.cast(pa.int64())
    return ids.cast(pa.large_string()) if str(ids.type) in ("string", "string_view") else ids
