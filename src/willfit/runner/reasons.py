"""Why a stage is computed again: what differs from the results that an earlier run left."""

from __future__ import annotations

from willfit.runner.atomic import read_json
from willfit.runner.fingerprint import differences
from willfit.runner.folder import RunFolder, StageFolder
from willfit.runner.ingredients import Gathered


def why_anew(name: str, gathered: Gathered, folder: RunFolder) -> tuple[str, ...]:
    """Differences from the latest results of other ingredients; none where these have results.

    Results are compared, not intentions: a dry run in between changes nothing.
    """
    here = folder.stage(name, gathered.fingerprint)
    if has_results(here):
        return ()
    for other in folder.stages(name):
        before = read_json(other.ingredients)
        if before is not None and other.path != here.path and has_results(other):
            return differences(before, gathered.results, of=name)
    return ()


def has_results(stage: StageFolder) -> bool:
    """Whether a shard is there."""
    return next(iter(stage.shards.glob("*.parquet")), None) is not None
