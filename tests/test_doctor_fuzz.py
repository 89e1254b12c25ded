"""A short run of the doctor's fuzzer; `docs/fuzz.md` is the record of the long one."""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import pytest
from tests.support import doctor_fuzz
from tests.support.doctor_fuzz import BrokenLawError, checked, page, run
from tests.support.doctor_inputs import KINDS, TEMPLATES, Material, long, made

from willfit.doctor.passage import Line, Passage
from willfit.doctor.report import Report

SEED = 20261126


def test_no_input_breaks_a_law() -> None:
    tally = run(SEED, 0, 2000)
    assert not tally.broken
    assert tally.kinds.total() == 2000
    assert set(tally.kinds) >= {maker.__name__ for maker, odds in KINDS if odds >= 1}
    # the inputs are such that the readers read something in them
    assert tally.telling.total() > 800
    assert len(tally.families) > 20


@pytest.mark.parametrize("number", range(3))
def test_nor_does_a_large_one(number: int) -> None:
    text = long(random.Random(number), Material.gather())
    assert len(text) >= 20_000
    checked(text)


def test_an_input_is_made_again_from_its_number() -> None:
    assert [made(SEED, index) for index in range(50)] == [made(SEED, index) for index in range(50)]
    assert made(SEED, 7) != made(SEED + 1, 7)


REPORT = Report(
    family="mine",
    fields={"tried_bytes": 7 * 2**20},
    printed={"tried_bytes": "7.00 MiB"},
    line=2,
    last_line=2,
    quote="x",
)
TEXT = b"first\nTried to allocate 7.00 MiB\n"


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({}, ""),
        ({"fields": {"tried_bytes": -1}}, "tried_bytes is -1"),
        ({"fields": {"tried_bytes": 1.5}}, "tried_bytes is 1.5"),
        ({"fields": {"processes": [{"pid": 1, "bytes": "1"}]}}, "bytes is '1'"),
        ({"line": 0}, "lines 0 to 2 of 3"),
        ({"last_line": 4}, "lines 2 to 4 of 3"),
        ({"line": 2, "last_line": 1}, "lines 2 to 1 of 3"),
    ],
)
def test_the_laws_can_be_broken(
    change: dict[str, object], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor_fuzz,
        "reports_in",
        lambda *_, **__: [replace(REPORT, **change)],  # type: ignore[arg-type]
    )
    if not law:
        assert checked(TEXT)
        return
    with pytest.raises(BrokenLawError, match=law):
        checked(TEXT)


def test_an_amount_that_stands_nowhere_is_noticed() -> None:
    passage = Passage([Line(number=0, text="Tried to allocate 7.0"), Line(number=1, text="0 MiB")])
    doctor_fuzz.Checked().context_of(passage, REPORT)
    with pytest.raises(BrokenLawError, match="stands nowhere"):
        doctor_fuzz.Checked().context_of(Passage(passage.lines[:1]), REPORT)


def test_a_failing_input_is_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: bytes) -> list[Report]:
        raise ValueError("no such thing")

    monkeypatch.setattr(doctor_fuzz, "checked", fails)
    tally = run(SEED, 3, 5)
    assert [(index, law) for index, _, law in tally.broken] == [
        (3, "ValueError: no such thing"),
        (4, "ValueError: no such thing"),
    ]
    arguments = argparse.Namespace(inputs=2, seed=SEED, workers=1)
    assert "2 inputs, 0 MiB; 2 broke a law" in page(tally, arguments, 60.0)


def test_each_format_is_told_with_likely_numbers() -> None:
    likely = {"a": "7.25 GiB", "n": "1234567", "i": "0", "d": "0.95"}
    silent = []
    for template in TEMPLATES:
        text = template
        for name, value in likely.items():
            text = text.replace(f"{{{name}}}", value)
        if not checked(text.encode()):
            silent.append(text)
    assert not silent
