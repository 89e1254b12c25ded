"""Events: which question each button asks, and what a link that is opened does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from willfit.web.controls import Controls
from willfit.web.fields import BY_NAME, TABS, Field
from willfit.web.form import Form, read_link
from willfit.web.opened import opened_html

Ask = Callable[[str, Mapping[str, Any]], str]
"""Tab and what the controls hold -> HTML of the answer."""
Trace = Callable[[Mapping[str, Any]], str]


def connect(page: gr.Blocks, controls: Controls, ask: Ask, *, online: bool) -> None:
    """Every tab's button, and the link that the page was opened by."""
    names, inputs = list(controls.by_name), list(controls.by_name.values())
    for tab, button in controls.buttons.items():
        slow = tab != "estimate"
        button.click(
            _asking(ask, tab, names),
            inputs,
            controls.results[tab],
            show_progress="minimal",
            preprocess=False,  # `filled` looks at what controls hold, whoever sends it
            concurrency_id="slow" if slow else "quick",
            concurrency_limit=4,
            api_visibility="private",
        )
    link = gr.Textbox(visible=False)
    page.load(
        _opening(ask, names, online=online),
        link,
        [controls.tabs, *inputs, *controls.results.values()],
        js="() => window.location.search",
        show_progress="hidden",
        concurrency_id="opened",
        concurrency_limit=4,
        api_visibility="private",
    )


def connect_trace(controls: Controls, trace: Trace, button: Any, place: Any) -> None:
    """The button that runs the real code."""
    names = list(controls.by_name)

    def asked(*held: Any) -> str:
        return trace(dict(zip(names, held, strict=True)))

    button.click(
        asked,
        list(controls.by_name.values()),
        place,
        show_progress="minimal",
        preprocess=False,
        concurrency_id="trace",
        concurrency_limit=2,
        api_visibility="private",
    )


def _asking(ask: Ask, tab: str, names: Sequence[str]) -> Callable[..., str]:
    """What a tab's button does."""

    def asked(*held: Any) -> str:
        return ask(tab, dict(zip(names, held, strict=True)))

    return asked


def _opening(ask: Ask, names: Sequence[str], *, online: bool) -> Callable[[str], list[Any]]:
    """What a link does: fills the form in, and answers what can be answered without the Hub."""

    def opened(query: str) -> list[Any]:
        count = 1 + len(names) + len(TABS)
        if not query or "=" not in query:
            return [gr.skip()] * count
        form, remarks = read_link(query)
        html = opened_html(ask, form, remarks, online=online)
        results = [html if tab == form.tab and html else gr.skip() for tab in TABS]
        return [gr.Tabs(selected=form.tab), *_held(form, names), *results]

    return opened


def _held(form: Form, names: Sequence[str]) -> Iterator[Any]:
    """What each control shows of a form."""
    own = {"model": form.model or None, "gpu": form.gpu or None, "work": form.work}
    own |= {"others": form.others, "pasted": "", "config": ""}
    for name in names:
        yield own[name] if name in own else _shown(BY_NAME[name], form.values.get(name, ""))


def _shown(row: Field, value: str) -> bool | str:
    return bool(value) if row.kind == "switch" else value
