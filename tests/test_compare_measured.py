"""Sides run for real: each in a fresh process, in turn, the memory back before the next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.test_cli import run

from willfit.cli.compare import exit_code
from willfit.comparing import Compared, Comparison, compare
from willfit.comparing.measured import in_turn, median_run, run_sides, spread_bytes
from willfit.devices import find_gpu
from willfit.errors import GpuNotReleasedError
from willfit.live.measurement import Measurement, Reading
from willfit.live.nvml import LiveGpu, Process
from willfit.report.comparison import render_comparison
from willfit.runner.gpus import ScriptedProbe
from willfit.scenario import Scenario
from willfit.sources.catalogue import load
from willfit.units import GIB, MIB


def scenario(name: str = "gpt2") -> Scenario:
    model = load(name)
    assert model is not None
    return Scenario(model=model)


def measured(reserved: int, failure: str = "", **changes: Any) -> Measurement:
    reading = Reading(
        phase="prefill", allocated_bytes=reserved - 1, reserved_bytes=reserved, held_bytes=0,
        held_reserved_bytes=0, process_bytes=None, device_bytes=None, host_bytes=0,
    )  # fmt: skip
    readings = () if failure else (reading,)
    return Measurement(device="NVIDIA T4", readings=readings, failure=failure, **changes)


@pytest.mark.parametrize(
    ("count", "repeat", "order"),
    [(2, 1, "AB"), (2, 3, "ABBAAB"), (3, 2, "ABCCBA"), (1, 2, "AA")],
)
def test_the_order_goes_there_and_back(count: int, repeat: int, order: str) -> None:
    assert "".join("ABC"[i] for i in in_turn(count, repeat)) == order


def card(used: int, processes: Sequence[Process] = ()) -> LiveGpu:
    total = 16 * GIB
    return LiveGpu(
        name="NVIDIA T4", gpu=find_gpu("T4"), total_bytes=total, used_bytes=used,
        free_bytes=total - used, processes=tuple(processes),
    )  # fmt: skip


def test_the_next_begins_when_the_memory_is_back() -> None:
    """The card is still full at the first two readings after each run."""
    events: list[str] = []
    left = 0

    def script(_: int) -> list[LiveGpu]:
        nonlocal left
        left -= 1
        used = 14 * GIB if left >= 0 else 3 * MIB
        events.append(f"{used // GIB} GiB")
        return [card(used)]

    def measuring(one: Scenario) -> Measurement:
        nonlocal left
        left = 2
        events.append(one.model.id)
        return measured(10)

    both = [scenario(), scenario("bert-base-cased")]
    runs = run_sides(both, measuring, probe=ScriptedProbe(script))
    assert [len(side) for side in runs] == [1, 1]
    last = ["14 GiB", "14 GiB", "0 GiB"]
    names = [one.model.id for one in both]
    first = events.index(names[0])
    assert set(events[:first]) == {"0 GiB"}
    assert events[first:] == [names[0], *last, names[1], *last]


def test_memory_that_stays_ends_the_comparison_with_who_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holder = Process(pid=4711, name="python", used_bytes=9 * GIB)
    ran: list[str] = []
    probe = ScriptedProbe(lambda _: [card(9 * GIB, [holder]) if ran else card(0)])
    monkeypatch.setattr("willfit.comparing.measured.PATIENCE", 0.1)

    def measuring(one: Scenario) -> Measurement:
        ran.append(one.model.id)
        return measured(10)

    with pytest.raises(GpuNotReleasedError, match="process 4711 python") as caught:
        run_sides([scenario(), scenario()], measuring, probe=probe)
    assert "compare again" in str(caught.value) and len(ran) == 1


def test_a_side_that_fails_is_a_result_and_the_others_run() -> None:
    failing = Measurement(
        device="NVIDIA T4",
        failure="OutOfMemoryError: CUDA out of memory",
        failure_kind="out_of_memory",
    )
    answers = iter([failing, measured(7)])
    runs = run_sides(
        [scenario(), None, scenario()], lambda _: next(answers), probe=ScriptedProbe(lambda _: [])
    )
    assert [len(side) for side in runs] == [1, 0, 1]
    found = compare([Compared(label=f"side {i}", repeats=side) for i, side in enumerate(runs)])
    text = render_comparison(found)
    assert "A failed: OutOfMemoryError: CUDA out of memory" in text
    assert exit_code(found, check=True) == 3 and exit_code(found, check=False) == 0


@pytest.mark.parametrize(
    ("peaks", "median", "spread"),
    [([10], 10, None), ([30, 10, 20], 20, 20), ([10, 40], 10, 30)],
)
def test_the_median_run_speaks_and_the_spread_is_of_all(
    peaks: list[int], median: int, spread: int | None
) -> None:
    runs = [*map(measured, peaks), measured(0, failure="died")]
    found = median_run(runs)
    assert found is not None and found.readings[0].reserved_bytes == median
    assert spread_bytes(runs) == spread


def test_where_all_failed_one_of_them_speaks() -> None:
    found = median_run([measured(0, failure="died")])
    assert found is not None and found.failure == "died"
    assert median_run([]) is None


def tiny(folder: Path, vocabulary: int) -> str:
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": 256,
        "torch_dtype": "float32", "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_two_tiny_models_are_run_for_real(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each in its own process on the host: their difference is that of their tables, exactly."""
    pytest.importorskip("torch")
    small, large = tiny(tmp_path / "small", 512), tiny(tmp_path / "large", 1024)
    words = [small, large, "--task", "load", "--measure", "--device", "cpu", "--json"]
    code, out, err = run(capsys, "compare", *words)
    assert code == 0, err
    first, second = (side["measurement"] for side in json.loads(out)["sides"])
    assert first["failure"] == second["failure"] == ""
    one, other = (side["lines"][0] for side in (first, second))
    assert one["phase"] == other["phase"] == "peak"
    # two tables of 512 more rows, 64 columns, 4 bytes
    assert other["measured_bytes"] - one["measured_bytes"] == 2 * 512 * 64 * 4
    assert other["formula_bytes"] - one["formula_bytes"] == 2 * 512 * 64 * 4
    assert abs(one["formula_error"]) < 0.02
    assert err.count("measuring") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stack", "torch=2.6", "--measure"], "leave --stack out"),
        (["gpt2 --stack torch=2.6", "--measure"], "leave --stack out"),
        (["--device", "cpu"], "add --measure"),
    ],
)
def test_what_cannot_be_measured_is_said_first(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, out, err = run(capsys, "compare", "gpt2", "gpt2 --batch-size 2", *words)
    assert code == 1 and out == "" and said in err


def test_a_comparison_without_estimates_has_no_verdict() -> None:
    assert Comparison(entries=(Compared(label="a", repeats=(measured(1),)),)).fits is None
