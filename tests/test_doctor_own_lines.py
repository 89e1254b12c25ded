"""Where a change goes in the user's own code: the lines parse, and read as the change."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from test_settings_code import SCRIPTS, request_of, source_of

from willfit.changes import CHANGES
from willfit.doctor.own_lines import OwnLine, edited, lines_in
from willfit.emitting import Call, arguments
from willfit.emitting.generation import prompt_length
from willfit.emitting.training import length_of
from willfit.errors import WillfitError
from willfit.scenario import Scenario
from willfit.settings.code import read_code

Source = str | list[str]
BY_ID = {change.id: change for change in CHANGES}


def scenario_of(source: Source, index: int = 0) -> Scenario:
    return request_of(read_code(source).loads[index].settings, gpu="T4").scenario


def changed(scenario: Scenario, change: str) -> Scenario | None:
    try:
        after = BY_ID[change].apply(scenario)
    except WillfitError:
        return None
    return after if isinstance(after, Scenario) else None


def of_call(call: Call | None) -> Iterator[tuple[str, Any]]:
    for name, value in (call.arguments if call is not None else {}).items():
        if isinstance(value, Call):
            yield from ((f"{name}.{key}", item) for key, item in of_call(value))
        else:
            yield name, sorted(value) if isinstance(value, list) else value


def meant(scenario: Scenario) -> dict[str, Any]:
    """All that a library is told: what two scenarios must share to be the same run."""
    inference, training = scenario.workload.inference, scenario.workload.training
    if inference is not None and inference.engine != "transformers":
        return {"inference": inference, "loading": scenario.workload.loading}
    told = arguments(scenario)
    found: dict[str, Any] = {
        f"{part}.{name}": value
        for part in ("load", "prepare", "adapter", "training", "generate")
        for name, value in of_call(getattr(told, part))
    }
    for name in ("trainable_dtype", "merge_adapter", "freeze", "sdpa_kernel", "environment",
                 "offload_activations", "launch"):  # fmt: skip
        found[name] = getattr(told, name)
    if training is not None:
        found |= {"length": length_of(scenario), "method": training.method,
                  "trainer": training.trainer}  # fmt: skip
        if training.trainer == "loop":  # the user's own counting of steps is left to them
            found.pop("training.gradient_accumulation_steps")
    elif inference is not None:
        found |= {"length": prompt_length(scenario), "batch": inference.batch_size,
                  "cache": inference.use_cache, "logits": inference.full_logits}  # fmt: skip
    return found


NAMES = sorted(path.name for path in SCRIPTS.iterdir())
PLACED_AT_LEAST = {
    "accelerate_loop.py": 11, "argparse_trainer.py": 30, "custom_module.py": 14,
    "embeddings.py": 10, "generation.py": 20, "int8_inference.py": 14,
    "llama3_qlora_classifier.ipynb": 15, "pipeline_8bit.py": 5, "plain_loop.py": 18,
    "seq2seq.py": 15, "trainer_full.py": 18, "trl_qlora.py": 18,
    "two_models_threadpool.ipynb": 16, "unsloth_colab.ipynb": 20, "vllm_offline.py": 9,
}  # fmt: skip
"""Changes that find their place; what does not has none (another launch, a model of its own)."""


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_make_the_code_read_as_the_change(name: str) -> None:
    """The law, over every change that applies: edited, parsed and read again, it is that run."""
    source = source_of(name)
    before = scenario_of(source)
    placed = 0
    for change in CHANGES:
        after = changed(before, change.id)
        lines = lines_in(source, before, after) if after is not None else ()
        if after is None or not lines:
            continue
        placed += 1
        new = edited(source, lines)
        assert meant(scenario_of(new)) == meant(after), (change.id, lines)
        for line in lines:
            assert "\n".join(text_of(source, line).split("\n")) == line.before
    assert placed >= PLACED_AT_LEAST[name]


def text_of(source: Source, line: OwnLine) -> str:
    text = source if isinstance(source, str) else source[line.cell or 0]
    count = line.before.count("\n") + 1
    return "\n".join(text.split("\n")[line.line - 1 : line.line - 1 + count])


@pytest.mark.parametrize("index", [0, 1, 2, 3])
@pytest.mark.parametrize("change", ["batch_size=1", "context=1024", "quantize=nf4"])
def test_of_several_models_the_right_one_is_changed(index: int, change: str) -> None:
    source = source_of("two_models_threadpool.ipynb")
    read = read_code(source)
    one = read.loads[index]
    before = scenario_of(source, index)
    after = changed(before, change)
    assert after is not None
    lines = lines_in(source, before, after, line=one.line, cell=one.cell)
    assert lines
    assert meant(scenario_of(edited(source, lines), index)) == meant(after)
    if change == "quantize=nf4":
        assert {line.cell for line in lines} <= {2, one.cell}  # the import, the loading call
        others = [i for i in range(4) if i != index]
        again = read_code(edited(source, lines))
        assert all(again.loads[i].settings == read.loads[i].settings for i in others)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("trl_qlora.py", "gradient_checkpointing", [
            (41, "    gradient_checkpointing=False,", "    gradient_checkpointing=True,"),
            (49, "    logging_steps=25,",
             '    gradient_checkpointing_kwargs={"use_reentrant": False},\n    logging_steps=25,')]),
        ("trainer_full.py", "optim=adamw_8bit", [
            (41, '    report_to="none",', '    optim="adamw_8bit",\n    report_to="none",')]),
        # the slice of the rows uses the same name: the number changes where it is defined
        ("generation.py", "batch_size=4", [(9, "BATCH = 16", "BATCH = 4")]),
        ("plain_loop.py", "per_device_train_batch_size=2", [
            (10, "    batch_size = 8", "    batch_size = 2")]),
        ("plain_loop.py", "gradient_checkpointing", [
            (20, "model = AutoModelForCausalLM.from_pretrained(CFG.model_name)",
             "model = AutoModelForCausalLM.from_pretrained(CFG.model_name)\n"
             "model.gradient_checkpointing_enable("
             'gradient_checkpointing_kwargs={"use_reentrant": False})')]),
        ("argparse_trainer.py", "lora_r=4", [
            (25, '    parser.add_argument("--rank", type=int, default=16)',
             '    parser.add_argument("--rank", type=int, default=4)')]),
        ("seq2seq.py", "per_device_train_batch_size=1", [
            (19, 'kwargs["per_device_train_batch_size"] = 8',
             'kwargs["per_device_train_batch_size"] = 1'), (20, None, None)]),
        ("vllm_offline.py", "context=4096", [(9, "    max_model_len=8192,",
                                              "    max_model_len=4096,")]),
    ],
)  # fmt: skip
def test_where_lines_go(
    name: str, change: str, expected: list[tuple[int, str | None, str | None]]
) -> None:
    source = source_of(name)
    before = scenario_of(source)
    after = changed(before, change)
    assert after is not None
    lines = lines_in(source, before, after)
    found = [(line.line, line.before, line.after) for line in lines]
    assert [line for line, _, _ in found] == [line for line, _, _ in expected]
    for (_, was, becomes), (_, old, new) in zip(found, expected, strict=True):
        assert old is None or was == old
        assert new is None or becomes == new


def test_one_name_for_two_settings_is_not_changed_for_both() -> None:
    source = (
        "from transformers import *\nN = 8\n"
        "model = AutoModelForCausalLM.from_pretrained('openai-community/gpt2')\n"
        "args = TrainingArguments('o', per_device_train_batch_size=N, "
        "gradient_accumulation_steps=N)\nTrainer(model, args).train()\n"
    )
    before = scenario_of(source)
    after = changed(before, "per_device_train_batch_size=4")
    assert after is not None
    (line,) = lines_in(source, before, after)
    assert line.line == 4
    assert "per_device_train_batch_size=4, gradient_accumulation_steps=16" in line.after


@pytest.mark.parametrize(
    ("source", "change"),
    [
        # the batch is a number in two places: only the user knows whether they are one
        ("m = AutoModelForCausalLM.from_pretrained('openai-community/gpt2')\n"
         "for i in range(0, len(x), 8):\n  m.generate(x[i:i + 8], max_new_tokens=9)",
         "batch_size=4"),
        # another trainer is another script
        ("m = AutoModelForCausalLM.from_pretrained('meta-llama/Llama-2-7b-hf')\n"
         "Trainer(m, TrainingArguments('o')).train()", "trainer=trl"),
        # arguments that are not in the text have no line
        ("m = AutoModelForCausalLM.from_pretrained('openai-community/gpt2')\n"
         "Trainer(m, TrainingArguments('o', **kwargs)).train()", "gradient_checkpointing"),
        # a quantised model cannot be moved or cast
        ("m = AutoModelForCausalLM.from_pretrained('openai-community/gpt2').half().cuda()\n"
         "m.generate(x)", "quantize=int8"),
        # what cannot be parsed is not written in
        ("m = AutoModelForCausalLM.from_pretrained('openai-community/gpt2')\n"
         "Trainer(m, TrainingArguments('o')).train()\nx = = 1", "gradient_checkpointing"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_not_told(source: str, change: str) -> None:
    before = scenario_of(source)
    after = changed(before, change)
    assert after is not None
    assert lines_in(source, before, after) == ()


def test_no_change_is_no_line() -> None:
    source = source_of("trl_qlora.py")
    assert lines_in(source, scenario_of(source), scenario_of(source)) == ()


def test_the_rest_of_the_text_stays_as_it_was() -> None:
    """Umlauts before an argument, comments beside it, the user's own line ends."""
    source = (
        "from transformers import *  # für später\n"
        "model = AutoModelForCausalLM.from_pretrained('openai-community/gpt2')\n"
        "args = TrainingArguments(output_dir='Größe', learning_rate=1e-4,  # é\n"
        "    optim='adamw_torch',  # größer geht nicht\n"
        ")\nTrainer(model, args).train()\n"
    )
    before = scenario_of(source)
    after = changed(before, "optim=adamw_8bit")
    assert after is not None
    new = edited(source, lines_in(source, before, after))
    assert new == source.replace("'adamw_torch'", '"adamw_8bit"')
    checkpointed = changed(before, "gradient_checkpointing")
    assert checkpointed is not None
    text = edited(source, lines_in(source, before, checkpointed))
    assert isinstance(text, str)
    assert "    gradient_checkpointing=True,\n" in text
    assert "    optim='adamw_torch',  # größer geht nicht\n" in text
    ast.parse(text)
