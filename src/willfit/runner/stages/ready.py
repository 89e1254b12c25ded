"""A stage made ready: its ingredients, its rows, what is missing of it, and whether it fits.

All stages are made ready before the first one computes, so that a later one that cannot fit is
refused in the first minute and not in the fifth hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from willfit.errors import DoesNotFitError, InputError
from willfit.live.nvml import LiveGpu
from willfit.runner.atomic import write_json
from willfit.runner.context import Context
from willfit.runner.folder import StageFolder
from willfit.runner.forecast import Sizes, forecast
from willfit.runner.gpus import Devices
from willfit.runner.ingredients import Gathered, gather
from willfit.runner.observer import StageProgress
from willfit.runner.pipeline import StageFile
from willfit.runner.prepared import PreparedRows
from willfit.runner.reasons import why_anew
from willfit.runner.replica import Replica, groups
from willfit.runner.result import Forecast
from willfit.runner.shards import Range, Store, boundaries, gaps, pieces
from willfit.runner.stages.rows import prepared_rows


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A stage that can begin, or has nothing to do."""

    name: str
    stage: StageFile
    gathered: Gathered
    folder: StageFolder
    rows: PreparedRows
    store: Store
    missing: tuple[Range, ...]
    """Positions without a result."""
    placed: tuple[tuple[int, ...], ...]
    """GPUs of each replica; an empty one for each on the CPU."""
    foreseen: Forecast
    reasons: tuple[str, ...]
    """Why something is computed that an earlier run had."""

    @property
    def num_missing(self) -> int:
        """Rows without a result."""
        return sum(rows.size for rows in self.missing)

    @property
    def gpus(self) -> list[int]:
        """All GPUs of all replicas."""
        return [gpu for group in self.placed for gpu in group]

    def shards(self) -> list[Range]:
        """What is missing, in the parts in which it is computed."""
        fewest = {"fewest": 1} if self.stage.run is not None else {}
        cuts = boundaries(self.rows.work(), shards=self.stage.shards, **fewest)
        return pieces(self.missing, cuts)

    def replicas(self) -> list[Replica]:
        """A place for each worker."""
        return [Replica(number=i, gpus=group) for i, group in enumerate(self.placed)]

    def sizes(self) -> Sizes:
        """The longest row, with what will be generated."""
        return sizes_of(self.stage, self.rows)


def make_ready(name: str, stage: StageFile, context: Context) -> Ready:
    """Read, prepare, look at what is there, and estimate what is not.

    Raises `InputError` on what cannot be used, and `DoesNotFitError` with what would make it fit.
    """
    gathered = _gathered(name, stage, context)
    _bring(name, gathered, context)
    folder = context.folder.stage(name, gathered.fingerprint)
    reasons = why_anew(name, gathered, context.folder)
    rows = prepared_rows(name, stage, gathered, context)
    write_json(folder.ingredients, dict(gathered.results))
    store = Store(folder=folder.shards, fingerprint=gathered.fingerprint, ids=rows.ids())
    done, broken = store.scan()
    for found in broken:
        context.observer.note(f"{name}: {found.path.name} is computed again: {found.reason}")
    missing = tuple(gaps(done, rows.num_rows))
    usable = _usable(name, stage, context)
    placed = _placed(name, stage, usable, context.devices)
    return Ready(
        name=name,
        stage=stage,
        gathered=gathered,
        folder=folder,
        rows=rows,
        store=store,
        missing=missing,
        placed=placed,
        foreseen=_foreseen(name, stage, rows, placed, usable, context) if missing else Forecast(),
        reasons=reasons,
    )


def sizes_of(stage: StageFile, rows: PreparedRows) -> Sizes:
    """What an estimate needs to know of the rows."""
    lengths, sequences = rows.sizes(Range(0, rows.num_rows))
    new = (stage.max_new_tokens or 256) if stage.task == "generate" else 0
    return Sizes(
        longest=int(lengths.max(initial=1)) + new,
        sequences=int(sequences.max(initial=1)),
        most_rows=stage.batch_size or 4096,
    )


def _gathered(name: str, stage: StageFile, context: Context) -> Gathered:
    """The ingredients, with progress while a model's files are read for the first time."""

    def told(done: int, total: int) -> None:
        share = int(100 * done / total) if total else 100
        context.observer.progress(StageProgress(name=name, phase="reading", done=share, rows=100))

    data, cache = context.data_digest, context.cache
    found = gather(stage, data, context.id_name, context.seed, cache, told)
    cache.save()
    return found


def _bring(name: str, gathered: Gathered, context: Context) -> None:
    """What an earlier run in another folder has of the stage."""
    if context.earlier is None:
        return
    num_rows = context.earlier.bring_stage(name, gathered, context.folder)
    context.observer.note(
        f"{name}: {num_rows:,} rows are taken over from {context.earlier.folder.path}"
    )


def _usable(name: str, stage: StageFile, context: Context) -> list[int]:
    """Numbers of the GPUs that the stage may use; none for the CPU."""
    there, asked = list(context.devices.gpus), stage.gpus
    if stage.device == "cpu" or asked == "none" or (asked == "all" and not there):
        return []
    if asked == "all":
        return there
    wrong = [gpu for gpu in asked if gpu not in there]
    if wrong:
        found = f"GPUs {', '.join(map(str, there))}" if there else "no GPU"
        raise InputError(
            f"stage {name} asks for GPU {wrong[0]} and there is {found}: name those that are "
            "there, or gpus: all"
        )
    return [int(gpu) for gpu in asked]


def _placed(
    name: str, stage: StageFile, usable: list[int], devices: Devices
) -> tuple[tuple[int, ...], ...]:
    """The GPUs in groups of a replica's size, each within one machine."""
    if not usable:
        return ((),) * (stage.replicas or devices.num_nodes)
    size = stage.gpus_per_replica
    placed = groups(usable, size, devices.nodes)
    if not placed:
        where = " of one node" if devices.nodes else ""
        raise InputError(
            f"stage {name} spreads a model over {size} GPUs{where} and {len(usable)} can be used: "
            "lower gpus_per_replica"
        )
    return tuple(placed[: stage.replicas or len(placed)])


def _foreseen(
    name: str,
    stage: StageFile,
    rows: PreparedRows,
    placed: Sequence[tuple[int, ...]],
    usable: Sequence[int],
    context: Context,
) -> Forecast:
    """Of the replica with the least memory."""
    on_cpu = stage.device == "cpu"
    live = context.devices.gpus
    found = [[] if on_cpu else [live[gpu] for gpu in group] for group in placed]
    others = [] if on_cpu else [live[gpu] for gpu in usable]
    foreseen = forecast(stage, sizes_of(stage, rows), min(found, key=_free), others)
    if foreseen.refused is not None:
        raise DoesNotFitError(f"stage {name}: {foreseen.refused}")
    return foreseen


def _free(gpus: Sequence[LiveGpu]) -> int:
    return sum(gpu.free_bytes for gpu in gpus)
