"""The page: what stands where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from willfit.web.controls import Controls, add_fields, add_upload, classes_of, html_piece
from willfit.web.events import Ask, Trace, connect
from willfit.web.fields import FIELDS, TABS, WORKS, Part

SLOGAN: Final = "Will this model fit on my GPU, and if not, what is the smallest change?"
PLACEHOLDER: Final = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has …"
)
SCRIPT: Final = "model = AutoModelForCausalLM.from_pretrained(…)"
_BUTTONS: Final = {
    "estimate": "Estimate",
    "plan": "Find plans",
    "gpus": "Find GPUs",
    "compare": "Compare",
    "doctor": "Diagnose",
}
_INTROS: Final = {
    "estimate": "What it takes, and whether it fits.",
    "plan": "The smallest set of changes that makes it fit, with the code.",
    "gpus": "On which GPUs the job fits; the GPU of the form is left aside.",
    "compare": "The form's model beside others, or beside itself with other settings.",
    "doctor": "What a failure was, and what to change. Model and settings are optional.",
}
_PARTS: Final[dict[Part, str]] = {
    "lora": "LoRA",
    "inference": "More about running",
    "training": "More about training",
    "loading": "Loading",
    "machine": "Machine and versions",
}
_GPUS: Final = (
    ("T4 ×2 (Kaggle)", "T4x2"), ("T4 (Colab)", "T4"), ("P100 (Kaggle)", "P100"), ("L4", "L4"),
    ("A100 40 GB", "A100-40GB"), ("A100 80 GB", "A100-80GB"), ("H100", "H100"), ("H200", "H200"),
    ("RTX 3060", "RTX 3060"), ("RTX 3090", "RTX 3090"), ("RTX 4090", "RTX 4090"),
    ("RTX 5090", "RTX 5090"),
)  # fmt: skip
"""GPUs that most people have, before all others."""


def build(
    ask: Ask,
    trace: Trace | None,
    models: Sequence[str],
    gpus: Sequence[str],
    *,
    online: bool,
) -> gr.Blocks:
    """The page over ``ask``, which answers questions; ``trace`` is None where torch is missing."""
    page: gr.Blocks
    with gr.Blocks(title="willfit", analytics_enabled=False) as page:
        controls = Controls()
        html_piece(f'<header class="wf-head"><h1>willfit</h1><p>{SLOGAN}</p></header>')
        with gr.Tabs(elem_id="wf-tabs") as controls.tabs:
            for tab, title in TABS.items():
                with gr.Tab(title, id=tab, elem_id=f"wf-tab-{tab}"):
                    _own_part(controls, tab)
        with gr.Row(elem_id="wf-body"):
            with gr.Column(elem_id="wf-form", scale=2, min_width=300):
                _form(controls, models, gpus, online=online)
            with gr.Column(elem_id="wf-results", scale=3, min_width=300):
                for tab in TABS:
                    controls.results[tab] = gr.HTML(
                        _first(tab),
                        elem_id=f"wf-result-{tab}",
                        elem_classes=["wf-result"],
                        apply_default_css=False,
                    )
                traced = (trace, *_traced_part()) if trace is not None else None
        connect(page, controls, ask, traced, online=online)
    return page


def _own_part(controls: Controls, tab: str) -> None:
    """What only this tab asks for."""
    html_piece(f'<p class="wf-intro">{_INTROS[tab]}</p>')
    if tab == "doctor":
        controls.by_name["pasted"] = gr.Textbox(
            label="Error, log or code",
            lines=7,
            max_lines=16,
            placeholder=PLACEHOLDER,
            elem_id="wf-pasted",
        )
        add_upload("wf-log", "Read it from a file", "wf-pasted")
        controls.by_name["script"] = gr.Textbox(
            label="Your script, where that is a message",
            info="it tells the model and the settings, and which of its lines to change",
            lines=2,
            max_lines=16,
            placeholder=SCRIPT,
            elem_id="wf-script",
        )
        add_upload("wf-code", "Read the script from a file", "wf-script")
    if tab == "compare":
        controls.by_name["others"] = gr.Textbox(
            label="With, a line each",
            info="a model with settings, or settings alone",
            lines=3,
            placeholder="mistral-7b\n--quantize int8",
            elem_id="wf-others",
        )
    part = {"plan": "plan", "gpus": "gpus"}.get(tab)
    if part is not None:
        with gr.Row(elem_classes=["wf-grid"]):
            add_fields(controls, part)


def _form(controls: Controls, models: Sequence[str], gpus: Sequence[str], *, online: bool) -> None:
    """The scenario, which all tabs share."""
    more = ", or a Hub id owner/name" if online else ""
    controls.by_name["model"] = gr.Dropdown(
        list(models),
        value=None,
        label="Model",
        info=f"from the list{more}",
        allow_custom_value=True,
        elem_id="wf-model",
    )
    add_upload("wf-file", "or a config.json", "wf-config", ".json")
    controls.by_name["config"] = gr.Textbox(
        label="config.json", elem_id="wf-config", elem_classes=["wf-hidden"], container=False
    )
    controls.by_name["gpu"] = gr.Dropdown(
        [*_GPUS, *((name, name) for name in gpus)],
        value=None,
        label="GPU",
        info="from the list, or T4x2, 24GiB:sm_86",
        allow_custom_value=True,
        elem_id="wf-gpu",
    )
    controls.by_name["work"] = gr.Radio(
        [(words, name) for name, words in WORKS.items()],
        value="inference",
        label="What to do with it",
        elem_id="wf-work",
    )
    with gr.Row(elem_classes=["wf-grid"]):
        add_fields(controls, "main")
    for part, title in _PARTS.items():
        works = frozenset().union(*(row.works for row in FIELDS if row.part == part))
        folded = gr.Accordion(title, open=False, elem_classes=classes_of(works))
        with folded, gr.Row(elem_classes=["wf-grid"]):
            add_fields(controls, part)
    for tab, words in _BUTTONS.items():
        controls.buttons[tab] = gr.Button(
            words, variant="primary", elem_id=f"wf-ask-{tab}", elem_classes=["wf-ask"]
        )


def _traced_part() -> tuple[Any, Any]:
    """The button that asks for a trace, and the place of its answer."""
    button = gr.Button(
        "Trace it: run the real code, without weights, for the memory over time",
        variant="secondary",
        size="sm",
        elem_id="wf-ask-trace",
        elem_classes=["wf-ask"],
    )
    place = gr.HTML(
        "", elem_id="wf-result-trace", elem_classes=["wf-result"], apply_default_css=False
    )
    return button, place


def _first(tab: str) -> str:
    """What stands where the answer will be."""
    own = {"doctor": "Paste the error", "gpus": "Choose a model"}
    what = own.get(tab, "Choose a model and a GPU")
    return f'<p class="wf-empty">{what}, then press “{_BUTTONS[tab]}”.</p>'
