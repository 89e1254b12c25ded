"""The page in a real browser, through every tab: what it says is what the command line says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from benchmarks.serve_load import serving
from tests.support.browser import browsing, needed

from willfit.cli.main import main
from willfit.units import format_bytes
from willfit.web.fields import TABS

LOG = Path(__file__).parents[1] / "examples" / "doctor" / "error.log"
LINKS = {
    "estimate": {"model": "llama-3-8b", "gpu": "T4", "quantize": "nf4"},
    "plan": {"model": "llama-3-8b", "gpu": "T4", "work": "qlora", "num_labels": "3", "samples": "55000"},
    "gpus": {"model": "llama-3-8b", "quantize": "nf4", "gpu_names": "T4 L4 4090 1060"},
    "compare": {"model": "llama-3-8b", "gpu": "T4", "others": "mistral-7b\n--quantize int8"},
    "doctor": {"model": "llama-3-8b", "gpu": "T4", "work": "qlora"},
}  # fmt: skip


class Visit:
    """One visitor: a tab of the browser that keeps what went wrong, and what was asked for."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **options}
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)  # fmt: skip
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, tab: str = "estimate", **values: str) -> Any:
        """The page by a link."""
        query = f"?{urlencode({'tab': tab, **values})}" if values or tab != "estimate" else ""
        self.page.goto(f"http://{self.address}/{query}")
        self.page.wait_for_function("name => document.body.dataset.tab === name", arg=tab)
        self.page.wait_for_selector(f"#wf-ask-{tab}")  # the form comes after the tabs
        return self.page

    def answer(self, tab: str) -> Any:
        """The answer of a tab, once it is there."""
        self.page.wait_for_selector(f"#wf-result-{tab} .wf-answer")
        return self.page.locator(f"#wf-result-{tab}")

    def ask(self, tab: str) -> Any:
        """Press the button, and wait for another answer than the one that was there."""
        self.page.evaluate(
            "document.querySelectorAll('.wf-answer').forEach(e => e.classList.add('old'))"
        )
        self.page.click(f"#wf-ask-{tab}")
        self.page.wait_for_selector(f"#wf-result-{tab} .wf-answer:not(.old)")
        return self.page.locator(f"#wf-result-{tab}")

    def choose(self, name: str, text: str) -> None:
        """Type into a list and take what it offers."""
        self.page.locator(f"#wf-{name} input").press_sequentially(text)
        self.page.locator("[role=option]").get_by_text(text).first.click()

    def unfold(self, title: str) -> None:
        """Open a part of the form."""
        self.page.get_by_role("button", name=title).click()

    def set(self, name: str, text: str) -> None:
        self.page.fill(f"#wf-{name} :is(textarea, input)", text)
        self.page.locator(f"#wf-{name} :is(textarea, input)").blur()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    needed("gradio", "gradio")
    with serving("--offline") as (page, _):
        yield page.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture
def visit(browser, served) -> Iterator[Visit]:
    made = Visit(browser, served)
    yield made
    made.context.close()
    assert made.wrong == []
    assert [
        url for url in made.asked if not url.startswith((f"http://{served}/", "data:", "blob:"))
    ] == []


def told(capsys, *words: str) -> dict[str, Any]:
    """The command line's JSON."""
    capsys.readouterr()
    assert main([*words, "--json"]) in (0, 3)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def copied(visit: Visit, button: Any) -> str:
    button.click()
    visit.page.wait_for_function("document.getElementById('wf-live')?.textContent === 'Copied'")
    found: str = visit.page.evaluate("navigator.clipboard.readText()")
    return found


def test_a_newcomer_fills_in_the_form_and_reads_what_the_command_line_says(visit, capsys):
    page = visit.open()
    assert page.title() == "willfit" and page.get_attribute("html", "lang") == "en"
    visit.choose("model", "meta-llama/Meta-Llama-3-8B")
    visit.choose("gpu", "T4 (Colab)")
    page.check("#wf-work input[value=qlora]")
    visit.set("per_device_train_batch_size", "1")
    visit.set("max_length", "512")
    visit.unfold("LoRA")
    visit.set("lora_r", "16")
    answer = visit.ask("estimate")
    command = copied(visit, answer.locator(".wf-copy").last)
    words = shlex.split(command)[1:]
    assert words == ["estimate", "meta-llama/Meta-Llama-3-8B", "--gpu", "T4", "--train", "qlora",
                     "--per-device-train-batch-size", "1", "--max-length", "512", "--lora-r", "16"]  # fmt: skip
    expected = told(capsys, *words)
    verdict = answer.locator(".wf-said").inner_text()
    assert verdict.startswith(
        {"fits": "Fits", "tight": "Tight", "does_not_fit": "Does not fit"}[expected["verdict"]]
    )
    assert format_bytes(expected["peak"]["device_bytes"]) in verdict
    rows = answer.locator("table").first.inner_text()
    for part in expected["components"]:
        assert part["bytes"] == 0 or format_bytes(part["bytes"]) in rows, part
    assert expected["assumptions"][0] in answer.locator("details").nth(2).text_content()
    assert "work=qlora" in page.url and "lora_r=16" in page.url


def test_settings_are_shown_for_the_work_that_they_belong_to(visit):
    page = visit.open()
    seen = {}
    for work in ("inference", "load", "full", "lora", "qlora"):
        page.check(f"#wf-work input[value={work}]")
        seen[work] = {
            name
            for name in ("context", "optim", "quantize")
            if page.locator(f"#wf-{name}").is_visible()
        } | {
            title
            for title in ("LoRA", "More about running", "More about training")
            if page.get_by_role("button", name=title).is_visible()
        }
    training = {"optim", "More about training"}
    assert seen == {
        "inference": {"context", "quantize", "More about running"},
        "load": {"quantize"},
        "full": training,
        "lora": {*training, "quantize", "LoRA"},
        "qlora": {*training, "quantize", "LoRA"},
    }


def test_a_link_fills_in_the_form_answers_and_comes_back(visit, capsys):
    page = visit.open(**LINKS["estimate"], batch_size="2")
    first = visit.answer("estimate").locator(".wf-said").inner_text()
    assert format_bytes(told(capsys, "estimate", "llama-3-8b", "--gpu", "T4", "--quantize", "nf4",
                             "--batch-size", "2")["peak"]["device_bytes"]) in first  # fmt: skip
    assert page.input_value("#wf-batch_size input") == "2"
    assert page.input_value("#wf-model input") == "llama-3-8b"
    visit.set("batch_size", "1")
    second = visit.ask("estimate")
    assert "batch_size=1" in page.url
    link = copied(visit, second.locator("[data-copy-link]"))
    assert link == page.url
    said = second.locator(".wf-said").inner_text()
    page.goto(link)
    assert visit.answer("estimate").locator(".wf-said").inner_text() == said != first
    page.go_back()
    page.wait_for_function("() => document.querySelector('#wf-batch_size input')?.value === '2'")
    assert visit.answer("estimate").locator(".wf-said").inner_text() == first


def test_a_link_with_nonsense_says_so_and_takes_defaults(visit):
    visit.open(model="gpt2", gpu="T4", batch_size="<b>7", from_="/etc/passwd", work="mine")
    answer = visit.answer("estimate")
    assert answer.locator(".wf-remark").count() == 3
    assert answer.locator(".wf-said").inner_text().startswith("Fits")
    visit.open(model="/etc/passwd", gpu="T4")
    assert "neither in the catalogue" in visit.answer("estimate").locator(".wf-said").inner_text()


def test_plans_are_those_of_the_command_line_with_code_to_copy(visit, capsys):
    visit.open("plan", **LINKS["plan"])
    answer = visit.answer("plan")
    expected = told(capsys, "plan", "llama-3-8b", "--gpu", "T4", "--train", "qlora", "--num-labels", "3",
                    "--samples", "55000", "--emit", "peft")  # fmt: skip
    cards = answer.locator(".wf-card")
    assert cards.count() == len(expected["plans"]) > 0
    for number, plan in enumerate(expected["plans"]):
        shown = cards.nth(number).inner_text()
        for change in plan["changes"]:
            assert change["title"] in shown and format_bytes(abs(change["saves_bytes"])) in shown
        cards.nth(number).locator("summary").click()
        code = copied(visit, cards.nth(number).locator(".wf-copy"))
        assert code == plan["code"]["text"]
        compile(code, "plan.py", "exec")


def test_gpus_that_hold_the_job(visit, capsys):
    visit.open("gpus", **LINKS["gpus"])
    rows = visit.answer("gpus").locator("tbody tr")
    shown = {
        row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows.all()
    }
    assert {
        "NVIDIA T4",
        "NVIDIA L4",
        "NVIDIA GeForce RTX 4090",
        "NVIDIA GeForce GTX 1060 6GB",
    } <= set(shown)
    words = {"fits": "✓ fits", "tight": "≈ tight", "does_not_fit": "✗ does not fit"}
    for name, verdict in shown.items():
        found = told(capsys, "estimate", "llama-3-8b", "--quantize", "nf4", "--gpu", name)
        assert verdict == words[found["verdict"]], name


def test_sides_of_a_comparison(visit, capsys):
    visit.open("compare", **LINKS["compare"])
    total = (
        visit.answer("compare")
        .locator("table")
        .first.locator("tr")
        .last.inner_text()
        .split("\t")[1:]
    )
    sides = (["llama-3-8b"], ["mistral-7b"], ["llama-3-8b", "--quantize", "int8"])
    expected = [
        told(capsys, "estimate", *side, "--gpu", "T4")["peak"]["device_bytes"] for side in sides
    ]
    assert total == [format_bytes(amount) for amount in expected]


def test_a_pasted_message_is_diagnosed_as_the_terminal_does(visit, capsys):
    page = visit.open("doctor", gpu="T4", model="llama-3-8b", work="qlora")
    page.fill("#wf-pasted textarea", LOG.read_text())
    answer = visit.ask("doctor")
    expected = told(
        capsys, "doctor", str(LOG), "--model", "llama-3-8b", "--gpu", "T4", "--train", "qlora"
    )
    (report,) = expected["reports"]
    shown = answer.text_content()
    assert all(sentence in shown for sentence in report["evidence"])
    assert all(change["title"] in shown for change in report["changes"])
    snippet = next(change["snippet"] for change in report["changes"] if change["snippet"])
    assert copied(visit, answer.locator("ol .wf-copy").first) == snippet
    assert "pasted" not in page.url and "Tried" not in page.url


SCRIPT = """\
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("meta-llama/Meta-Llama-3-8B", torch_dtype="float16").to("cuda")
out = model.generate(input_ids, max_new_tokens=50)
"""


def test_a_script_beside_a_message_tells_the_model(visit, capsys, tmp_path):
    message = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 14.56 GiB of which 1.02 GiB is free. Of the allocated memory 13.10 GiB is allocated by PyTorch, and 300.00 MiB is reserved by PyTorch but unallocated."
    log, script = tmp_path / "error.log", tmp_path / "script.py"
    log.write_text(message)
    script.write_text(SCRIPT)
    page = visit.open("doctor", gpu="T4")
    page.fill("#wf-pasted textarea", message)
    page.set_input_files("#wf-code", script)
    page.wait_for_selector("text=script.py is used")
    answer = visit.ask("doctor")
    (report,) = told(capsys, "doctor", str(log), str(script), "--gpu", "T4")["reports"]
    shown = answer.text_content()
    assert report["cause"] == "model_too_big"
    assert all(sentence in shown for sentence in report["evidence"])
    assert "willfit doctor error.log script.py --gpu T4" in shown


def test_a_log_and_a_config_are_read_from_files_in_the_browser(visit, tmp_path):
    page = visit.open("doctor")
    page.set_input_files("#wf-log", LOG)
    page.wait_for_selector("text=error.log is used")
    assert "activations" in visit.ask("doctor").inner_text()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 1000, "intermediate_size": 128}))  # fmt: skip
    page = visit.open()
    page.set_input_files("#wf-file", config)
    page.wait_for_selector("text=config.json is used")
    visit.choose("gpu", "T4 (Colab)")
    answer = visit.ask("estimate")
    assert answer.locator(".wf-said").inner_text().startswith("Fits")
    assert "willfit estimate ./config.json --gpu T4" in answer.inner_text()
    assert page.url.endswith("/")  # a file is in no link
    page.click("#wf-file-drop")
    assert "no model is named" in visit.ask("estimate").inner_text().lower()
    config.write_bytes(b" " * (2**21 + 1))
    page.set_input_files("#wf-file", config)
    page.wait_for_selector("text=has more than 2 MiB")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_on_a_phone_in_both_themes_without_a_barrier(browser, served, scheme):
    """360 px wide: nothing beside the screen, no serious violation of axe's rules."""
    axe = needed("axe_playwright_python.sync_playwright", "axe-playwright-python").Axe()
    visit = Visit(browser, served, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for tab, values in LINKS.items():
        page = visit.open(tab, **values)
        if tab == "doctor":
            page.fill("#wf-pasted textarea", LOG.read_text())
            visit.ask("doctor")
        visit.answer(tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        page.wait_for_function(  # an answer that comes fades in, and pale text is no barrier then
            "() => !document.querySelector('.wf-result .pending')"
            " && document.getAnimations().every(one => one.playState !== 'running')"
        )
        assert page.locator("#wf-tabs [role=tab]").count() == len(TABS)
        found = [
            (rule["id"], [node["target"] for node in rule["nodes"]])
            for rule in axe.run(page).response["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert found == [], tab
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3]))
    assert (brightness > 600) == (scheme == "light"), paper
    visit.context.close()
    assert visit.wrong == []


def test_the_keyboard_is_enough(visit):
    """Every control once and in its order, visibly focused; a model is chosen, an answer asked for."""
    page = visit.open()
    reached: list[str] = []
    while "wf-ask-estimate" not in reached:
        page.keyboard.press("Tab")
        place, outline, width = page.evaluate(
            "() => { const e = document.activeElement; const box = e.closest('[id^=wf-]');"
            " const style = getComputedStyle(e);"
            " return [box ? box.id : '', style.outlineStyle, parseFloat(style.outlineWidth)]; }"
        )
        assert place, f"after {reached} the place is lost"
        assert outline != "none" and width >= 2, place
        if place == "wf-model":
            page.keyboard.type("openai-community/gpt2")
            page.keyboard.press("Enter")
        if [place] != reached[-1:]:
            reached.append(place)
    assert reached == [
        *(f"wf-tab-{tab}-button" for tab in TABS),
        *("wf-model", "wf-file", "wf-gpu", "wf-work", "wf-quantize", "wf-batch_size", "wf-context"),
        *("wf-form", "wf-ask-estimate"),  # between them the folded parts
    ]
    page.keyboard.press("Enter")
    assert visit.answer("estimate").locator(".wf-said").inner_text().startswith("Needs")
    page.wait_for_function("document.getElementById('wf-live')?.textContent.startsWith('Needs')")


def test_every_control_has_a_name_that_is_read_out(visit):
    page = visit.open(**LINKS["estimate"])
    visit.answer("estimate")
    for title in ("More about running", "Loading", "Machine and versions"):
        visit.unfold(title)
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('#wf-body :is(input, textarea, button)')]"
        ".filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.textContent.trim()))"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert nameless == []


def test_a_trace_is_drawn_where_torch_is(visit):
    pytest.importorskip("torch", reason="torch is not installed")
    page = visit.open(model="gpt2", gpu="T4", context="64")
    visit.answer("estimate")
    page.click("#wf-ask-trace")
    page.wait_for_selector("#wf-result-trace .wf-answer", timeout=120_000)
    answer = page.locator("#wf-result-trace")
    assert answer.locator(".wf-said").inner_text().startswith("By trace: Fits")
    assert answer.locator("svg").count() == 2 and "prefill" in answer.inner_html()
    visit.set("context", "128")
    visit.ask("estimate")
    assert answer.locator(".wf-answer").count() == 0  # the trace was of another estimate


def test_a_button_pressed_again_asks_for_what_the_form_says_by_then(visit):
    """Of two questions the last one's answer stays, and a link's does not come after it."""
    settings = {"model": "llama-3-70b", "work": "qlora", "per_device_train_batch_size": "1"}
    page = visit.open("gpus", **settings, max_length="511")
    visit.set("max_length", "512")
    page.click("#wf-ask-gpus")
    visit.set("max_length", "4096")
    page.click("#wf-ask-gpus")
    page.wait_for_function("location.search.includes('max_length=4096')")
    link = page.get_attribute("#wf-result-gpus .wf-answer", "data-link")
    assert "max_length=4096" in link and page.input_value("#wf-max_length input") == "4096"


TWICE = """lengths => {
    const field = document.querySelector("#wf-max_length input");
    const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
    for (const length of lengths) {
        set.call(field, length);
        field.dispatchEvent(new Event("input", { bubbles: true }));
        document.getElementById("wf-ask-gpus").click();
    }
}"""


@pytest.mark.parametrize("lengths", [["512", "4096"], ["4096", "512"]])
def test_two_questions_at_once_leave_the_last_ones_answer_and_its_link(visit, lengths):
    """Both are sent before Gradio knows that the first is under way, and both run at a time."""
    page = visit.open("gpus", model="llama-3-70b", work="qlora", per_device_train_batch_size="1")
    page.evaluate(TWICE, lengths)
    page.wait_for_function("end => location.search.endsWith(`max_length=${end}`)", arg=lengths[1])
    page.wait_for_timeout(1000)  # nothing comes after it
    for link in (
        page.get_attribute("#wf-result-gpus .wf-answer", "data-link"),
        page.evaluate("location.search"),
    ):
        assert link.endswith(f"max_length={lengths[1]}")


def test_the_same_question_again_is_answered_again(visit):
    """The answer's sentence is read out once more, in place of "Computing"."""
    page = visit.open("gpus", model="gpt2")
    visit.answer("gpus")
    for _ in range(2):
        page.evaluate("document.getElementById('wf-live').textContent = ''")
        said = visit.ask("gpus").locator(".wf-answer").get_attribute("data-said")
        page.wait_for_function("said => document.getElementById('wf-live').textContent === said", arg=said)  # fmt: skip


def test_a_link_fills_the_form_in_before_it_is_answered_and_is_dropped_where_it_is_late():
    needed("gradio", "gradio")
    import gradio as gr

    from willfit.web.events import COMPUTING, asking, opening
    from willfit.web.visits import Visits

    asked: list[str] = []

    def ask(tab: str, _: object) -> str:
        asked.append(tab)
        return "answer"

    names, visits = ["model", "gpu", "work", "lora_r"], Visits()
    me, other = (gr.Request(session_hash=name) for name in ("me", "other"))
    place = list(TABS).index("plan")
    opens, press = opening(ask, names, visits, online=False), asking(ask, "plan", names, visits, 1)
    for who, is_shown in ((other, True), (me, False)):
        steps = opens("?tab=plan&model=gpt2&work=lora&lora_r=8", me)
        tabs, *held = next(steps)
        assert asked == [] and tabs.selected == "plan"
        assert held[:4] == ["gpt2", None, "lora", "8"] and held[4:][place] == COMPUTING
        assert ">answer<" in press(
            who, "bert", "T4", "lora", "4", "1"
        )  # before the link's is there
        assert (next(steps)[5:][place] == "answer") == is_shown
        asked.clear()


def test_a_trace_of_an_estimate_before_is_dropped():
    needed("gradio", "gradio")
    import gradio as gr

    from willfit.web.events import asking, tracing
    from willfit.web.visits import Visits

    visits, me = Visits(), gr.Request(session_hash="me")
    press = asking(lambda *_: "estimate", "estimate", [], visits, 2)
    assert ">trace<" in tracing(lambda _: "trace", [], visits)(me, "1")
    assert tracing(lambda _: press(me, "3")[0], [], visits)(me, "2") == gr.skip()  # while it ran
    assert press(me, "4") == ['<div data-question="4">estimate</div>', ""]
    assert tracing(lambda _: "trace", [], visits)(me, "3") == gr.skip()  # of the one before
    slow = asking(lambda *_: press(me, "6")[0], "estimate", [], visits, 2)
    assert slow(me, "5") == [gr.skip()] * 2  # asked again before it was answered
    assert press(me, "5") == [gr.skip()] * 2  # the other way round


@pytest.mark.parametrize("held", [None, "", "-1", "1e3", "9" * 400, 7, ["1"]])
def test_a_number_that_is_none_is_the_first_ones(held):
    needed("gradio", "gradio")
    from willfit.web.events import numbered

    assert numbered(held) == 0 and numbered("12") == 12


def test_visits_are_bounded():
    from willfit.web.visits import MOST, Visits

    visits = Visits()
    for number in range(MOST + 10):
        assert visits.note(f"visitor {number}", "plan", 1)
    assert [visits.last(f"visitor {n}", "plan") for n in (0, 9, 10, MOST)] == [0, 0, 1, 1]


def test_torch_is_not_imported_by_the_page():
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys; from willfit.web.server import application, Service\n"
         "from pathlib import Path; import willfit.web.answers as a\n"
         "a.answer({'form': {'model': 'gpt2', 'gpu': 'T4', 'tab': 'plan', 'work': 'lora'}})\n"
         "print([m for m in ('torch', 'transformers', 'gradio') if m in sys.modules])"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"
