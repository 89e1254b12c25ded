"""The page's form: its fields are the command line's, its links come back, its bounds hold."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.cli import compare, doctor, estimate, plan
from willfit.cli.build import build_request
from willfit.cli.main import main
from willfit.cli.parser import Parser, with_dashes
from willfit.errors import InputError
from willfit.web.answers import answer
from willfit.web.fields import ANY, BY_NAME, FIELDS, FILTER, JOB, TABS, WORKS
from willfit.web.form import MAX_LINK, Form, command_of, filled, flags, link_of, read_link
from willfit.web.models import is_hub_id, uploaded
from willfit.web.question import Question, parsed
from willfit.web.show.pieces import refusal, remarks
from willfit.web.sides import sides_of
from willfit.web.whichgpu import named

NUMBERS, DECIMALS = {"number": "3"}, {"decimal": "0.25"}
EXAMPLES = {
    "kv_dtype": "bfloat16", "auto_class": "AutoModelForCausalLM", "max_memory": '{0: "6GB", "cpu": "30GB"}',
    "ram": "29GB", "reserve": "1GiB", "in_use": "500MiB", "alloc_conf": "expandable_segments:True",
    "stack": "transformers=4.57,torch=2.6", "time_limit": "9h", "lora_target_modules": "q_proj v_proj",
    "modules_to_save": "lm_head", "llm_int8_skip_modules": "lm_head", "gpu_names": "T4 L4",
    "gpu_at_least": "16GiB", "gpu_at_most": "48GiB",
}  # fmt: skip


def examples(name: str) -> list[str]:
    """Contents of a field that make sense."""
    field = BY_NAME[name]
    if field.choices:
        return [value for _, value in field.choices if value]
    usual = {"switch": "yes", **NUMBERS, **DECIMALS}
    return [EXAMPLES.get(name) or usual[field.kind]]


def meant(kind: str, value: str) -> object:
    """What the command line's parser makes of a field's content."""
    if kind in ("switch", "yes_no"):
        return value == "yes"
    if kind == "words":
        return value.split()
    return {"number": int, "decimal": float}.get(kind, str)(value)


def said(command: object, words: list[str]) -> dict[str, object]:
    """What the real command's parser makes of words."""
    parser = Parser(prog="willfit")
    command.configure(parser)  # type: ignore[attr-defined]
    return vars(parser.parse_args(with_dashes(words)))


@pytest.mark.parametrize("name", [f.name for f in FIELDS if f.name not in FILTER])
def test_every_field_is_a_setting_of_the_command_line(name):
    field = BY_NAME[name]
    command = plan if name in JOB else estimate
    work = min(field.works)
    for value in examples(name):
        form = filled({"work": work, "tab": "plan", name: value})
        words = shlex.split(command_of(form, "gpt2"))[2:]
        found = said(command, words)[name]
        expected = meant(field.kind, value)
        assert found == (9 * 3600.0 if name == "time_limit" else expected), words


def test_a_default_of_the_page_is_no_word_of_the_command():
    for work in WORKS:
        form = filled({"work": work, "model": "gpt2", **dict.fromkeys(BY_NAME, "")})
        own = {"inference": [], "load": ["--task", "load"]}.get(work, ["--train", work])
        assert flags(form) == own


def test_fields_of_other_work_are_left_out():
    form = filled({"work": "inference", "lora_r": "16", "optim": "sgd", "batch_size": "2"})
    assert form.values == {"batch_size": "2"}


FORMS = st.builds(
    lambda tab, work, values, model, gpu: filled(
        {"tab": tab, "work": work, "model": model, "gpu": gpu, **values}
    ),
    st.sampled_from(list(TABS)),
    st.sampled_from(list(WORKS)),
    st.fixed_dictionaries({}, optional={n: st.sampled_from(examples(n)) for n in BY_NAME}),
    st.sampled_from(["", "gpt2", "meta-llama/Meta-Llama-3-8B", "a b&c=d#e", "ü/ö?"]),
    st.sampled_from(["", "T4x2", "24GiB:sm_86", "T4,L4"]),
)


@given(FORMS)
def test_a_link_brings_back_what_its_tab_depends_on(form):
    found, remarks = read_link(link_of(form))
    left_out = (set() if form.tab == "plan" else JOB) | (set() if form.tab == "gpus" else FILTER)
    assert remarks == ()
    assert (found.tab, found.model, found.gpu, found.work) == (form.tab, form.model, form.gpu, form.work)  # fmt: skip
    assert found.values == {n: v for n, v in form.values.items() if n not in left_out}
    assert link_of(found) == link_of(form)


@given(st.text(max_size=200))
def test_any_link_gives_a_form_and_sentences(text):
    form, remarks = read_link("?" + text)
    assert form.tab in TABS and form.work in WORKS
    assert all(remark and "\n" not in remark for remark in remarks)


@pytest.mark.parametrize(
    ("query", "kept", "num_remarks"),
    [
        ("?model=gpt2&batch_size=-1", {}, 1),
        ("?model=gpt2&batch_size=1e99", {}, 1),
        ("?model=gpt2&batch_size=4", {"batch_size": "4"}, 0),
        ("?model=gpt2&work=nonsense&batch_size=4", {"batch_size": "4"}, 1),
        ("?model=gpt2&work=lora&optim=__import__('os')", {}, 1),
        ("?model=gpt2&work=lora&lora_target_modules=q_proj --from /etc/passwd", {}, 1),
        ("?model=gpt2&from=/etc/passwd&trust_remote_code=yes&html=/tmp/x", {}, 3),
        ("?model=gpt2&pasted=secret&config={}", {}, 2),
        ("?model=gpt2&__theme=dark", {}, 0),
        ("?model=" + "x" * 400, {}, 1),
        ("?" + "a=1&" * 2000, {}, 1),
        ("?model=%00%01", {}, 1),
        ("?model=%ff%fe", {}, 1),
    ],
)
def test_what_a_link_may_not_say_is_said_and_left_at_its_default(query, kept, num_remarks):
    form, remarks = read_link(query)
    assert (form.values, len(remarks)) == (kept, num_remarks), remarks
    assert len(query) <= MAX_LINK or form == Form()


@pytest.mark.parametrize(
    "words",
    [
        ["--from", "/etc/passwd"], ["--peft-config", "x.json"], ["--adapter", "x.json"],
        ["--lengths", "/etc/passwd"], ["--tokenizer", "/etc"], ["--trust-remote-code"], ["--live"],
        ["--trace", "--timeline", "x.svg"], ["--trace", "--snapshot", "x.pickle"], ["--html", "x.html"],
        ["--picture", "x.svg"], ["--revision", "main"],
    ],
)  # fmt: skip
def test_settings_that_name_files_are_refused(words):
    said(estimate, ["gpt2", *words])  # the command line has them
    with pytest.raises(InputError, match="is for the command line"):
        parsed(estimate, ["gpt2", *words])
    html = answer({"form": {"tab": "compare", "model": "gpt2", "others": shlex.join(words)}})[
        "html"
    ]
    assert "is for the command line" in html


@pytest.mark.parametrize(
    ("tab", "command"), [("estimate", estimate), ("plan", plan), ("doctor", doctor)]
)
def test_the_command_that_is_shown_asks_the_same(tab, command):
    raw = {"tab": tab, "model": "llama-3-8b", "gpu": "T4x2", "work": "qlora", "lora_r": "16",
           "lora_target_modules": "q_proj v_proj", "gradient_checkpointing": "yes", "bf16": "no"}  # fmt: skip
    shown = said(command, shlex.split(command_of(filled(raw), "llama-3-8b"))[2:])
    asked = said(estimate, ["llama-3-8b", "--gpu=T4x2", *flags(filled(raw))])
    assert {n: v for n, v in shown.items() if v is not None and n in asked} == {
        n: v for n, v in asked.items() if v is not None
    }


def test_the_comparison_that_is_shown_is_one_that_the_command_line_takes():
    form = filled(
        {"tab": "compare", "model": "gpt2", "gpu": "T4", "others": "bert\n--quantize int8"}
    )
    words = shlex.split(command_of(form, "gpt2"))[2:]
    assert said(compare, words)["gpu"] == "T4"


@pytest.mark.parametrize(
    "others",
    [
        "mistral-7b\n--quantize int8",
        '"mistral-7b --quantize nf4"',
        "mistral-7b --gpu L4 --lora-r 64",
    ],
)
def test_the_comparison_that_is_shown_has_the_same_answer(others, capsys):
    """What the form says holds for every side, in both; a side may say otherwise."""
    raw = {"tab": "compare", "model": "llama-3-8b", "gpu": "T4", "work": "lora", "max_length": "512",
           "others": others}  # fmt: skip
    sides = sides_of(Question(form=filled(raw)))
    assert main([*shlex.split(command_of(filled(raw), "llama-3-8b"))[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["sides"]
    assert [side["estimate"]["peak"]["device_bytes"] for side in told] == [
        side.estimate.binding.peak.device_bytes for side in sides if side.estimate
    ]


def test_a_model_in_a_line_within_quotes_was_named():
    asked = {"tab": "compare", "model": "gpt2", "others": "'org/name --quantize int8'\n--lora-r 8"}
    assert {"gpt2", "org/name"} <= Question(form=filled(asked)).named


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("RTX 4090", {"NVIDIA GeForce RTX 4090"}),  # not every RTX
        ("T4 RTX 4090", {"NVIDIA T4", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3060"}),
        ("T4, RTX 4090", {"NVIDIA T4", "NVIDIA GeForce RTX 4090"}),
        ("t4 1060", {"NVIDIA T4", "NVIDIA GeForce GTX 1060 6GB"}),
        ("no such", set()),
    ],
)
def test_names_of_the_gpu_filter(names, found):
    shown = {gpu.name for gpu in named(names)}
    assert found <= shown and bool(found) == bool(shown)
    assert ("NVIDIA GeForce RTX 3060" in shown) == ("NVIDIA GeForce RTX 3060" in found)
    assert {gpu.vendor for gpu in named(" , ")} == {"nvidia"}


def test_a_bound_without_a_unit_is_not_taken_for_bytes():
    html = answer({"form": {"tab": "gpus", "model": "gpt2", "gpu_at_least": "24"}})["html"]
    assert "give a unit, such as 24GB" in html and "<table" not in html


def test_where_no_gpu_holds_a_job_it_says_how_far_it_is_and_what_to_do():
    asked = {"tab": "gpus", "model": "llama-3-70b", "gpu_names": "H100 PCIe"}
    needed = answer({"form": {**asked, "tab": "estimate", "gpu": "H100 PCIe"}})["said"]
    (amount,) = re.findall(r"Does not fit: ([\d.]+ GiB),", needed)
    said = answer({"form": asked})["said"]
    assert f"{amount} on each, and NVIDIA H100 PCIe has" in said and "Plan" in said


@pytest.mark.parametrize(
    ("words", "shown"),
    [("is it?", "Is it?"), ("it is.", "It is."), ("it is", "It is."), ("wait …", "Wait …")],
)
def test_a_sentence_has_one_sign_at_its_end(words, shown):
    assert f">{shown}</p>" in remarks([words]) and f">{shown}</h2>" in refusal(words)


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("meta-llama/Meta-Llama-3-8B", True), ("org/name.gguf", True), ("org/repo/file.gguf", True),
        ("org/repo:Q4_K_M", True), ("/etc/passwd", False), ("../../etc/passwd", False), ("~/x", False),
        ("org/../name", False), ("file:///etc/passwd", False), ("http://169.254.169.254/latest", False),
        ("https://huggingface.co/a/b", False), ("C:\\x\\y", False), ("org/adapter_config.json", False),
        ("./a/b", False), ("a/b/c", False), ("-x/y", False), ("org/model.bin", False), ("a", False),
    ],
)  # fmt: skip
def test_names_that_the_hub_may_be_asked_for(name, is_id):
    assert is_hub_id(name) == is_id


def test_no_model_is_read_from_this_disk(tmp_path, monkeypatch):
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 100,
              "n_positions": 64, "architectures": ["GPT2LMHeadModel"]}  # fmt: skip
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    request = build_request(parsed(estimate, ["org/name"]))
    assert request.scenario.model.source == "local"  # the command line reads it
    for name in (str(folder), "org/name", "mine", "./org/name", f"file://{folder}"):
        html = answer({"form": {"model": name, "gpu": "T4"}})["html"]
        assert "wf-refused" in html, name
    code = f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r})\nmodel.cuda()\n"
    html = answer({"form": {"tab": "doctor"}, "pasted": code + "# CUDA out of memory"})["html"]
    assert str(folder) not in html or "no scenario" in html


CONFIG = '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "intermediate_size": 128%s}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "expected an object"),
        ("<!doctype html><html>", "it is an HTML page"),
        ('{"a": 1}', "not a model config"),
        ('{"peft_type": "LORA", "r": 8}', "adapter_config.json"),
        ("[" * 100_000, "nested too deeply"),
        ('{"model_type": ' * 200 + "1" + "}" * 200, "deep"),
        (CONFIG % ', "x": NaN', "not a JSON number"),
        (CONFIG % ', "x": 1e999', "out of range"),
        (CONFIG % ', "vocab_size": 5', "there twice"),
        (CONFIG.replace('layers": 2', 'layers": 1000000000') % "", "more than any model has"),
        (CONFIG.replace('vocab_size": 100', 'vocab_size": 1e300') % "", "more than any model has"),
        ("x" * (2 * 2**20 + 1), "more than 2 MiB"),
        ("\x80\x04\x95", "not valid JSON"),
    ],
)
def test_an_upload_is_data_within_bounds(text, words):
    with pytest.raises(InputError, match=words):
        uploaded(text)
    assert "wf-refused" in answer({"form": {"gpu": "T4"}, "config": text})["html"]


def test_an_architecture_that_nobody_knows_is_said_in_one_sentence():
    """What is installed is not asked for, and not every name of transformers is told."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    config = '{"model_type": "foobar", "architectures": ["FooForCausalLM"], "hidden_size": 64}'
    said = answer({"form": {"gpu": "T4"}, "config": config})["said"]
    assert "foobar" in said and "pip install" not in said and len(said) < 200, said


def test_an_uploaded_config_is_estimated_as_the_command_line_does(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(CONFIG % "")
    there = build_request(parsed(estimate, [str(path)])).scenario.model
    assert uploaded(CONFIG % "").tensors == there.tensors
    html = answer({"form": {"gpu": "T4"}, "config": CONFIG % ""})["html"]
    assert "Fits:" in html and "./config.json" in html and 'data-link=""' in html


class Tags(HTMLParser):
    """Elements and attributes of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'<svg onload=alert(1)>"


@pytest.mark.parametrize(
    "asked",
    [
        {"form": {"model": EVIL}},
        {"form": {"model": "gpt2", "gpu": EVIL}},
        {"form": {"model": "gpt2", "gpu": "T4", "stack": EVIL}},
        {"form": {"model": "gpt2", "gpu": "T4", "tab": "compare", "others": EVIL}},
        {"form": {"model": "gpt2", "tab": "gpus", "gpu_at_least": EVIL}},
        {"form": {"tab": "doctor"}, "pasted": f"CUDA out of memory. Tried to allocate 2.00 GiB {EVIL}"},
        {"form": {"tab": "doctor"}, "pasted": f"from transformers import {EVIL}\nx = '{EVIL}'\nmodel.to({EVIL})"},
        {"form": {"tab": "doctor"}, "pasted": "import torch\ntorch.cuda.empty_cache()\ndel x\n" + f"# {EVIL}"},
        {"form": {"gpu": "T4"}, "config": CONFIG % f', "architectures": ["{EVIL[2:20]}"]'},
        {"form": {"gpu": "T4"}, "config": json.dumps({"model_type": EVIL, "architectures": [EVIL]})},
    ],
    ids=["model", "gpu", "stack", "others", "filter", "log", "code", "script", "class", "type"],
)  # fmt: skip
def test_what_a_visitor_writes_never_becomes_markup(asked):
    found = Tags(answer(asked)["html"])
    assert not found.names & {"script", "img", "iframe", "object", "embed", "link", "a", "form"}
    assert not {name for name in found.attributes if name.startswith("on")}


def test_every_tab_answers_the_shared_form():
    raw = {"model": "gpt2", "gpu": "T4", "others": "bert"}
    for tab in TABS:
        found = answer({"form": {**raw, "tab": tab}, "pasted": "CUDA out of memory."})
        assert "wf-refused" not in found["html"], tab


def test_the_table_of_fields_has_no_name_twice():
    assert len(BY_NAME) == len(FIELDS)
    assert all(field.works <= ANY and field.works for field in FIELDS)
