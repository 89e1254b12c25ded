"""Answers: a visitor's question in, a piece of the page out; runs in a worker, touches no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from willfit.cli.build import build_request
from willfit.errors import InputError, WillfitError
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.web.form import command_of, job_flags, link_of
from willfit.web.models import UPLOADED
from willfit.web.question import Question, parsed, question_of
from willfit.web.show.pieces import code, folded, refusal, text

if TYPE_CHECKING:
    from willfit.trace.recording import Recording


def answer(asked: Mapping[str, Any]) -> dict[str, str]:
    """``html`` of the answer, and what it says in a sentence; never raises on bad input."""
    try:
        question = question_of(asked)
        found = _trace if asked.get("trace") is True else _ANSWERS[question.form.tab]
        said, html = found(question)
    except WillfitError as error:
        return refused(str(error))
    except (RecursionError, MemoryError, OverflowError) as error:
        return refused(f"this is too large to be computed ({type(error).__name__}): ask for less")
    link = "" if question.config else link_of(question.form)
    return {"html": _wrapped(html + _taken_along(question), said, link), "said": said}


def refused(sentence: str) -> dict[str, str]:
    """The answer to what cannot be used."""
    return {"html": _wrapped(refusal(sentence), sentence, ""), "said": sentence}


def _wrapped(html: str, said: str, link: str) -> str:
    return f'<div class="wf-answer" data-said="{text(said)}" data-link="{text(link)}">{html}</div>'


def _taken_along(question: Question) -> str:
    """The same in the terminal, and a link to it."""
    name = f"./{UPLOADED}" if question.config else question.form.model
    shown = command_of(question.form, name, script=bool(question.script.strip()))
    each = ", one GPU at a time" if question.form.tab == "gpus" else ""
    parts = f"<h3>In the terminal{each}</h3>{code(shown, 'the command')}"
    if question.config:
        parts += '<p class="wf-uploaded">A link cannot carry an uploaded file.</p>'
    elif question.form.tab == "doctor":
        parts += "<p>A link carries the settings, not what was pasted.</p>"
    parts += (
        '<p><button type="button" class="wf-link" data-copy-link>Copy a link to this</button></p>'
    )
    return folded("Take it along: command and link", parts, opened=True)


def _estimate(question: Question) -> tuple[str, str]:
    from willfit.cli.estimate import estimated
    from willfit.web.show.estimate import estimate_part, said_of

    found = estimated(question.request(question.words()))
    return said_of(found), estimate_part(found)


def _trace(question: Question) -> tuple[str, str]:
    from willfit.cli.estimate import traced
    from willfit.estimator.timeline import timelines
    from willfit.report.timeline import Timelines
    from willfit.web.show.traced import said_of_traced, traced_part

    request = question.request(question.words())
    drawn: Timelines = {}

    def listen(recording: Recording) -> None:
        nonlocal drawn
        drawn = timelines(recording, request.scenario.stack.alloc_conf)

    found = traced(request, listen)
    return said_of_traced(found), traced_part(found, drawn)


def _plan(question: Question) -> tuple[str, str]:
    from willfit.cli import plan as command
    from willfit.cli.estimate import estimated
    from willfit.planning import plan
    from willfit.web.show.plan import plan_part, said_of_plans

    if not question.form.gpu:
        raise InputError("a plan is made for a GPU: choose one")
    arguments = parsed(command, [*question.words(), *job_flags(question.form)])
    request = build_request(arguments, finding=question.find)

    def estimating(scenario: Scenario) -> Estimate:
        return estimated(replace(request, scenario=scenario))

    planning = plan(
        request.scenario,
        goal=arguments.goal,
        job=command.job_of(arguments, request, None),
        top=arguments.top,
        estimating=estimating,
    )
    codes = [_written(found.scenario) for found in planning.plans]
    return said_of_plans(planning), plan_part(planning, codes)


def _written(scenario: Scenario) -> tuple[str, str]:
    """The script that carries a plan out, or why there is none."""
    from willfit.emitting import emit
    from willfit.emitting.emit import default_target

    target = default_target(scenario)
    try:
        return target, emit(scenario, target)
    except WillfitError as error:
        return target, f"# {error}\n"


def _gpus(question: Question) -> tuple[str, str]:
    from willfit.web.show.gpus import gpus_part, said_of_gpus
    from willfit.web.whichgpu import tried

    found = tried(question.request(question.words(gpu="T4")), question.form)
    return said_of_gpus(found, question.model)[0], gpus_part(found, question.model)


def _doctor(question: Question) -> tuple[str, str]:
    from willfit.web.pasted import examined

    return examined(question)


def _compare(question: Question) -> tuple[str, str]:
    from willfit.comparing import compare
    from willfit.web.show.comparison import comparison_part, said_of_comparison
    from willfit.web.sides import sides_of

    comparison = compare(sides_of(question))
    return said_of_comparison(comparison), comparison_part(comparison)


_ANSWERS: Final[dict[str, Callable[[Question], tuple[str, str]]]] = {
    "estimate": _estimate,
    "plan": _plan,
    "gpus": _gpus,
    "doctor": _doctor,
    "compare": _compare,
}
"""By tab: the answer in a sentence, and as HTML."""
