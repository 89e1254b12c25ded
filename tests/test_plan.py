"""Plans: what they promise of themselves, and the cases that the project was made for."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

import willfit
from willfit.changes import CHANGES, Quality, apply_all
from willfit.cli import plan as command
from willfit.cli.build import build_request
from willfit.cli.main import main
from willfit.cli.parser import Parser
from willfit.planning import Job, plan
from willfit.report.plan import plan_json, render_plan
from willfit.units import format_bytes

THREAD = (
    "llama-3-8b --dtype float16 --gpu T4:14.75GiB --train qlora --num-labels 3 --lora-r 64 "
    "--lora-target-modules all-linear --optim paged_adamw_32bit --max-length 1024"
)
GRID = (
    THREAD,
    f"{THREAD} --goal fastest",
    "llama-3-8b --gpu T4",
    "llama-3-8b --gpu T4x2 --dtype float16 --context 8192",
    "llama-3-8b --gpu T4 --quantize nf4",
    "gemma-2-9b --gpu T4 --num-labels 3 --quantize int8 --batch-size 8 --context 2048 --padded",
    "gemma-2-9b-it --gpu T4x2 --dtype float16 --batch-size 4",
    "mistral-7b --gpu 'RTX 3060' --train lora --per-device-train-batch-size 4",
    "llama-3.2-1b --gpu T4 --train full",
    "llama-3.2-3b --gpu 'RTX 4090' --train full --trainer trl",
    "bert-base-uncased --gpu 'GTX 1660' --train full --per-device-train-batch-size 64 --max-length 512",
    "qwen2.5-72b --gpu A100-80GBx2",
    "llama-3-70b --gpu H100x4 --train lora",
    "llama-3-70b --gpu H100x8 --train full",
    "t5-11b --gpu T4",
    "mixtral-8x7b --gpu A100-40GB",
)
"""Settings of which no plan may break its promises."""


def asked(text: str) -> tuple[willfit.Scenario, str, int]:
    parser = Parser()
    command.configure(parser)
    arguments = parser.parse_args(shlex.split(text))
    return build_request(arguments).scenario, arguments.goal, arguments.top


def roomy(estimate: willfit.Estimate) -> bool:
    """Whether it fits by more than formulas are off where others measured."""
    binding = estimate.binding
    return estimate.verdict == "fits" and binding.high_device_bytes <= binding.budget_bytes


def planned(text: str, **settings):
    scenario, goal, top = asked(text)
    return plan(scenario, goal=goal, top=top, **settings)


@pytest.mark.parametrize("text", GRID)
def test_a_plan_keeps_what_it_promises(text: str) -> None:
    planning = planned(text)
    assert bool(planning.plans) != bool(planning.why_none)
    before = planning.baseline.binding.peak.device_bytes
    for made in planning.plans:
        alone = willfit.estimate(made.scenario)
        assert alone.verdict in ("fits", "tight") and alone.verdict == made.estimate.verdict
        after = alone.binding.peak.device_bytes
        assert sum(step.saves_bytes for step in made.steps) == before - after
        assert made.quality == max((s.change.quality for s in made.steps), default=Quality.NONE)
        settings = [step.change.setting for step in made.steps]
        assert len(settings) == len(set(settings))
    if any(roomy(made.estimate) for made in planning.plans):
        assert all(roomy(made.estimate) or not made.steps for made in planning.plans)


@pytest.mark.parametrize("text", [text for text in GRID if "fastest" not in text])
def test_no_change_of_a_plan_can_be_left_out(text: str) -> None:
    planning = planned(text)
    for made in planning.plans:
        for left_out in range(len(made.steps)):
            scenario = planning.baseline.scenario
            for step in [s for n, s in enumerate(made.steps) if n != left_out]:
                changed = step.change.apply(scenario)
                if not isinstance(changed, willfit.Scenario):
                    break
                scenario = changed
            else:
                less = willfit.estimate(scenario, search_limits=False)
                if roomy(made.estimate):
                    assert not roomy(less) or less.off_gpu_bytes or less.unsupported
                else:
                    assert less.verdict != made.estimate.verdict or less.off_gpu_bytes


IDLE = (
    "llama-3-8b --gpu T4 --train qlora --num-labels 3",
    "llama-3-8b --gpu T4x2",
    "mistral-7b --gpu T4 --train lora",
    "gemma-2-9b --gpu 'RTX 4090' --context 8192",
)
"""Settings with a plan one change of which saves nothing where it stands."""


@pytest.mark.parametrize("text", IDLE)
def test_a_change_that_saves_nothing_says_what_it_is_for(text: str) -> None:
    planning = planned(text)
    idle = [(made, s) for made in planning.plans for s in made.steps if s.saves_bytes <= 0]
    assert idle
    for made, step in idle:
        others = [other.change for other in made.steps if other is not step]
        less = willfit.estimate(apply_all(planning.baseline.scenario, others), search_limits=False)
        binding = less.binding
        over = binding.peak.device_bytes - binding.budget_bytes
        if over > 0:
            said = f"without it {format_bytes(over)} are too much"
        else:
            most = max(gpu.high_device_bytes - gpu.budget_bytes for gpu in less.gpus)
            said = f"for what is not known: without it up to {format_bytes(most)} may be too much"
        assert said in step.remark and said in " ".join(render_plan(planning).split())


BY_HAND = (
    ("llama-3.1-8b --gpu T4x2 --train full", "gradient_checkpointing", "strategy=fsdp",
     "use_liger_kernel", "method=lora", "per_device_train_batch_size=1"),
    ("llama-3.1-8b --gpu T4 --train full", "gradient_checkpointing",
     "per_device_train_batch_size=1", "method=lora", "quantize=nf4-double"),
    ("llama-3.1-8b --gpu T4 --train qlora --max-length 4096", "gradient_checkpointing",
     "per_device_train_batch_size=1", "max_length=2048"),
    ("gemma-2-9b --gpu L4 --train full", "gradient_checkpointing",
     "per_device_train_batch_size=1", "method=lora", "quantize=nf4"),
)  # fmt: skip


@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: row[0])
def test_no_row_is_cut_that_what_people_do_by_hand_would_keep(row: tuple[str, ...]) -> None:
    """The first plan keeps as long rows as a set of changes that anybody would try."""
    scenario, _, _ = asked(row[0])
    by_hand = apply_all(scenario, [change for change in CHANGES if change.id in row[1:]])
    assert isinstance(by_hand, willfit.Scenario)
    assert willfit.estimate(by_hand).verdict == "fits"
    first = planned(row[0]).plans[0].scenario
    lengths = [made.workload.training.max_length for made in (first, by_hand)]
    assert (lengths[0] or 1 << 20) >= (lengths[1] or 1 << 20)


def test_a_deeper_cut_costs_more() -> None:
    scenario, _, _ = asked("llama-3.1-8b --gpu T4 --train qlora --max-length 4096")
    by_id = {change.id: change for change in CHANGES}
    losses = [by_id[f"max_length={n}"].loss(scenario) for n in (2048, 1024, 64)]
    assert losses == [2, 4, 12]  # halved once, twice, six times
    assert by_id["method=lora"].loss(scenario) == 2


def test_what_fits_is_left_as_it_is() -> None:
    planning = planned("llama-3.2-1b --gpu T4 --dtype float16 --context 512")
    assert [made.steps for made in planning.plans] == [()]


def test_the_fine_tuning_thread_checkpoints() -> None:
    """The public thread: what made it train was gradient checkpointing alone."""
    for micro_batch in (2, 4, 8):
        planning = planned(f"{THREAD} --per-device-train-batch-size {micro_batch}")
        assert planning.baseline.verdict == "does_not_fit"
        first = planning.plans[0]
        ids = [step.change.id for step in first.steps]
        assert first.quality == Quality.NONE
        assert ids == ["gradient_checkpointing"] or first.relative_time < 1.4


def test_the_fastest_way_on_a_t4_computes_in_float16() -> None:
    """A T4 has no tensor cores for float32 or bfloat16."""
    planning = planned(f"{THREAD} --goal fastest")
    ids = [step.change.id for step in planning.plans[0].steps]
    assert any("float16" in name for name in ids)
    assert planning.plans[0].relative_time < 0.7


def test_fastest_is_no_slower_than_smallest() -> None:
    small, fast = planned(THREAD), planned(f"{THREAD} --goal fastest")
    assert fast.plans[0].relative_time <= min(made.relative_time for made in small.plans)


def test_a_limit_that_cannot_be_met_is_said() -> None:
    scenario, _, _ = asked(THREAD)
    planning = plan(scenario, job=Job(samples=55_000, time_limit_seconds=9 * 3600.0))
    assert planning.plans and not planning.fits
    assert all(made.in_time is False for made in planning.plans)
    assert "no plan is done in time" in render_plan(planning)


def test_a_limit_is_met_where_it_can_be() -> None:
    scenario, _, _ = asked(THREAD)
    slow = planned(THREAD).plans[0]
    limit = slow.duration.unit_seconds.nominal * 1000 * 0.7
    planning = plan(scenario, job=Job(samples=1000, time_limit_seconds=limit))
    assert planning.fits and all(made.in_time for made in planning.plans)
    assert planning.plans[0].quality < Quality.REAL


def test_where_nothing_fits_the_reason_names_a_card_that_would_do() -> None:
    planning = planned("deepseek-v3 --gpu T4")
    assert planning.plans == () and planning.why_none is not None
    assert "too much" in planning.why_none


def test_a_plan_without_a_gpu_is_refused() -> None:
    scenario = willfit.Scenario(model=willfit.find_model("gpt2"))
    with pytest.raises(willfit.InputError, match="--gpu"):
        plan(scenario)


def test_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["plan", *shlex.split(THREAD), "--samples", "55000", "--epochs", "2",
                 "--time-limit", "300h", "--price-per-hour", "0.5", "--json"])  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert code == 0 and printed["schema"] == "willfit.plan/1" and printed["why_none"] is None
    assert printed["baseline"]["schema"] == "willfit.estimate/1"
    for made in printed["plans"]:
        saved = sum(change["saves_bytes"] for change in made["changes"])
        peaks = [e["peak"]["device_bytes"] for e in (printed["baseline"], made["estimate"])]
        assert saved == peaks[0] - peaks[1]
        assert made["quality_cost"] in ("none", "slight", "real")
        assert isinstance(made["relative_time"], float)
        assert made["total_time_seconds"] <= 300 * 3600 and made["in_time"] is True
        assert made["price"] == pytest.approx(made["total_time_seconds"] / 3600 * 0.5)
        assert made["code"] is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("llama-3-8b --gpu T4 --quantize nf4 --context 1024", 0),
        ("deepseek-v3 --gpu T4", 3),
        (f"{THREAD} --samples 55000 --time-limit 1h", 3),
        ("llama-3-8b", 1),
        ("llama-3-8b --gpu T4 --time-limit 9h", 1),
        ("llama-3-8b --gpu T4 --samples 10 --time-limit nine", 1),
        ("llama-3-8b --gpu T4 --top 0", 1),
        ("llama-3-8b --gpu T4 --emit nonsense", 1),
    ],
)
def test_exit_codes(arguments: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *shlex.split(arguments)]) == code
    printed = capsys.readouterr()
    if code == 1:
        assert printed.out == "" and len(printed.err.strip().splitlines()) == 1


def test_the_text_is_within_eighty_columns() -> None:
    for text in GRID[:6]:
        lines = render_plan(planned(text)).splitlines()
        assert max(map(len, lines)) <= 80


def test_code_comes_with_each_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *shlex.split(THREAD), "--emit", "peft", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for made in printed["plans"]:
        assert made["code"]["target"] == "peft"
        compile(made["code"]["text"], "emitted", "exec")
    ids = [change["id"] for change in printed["plans"][0]["changes"]]
    assert ("gradient_checkpointing" in ids) == (
        "gradient_checkpointing=True" in printed["plans"][0]["code"]["text"]
    )


def test_what_was_not_applicable_has_its_reason() -> None:
    printed = plan_json(planned(THREAD))
    assert printed["not_applicable"]
    assert all(reason for reason in printed["not_applicable"].values())


def test_what_is_recommended_is_traced_where_asked() -> None:
    """One level throughout: savings add up, and what the trace refutes is not shown."""
    pytest.importorskip("transformers")
    asking = "qwen2.5-0.5b --gpu 4GiB:sm_80 --train lora --per-device-train-batch-size 4 --max-length 512"
    planning = planned(asking, trace=True)
    assert planning.baseline.level == "trace" and planning.baseline.verdict == "does_not_fit"
    assert planning.plans
    before = planning.baseline.binding.peak.device_bytes
    for made in planning.plans:
        assert made.estimate.level == "trace" and made.estimate.fits
        after = made.estimate.binding.peak.device_bytes
        assert sum(step.saves_bytes for step in made.steps) == before - after


def test_plans_that_a_second_look_refutes_are_not_shown() -> None:
    """A look that finds every job on a card of a tenth of the memory."""
    scenario, _, _ = asked(THREAD)

    def stricter(changed: willfit.Scenario) -> willfit.Estimate:
        (gpu,) = changed.machine.gpus
        small = replace(gpu, capacity_bytes=gpu.capacity_bytes // 10)
        return willfit.estimate(replace(changed, machine=replace(changed.machine, gpus=(small,))))

    planning = plan(scenario, estimating=stricter)
    assert planning.plans == () and "finds that it does not" in planning.why_none
    assert "gradient_checkpointing" in planning.why_none
