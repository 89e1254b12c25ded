"""The pytest plugin: the fixture ``memory_gate`` and the option ``--willfit-record``.

It is loaded into every test run of an environment that has willfit, so it imports nothing of it
before the fixture is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from willfit.testing.gate import MemoryGate

SAID = "willfit"
"""Name under which a test tells the summary what a gate found."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--willfit-record``."""
    parser.getgroup("willfit").addoption(
        "--willfit-record",
        action="store_true",
        help="write what memory_gate finds beside the tests, instead of comparing with it",
    )


@pytest.fixture
def memory_gate(request: pytest.FixtureRequest) -> MemoryGate:
    """Compares the memory of settings, a scenario or a block with what was recorded.

    ``memory_gate("llama-3-8b --train qlora --gpu T4", allow="1%")`` fails where a component grew
    past the record, names it and says how to accept it.
    """
    from willfit.testing.gate import MemoryGate

    node: Any = request.node
    return MemoryGate(
        test_file=node.path,
        test_id=_typed(node, request.config.invocation_params.dir),
        recording=bool(request.config.getoption("--willfit-record")),
        say=lambda text: node.user_properties.append((SAID, text)),
    )


def _typed(node: Any, started_in: Path) -> str:
    """The test's id as it is typed where pytest was started; pytest's own begins at rootdir."""
    _, _, inside = node.nodeid.partition("::")
    try:
        file = Path(os.path.relpath(node.path, started_in)).as_posix()
    except ValueError:  # another drive
        file = str(node.path)
    return f"{file}::{inside}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was recorded and what shrank, told once at the end; workers of xdist send theirs."""
    lines = list(dict.fromkeys(_said(terminalreporter.stats)))  # a subtest repeats its test's
    if lines:
        terminalreporter.section("willfit")
        for line in lines:
            terminalreporter.line(line)


def _said(stats: dict[str, list[Any]]) -> Iterator[str]:
    for reports in stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                yield from (text for name, text in report.user_properties if name == SAID)
