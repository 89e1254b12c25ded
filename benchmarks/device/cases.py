"""The grid: probes and scenarios, the most important first, each with its estimate's arguments."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from willfit.scenario import Scenario
from willfit.sources.resolve import resolve


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    name: str
    group: str
    """Cases of a group run one after the other in one process."""
    probe: str = ""
    """Name of a probe; "" for a scenario."""
    arguments: str = ""
    """What ``willfit estimate`` is given for it; ``{gpu}`` is the card's name."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the workload that have no flag yet: ``{"training.sdpa_kernel": "math"}``."""
    layers: int | None = None
    """Layers of a model that is shortened on both sides; None keeps all."""
    disk: bool = False
    """Whether the weights come from a checkpoint on disk."""
    history: bool = False
    """Whether to keep what is alive at the peak of the second step."""


EXPANDABLE: Final = "expandable_segments:True"
GRID: Final = Path(__file__).with_name("grid.jsonl")
"""The cases, one a line, in the order in which they are worth their time.

QLoRA comes first: three labels with Llama-3-8B in 4 bit and 1,024 tokens, as a question had it.
"""


def cases() -> list[Case]:
    """All of them."""
    return [Case(**json.loads(line)) for line in GRID.read_text("utf-8").splitlines()]


def scenario_of(case: Case, gpu: str = "H100", stack: str = "") -> Scenario:
    """The scenario that the case's arguments describe, with the fields that have no flag."""
    from willfit.cli.build import build_request
    from willfit.cli.options import add_scenario_options
    from willfit.cli.parser import Parser

    parser = Parser(prog="willfit estimate")
    add_scenario_options(parser)
    for flag in ("--trace", "--json"):
        parser.add_argument(flag, action="store_true", default=None)
    text = [*shlex.split(case.arguments), "--gpu", gpu]
    if case.layers is not None:
        text[0] = str(_shortened(text[0], case.layers))
    if stack:
        text += ["--stack", stack]
    arguments: argparse.Namespace = parser.parse_args(text)
    scenario = build_request(arguments).scenario
    for path, value in case.extra.items():
        scenario = replace(scenario, workload=_with(scenario.workload, path.split("."), value))
    return scenario


def _shortened(name: str, layers: int) -> Path:
    """A ``config.json`` of the model with fewer layers."""
    spec = resolve(name)
    folder = Path(tempfile.gettempdir()) / f"willfit-{spec.id.replace('/', '-')}-{layers}"
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps({**spec.config, "num_hidden_layers": layers}), encoding="utf-8")
    return file


def _with(holder: Any, path: list[str], value: Any) -> Any:
    """The dataclass with the field at the path set."""
    name, *rest = path
    return replace(holder, **{name: _with(getattr(holder, name), rest, value) if rest else value})
