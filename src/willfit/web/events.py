"""Events: which question each button asks, and what a link that is opened does.

An answer must belong to what the form held when it was asked for. A button that is pressed while
its answer is under way asks again afterwards, or at once where the first question has not left the
browser yet; any answer that comes to its end after the visitor has asked again is dropped. The
browser numbers the questions, as two may reach the server the other way round. Nothing is called
off on the server: Gradio holds a lock of all visitors while it ends a generator.

Gradio's page changes an answer in place, text by text, and leaves an equal one alone; each carries
the number of its question, so that the page's script sees that it is another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import gradio as gr

from willfit.web.controls import Controls
from willfit.web.fields import BY_NAME, TABS, Field
from willfit.web.form import Form, read_link
from willfit.web.opened import opened_html
from willfit.web.visits import Visits

Ask = Callable[[str, Mapping[str, Any]], str]
"""Tab and what the controls hold -> HTML of the answer."""
Trace = Callable[[Mapping[str, Any]], str]
NUMBER: Final = (
    "(...held) => [...held.slice(0, -1), `${(window.wfQuestions = (window.wfQuestions ?? 0) + 1)}`]"
)
"""Puts the question's number, from 1 in each opened page, in the last input's place."""
COMPUTING: Final = '<p class="wf-empty" role="status">Computing the answer to this link …</p>'


def connect(
    page: gr.Blocks,
    controls: Controls,
    ask: Ask,
    traced: tuple[Trace, Any, Any] | None,
    *,
    online: bool,
) -> None:
    """Every button, and the link that the page was opened by; ``traced``: trace, button, place."""
    visits = Visits()
    names, inputs = list(controls.by_name), list(controls.by_name.values())
    number = gr.Textbox(label="question", visible="hidden", elem_id="wf-question")
    places = {tab: [place] for tab, place in controls.results.items()}
    usual: dict[str, Any] = {
        "show_progress": "minimal",
        "preprocess": False,  # `filled` looks at what controls hold, whoever sends it
        "js": NUMBER,
        "trigger_mode": "always_last",
        "api_visibility": "private",
    }
    if traced is not None:
        trace, press, place = traced
        places["estimate"].append(place)  # a trace of the estimate before is not of this one
        does = tracing(trace, names, visits)
        press.click(
            does, [*inputs, number], place, concurrency_id="trace", concurrency_limit=2, **usual
        )
    for tab, button in controls.buttons.items():
        button.click(
            asking(ask, tab, names, visits, len(places[tab])),
            [*inputs, number],
            places[tab],
            concurrency_id="quick" if tab == "estimate" else "slow",
            concurrency_limit=4,
            **usual,
        )
    link = gr.Textbox(label="link", visible="hidden", elem_id="wf-link")
    page.load(None, None, link, js="() => window.location.search", show_progress="hidden")
    link.change(  # without a link nothing is asked of the server when the page is opened
        opening(ask, names, visits, online=online),
        link,
        [controls.tabs, *inputs, *controls.results.values()],
        show_progress="hidden",
        concurrency_id="opened",
        concurrency_limit=4,
        api_visibility="private",
    )


def asking(
    ask: Ask, tab: str, names: Sequence[str], visits: Visits, count: int
) -> Callable[..., Any]:
    """What a tab's button does: the first of its ``count`` places is filled, others emptied."""

    def asked(request: gr.Request, *held: Any) -> Any:
        visitor, number = request.session_hash, numbered(held[-1])
        nothing = [gr.skip()] * count if count > 1 else gr.skip()
        if not visits.note(visitor, tab, number):
            return nothing
        html = ask(tab, dict(zip(names, held[:-1], strict=True)))
        if visits.last(visitor, tab) != number:
            return nothing
        html = answering(html, number)
        return [html, ""] if count > 1 else html

    return asked


def tracing(trace: Trace, names: Sequence[str], visits: Visits) -> Callable[..., Any]:
    """What the trace's button does: nothing where another one was asked for meanwhile."""

    def asked(request: gr.Request, *held: Any) -> Any:
        visitor, number = request.session_hash, numbered(held[-1])
        before = visits.last(visitor, "estimate")
        if before > number or not visits.note(visitor, "trace", number):
            return gr.skip()
        html = trace(dict(zip(names, held[:-1], strict=True)))
        now = visits.last(visitor, "trace"), visits.last(visitor, "estimate")
        return answering(html, number) if now == (number, before) else gr.skip()

    return asked


def numbered(held: object) -> int:
    """The number of a question; 0 where a stranger's client sends none."""
    return int(held) if isinstance(held, str) and re.fullmatch("[0-9]{1,9}", held) else 0


def opening(
    ask: Ask, names: Sequence[str], visits: Visits, *, online: bool
) -> Callable[[str, gr.Request], Iterator[list[Any]]]:
    """What a link does: fills the form in, then answers what can be answered without the Hub."""

    def opened(query: str, request: gr.Request) -> Iterator[list[Any]]:
        same = [gr.skip()] * (1 + len(names))
        if not query or "=" not in query:
            yield [*same, *_in_tab("", None)]
            return
        form, remarks = read_link(query)
        soon = COMPUTING if form.tab != "doctor" and form.model else None
        before = visits.last(request.session_hash, form.tab)
        yield [gr.Tabs(selected=form.tab), *_held(form, names), *_in_tab(form.tab, soon)]
        html = opened_html(ask, form, remarks, online=online)
        is_current = visits.last(request.session_hash, form.tab) == before
        yield [*same, *_in_tab(form.tab, html if is_current else None)]

    return opened


def answering(html: str, number: int) -> str:
    """An answer as the page gets it: never equal to the one before it."""
    return f'<div data-question="{number}">{html}</div>'


def _in_tab(chosen: str, html: str | None) -> Iterator[Any]:
    """What each tab's place gets: one the HTML, the others nothing new."""
    return (html if tab == chosen and html else gr.skip() for tab in TABS)


def _held(form: Form, names: Sequence[str]) -> Iterator[Any]:
    """What each control shows of a form."""
    own = {"model": form.model or None, "gpu": form.gpu or None, "work": form.work}
    own |= {"others": form.others, "pasted": "", "script": "", "config": ""}
    for name in names:
        yield own[name] if name in own else _shown(BY_NAME[name], form.values.get(name, ""))


def _shown(row: Field, value: str) -> bool | str:
    return bool(value) if row.kind == "switch" else value
