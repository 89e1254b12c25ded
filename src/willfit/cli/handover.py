"""The job after a training, ``--then``: its own settings, and what it has of the first."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Final

from willfit.cli.parser import Parser, with_dashes
from willfit.errors import InputError

if TYPE_CHECKING:
    from willfit.cli.build import Request
    from willfit.planning.stay import Handover

_INHERITED: Final = (
    "model", "revision", "library_name", "auto_class", "num_labels", "trust_remote_code", "stack",
)  # fmt: skip
"""Settings of the first job that count where the second names none of its own."""


def handover_of(arguments: argparse.Namespace, request: Request) -> Handover | None:
    """The job after the first, where one is asked for."""
    if arguments.then is None and arguments.infer_on is None:
        return None
    from willfit.changes.edit import with_loading
    from willfit.cli.build import build_request
    from willfit.cli.where import asking_of, places_of
    from willfit.planning.where import handover

    training = request.scenario.workload.training
    if training is None:
        raise InputError("--then is the job after a training: add --train lora, qlora or full")
    later = _later(arguments)
    second = build_request(later)
    if second.scenario.workload.inference is None:
        raise InputError("--then is an inference: leave out --train and --task in it")
    scenario = second.scenario
    first = request.scenario.workload.loading
    if later.quantize is None and later.dtype is None:
        scenario = with_loading(scenario, quantization=first.quantization, dtype=first.dtype)
    places = places_of(later, scenario)
    return handover(request.scenario, scenario, places[0], asking_of(later, second))


def _later(arguments: argparse.Namespace) -> argparse.Namespace:
    """Settings of the second job: its own, and what it has of the first."""
    from willfit.cli.where import configure

    parser = Parser(prog="willfit where --then", add_help=False)
    configure(parser)
    try:
        words = with_dashes(shlex.split(arguments.then or ""))
    except ValueError as error:
        raise InputError(f"cannot read --then: {str(error).lower()}") from None
    later: argparse.Namespace = parser.parse_args(words)
    if later.then is not None or later.infer_on is not None:
        raise InputError("--then holds one job: leave out --then and --infer-on in it")
    for name in _INHERITED:
        if getattr(later, name) is None:
            setattr(later, name, getattr(arguments, name))
    if arguments.infer_on is not None:
        later.place = [arguments.infer_on]
        later.gpu = None
    if later.place is None and later.gpu is None:
        raise InputError("the job after it needs a place: add --infer-on kaggle-submission, say")
    if later.context is None and arguments.max_length is not None:
        later.context = arguments.max_length
    later.no_changes = arguments.no_changes
    return later
