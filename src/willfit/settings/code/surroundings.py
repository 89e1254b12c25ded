"""What a script says of the machine and the libraries around the model."""

from __future__ import annotations

from willfit.settings.code.cells import Cell
from willfit.settings.code.gathered import Gathered
from willfit.settings.code.reading import Reading
from willfit.settings.command_lines import pinned_versions
from willfit.settings.settings import Settings

ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def read_surroundings(reading: Reading, gathered: Gathered) -> None:
    """Variables that the script sets before torch reads them."""
    for use in reading.uses:
        if use.role == "environment" and isinstance(use.value, tuple):
            name, value = use.value
            if name in ALLOCATOR and isinstance(value, str) and len(value) < 300:
                gathered.flags["alloc_conf"] = value


def read_commands(cells: tuple[Cell, ...]) -> Settings:
    """What the shell lines of a notebook tell: versions that are pinned, variables, a launch."""
    from willfit.settings.command_lines import read_command_line

    flags: dict[str, object] = {}
    model: str | None = None
    assumptions: list[str] = []
    ignored: list[str] = []
    pins: dict[str, str] = {}
    for cell in cells:
        for _, command in cell.commands:
            pins |= pinned_versions(command)
            found = read_command_line(command)
            if found is not None:
                flags, model = dict(found.flags), found.model
                assumptions, ignored = list(found.assumptions), list(found.ignored)
    if pins:
        flags["stack"] = ",".join(f"{name}={version}" for name, version in pins.items())
    return Settings(flags=flags, model=model, assumptions=tuple(assumptions),
                    ignored=tuple(ignored))  # fmt: skip
