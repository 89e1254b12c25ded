"""Names: variables that a caller gives by name, taken out of where they stand."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from willfit.errors import InputError
from willfit.live.memory.notebook import user_variables


def take_variables(objects: Sequence[Any], around: MutableMapping[str, Any]) -> list[Any]:
    """The objects, with each name replaced by its variable's value, and the variable deleted.

    ``around``: the global variables of the caller, which come before the notebook's. All names are
    looked up before the first is deleted.
    """
    places = {name: _place(name, around) for name in objects if isinstance(name, str)}
    given = [one for one in objects if not isinstance(one, str)]
    return given + [place.pop(name) for name, place in places.items()]


def _place(name: str, around: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    notebook = user_variables()
    for place in (around, notebook):
        if name in place and isinstance(place, MutableMapping):
            return place
    raise InputError(
        f"{name!r} is no variable of the notebook or the calling module: give the object itself, "
        "or `del` it where it is a local variable and call release() after"
    )
