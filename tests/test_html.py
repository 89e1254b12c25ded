"""Reports as pages: well formed, nothing from elsewhere, and the numbers are the contract's."""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.reports import (
    HOSTILE,
    PAGES,
    QLORA,
    SETTINGS,
    comparison_of,
    estimate_of,
    planning,
    run_report,
)
from tests.support.strict_html import Node, read

from willfit.cli.main import main
from willfit.errors import BrokenFileError
from willfit.report.comparison import comparison_json
from willfit.report.contract import estimate_json
from willfit.report.html import (
    comparison_html,
    embedded_json,
    estimate_html,
    plan_html,
    run_html,
)
from willfit.report.html.page import POLICY
from willfit.report.palette import look
from willfit.report.plan import plan_json
from willfit.report.writing import printable
from willfit.results import Alive, Failure, Moment, Timeline
from willfit.runner.saved import read_report, report_from
from willfit.units import GIB, format_bytes


def rows_of(page: Node, caption: str) -> dict[str, list[str]]:
    """A table's rows by their heading, the swatch's space left out."""
    table = next(t for t in page.all("table") if t.all("caption")[0].text.startswith(caption))
    found = {}
    for row in table.all("tbody")[0].all("tr"):
        found[row.all("th")[0].text.strip()] = [cell.text for cell in row.all("td")]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound(name: str) -> None:
    text = PAGES[name]()
    page = read(text)
    metas = [meta.attributes for meta in page.all("meta")]
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in metas
    assert any(meta.get("name") == "viewport" for meta in metas)
    tags = {node.tag for node in _every(page)}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "img", "image"}
    for node in _every(page):
        assert not any(key.startswith("on") for key in node.attributes), node.tag
        for key in ("src", "href", "xlink:href", "action"):
            assert node.attributes.get(key, "data:,") == "data:,"
    assert not re.search(r"url\(|@import", text)
    levels = [int(node.tag[1]) for node in _every(page) if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        width = len(table.all("thead")[0].all("th"))
        assert {len(row.all("th") + row.all("td")) for row in table.all("tr")} == {width}
    main_part = page.all("main")[0]
    elements = [part for part in main_part.children if isinstance(part, Node)]
    assert elements[0].tag == "h1" and "verdict" in elements[1].attributes.get("class", "")
    assert page.all("html")[0].attributes["lang"] == "en"


def _every(node: Node) -> list[Node]:
    inside = [part for part in node.children if isinstance(part, Node)]
    return [found for part in inside for found in [part, *_every(part)]]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_the_same_each_time(name: str) -> None:
    assert PAGES[name]() == PAGES[name]()


@pytest.mark.parametrize("asked", [s for name, s in SETTINGS.items() if name != "refused"])
def test_the_numbers_are_those_of_the_contract(asked: str) -> None:
    estimate = estimate_of(asked)
    contract = estimate_json(estimate)
    text = estimate_html(estimate)
    assert embedded_json(text) == json.loads(json.dumps(contract))
    page = read(text)
    place = f"GPU {contract['peak']['gpu_index']}" if contract["per_gpu"] else "one GPU"
    shown = rows_of(page, place if len(contract["per_gpu"]) < 3 else "GPU 0 to")
    expected = {
        look(part["name"]).words: format_bytes(part["bytes"])
        for part in contract["components"]
        if part["bytes"]
    }
    expected["device"] = format_bytes(contract["peak"]["device_bytes"])
    assert {name: cells[0] for name, cells in shown.items()} == expected
    phases = rows_of(page, "Peak of each phase")
    assert phases == {
        phase["name"]: [
            format_bytes(phase[f"{kind}_bytes"]) for kind in ("allocated", "reserved", "device")
        ]
        for phase in contract["phases"]
    }
    said = page.text
    for sentence in (*contract["assumptions"], *contract["unsupported"]):
        assert printable(sentence) in said


def test_what_would_be_refused_shows_no_memory() -> None:
    estimate = estimate_of(SETTINGS["refused"])
    assert estimate.refused is not None
    page = read(estimate_html(estimate))
    assert estimate.refused in page.all("p")[0].text
    assert not page.all("svg")


def test_a_traced_page_has_its_timeline_and_what_is_alive() -> None:
    estimate = replace(
        estimate_of(QLORA),
        level="trace",
        largest_alive=(
            Alive(module="model.layers.*.mlp", op="aten.mm.default", phase="forward",
                  num_bytes=3 * GIB, count=32),
        ),
        failure=Failure(phase="backward", module="model.layers.3", op="aten.mm.default",
                        tried_bytes=224 * 2**20, message="CUDA out of memory. Tried <it>"),
    )  # fmt: skip
    moments = tuple(
        Moment(phase=phase, components={"weights": amount * GIB}, reserved_bytes=amount * GIB)
        for phase, amount in (("load", 4), ("forward", 9), ("backward", 12))
    )
    page = read(estimate_html(estimate, {0: Timeline(moments=moments)}))
    described = [node.text for node in page.all("desc")]
    said = "reserved at most 4.00 GiB in load, 9.00 GiB in forward, 12.00 GiB in backward."
    assert sum(said in text for text in described) == 2  # for wide pages and for phones
    assert rows_of(page, "Alive")["model.layers.*.mlp"] == ["3.00 GiB", "32", "mm, forward"]
    assert "Would end in backward on GPU 0, in model.layers.3 (mm)" in page.text


def test_a_plan_has_its_changes_and_its_code() -> None:
    contract = plan_json(planning(), [{"target": "peft", "text": "a < b\n"}, None])
    text = plan_html(planning(), [{"target": "peft", "text": "a < b\n"}, None])
    assert embedded_json(text) == json.loads(json.dumps(contract))
    page = read(text)
    for number, plan in enumerate(contract["plans"], 1):
        shown = rows_of(page, f"Changes of plan {number}")
        assert {title: cells[:2] for title, cells in shown.items()} == {
            change["title"]: [format_bytes(change["saves_bytes"]), change["quality_cost"]]
            for change in plan["changes"]
        }
        lines = [line for change in plan["changes"] for line in change["lines"]]
        assert "\n".join(lines) in [node.text for node in page.all("code")]
    assert "a < b\n" in [node.text for node in page.all("code")]
    described = page.all("desc")[0].text
    assert "As asked: does not fit" in described and "Plan 2:" in described


def test_a_run_has_estimates_beside_what_was_measured() -> None:
    report = run_report()
    text = run_html(report)
    assert embedded_json(text) == report.json()
    page = read(text)
    assert rows_of(page, "In use on each GPU")["gemma, GPU 1"] == [
        "12.00 GiB", "256.0 MiB", "11.00 GiB", "256.0 MiB", "process 7, python",
    ]  # fmt: skip
    assert rows_of(page, "Workers")["llama"] == ["4", "3", "2"]
    assert rows_of(page, "Rows of each")["llama"] == ["100", "90", "1", "0"]
    # 90 rows and 900 tokens in the 100 s in which a model was there, a tenth of it padding
    assert rows_of(page, "Time of each")["gemma"] == [
        "2 min 00 s", "20.0 s", "0.9", "9", "10.0%",
    ]  # fmt: skip
    assert printable(HOSTILE) in page.text
    hosted = read(run_html(run_report(num_gpus=0)))
    assert "gemma 0 B before, 3.00 GiB at most" in hosted.all("desc")[0].text


def test_a_saved_run_is_read_back(tmp_path: Path) -> None:
    report = run_report()
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.json()))
    assert run_html(read_report(path)) == run_html(report)
    for broken in ({}, {"schema": "willfit.run/1"}, {**report.json(), "stages": [{"name": 1}]}):
        with pytest.raises(BrokenFileError, match="no report of a run"):
            report_from(broken)
    huge = report.json()
    huge["stages"][0]["seconds"] = float("inf")
    with pytest.raises(BrokenFileError):
        report_from(huge)


def test_a_comparison_has_each_side() -> None:
    comparison = comparison_of()
    text = comparison_html(comparison)
    assert embedded_json(text) == json.loads(json.dumps(comparison_json(comparison)))
    page = read(text)
    verdicts = [node.text for node in page.all("p")[:3]]
    assert "mistral-7b" in verdicts[0] and "llama-3-8b" in verdicts[1]
    assert "no source knows it" in verdicts[2]
    moved = rows_of(page, "Components at both peaks")
    first, second = (entry.estimate.binding.peak for entry in comparison.entries[:2])
    for peak, column in ((first, 0), (second, 1)):
        for part in peak.components:
            if part.num_bytes:
                assert moved[look(part.name).words][column] == format_bytes(part.num_bytes)


# names from outside

hostile = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<>&\"'/=;-![]() \x00\x1b\u2028\u202e\ud800aé漢", max_size=60),
    st.sampled_from((HOSTILE, "x" * 3000, "a" * 50 + "\n" * 50, "&#0;&lt;")),
)


@settings(max_examples=25)
@given(hostile)
def test_no_name_breaks_a_page(name: str) -> None:
    estimate = estimate_of(QLORA)
    scenario = replace(estimate.scenario, model=replace(estimate.scenario.model, id=name))
    named = replace(estimate, scenario=scenario, assumptions=(name,), notes={name: name})
    text = estimate_html(named, command=name)
    page = read(text)
    assert page.all("h1")[0].text == f"{printable(name)} on NVIDIA T4"
    assert embedded_json(text)["model"]["id"] == name
    comparison = comparison_of()
    first = replace(comparison.entries[0], label=name)
    read(comparison_html(replace(comparison, entries=(first, *comparison.entries[1:]))))


@given(st.text(max_size=200), st.text(alphabet="<>/predtails id=\"willfit-json'", max_size=200))
def test_what_is_no_page_is_refused(one: str, other: str) -> None:
    for text in (one, other, f'<pre id="willfit-json">{one}</pre>'):
        with suppress(BrokenFileError):
            assert isinstance(embedded_json(text), dict)


# the commands


def test_the_page_is_written_beside_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a report.html"
    path.write_text("an older one")
    assert main(["estimate", "gpt2", "--gpu", "T4"]) == 0
    printed = capsys.readouterr().out
    assert main(["estimate", "gpt2", "--gpu", "T4", "--html", str(path)]) == 0
    assert capsys.readouterr().out == printed
    page = read(path.read_text())
    assert (
        page.all("code")[-1].text
        == f"willfit estimate gpt2 --gpu T4 --html {shlex.quote(str(path))}"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_can_be_compared_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page of one length against the JSON of the other: the same as JSON against JSON."""
    page, saved, other = (tmp_path / name for name in ("a.html", "a.json", "b.json"))
    for path, context, flags in (
        (saved, "512", ["--json", "--html", str(page)]), (other, "1024", ["--json"]),
    ):  # fmt: skip
        assert main(["estimate", "gpt2", "--gpu", "T4", "--context", context, *flags]) == 0
        path.write_text(capsys.readouterr().out)
    differences = []
    for first in (page, saved):
        assert main(["diff", str(first), str(other), "--json"]) == 0
        differences.append(json.loads(capsys.readouterr().out))
    assert differences[0] == differences[1] and differences[0]["change_bytes"] > 0
    foreign = tmp_path / "foreign.html"
    foreign.write_text("<!doctype html><p>something else</p>")
    assert main(["diff", str(foreign), str(other)]) == 1
    assert "--html" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["estimate", "plan"])
def test_what_cannot_be_written_costs_no_result(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x.html"
    folder.mkdir()
    for place, why in ((tmp_path / "none" / "x.html", "there is no folder"), (folder, "a folder")):
        assert main([command, "gpt2", "--gpu", "T4", "--html", str(place)]) == 1
        out, err = capsys.readouterr()
        assert "T4" in out and "fits" in out
        assert err.count("\n") == 1 and why in err


def test_a_kind_that_is_not_written_is_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in (
        (["--html", "x.pdf"], ".html or .htm"),
        (["--picture", "x.gif"], ".svg or .png"),
    ):
        assert main(["estimate", "gpt2", *flags]) == 1
        out, err = capsys.readouterr()
        assert not out and said in err


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real.svg", tmp_path / "link.svg"
    real.write_text("old")
    link.symlink_to(real)
    assert main(["estimate", "gpt2", "--picture", str(link)]) == 0
    assert link.is_symlink() and real.read_text().startswith("<svg")
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert main(["estimate", "gpt2", "--picture", str(pipe)]) == 0
    assert os.read(reader, 4) == b"<svg" and pipe.is_fifo()
    os.close(reader)


def test_a_run_refuses_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="willfit[run] is not installed")
    missing = tmp_path / "none" / "r.html"
    assert main(["run", str(tmp_path / "p.yaml"), "--html", str(missing)]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["run", "p.yaml", "--dry-run", "--html", "r.html"]) == 1
    assert "--dry-run" in capsys.readouterr().err
