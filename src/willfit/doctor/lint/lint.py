"""The door: source text in, findings out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.commands import lint_command
from willfit.doctor.lint.finding import Finding, Problem, Rule
from willfit.doctor.lint.program import Program, of_notebook, of_script
from willfit.doctor.lint.rules import RULES
from willfit.doctor.lint.rules.same_configs import SameConfigs, same_in_code
from willfit.doctor.notebooks import Written, read_notebook
from willfit.scenario.stack import Stack


def lint_python(source: str, *, stack: Stack | None = None, gpu: str = "") -> list[Finding]:
    """What costs memory or does not do what it says in a file of Python, in the order of its lines.

    ``stack`` is the versions to judge by; None takes those that are installed. ``gpu`` is the GPU's
    name where it is known: some settings are wrong on a T4 alone. Code that does not parse gives
    one finding, ``unreadable-code``.
    """
    program = of_script(source, stack, gpu)
    return _ordered([*program.broken, *_of_code(program.code)])


def lint_notebook(text: str, *, stack: Stack | None = None) -> list[Finding]:
    """The same for an ``.ipynb``: its cells are one program in their order, names carry over.

    Lines are those of the cell, from 1. Magics are left out; shell lines and files that a cell
    writes are looked at too. Raises `BrokenFileError` where the text is no notebook.
    """
    program = of_notebook(read_notebook(text), stack)
    found = [*program.broken, *_of_code(program.code)]
    for shell in program.shell:
        for finding in lint_command(shell.text, stack=_stack(program, stack)):
            found.append(replace(finding, cell=shell.cell, line=shell.line))
    for written in program.written:
        found += _of_written(written, _stack(program, stack))
    return _ordered(found)


def same_in_effect(source: str, *, stack: Stack | None = None) -> list[SameConfigs]:
    """Configurations of a program that differ in ignored keys alone and load the same model."""
    code = of_script(source, stack).code
    return [same for _, same in same_in_code(code)] if code is not None else []


def problems(code: Code) -> Iterator[tuple[Rule, Problem]]:
    """Everything that the rules say about a program."""
    for rule in RULES.values():
        try:
            found = list(rule.check(code))
        except RecursionError:  # expressions nested by the thousand: nothing is said about them
            continue
        for problem in found:
            yield rule, problem


def as_finding(code: Code, rule: Rule, problem: Problem) -> Finding:
    """A problem as it is said."""
    cell, line = code.place(getattr(problem.at, "lineno", 1))
    return Finding(
        rule=rule.name,
        cell=cell,
        line=line,
        severity=problem.severity or rule.severity,
        message=problem.message,
        fix=problem.fix,
    )


def _of_code(code: Code | None) -> Iterator[Finding]:
    if code is not None:
        for rule, problem in problems(code):
            if not rule.quiet:
                yield as_finding(code, rule, problem)


def _of_written(written: Written, stack: Stack | None) -> list[Finding]:
    if not written.path.endswith(".py"):
        return []
    return [
        replace(finding, cell=written.cell, line=finding.line + 1)
        for finding in lint_python(written.text, stack=stack)
    ]


def _stack(program: Program, given: Stack | None) -> Stack | None:
    return program.code.signatures.stack if program.code is not None else given


def _ordered(found: list[Finding]) -> list[Finding]:
    return sorted(
        dict.fromkeys(found),
        key=lambda f: (-1 if f.cell is None else f.cell, f.line, f.rule, f.message),
    )
