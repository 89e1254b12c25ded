"""``willfit diff --check``: what grew past the allowance, what was changed, what shrank."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.test_cli import run

from willfit.comparing.growth import Allowance, Growth, growth, parse_allowance
from willfit.comparing.recorded import Recorded, recorded_from, recorded_of
from willfit.errors import BrokenFileError, InputError
from willfit.report.growth import because, growth_lines
from willfit.units import GIB, MIB

ONE = "gpt2 --gpu T4 --batch-size 4"
MORE = "gpt2 --gpu T4 --batch-size 8"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([ONE, MORE], 0),
        ([ONE, MORE, "--check"], 3),
        ([MORE, ONE, "--check"], 0),
        ([ONE, ONE, "--check"], 0),
        ([ONE, MORE, "--check", "--allow", "100%"], 0),
        ([ONE, MORE, "--check", "--allow", "64MiB"], 3),
        ([ONE, MORE, "--allow", "1%"], 1),
        ([ONE, MORE, "--check", "--allow", "a bit"], 1),
        ([ONE, "timm/resnet50.a1_in1k --gpu T4", "--check", "--allow", "100%"], 4),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], words: list[str], code: int) -> None:
    assert run(capsys, "diff", *words)[0] == code


def test_it_names_the_component_and_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "diff", ONE, MORE, "--check", "--allow", "1%")
    assert max(map(len, out.splitlines())) <= 80
    # 4 more rows of 1,024 tokens: 12 layers × 2 × 12 heads × 64 × 4 B = 72 KiB a token
    assert "grew: kv_cache +287" in out and "changed: --batch-size 4 → 8" in out
    _, out, _ = run(capsys, "diff", MORE, ONE, "--check")
    assert "nothing grew\n" in out and "shrank: " in out and "kv_cache -287" in out


def test_the_json_carries_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    check = json.loads(run(capsys, "diff", ONE, MORE, "--check", "--json")[1])["check"]
    assert check["passes"] is False and check["peak_grew"] is True
    assert {part["name"] for part in check["grown"]} >= {"kv_cache", "activations"}
    assert [(s["title"], s["a"], s["b"]) for s in check["settings"]] == [("--batch-size", "4", "8")]
    assert all(part["change_bytes"] > 0 for part in check["grown"])


def test_settings_that_willfit_added_later_are_no_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An older file lacks a field that is empty in new ones, and the version."""
    content = json.loads(run(capsys, "estimate", *ONE.split(), "--json")[1])
    del content["scenario"]["workload"]["inference"]["merge_adapter"], content["willfit"]
    content["scenario"]["machine"]["gpus"][0]["note"] = "other words"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    code, out, _ = run(capsys, "diff", str(old), ONE, "--check")
    assert code == 0 and "changed" not in out


def record(**changes: Any) -> Recorded:
    whole = Recorded(
        level="formula",
        phase="prefill",
        peak_bytes=100 * MIB,
        components={"weights": 60 * MIB, "kv_cache": 40 * MIB},
        settings={"model": "m", "workload.inference.batch_size": "1"},
        willfit="1.0",
    )
    return replace(whole, **changes)


def found(after: Recorded, allow: str | None = None) -> Growth:
    return growth(record(), after, parse_allowance(allow))


MOVED = record(peak_bytes=102 * MIB, components={"weights": 60 * MIB, "kv_cache": 42 * MIB})


@pytest.mark.parametrize(
    ("allow", "passes"),
    [
        (None, False),
        ("1%", False),  # of a peak of 100 MiB: 1 MiB
        ("2%", True),
        ("1.99%", False),
        ("2MiB", True),
        ("2097151", False),
        ("0%", False),
    ],
)
def test_an_allowance_is_of_the_recorded_peak_or_an_amount(allow: str | None, passes: bool) -> None:
    assert found(MOVED, allow).passes is passes


def test_the_sum_of_small_growths_is_caught_by_the_peak() -> None:
    parts = {"weights": 60 * MIB + MIB, "kv_cache": 40 * MIB + MIB}
    grown = found(record(peak_bytes=102 * MIB, components=parts), "1MiB")
    assert grown.grown == () and grown.peak_grew and not grown.passes
    assert any(line.startswith("grew: the peak") for line in growth_lines(grown))


def test_a_component_that_is_new_has_grown() -> None:
    parts = {"weights": 60 * MIB, "kv_cache": 32 * MIB, "logits": 10 * MIB}
    after = record(components=parts, peak_bytes=102 * MIB)
    assert [part.name for part in found(after).grown] == ["logits"]
    assert [part.name for part in found(after).shrunk] == ["kv_cache"]


@pytest.mark.parametrize(
    ("components", "changes", "grown"),
    [
        # a step's peak without logits has temporaries of another moment
        ({"weights": 60, "temporaries": 39}, {}, []),
        ({"weights": 60, "temporaries": 39}, {"phase": "load"}, []),
        ({"weights": 61, "kv_cache": 38}, {}, ["weights"]),
        ({"weights": 61, "kv_cache": 38}, {"phase": "load"}, []),
        ({"weights": 60, "temporaries": 41}, {}, ["temporaries"]),
        ({"weights": 60, "temporaries": 41}, {"phase": "load"}, ["temporaries"]),
    ],
)
def test_in_a_lower_peak_only_what_lasts_can_have_grown(
    components: dict[str, int], changes: dict[str, str], grown: list[str]
) -> None:
    parts = {name: size * MIB for name, size in components.items()}
    after = record(peak_bytes=sum(parts.values()), components=parts, **changes)
    assert [part.name for part in found(after).grown] == grown


WHY = [
    (record(settings={"model": "n", "workload.inference.batch_size": "1"}), "the model m → n"),
    (record(willfit="1.1"), "no setting of yours: willfit 1.0 → 1.1 finds another number"),
    (record(), "no setting of yours: willfit finds another number"),
    (record(level="trace"), "the level formula → trace"),
    (record(phase="load"), "the peak is in load, not in prefill, no setting of yours"),
    (
        record(willfit="1.1", settings={"model": "m"}),
        "--batch-size 1 → none, willfit 1.0 → 1.1",
    ),
]


@pytest.mark.parametrize(("after", "said"), WHY, ids=[said for _, said in WHY])
def test_what_moved_the_number_is_said(after: Recorded, said: str) -> None:
    moved = replace(after, components=MOVED.components, peak_bytes=MOVED.peak_bytes)
    assert because(found(moved)).startswith(said)


def test_measured_code_is_no_setting_of_willfits() -> None:
    before = record(level="measured", settings={"device": "cpu"})
    after = replace(before, components=MOVED.components)
    assert because(growth(before, after, Allowance())) == "the code, no setting"


@pytest.mark.parametrize("text", ["", "%", "-1%", "101%", "nan%", "1 %%", "MiB", "-4", "9" * 50])
def test_an_allowance_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot allow"):
        parse_allowance(text)


sizes = st.dictionaries(
    st.sampled_from(["weights", "kv_cache", "adapters", "left_behind"]),
    st.integers(0, 4 * GIB),
    min_size=1,
)


@given(a=sizes, b=sizes, allowed=st.integers(0, GIB))
def test_it_passes_exactly_where_nothing_grew_past_the_allowance(
    a: dict[str, int], b: dict[str, int], allowed: int
) -> None:
    before, after = (record(components=x, peak_bytes=sum(x.values())) for x in (a, b))
    judged = growth(before, after, parse_allowance(f"{allowed}B"))
    over = [name for name in {**a, **b} if b.get(name, 0) - a.get(name, 0) > allowed]
    assert {part.name for part in judged.grown} == set(over)
    assert judged.passes == (not over and sum(b.values()) - sum(a.values()) <= allowed)
    assert growth(before, before, Allowance()).passes


@given(a=sizes)
def test_a_record_is_read_as_it_was_written(a: dict[str, int]) -> None:
    written = record(components={name: size for name, size in a.items() if size})
    assert recorded_from(json.loads(json.dumps(written.as_json())), "a.json") == written


@pytest.mark.parametrize(
    "content",
    [
        None, [], {}, {"schema": "willfit.record/1"}, {"schema": "willfit.record/2"},
        {**record().as_json(), "peak_bytes": 1.5}, {**record().as_json(), "components": {"a": "b"}},
        {**record().as_json(), "components": {"a": True}}, {**record().as_json(), "settings": 3},
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_by_name(content: Any) -> None:
    with pytest.raises(BrokenFileError, match=r"a\.json"):
        recorded_from(content, "a.json")
    with pytest.raises(BrokenFileError):
        recorded_of(content)
