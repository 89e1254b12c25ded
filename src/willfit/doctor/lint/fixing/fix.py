"""The door of rewriting: source text in, corrected text and what was corrected out."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import AddImport, Edit, MoveStatement, Span
from willfit.doctor.lint.finding import Finding, Problem, Rule
from willfit.doctor.lint.lint import as_finding, problems
from willfit.doctor.lint.program import of_script
from willfit.errors import MissingLibraryError
from willfit.scenario.stack import Stack

Apply = Callable[[str, Sequence[Edit]], str]
ROUNDS: Final = 12
"""Bound on the times that a text is read anew: corrections that touch the same statement are made
one after the other."""


def fix_python(
    source: str, *, stack: Stack | None = None, gpu: str = ""
) -> tuple[str, list[Finding]]:
    """The source with what can be corrected safely corrected, and the findings that this settles.

    Lines of the findings are those of the text in which each was found. What a person must decide
    stays as it is, and `lint_python` of the result still says it. Formatting of everything else is
    kept, and correcting a second time changes nothing. Raises `MissingLibraryError` without libcst.
    """
    apply = applier()
    settled: list[Finding] = []
    given, source = source, _unix(source)
    for _ in range(ROUNDS):
        code = of_script(source, stack, gpu).code
        if code is None:
            break
        chosen = list(compatible(fixable(code)))
        edits = [edit for _, problem in chosen for edit in problem.edits]
        new = apply(source, edits) if edits else source
        if new == source or not parses(new):
            break
        source = new
        settled += [as_finding(code, rule, problem) for rule, problem in chosen]
    return (_as_given(source, given) if settled else given), list(dict.fromkeys(settled))


def applier() -> Apply:
    """What makes edits; raises where libcst is not installed."""
    try:
        from willfit.doctor.lint.fixing.apply import apply
    except ImportError:
        raise MissingLibraryError(
            "rewriting code needs libcst: pip install 'willfit[doctor]'"
        ) from None
    return apply


def fixable(code: Code) -> Iterator[tuple[Rule, Problem]]:
    """Problems that carry edits, in the order of the text."""
    found = [(rule, problem) for rule, problem in problems(code) if problem.edits]
    yield from sorted(found, key=lambda one: code.order[one[1].at])


def compatible(found: Iterator[tuple[Rule, Problem]]) -> Iterator[tuple[Rule, Problem]]:
    """Those that touch no line that another one touches already."""
    taken: set[int] = set()
    for rule, problem in found:
        lines = {line for edit in problem.edits for line in _lines(edit)}
        if lines & taken:
            continue
        taken |= lines
        yield rule, problem


def _lines(edit: Edit) -> Iterator[int]:
    if isinstance(edit, AddImport):
        return
    places: tuple[Span, ...] = (edit.at,) if not isinstance(edit, MoveStatement) else (
        *edit.at, edit.before
    )  # fmt: skip
    for place in places:
        yield from range(place.line, place.end_line + 1)


def _unix(source: str) -> str:
    return source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _as_given(source: str, given: str) -> str:
    """The text with the line ends and the byte order mark that it came with."""
    mark = "\ufeff" if given.startswith("\ufeff") else ""
    return mark + (source.replace("\n", "\r\n") if "\r\n" in given else source)


def parses(source: str) -> bool:
    """Whether Python reads it."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True
