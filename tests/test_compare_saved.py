"""Saved results as sides: what was saved is what is compared, and a broken file is one sentence."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_cli import run

from willfit.cli.quoted import quoted_estimate
from willfit.comparing import Compared, compare
from willfit.comparing.saved import compared_from, estimate_from
from willfit.errors import BrokenFileError, InputError
from willfit.live.beside import Line
from willfit.live.measurement import Measurement, Reading
from willfit.report.comparison import render_comparison
from willfit.report.contract import estimate_json
from willfit.report.measurement import measurement_json
from willfit.results import Estimate

SETTINGS = (
    "llama-3-8b --gpu T4 --quantize nf4-double --bnb-4bit-compute-dtype float16",
    "llama-3-8b --gpu T4x2 --max-memory '{0: \"9GiB\", 1: \"10GiB\", \"cpu\": \"20GiB\"}' --ram 29GB",
    "gemma-2-9b --gpu A100-80GB --num-labels 3 --train lora --lora-r 4 --lora-target-modules q_proj k_proj",
    "gpt2 --train full --freeze wte --optim adafactor --max-grad-norm 0.5 --stack torch=2.6",
    "mistral-7b --gpu 24GiB:sm_86 --kv-dtype bfloat16 --padded --reserve 1GiB --in-use 500MB",
    "timm/resnet50.a1_in1k --task load --gpu T4",
)  # fmt: skip


@pytest.mark.parametrize("words", SETTINGS)
def test_a_saved_estimate_is_the_estimate(words: str) -> None:
    made = quoted_estimate(words)
    back = estimate_from(json.loads(json.dumps(estimate_json(made))))
    assert back.scenario.workload == made.scenario.workload
    assert back.scenario.machine == made.scenario.machine
    assert back.scenario.stack == made.scenario.stack
    assert (back.verdict, back.fits, back.level) == (made.verdict, made.fits, made.level)
    assert [gpu.peak for gpu in back.gpus] == [gpu.peak for gpu in made.gpus]
    assert back.binding.headroom_bytes == made.binding.headroom_bytes
    assert (back.assumptions, back.ignored_settings) == (made.assumptions, made.ignored_settings)
    if made.scenario.model.source == "catalogue":
        assert back.scenario == made.scenario


def test_a_model_that_is_not_the_catalogues_has_no_shapes() -> None:
    content = estimate_json(quoted_estimate("gpt2 --gpu T4"))
    content["model"]["num_params"] += 1
    found = estimate_from(content).scenario.model
    assert found.tensors == () and found.architecture is None and found.id.endswith("gpt2")


def test_an_older_file_without_the_phase_of_each_gpu_is_read() -> None:
    content = estimate_json(quoted_estimate("gpt2 --gpu T4x2"))
    for gpu in content["per_gpu"]:
        del gpu["phase"], gpu["layers"]
    del content["willfit"], content["limits"], content["off_gpu_bytes"], content["largest_alive"]
    assert {gpu.peak.name for gpu in estimate_from(content).gpus} == {content["peak"]["phase"]}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from places(item, (*path, key))


WHOLE = json.loads(json.dumps(estimate_json(quoted_estimate("gpt2 --gpu T4x2 --train lora"))))
PLACES = [path for path in places(WHOLE) if path]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), st.text(max_size=8),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    st.just("\x1b[31m"), st.just("9" * 4000),
)  # fmt: skip


@settings(max_examples=300)
@given(path=st.sampled_from(PLACES), junk=JUNK)
def test_any_broken_place_is_one_sentence_or_does_not_matter(
    path: tuple[Any, ...], junk: Any
) -> None:
    content = copy.deepcopy(WHOLE)
    around: Any = content
    for key in path[:-1]:
        around = around[key]
    around[path[-1]] = junk
    with contextlib.suppress(InputError):
        found = estimate_from(content)
        harmless(found)


def harmless(found: Estimate) -> None:
    """Counts are counts, and no text does anything to a terminal."""
    assert render_comparison(compare([Compared(label="a", estimate=found)])).count("\x1b") == 0
    for gpu in found.gpus:
        assert all(type(part.num_bytes) is int for part in gpu.peak.components)
        assert gpu.name.isprintable()


def saved(tmp_path: Path, name: str, content: Any) -> str:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_files_and_settings_stand_side_by_side(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of a catalogue's model the reasons are there too, though a file holds no shapes."""
    file = saved(tmp_path, "mistral.json", estimate_json(quoted_estimate("mistral-7b --gpu T4")))
    code, out, _ = run(capsys, "compare", file, "llama-3-8b", "--gpu", "T4")
    assert code == 0
    assert "A  mistral.json" in out
    assert "vocabulary 128,256 against 32,000" in " ".join(out.split())
    _, out, _ = run(capsys, "compare", file, "llama-3-8b", "--gpu", "T4", "--json")
    side = json.loads(out)["sides"][0]["estimate"]
    assert side == json.loads(Path(file).read_text())


BROKEN = {
    "cut off": '{"schema": "willfit.estimate/1", "level": ',
    "empty": '{"schema": "willfit.estimate/1"}',
    "another schema": '{"schema": "willfit.plan/1"}',
    "a later one": '{"schema": "willfit.estimate/2"}',
    "deep": '{"schema": "willfit.estimate/1", "x": ' + "[" * 100_000,
    "no readings": '{"schema": "willfit.measurement/1", "device": "cpu", "readings": [{}]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    code, out, err = run(capsys, "compare", saved(tmp_path, "a.json", content), "gpt2")
    assert code == 1 and out == "" and err.count("\n") == 1 and err.startswith("willfit: ")


def test_a_config_is_a_model_and_no_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 512, "max_position_embeddings": 256,
    }  # fmt: skip
    code, out, _ = run(capsys, "compare", saved(tmp_path, "config.json", config), "gpt2")
    assert code == 0 and "the models" in out


def measurement(**changes: Any) -> dict[str, Any]:
    reading = Reading(
        phase="prefill", allocated_bytes=700, reserved_bytes=800, held_bytes=10,
        held_reserved_bytes=20, process_bytes=900, device_bytes=1000, host_bytes=5,
    )  # fmt: skip
    made = quoted_estimate("gpt2 --gpu T4")
    run_ = Measurement(device="NVIDIA T4", readings=(reading,), **changes)
    line = Line(gpu_index=0, phase="peak", kind="reserved", measured_bytes=800,
                formula_bytes=880, trace_bytes=None)  # fmt: skip
    content = measurement_json(run_, made.scenario, lines=[line])
    content["estimates"] = {"formula": estimate_json(made)}
    return content


def test_a_saved_measurement_is_a_side_with_its_estimate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = compared_from(measurement(), "m")
    assert found.measurement is not None and found.estimate is not None and found.trusted
    assert found.lines[0].error("formula") == pytest.approx(0.1)
    code, out, _ = run(capsys, "compare", saved(tmp_path, "m.json", measurement()), "gpt2 --gpu T4")
    assert code == 0 and "800 B" in out and "+10.0%" in out


def test_a_measurement_of_another_shape_is_refused() -> None:
    with pytest.raises(BrokenFileError):
        compared_from({"schema": "willfit.measurement/1", "readings": [{"phase": 3}]}, "m")
