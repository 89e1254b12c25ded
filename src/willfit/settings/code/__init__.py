"""Settings of a Python script or notebook: read as text, nothing of it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from willfit.settings.code.calling import follow
from willfit.settings.code.cells import Cell, cells_of
from willfit.settings.code.loading import casts, device_of
from willfit.settings.code.one_model import sites_of, spans_of, uses_flags
from willfit.settings.code.reading import Load, Reading
from willfit.settings.code.statements import Returned, walk
from willfit.settings.code.surroundings import read_commands
from willfit.settings.code.tokens import cutting
from willfit.settings.code.values import Class, Function, Site
from willfit.settings.settings import Settings

__all__ = ["CodeSettings", "Loaded", "Site", "read_code"]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One model that a script loads, with what it does with it."""

    settings: Settings
    cell: int | None
    """Of a notebook, from 0; None in a script."""
    line: int
    """Of the loading call, from 1."""
    last_line: int
    device: int | None
    """Index of the one GPU that it is put on whole; None where it is spread, or not said."""
    casts: bool = False
    """Whether ``.half()`` or ``.to(torch.float16)`` gives its type after it is loaded."""
    moved: bool = False
    """Whether it is moved or cast after it is loaded, which a quantised one cannot be."""
    rows: tuple[Site, ...] = ()
    """Calls that cut its rows to a length."""
    sites: Mapping[str, Site] = field(default_factory=dict)
    """The calls that decide, by what they do: ``load``, ``quantization``, ``arguments``,
    ``trainer``, ``adapter``, ``prepare``, ``optimizer``, ``loader``, ``tokens``, ``generate``…"""


@dataclass(frozen=True, kw_only=True)
class CodeSettings(Settings):
    """Settings of one of the models, and every model that the code loads."""

    loads: tuple[Loaded, ...] = ()
    """In the order in which they are loaded."""
    chosen: int | None = None
    """Which of them the settings are of; None without any."""
    cells: tuple[Cell, ...] = ()


def read_code(
    source: str | Sequence[str],
    line: int | None = None,
    cell: int | None = None,
    *,
    bf16: bool = True,
) -> CodeSettings:
    """Settings of a script, or of a notebook's cells.

    With several models, those of the one that ``line`` (from 1, of ``cell`` in a notebook) has to
    do with; without a line those of the one that is trained, else of the first. ``bf16`` is the
    answer where the code asks whether the card computes in bfloat16. What cannot be read is said
    in `ignored` and `assumptions`; no source makes it raise.
    """
    cells = cells_of(source)
    reading = _read(cells, bf16=bf16)
    commands = read_commands(cells)
    loads = tuple(_loaded(reading, load, commands) for load in reading.loads)
    said = [*commands.assumptions, *reading.notes]
    unread = sum(len(one.unread) for one in cells)
    ignored = [f"{unread} lines are no Python"] if unread else []
    if not loads:
        return CodeSettings(
            flags=commands.flags, model=commands.model, cells=cells,
            assumptions=tuple(said), ignored=(*commands.ignored, *ignored),
        )  # fmt: skip
    chosen = _chosen(reading, loads, line, cell)
    if len(loads) > 1:
        names = ", ".join(str(one.settings.model or "a model without a name") for one in loads[:8])
        said.append(
            f"the code loads {len(loads)} models ({names}): these settings are of number "
            f"{chosen + 1}, loaded at {_place(loads[chosen])}"
        )
    own = loads[chosen].settings
    return CodeSettings(
        flags=own.flags,
        model=own.model,
        assumptions=(*own.assumptions, *said),
        ignored=(*own.ignored, *ignored),
        loads=loads,
        chosen=chosen,
        cells=cells,
    )


def _place(loaded: Loaded) -> str:
    cell = f"cell {loaded.cell} " if loaded.cell is not None else ""
    return f"{cell}line {loaded.line}"


def _read(cells: tuple[Cell, ...], *, bf16: bool) -> Reading:
    reading = Reading(bf16=bf16, cells=cells)
    for cell in cells:
        reading.cell = cell
        try:
            walk(reading, cell.body)
        except (Returned, RecursionError):
            continue
    _functions(reading)
    return reading


def _functions(reading: Reading) -> None:
    """Functions that nothing in the text calls: a library may."""
    values = list(reading.names.values())[:2000]
    classes = [value for value in values if isinstance(value, Class)]
    methods = [field for one in classes for field in one.fields.values()]
    for function in (*values, *methods):
        if not isinstance(function, Function) or id(function.node) in reading.followed:
            continue
        try:
            follow(reading, function, [], {})
        except RecursionError:
            continue


def _loaded(reading: Reading, load: Load, commands: Settings) -> Loaded:
    settings = uses_flags(reading, load)
    around = {k: v for k, v in commands.flags.items() if k in ("stack", "alloc_conf")}
    start, end = load.site.node.lineno, load.site.node.end_lineno or load.site.node.lineno
    return Loaded(
        settings=replace(settings, flags={**around, **settings.flags}),
        cell=load.site.cell,
        line=start,
        last_line=end,
        device=device_of(load),
        casts=casts(load),
        moved=any(use.value != "cpu" for use in load.used("moved")),
        rows=cutting(reading, load),
        sites=sites_of(reading, load),
    )


def _chosen(reading: Reading, loads: Sequence[Loaded], line: int | None, cell: int | None) -> int:
    """Of what the line is in or, failing that, what was loaded last above it."""
    if line is None:
        trained = (i for i, one in enumerate(loads) if "train" in one.settings.flags)
        return next(trained, 0)
    spans = [(index, span) for index, load in enumerate(reading.loads) for span in spans_of(load)]
    inside = [i for i, (where, start, end) in spans if where == cell and start <= line <= end]
    if inside:
        return inside[-1]
    above = [
        index for index, one in enumerate(loads) if (one.cell or 0, one.line) <= (cell or 0, line)
    ]
    return above[-1] if above else 0
