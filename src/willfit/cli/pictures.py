"""Files that a command writes beside what it prints: pages, pictures, a snapshot."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from willfit.cli.files import write_drawing, write_file, write_text
from willfit.cli.parser import Parser
from willfit.errors import InputError

if TYPE_CHECKING:
    from willfit.report.drawing import Drawing
    from willfit.results import Estimate, Timeline
    from willfit.trace.recording import Recording

_KINDS: Final = {
    "html": (".html", ".htm"),
    "picture": (".svg", ".png"),
    "timeline": (".html", ".svg", ".png"),
    "snapshot": (),
}
"""Ends of the names of files, by what is written; any where none is listed."""


def add_html_option(parser: argparse._ArgumentGroup | Parser, what: str) -> None:
    """Add ``--html FILE``."""
    parser.add_argument(
        "--html", metavar="FILE", help=f"also write {what} as one .html file without scripts"
    )


def add_picture_option(parser: argparse._ArgumentGroup | Parser) -> None:
    """Add ``--picture FILE``."""
    parser.add_argument(
        "--picture", metavar="FILE", help="also draw what fills the GPUs, as .svg or .png"
    )


def command_of(arguments: argparse.Namespace) -> str:
    """The command as it was given; "" where nobody typed one."""
    return str(getattr(arguments, "command_line", ""))


def checked(arguments: argparse.Namespace) -> None:
    """Refuse files of a kind that is not written, and those of a traced run without one."""
    for flag in ("timeline", "snapshot"):
        if getattr(arguments, flag, None) is not None and not arguments.trace:
            raise InputError(f"--{flag} shows a traced run: add --trace")
    for flag, ends in _KINDS.items():
        name = getattr(arguments, flag, None)
        if name is not None and ends and not name.lower().endswith(ends):
            *others, last = ends
            kinds = f"{', '.join(others)} or {last}"
            raise InputError(f"--{flag} {name[:60]} is no {kinds} file: name one")


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What is kept of a traced run for the files that show it."""

    arguments: argparse.Namespace
    recordings: list[Recording] = field(default_factory=list)

    @property
    def listener(self) -> Callable[[Recording], None] | None:
        """What keeps the recording; None where no file needs it."""
        asked = self.arguments
        if asked.timeline is None and asked.snapshot is None and not (asked.html and asked.trace):
            return None
        return self.recordings.append

    def timelines(self) -> dict[int, Timeline]:
        """Memory over the run by GPU; empty where nothing was traced."""
        from willfit.estimator.timeline import timelines

        if not self.recordings:
            return {}
        return timelines(self.recordings[-1], self.arguments.alloc_conf or "")

    def write(self, estimate: Estimate) -> None:
        """Every file that was asked for; raises `InputError` where one cannot be written."""
        asked = self.arguments
        if asked.html is not None:
            from willfit.report.html.estimate import estimate_html

            text = estimate_html(estimate, self.timelines(), command=command_of(asked))
            write_text(asked.html, text)
        if asked.picture is not None:
            write_drawing(asked.picture, _peak(estimate))
        if asked.timeline is not None and self.recordings:
            self._write_timeline(estimate)
        if asked.snapshot is not None and self.recordings:
            self._write_snapshot()

    def _write_timeline(self, estimate: Estimate) -> None:
        from willfit.report.html.timeline import timeline_html
        from willfit.report.timeline import cards_of, timeline_drawing

        title, cards = _title(estimate), cards_of(estimate)
        if self.arguments.timeline.lower().endswith(".html"):
            text = timeline_html(self.timelines(), title, cards=cards)
            write_text(self.arguments.timeline, text)
            return
        drawing = timeline_drawing(self.timelines(), title, cards=cards)
        write_drawing(self.arguments.timeline, drawing)

    def _write_snapshot(self) -> None:
        import pickle

        from willfit.estimator.snapshot import snapshot

        made = snapshot(self.recordings[-1], self.arguments.alloc_conf or "")
        write_file(self.arguments.snapshot, pickle.dumps(made))


def _title(estimate: Estimate) -> str:
    from willfit.report.html.parts import machine_name

    return f"{estimate.scenario.model.id} on {machine_name(estimate)}"


def _peak(estimate: Estimate) -> Drawing:
    from willfit.report.peak import peak_drawing, sides_of

    return peak_drawing(sides_of(estimate), _title(estimate))
