"""MemoryGate: what a test asks for, found again and compared with its record."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from willfit.comparing.growth import Allowance, growth, parse_allowance
from willfit.comparing.recorded import Recorded
from willfit.comparing.words import signed
from willfit.errors import InputError, WillfitError
from willfit.report.growth import because, growth_lines
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.testing.found import Watching, recorded_block, recorded_estimate
from willfit.testing.records import FOLDER, read_record, record_path, write_record
from willfit.units import format_bytes


class MemoryGate:
    """The fixture's value; every call is one gate with a record of its own."""

    def __init__(
        self, *, test_file: Path, test_id: str, recording: bool, say: Callable[[str], None]
    ) -> None:
        """``test_id``: as it is typed after ``pytest``. ``say``: told in the run's summary."""
        self._file, self._id, self._recording, self._say = test_file, test_id, recording, say
        self._taken: set[str] = set()

    def __call__(
        self,
        what: str | Scenario | Estimate,
        *,
        allow: str | None = None,
        trace: bool = False,
        name: str = "",
    ) -> Estimate:
        """Fail where a component of the peak, or the peak, is more than was recorded.

        ``what``: settings as ``willfit estimate`` takes them, a scenario, or an estimate.
        ``allow``: ``1%`` of the recorded peak or an amount such as ``64MiB``, for each component
        and the peak; None allows nothing. ``trace``: the real code on fake tensors rather than
        formulas. ``name``: needed to keep records apart only where the order of calls changes.
        Returns the estimate, so that a test can ask it more.
        """
        with _plainly():
            found = _estimate(what, trace=trace)
            if found.unsupported:
                pytest.fail(f"no trustworthy number: {'; '.join(found.unsupported)}", pytrace=False)
            self._compare(recorded_estimate(found), parse_allowance(allow), name)
        return found

    @contextmanager
    def block(self, *, allow: str | None = None, name: str = "") -> Iterator[Watching]:
        """Fail where a block's peak over its beginning, or what it leaves, is more than recorded.

        On GPUs torch's counters are read; without one the tensors of host memory are followed
        operator by operator. Both repeat exactly, as long as the block does.
        """
        with _plainly():
            allowance = parse_allowance(allow)
        watching = Watching()
        with watching:
            yield watching
        with _plainly():
            self._compare(recorded_block(watching), allowance, name)

    def _compare(self, found: Recorded, allowance: Allowance, name: str) -> None:
        path = record_path(self._file, self._id, self._named(name))
        before = read_record(path) if not self._recording else None
        if self._recording:
            self._record(path, found)
        elif before is None:
            pytest.fail(
                f"nothing is recorded for this test ({self._short(path)}): the peak is "
                f"{format_bytes(found.peak_bytes)} now; record it: {self._accept()}",
                pytrace=False,
            )
        else:
            self._judge(path, before, found, allowance)

    def _named(self, name: str) -> str:
        """The second unnamed gate of a test is called ``2``."""
        number = len(self._taken) + 1
        own = name or (str(number) if number > 1 else "")
        if own in self._taken:
            raise InputError(f"two gates of this test are called {own!r}: give each another name")
        self._taken.add(own)
        return own

    def _record(self, path: Path, found: Recorded) -> None:
        try:
            before = read_record(path)
        except WillfitError:
            before = None
        write_record(path, found)
        if before is None:
            self._say(f"recorded {self._short(path)}: {format_bytes(found.peak_bytes)}")
        elif before != replace(found, components=before.components):
            change = growth(before, found, Allowance())
            moved = signed(change.peak.change_bytes) if change.peak.change_bytes else "same peak"
            self._say(f"recorded {self._short(path)}: {moved}; changed: {because(change)}")

    def _judge(self, path: Path, before: Recorded, found: Recorded, allowance: Allowance) -> None:
        change = growth(before, found, allowance)
        if not change.passes:
            head = f"memory grew past {self._short(path)}"
            lines = [head, *growth_lines(change), f"accept it: {self._accept()}"]
            pytest.fail("\n".join(lines), pytrace=False)
        if change.shrunk:
            parts = ", ".join(f"{part.name} {signed(part.change_bytes)}" for part in change.shrunk)
            self._say(f"{self._short(path)} is more than is needed now: {parts}")

    def _accept(self) -> str:
        return f"pytest --willfit-record {shlex.quote(self._id)}"

    def _short(self, path: Path) -> str:
        """The record from where the test's file is seen."""
        return (Path(self._id.partition("::")[0]).parent / FOLDER / path.name).as_posix()


def _estimate(what: Any, *, trace: bool) -> Estimate:
    if isinstance(what, Estimate):
        return what
    if isinstance(what, Scenario):
        from willfit.estimator import estimate

        return estimate(what, search_limits=False, trace=trace)
    if isinstance(what, str):
        from willfit.cli.quoted import quoted_estimate

        return quoted_estimate(what, trace=trace)
    raise InputError(
        f"memory_gate was given a {type(what).__name__}: expected settings such as "
        "'llama-3-8b --gpu T4', a Scenario or an Estimate; memory_gate.block() watches code"
    )


@contextmanager
def _plainly() -> Iterator[None]:
    """What is wrong with the settings in one sentence, without a traceback through willfit."""
    try:
        yield
    except WillfitError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
