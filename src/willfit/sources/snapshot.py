"""A repository's files at one commit, in huggingface_hub's cache: downloaded where they lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from willfit.errors import InputError
from willfit.sources.hub_errors import asking


def fetch_snapshot(repo: str, commit: str, files: Sequence[str]) -> Path:
    """The snapshot's folder with those files in it; what is in the cache asks no network.

    ``commit``: 40 hexadecimal digits. Raises `InputError` where the Hub cannot give them.
    """
    from huggingface_hub import hf_hub_download

    if not files:
        raise InputError(f"no files of {repo} were named: expected some")
    paths = [
        Path(
            asking(
                repo,
                lambda name=name: hf_hub_download(  # type: ignore[misc]
                    repo, name, revision=commit, library_name="willfit"
                ),
            )
        )
        for name in files
    ]
    depth = len(Path(files[0]).parts)
    return paths[0].parents[depth - 1]
