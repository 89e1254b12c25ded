"""A link that was opened: which of its questions are answered at once, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from willfit.web.form import Form
from willfit.web.models import is_hub_id
from willfit.web.show.pieces import refusal, remarks


def opened_html(
    ask: Callable[[str, Mapping[str, Any]], str],
    form: Form,
    said: Sequence[str],
    *,
    online: bool,
) -> str:
    """HTML in the place of the tab's answer; "" where there is nothing to be said.

    The Hub is not asked because of a link: whoever opens it did not name the model.
    """
    from willfit.sources import catalogue

    before = remarks(said)
    if form.tab == "doctor" or not form.model:
        return before
    if catalogue.find(form.model) is None and is_hub_id(form.model) and online:
        return before + refusal(
            f"{form.model} is not in the catalogue: press the button to ask the Hub for its config"
        )
    return before + ask(form.tab, held(form))


def held(form: Form) -> dict[str, Any]:
    """What the controls hold of a form; nothing in it lets the Hub be asked."""
    return {
        "model": form.model,
        "gpu": form.gpu,
        "work": form.work,
        "others": form.others,
        **form.values,
        "opened": True,
    }
