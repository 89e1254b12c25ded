"""The same job at many places: what fits, what it takes, and the job after it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from willfit.changes import NotApplicable, Quality, changes_for
from willfit.cli.main import main
from willfit.devices import parse_machine
from willfit.devices.places import Place, all_places, find_places
from willfit.estimator.timing import job_seconds, timing
from willfit.formulas.timing.span import Span
from willfit.plan.better import Better
from willfit.plan.judge import Judge
from willfit.plan.quick import quickest_search
from willfit.plan.result import Job
from willfit.plan.sessions import sessions_of
from willfit.plan.terms import trained_bytes
from willfit.plan.where import Asking, at, plain_estimate, stay
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve

LLAMA = ["llama-3-8b", "--train", "qlora", "--max-length", "1024", "--batch-size", "4"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["where", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def where(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def place(name: str) -> Place:
    (found,) = find_places([name])
    return found


def small() -> Scenario:
    return Scenario(
        model=resolve("gpt2"), workload=Workload(inference=Inference(batch_size=2, context_len=64))
    )


@pytest.mark.parametrize("name", [place.name for place in all_places()])
def test_every_place_has_an_answer(name: str) -> None:
    found = stay(small(), place(name), Asking(job=Job(samples=100)))
    if name in ("kaggle-p100", "kaggle-tpu"):
        assert found.status == "cannot_run" and found.estimate is None
        assert ("sm_60" if name == "kaggle-p100" else "TPU") in found.reason
        return
    assert found.status == "fits" and found.reason == ""
    assert found.estimate is not None and found.seconds is not None
    assert found.estimate.scenario.machine is not None
    assert found.estimate.scenario.machine.gpus == place(name).gpus
    assert found.estimate.scenario.machine.internet == place(name).internet


def test_a_p100_runs_where_torch_still_has_its_kernels() -> None:
    older = replace(small(), stack=Stack(versions={**TESTED, "torch": "2.6.0"}))
    assert stay(older, place("kaggle-p100"), Asking()).status == "fits"
    assert stay(older, place("rtx-5090"), Asking()).status == "cannot_run"


def test_numbers_are_those_of_estimate_and_timing(capsys: pytest.CaptureFixture[str]) -> None:
    found = where(capsys, *LLAMA, "--gradient-checkpointing", "--samples", "1000", "--epochs", "2",
                  "--place", "l40s")["places"][0]  # fmt: skip
    main(["estimate", *LLAMA, "--gradient-checkpointing", "--gpu", "L40S", "--json"])
    alone = json.loads(capsys.readouterr().out)
    assert found["peak_device_bytes"] == alone["peak"]["device_bytes"]
    assert found["headroom_bytes"] == alone["headroom_bytes"]
    scenario = Scenario(
        model=resolve("llama-3-8b"),
        workload=Workload(
            loading=Loading(quantization=Quantization(scheme="nf4")),
            training=Training(method="qlora", lora=Lora(), micro_batch_size=4, max_length=1024,
                              gradient_checkpointing=True),
        ),
    )  # fmt: skip
    seconds = job_seconds(timing(at(scenario, place("l40s"))), samples=1000, epochs=2)
    assert found["total_time_seconds"]["nominal"] == pytest.approx(seconds.nominal)


def test_nominal_amounts_over_the_budget_are_no_fit() -> None:
    """Where the low end alone is within it, the estimate is tight, and the job does not fit."""
    made = plain_estimate(at(small(), place("rtx-4070-ti-super")))
    card = place("rtx-4070-ti-super").gpus[0]
    budget = made.binding.peak.device_bytes - 1
    assert made.binding.low_device_bytes <= budget
    short = replace(place("rtx-4070-ti-super"), gpus=(replace(card, capacity_bytes=budget),))
    found = stay(small(), short, Asking())
    assert found.estimate is not None and found.estimate.verdict == "tight"
    assert found.status == "does_not_fit"


def test_ram_and_disk_are_budgets() -> None:
    tight = replace(place("rtx-4090"), ram_bytes=None, disk_bytes=10**6)
    found = stay(small(), tight, Asking())
    assert found.status == "does_not_fit" and "of disk where there is 976.6 KiB" in found.reason
    assert stay(small(), replace(tight, disk_bytes=10**10), Asking()).status == "fits"


def hours(low: float, nominal: float, high: float) -> Span:
    return Span(low=low * 3600, nominal=nominal * 3600, high=high * 3600)


T4X2 = place("kaggle-t4x2")
SUBMISSION = place("kaggle-submission")
SESSIONS = {
    "within": (T4X2, hours(5, 6, 8), None, "", 1, ()),
    "perhaps over": (
        T4X2,
        hours(9, 11, 14),
        None,
        "",
        1,
        ("at its slowest 14.0 h, over a session",),
    ),
    "two sessions": (
        T4X2,
        hours(11, 14, 16),
        None,
        "",
        2,
        ("2 sessions of 12 h: save checkpoints",),
    ),
    "over the week": (T4X2, hours(60, 64, 90), None, "", 6, ("6 sessions", "30 h a week: 3 weeks")),
    "one session": (SUBMISSION, hours(7, 10, 12), None, "one session of 9 h", 2, ()),
    "limit": (T4X2, hours(7, 10, 12), 9.0, "10.0 h against a limit of 9.0 h", None, ()),
    "just": (T4X2, hours(7, 8, 12), 9.0, "", 1, ("at its slowest 12.0 h, over the limit",)),
    "own": (place("rtx-4090"), hours(700, 800, 900), None, "", None, ()),
    "endless": (T4X2, hours(1, math.inf, math.inf), None, "no end", None, ()),
}


@pytest.mark.parametrize("case", sorted(SESSIONS))
def test_hours_against_sessions_and_quota(case: str) -> None:
    where_, seconds, limit, late, count, notes = SESSIONS[case]
    found = sessions_of(seconds, where_, limit and limit * 3600, trains=True)
    assert late in found.late and bool(late) == bool(found.late)
    assert found.count == count
    assert len(found.notes) == len(notes)
    assert all(said in note for said, note in zip(notes, found.notes, strict=True))


def test_an_inference_of_many_sessions_is_split() -> None:
    found = sessions_of(hours(11, 14, 16), T4X2, None, trains=False)
    assert "split the samples" in found.notes[0]


def test_cost_is_the_users_price(capsys: pytest.CaptureFixture[str]) -> None:
    rows = where(capsys, *LLAMA, "--samples", "1000", "--price-per-hour", "2", "h100=3.5", "--gpu",
                 "H200", "--place", "h100", "h200", "colab-t4", "rtx-4090", "--no-changes")["places"]  # fmt: skip
    price = {row["name"]: row["price"] for row in rows}
    spent = {row["name"]: row["total_time_seconds"] for row in rows}
    assert price["h100"] == pytest.approx(3.5 * spent["h100"]["nominal"] / 3600)
    assert price["h200"] == pytest.approx(2 * spent["h200"]["nominal"] / 3600) == price["given"]
    assert price["rtx-4090"] is None  # one's own: no price was named for it


SEARCHED = ("T4", "RTX 3060", "A100-40GB", "RTX 4090x2")


@pytest.mark.parametrize("gpu", SEARCHED)
def test_the_quick_search_finds_the_cheapest_of_one_or_two(gpu: str) -> None:
    """Against all sets of at most two changes, judged one by one."""
    scenario = Scenario(
        model=resolve("llama-3-8b"),
        workload=Workload(
            loading=Loading(quantization=Quantization(scheme="nf4")),
            training=Training(method="qlora", lora=Lora(r=64), micro_batch_size=4, max_length=1024),
        ),
    )
    scenario = at(scenario, Place(name="x", title="x", provider="x", kind="own",
                                  gpus=parse_machine(gpu).gpus))  # fmt: skip
    judge = Judge()
    found = quickest_search(scenario, Job(), judge)
    assert found is not None and len(found.changes) <= 2
    judged = judge(found.scenario)
    assert judged is not None and judged.verdict == "fits"
    changes = [change for change in changes_for(scenario) if not change.spends]
    better = [
        chosen
        for size in (1, 2)
        for chosen in combinations(changes, size)
        if (max(c.quality for c in chosen), size) < (found.quality, len(found.changes))
        and len({c.setting for c in chosen}) == size
        and _fits(scenario, chosen, judge)
    ]
    assert better == []


def _fits(scenario: Scenario, chosen: tuple[Any, ...], judge: Judge) -> bool:
    for change in chosen:
        made = change.apply(scenario)
        if isinstance(made, NotApplicable):
            return False
        scenario = made
    judged = judge(scenario)
    return judged is not None and judged.verdict == "fits"


@pytest.mark.parametrize("name", ["colab-t4", "rtx-3060", "rtx-4090", "kaggle-t4x2"])
def test_four_changes_are_found_where_two_do_not_do(name: str) -> None:
    """Full training of 8B: no two changes do; what is found fits, and nothing of it is needless."""
    training = Training(method="full", micro_batch_size=8, max_length=1024)
    scenario = Scenario(model=resolve("llama-3-8b"), workload=Workload(training=training))
    here, judge = at(scenario, place(name)), Judge()
    found = quickest_search(here, Job(), judge)
    assert found is not None and len(found.changes) > 2
    made = plain_estimate(found.scenario)
    assert made.fits and made.verdict == "fits"
    assert not any(
        _fits(here, tuple(c for c in found.changes if c is not left), judge)
        for left in found.changes
    )


def test_what_fits_on_a_large_gpu_alone_is_found_without_asking_the_small_ones() -> None:
    """What is not searched because a larger GPU had no answer has none."""
    training = Training(method="full", micro_batch_size=8, max_length=1024)
    scenario = Scenario(model=resolve("llama-3.1-405b"), workload=Workload(training=training))
    better = Better()
    for name in ("l40s", "rtx-4090", "colab-t4"):
        here = at(scenario, place(name))
        assert better(here, Job()) is None
        assert quickest_search(here, Job(), Judge()) is None
    assert len(better.known) < 3


def test_too_slow_is_no_fit_and_is_changed() -> None:
    scenario = Scenario(
        model=resolve("llama-3-8b"),
        workload=Workload(
            loading=Loading(quantization=Quantization(scheme="nf4")),
            training=Training(method="qlora", lora=Lora(), micro_batch_size=4, max_length=1024,
                              gradient_checkpointing=True),
        ),
    )  # fmt: skip
    here = at(scenario, T4X2)
    slow = job_seconds(timing(here), samples=10_000).nominal
    job = Job(samples=10_000, time_limit_seconds=slow / 2)
    found = quickest_search(here, job, Judge())
    assert found is not None and found.quality < Quality.REAL  # float16 products instead of float32
    assert job_seconds(timing(found.scenario), samples=10_000).nominal <= slow / 2
    assert stay(scenario, T4X2, Asking(job=job)).status == "too_slow"


def test_an_adapter_is_as_large_as_peft_saves_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = transformers.LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, vocab_size=256)  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype=__import__("torch").bfloat16)
    model.save_pretrained(tmp_path / "base")
    whole = model.num_parameters()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    saved = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    header = 8 + int.from_bytes(
        (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()[:8], "little"
    )
    training = Training(method="lora", lora=Lora(r=4, target_modules=("q_proj", "v_proj")),
                        micro_batch_size=1, max_length=16)  # fmt: skip
    scenario = Scenario(model=resolve(str(tmp_path / "base")), workload=Workload(training=training))
    assert trained_bytes(plain_estimate(scenario)) == saved - header
    full = replace(
        scenario, workload=Workload(training=replace(training, method="full", lora=None))
    )
    assert trained_bytes(plain_estimate(full)) == 2 * whole


def test_train_here_and_infer_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*LLAMA, "--gradient-checkpointing", "--samples", "1000", "--place", "rtx-4090"]
    then = where(capsys, *words, "--infer-on", "kaggle-submission",
                 "--then", "--batch-size 8 --samples 2000 --time-limit 9h --no-changes")["then"]  # fmt: skip
    assert then["name"] == "kaggle-submission" and then["internet"] is False
    assert then["job"]["samples"] == 2000 and then["job"]["time_limit_seconds"] == 9 * 3600
    assert any("no internet" in note for note in then["notes"])
    assert then["handover_notes"] == []
    # r 8 on q and v: (4096·8 + 8·4096) + (4096·8 + 8·1024) parameters in 32 layers, float32
    assert then["upload_bytes"] == 4 * 32 * (2 * 4096 * 8 + (4096 + 1024) * 8)
    other = where(capsys, *words, "--then", "--gpu T4x2 --dtype float16")["then"]
    assert "trained on weights in nf4 and used on weights in 16 bit" in other["handover_notes"][0]


def test_what_cannot_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "gpt2", "--place", "kaggle-p100", "kaggle-tpu", "--context", "64")
    assert (code, err) == (0, "")
    assert (
        out
        == """\
openai-community/gpt2: inference

place               fits
────────────────  ──────
Kaggle P100       cannot
Kaggle TPU v5e-8  cannot

Kaggle P100: torch 2.13.0 as pip installs it has no kernels below sm_75, and the
  NVIDIA P100 is sm_60: 'no kernel image is available'
Kaggle TPU v5e-8: a TPU is no CUDA device: bitsandbytes has no kernels for it,
  and transformers and PEFT code needs torch_xla or JAX, with other memory than
  is computed here
"""
    )
    assert run(capsys, "gpt2", "--place", "kaggle-p100", "--check")[0] == 3


def test_the_whole_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *LLAMA, "--samples", "55000", "--price-per-hour", "12.5",
                       "--infer-on", "kaggle-submission")  # fmt: skip
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "RTX 4090" in out and "MI300X" in out and "then at Kaggle submission" in out
    assert "take along the trained weights" in out


def test_samples_are_those_of_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "lengths.txt").write_text("100\n200\n300\n")
    words = ["llama-3-8b", "--train", "qlora", "--lengths", str(tmp_path / "lengths.txt")]
    found = where(capsys, *words, "--place", "h100", "--epochs", "2")
    assert found["job"]["samples"] == 3 and found["job"]["epochs"] == 2


CODES = {
    "fits somewhere": (["gpt2", "--place", "l4", "--check"], 0),
    "fits nowhere": (["llama-3-70b", "--place", "colab-t4", "--no-changes", "--check"], 3),
    "not checked": (["llama-3-70b", "--place", "colab-t4", "--no-changes"], 0),
    "the job after it does not fit": (
        [*LLAMA, "--place", "h100", "--no-changes", "--check", "--infer-on", "kaggle-p100"], 3,
    ),
    "no number anywhere": (["timm/resnet50.a1_in1k", "--batch-size", "4", "--place", "l4"], 4),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CODES))
def test_exit_codes(capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, code = CODES[case]
    assert run(capsys, *words)[0] == code


BAD = {
    "unknown place": (["gpt2", "--place", "kagle"], "unknown place 'kagle'"),
    "unknown place of a price": (["gpt2", "--samples", "9", "--price-per-hour", "h1000=2"], "h100"),
    "a price that is none": (
        ["gpt2", "--samples", "9", "--price-per-hour", "cheap"],
        "NAME=NUMBER",
    ),
    "hours of nothing": (["gpt2", "--time-limit", "9h"], "needs --samples"),
    "a time that is none": (["gpt2", "--samples", "5", "--time-limit", "soon"], "9h or 40m"),
    "nothing before it": (["gpt2", "--infer-on", "l4"], "after a training"),
    "no place for it": ([*LLAMA, "--then", "--batch-size 8"], "--infer-on kaggle-submission"),
    "quotes": ([*LLAMA, "--then", '--gpu "T4'], "cannot read --then"),
    "two after it": ([*LLAMA, "--then", "--gpu T4 --then x"], "one job"),
    "training after it": ([*LLAMA, "--then", "--gpu T4 --train lora"], "an inference"),
    "a typo in it": ([*LLAMA, "--then", "--gpu T4 --btch-size 2"], "did you mean --batch-size"),
    "no model": ([], "no model given"),
    "settings that no place takes": (
        ["llama-3-8b", "--train", "lora", "--lora-target-modules", "nope"],
        "q_proj",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, expected = BAD[case]
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert expected in err and err.startswith("willfit: ")


def test_as_a_command() -> None:
    words = [
        "where",
        "llama-3-8b",
        "--train",
        "qlora",
        "--samples",
        "55000",
        "--place",
        "kaggle",
        "colab-t4",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "willfit", *words], capture_output=True, text=True, check=True
    )
    assert "Kaggle T4×2" in done.stdout and "Colab T4" in done.stdout
    assert "Traceback" not in done.stderr
