"""Settings: keys that a library says it ignores."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, certain
from willfit.doctor.report import Report

_IGNORED: Final = re.compile(r"Unused kwargs: \[(?P<keys>[^\]]{0,300})")
_SHOWN: Final = 8


def _find(report: Report) -> Cause | None:
    keys = _keys(report)
    if not keys:
        return None
    return certain(
        "config_ignored",
        f"{', '.join(keys[:_SHOWN])}: the library says that it does not use "
        f"{'them' if len(keys) > 1 else 'it'}, so that nothing that was meant to be saved is.",
    )


def _keys(report: Report) -> list[str]:
    named = report.fields.get("unused_kwargs")
    if isinstance(named, list | tuple):
        return [str(key)[:60] for key in named]
    match = _IGNORED.search(report.quote)
    return [key.strip(" '") for key in match["keys"].split(",")] if match else []


RULE: Final = Rule(
    name="ignored settings",
    mechanism="A key that the library does not know changes nothing.",
    find=_find,
)
