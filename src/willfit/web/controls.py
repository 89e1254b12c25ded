"""The page's controls: each field of the form as the control that suits it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from willfit.web.fields import FIELDS, WORKS, Field

MAX_FILE: Final = 2**21
"""Bytes of a file: the bounds of the doctor's text and of a config."""
_UPLOAD: Final = """
<div class="wf-upload"><label class="wf-file" for="{id}">{label}</label>
<input type="file" id="{id}" accept="{accept}" data-into="{into}" data-most="{most}">
<span class="wf-name" id="{id}-name" role="status"></span>
<button type="button" class="wf-drop" id="{id}-drop" hidden>Remove</button></div>
"""
"""A file is read by the browser into a text field: nothing is uploaded before a question is."""


@dataclass
class Controls:
    """The page's controls by what they say."""

    by_name: dict[str, Any] = field(default_factory=dict)
    """In the order in which a question has them."""
    results: dict[str, Any] = field(default_factory=dict)
    buttons: dict[str, Any] = field(default_factory=dict)
    tabs: Any = None


def html_piece(content: str) -> None:
    """A piece of the page that never changes."""
    gr.HTML(content, apply_default_css=False, padding=False)


def add_fields(controls: Controls, part: str) -> None:
    """The fields of one part, in a grid."""
    for row in FIELDS:
        if row.part == part:
            controls.by_name[row.name] = _control(row)


def _control(row: Field) -> Any:
    """The control of a field."""
    usual: dict[str, Any] = {
        "label": row.label,
        "info": row.hint or None,
        "elem_id": f"wf-{row.name}",
        "elem_classes": classes_of(row.works),
        "min_width": 130,
    }
    if row.choices:
        return gr.Dropdown(list(row.choices), value="", filterable=False, **usual)
    if row.kind == "switch":
        return gr.Checkbox(value=False, **usual)
    return gr.Textbox(value="", placeholder="default", max_lines=1, **usual)


def classes_of(works: frozenset[str]) -> list[str]:
    """Classes by which the style sheet hides what does not belong to the chosen work."""
    return ["wf-some", *(f"wf-on-{work}" for work in WORKS if work in works)]


def add_upload(name: str, label: str, into: str, accept: str = "") -> None:
    """A file that the browser reads into the control ``into``."""
    html_piece(_UPLOAD.format(id=name, label=label, into=into, most=MAX_FILE, accept=accept))
