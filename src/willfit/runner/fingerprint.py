"""The key of a stage's results, and in words what makes one key differ from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.runner.content.canonical import canonical, plain_copy
from willfit.runner.content.digests import digest_bytes
from willfit.runner.content.wording import differences

__all__ = ["FORMAT", "Ingredients", "differences", "fingerprint", "version_remarks"]

FORMAT: Final = 1
"""Goes up when the same ingredients come to mean other results: what is there is done anew."""


@dataclass(frozen=True, eq=False)
class Ingredients(Mapping[str, Any]):
    """What decides a stage's results: ordered names with plain JSON values.

    In it: data, contents of model, adapter and tokenizer, template, user's code, dtype,
    quantisation, lengths, labels. Not in it, since they must not change results: GPUs, batch
    sizes, placement; nor versions of libraries, which are only remarked on.

        Ingredients({"data": digest, "model": content.plain(), "max_length": 2048})

    Raises `InputError` on NaN and infinities, TypeError on values that JSON does not have.
    """

    given: Mapping[str, Any]
    """The values; copied, so that nothing changes them later."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", plain_copy(self.given))

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)

    def plain(self) -> dict[str, Any]:
        """For ``stage.json``, from which the same fingerprint is computed again."""
        copied: dict[str, Any] = plain_copy(self.given)
        return copied


def fingerprint(ingredients: Mapping[str, Any]) -> str:
    """blake2b-128 of the ingredients as canonical JSON, as 32 hexadecimal digits.

    The order of names does not count, a whole float is the integer, and what is None is the same
    as what is not there, so that an option that comes later changes no old key.
    """
    return digest_bytes(f"willfit stage {FORMAT}\n{canonical(ingredients)}".encode())


def version_remarks(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each library that is not the one that kept results were computed with."""
    names = sorted(old.keys() | new.keys())
    return tuple(
        f"{name} {old.get(name) or 'none'} → {new.get(name) or 'none'} since results that are "
        "kept were computed: --fresh computes them again"
        for name in names
        if old.get(name) != new.get(name)
    )
