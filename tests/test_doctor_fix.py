"""Rewriting: what is changed and what is not, and that the rewritten code runs."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.doctor.lint import fix_notebook, fix_python, lint_notebook, lint_python
from willfit.errors import MissingLibraryError
from willfit.scenario.stack import TESTED, Stack

pytest.importorskip("libcst")
DATA = Path(__file__).parent / "data" / "doctor"
NOW = Stack()
IMPORTS = "import gc\nimport os\nimport torch\nfrom transformers import *\n"

PAIRS = [
    # dropped, with the comma and the line end of what stood last
    ("BitsAndBytesConfig(load_in_8bit=True, bnb_8bit_x=1)", "BitsAndBytesConfig(load_in_8bit=True)"),
    ("BitsAndBytesConfig(\n    bnb_8bit_x=1,  # ours\n    load_in_8bit=True,\n)", "BitsAndBytesConfig(\n    load_in_8bit=True,\n)"),
    ("k = {'load_in_8bit': True, 'bnb_8bit_x': 1}\nBitsAndBytesConfig(**k)", "k = {'load_in_8bit': True}\nBitsAndBytesConfig(**k)"),
    ("k = dict(bnb_8bit_x=1, load_in_8bit=True)\nBitsAndBytesConfig(**k)", "k = dict(load_in_8bit=True)\nBitsAndBytesConfig(**k)"),
    # renamed, also behind **
    ("BitsAndBytesConfig(load_in_8bits=True)", "BitsAndBytesConfig(load_in_8bit=True)"),
    ("k = {\"load_in_8bits\": True}\nBitsAndBytesConfig(**k)", "k = {\"load_in_8bit\": True}\nBitsAndBytesConfig(**k)"),
    ("TrainingArguments('o', evaluation_strategy='no')", "TrainingArguments('o', eval_strategy='no')"),
    ("TrainingArguments('o', warmup_ratio=0.1)", "TrainingArguments('o', warmup_steps=0.1)"),
    ("TrainingArguments('o', group_by_length=True)", "TrainingArguments('o', train_sampling_strategy=\"group_by_length\")"),
    ("m = AutoModelForCausalLM.from_pretrained('a', torch_dtype=torch.bfloat16)", "m = AutoModelForCausalLM.from_pretrained('a', dtype=torch.bfloat16)"),
    # given a value
    ("BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4')", "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16)"),
    ("BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6)", "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)"),
    ("TrainingArguments('o', gradient_checkpointing='false')", "TrainingArguments('o', gradient_checkpointing=False)"),
    ("m = AutoModelForCausalLM.from_pretrained('a', max_memory={'cuda:1': '10Gb'})", "m = AutoModelForCausalLM.from_pretrained('a', max_memory={1: \"10GB\"}, device_map=\"auto\")"),
    ("m = AutoModelForCausalLM.from_pretrained('a', use_flash_attention_2=True)", "m = AutoModelForCausalLM.from_pretrained('a', attn_implementation=\"flash_attention_2\")"),
    # statements
    ("m = AutoModelForCausalLM.from_pretrained('a')\nm = m.to_bettertransformer()\nm.eval()", "m = AutoModelForCausalLM.from_pretrained('a')\nm.eval()"),
    ("m = AutoModelForCausalLM.from_pretrained('a', device_map='auto').cuda()", "m = AutoModelForCausalLM.from_pretrained('a', device_map='auto')"),
    ("m = f()\ngc.collect()\ntorch.cuda.empty_cache()\ndel m", "m = f()\ndel m\ngc.collect()\ntorch.cuda.empty_cache()"),
    ("m = AutoModelForCausalLM.from_pretrained('a')\nfor b in d:  # all\n    x = m(**b)\n", "m = AutoModelForCausalLM.from_pretrained('a')\nwith torch.no_grad():\n    for b in d:  # all\n        x = m(**b)\n"),
    ("t = 0\nfor b in d:\n    loss = f(b)\n    loss.backward()\n    t += loss / 4", "t = 0\nfor b in d:\n    loss = f(b)\n    loss.backward()\n    t += loss.detach() / 4"),
    ("os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'max_split_size_mb=128'", "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = \"max_split_size_mb:128\""),
    # left to a person
    ("BitsAndBytesConfig(load_in_8bit=True, load_in_4bit=True)", None),
    ("BitsAndBytesConfig()", None),
    ("k = load()\nBitsAndBytesConfig(**k)", None),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_code_is_corrected_and_no_more(before: str, after: str | None) -> None:
    text, settled = fix_python(IMPORTS + before, stack=NOW)
    assert text == IMPORTS + (before if after is None else after)
    assert bool(settled) == (after is not None)


def test_an_import_is_added_where_new_code_needs_it() -> None:
    before = '"""Ours."""\nfrom transformers import AutoModel\nm = AutoModel.from_pretrained("a", load_in_8bit=True)\n'
    after = (
        '"""Ours."""\nfrom transformers import AutoModel\nfrom transformers import BitsAndBytesConfig\n'
        'm = AutoModel.from_pretrained("a", quantization_config=BitsAndBytesConfig(load_in_8bit=True))\n'
    )
    assert fix_python(before, stack=NOW)[0] == after


def test_a_variable_of_the_environment_goes_before_torch() -> None:
    before = (
        "import os\n\n# models\nimport torch\nfrom transformers import AutoModel\n"
        'm = AutoModel.from_pretrained("a", device_map="auto")\n'
        'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"\n'
    )
    text, settled = fix_python(before, stack=NOW)
    lines = text.splitlines()
    assert [f.rule for f in settled] == ["environment-too-late"]
    assert lines.index(
        'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"'
    ) < lines.index("import torch")
    assert sorted(lines) == sorted(before.splitlines())
    assert lint_python(text, stack=NOW) == []


def test_line_ends_and_the_byte_order_mark_stay() -> None:
    before = "\ufefffrom transformers import *\r\nBitsAndBytesConfig(load_in_8bit=True, bnb_8bit_x=1)\r\n"
    assert fix_python(before, stack=NOW)[0] == before.replace(", bnb_8bit_x=1", "")
    assert fix_python("x = 1\r\n", stack=NOW) == ("x = 1\r\n", [])


def test_versions_decide_what_is_renamed() -> None:
    source = IMPORTS + "m = AutoModel.from_pretrained('a', torch_dtype=torch.float16)"
    old = Stack(versions={**TESTED, "transformers": "4.46.3"})
    assert fix_python(source, stack=old) == (source, [])
    assert "dtype=torch.float16" in fix_python(source, stack=NOW)[0]


@given(st.lists(st.sampled_from([before for before, _ in PAIRS]), max_size=4))
def test_correcting_twice_is_correcting_once(parts: list[str]) -> None:
    source = IMPORTS + "\n".join(parts)
    once, settled = fix_python(source, stack=NOW)
    twice, again = fix_python(once, stack=NOW)
    assert (twice, again) == (once, [])
    ast.parse(once)
    left = {f.rule for f in lint_python(once, stack=NOW)}
    assert not {f.rule for f in settled if f.rule == "bnb-unknown-key"} & left


@pytest.mark.parametrize(
    "path", sorted((DATA / "healthy" / "code").glob("*.py")), ids=lambda p: p.name
)
def test_healthy_code_stays_as_it_is_but_for_new_names(path: Path) -> None:
    source = path.read_text()
    text, settled = fix_python(source, stack=NOW)
    assert {f.rule for f in settled} <= {"renamed-dtype"}
    assert text == source.replace("torch_dtype=", "dtype=")


@pytest.mark.parametrize(
    "path", sorted((DATA / "healthy" / "code").glob("*.ipynb")), ids=lambda p: p.name
)
def test_healthy_notebooks_stay_as_they_are(path: Path) -> None:
    source = path.read_text()
    text, settled = fix_notebook(source)
    assert {f.rule for f in settled} <= {"renamed-dtype"}
    assert text == source.replace("torch_dtype=", "dtype=")


@pytest.mark.parametrize("name", ["b_qlora_llama3.ipynb", "c_gemma_llama.ipynb"])
def test_a_notebook_keeps_everything_else(name: str) -> None:
    source = (DATA / "mission" / name).read_text()
    text, settled = fix_notebook(source)
    assert settled
    assert fix_notebook(text) == (text, [])
    old, new = json.loads(source), json.loads(text)
    for cell in (*old["cells"], *new["cells"]):
        cell.pop("source")
    assert old == new  # outputs, metadata, counts
    changed = [
        (a, b) for a, b in zip(source.splitlines(), text.splitlines(), strict=True) if a != b
    ]
    assert len(changed) == len(settled)
    fixed = {(f.cell, f.rule) for f in settled}
    assert not fixed & {(f.cell, f.rule) for f in lint_notebook(text)}


def test_magics_survive_a_correction_of_their_cell() -> None:
    source = (
        "%%time\n!pip install \\\n  x\nfrom transformers import BitsAndBytesConfig\n"
        "if True:\n    !ls\nfiles = !ls\nc = BitsAndBytesConfig(load_in_8bit=True, bnb_8bit_x=1)\nc?"
    )
    cell = {"cell_type": "code", "source": source, "outputs": []}
    text, settled = fix_notebook(json.dumps({"cells": [cell]}), stack=NOW)
    assert [f.line for f in settled] == [8]
    assert json.loads(text)["cells"][0]["source"] == source.replace(", bnb_8bit_x=1", "")


def test_without_libcst_one_sentence_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "willfit.doctor.lint.fixing.apply", None)
    with pytest.raises(MissingLibraryError, match=r"willfit\[doctor\]"):
        fix_python("x = 1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a tokenizer, as a folder."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=128,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 64)}}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    return folder


def run(source: str, tiny: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"FOLDER": str(tiny)}
    exec(compile(source, "fixed.py", "exec"), names)
    return names


RUNS = [
    # fails before, runs after; what must hold then
    ("TypeError", """
        args = TrainingArguments(FOLDER + "/out", evaluation_strategy="no", overwrite_output_dir=True,
                                 group_by_length=True, warmup_ratio=0.1, use_cpu=True)
        """, lambda n: n["args"].train_sampling_strategy == "group_by_length" and n["args"].warmup_steps == 0.1),
    ("TypeError", """
        model = AutoModelForCausalLM.from_pretrained(FOLDER, use_flash_attention_2=False, torch_dtype=torch.bfloat16)
        """, None),
    ("AttributeError", """
        model = AutoModelForCausalLM.from_pretrained(FOLDER)
        model = model.to_bettertransformer()
        out = model(torch.tensor([[2, 3, 4]])).logits.shape
        """, lambda n: n["out"] == (1, 3, 64)),
    ("TypeError", """
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6)
        """, lambda n: n["config"].llm_int8_threshold == 6.0),
    ("ValueError", """
        model = AutoModelForCausalLM.from_pretrained(
            FOLDER, device_map="auto", max_memory={"0": "1GB", "cpu": "1GB"})
        """, None),
]  # fmt: skip


def code(body: str) -> str:
    lines = [line[8:] for line in body.strip("\n").splitlines()]
    return (
        "import torch\nfrom transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments\n"
        + "\n".join(lines)
    )


@pytest.mark.parametrize(("error", "body", "holds"), [row for row in RUNS if row[2] is not None])
def test_what_failed_runs_once_it_is_corrected(
    error: str, body: str, holds: Any, tiny: Path
) -> None:
    with pytest.raises(Exception) as failure:  # noqa: PT011 — the class is compared by name below
        run(code(body), tiny)
    assert type(failure.value).__name__ == error
    text, settled = fix_python(code(body), stack=NOW)
    assert settled
    assert holds(run(text, tiny))


@pytest.mark.parametrize(("error", "body", "holds"), [row for row in RUNS if row[2] is None])
def test_what_fails_is_what_is_said_to_fail(error: str, body: str, holds: Any, tiny: Path) -> None:
    """Claims without a correction that a CPU could run: the library agrees that it fails."""
    with pytest.raises(Exception) as failure:  # noqa: PT011
        run(code(body), tiny)
    assert type(failure.value).__name__ == error
    assert any(
        error in f.message for f in lint_python(code(body).replace("=False", "=True"), stack=NOW)
    )


LOOP = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
kept = []
for text in ["w3 w4", "w5 w6 w7"]:
    batch = tokenizer(text, return_tensors="pt")
    outputs = model(input_ids=batch.input_ids)
    kept.append(outputs.logits)
"""


def test_a_loop_under_no_grad_gives_the_same_scores_and_no_graph(tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    before = run(LOOP, tiny)
    text, settled = fix_python(LOOP, stack=NOW)
    after = run(text, tiny)
    assert [f.rule for f in settled] == ["graph-in-inference"]
    assert all(one.grad_fn is not None for one in before["kept"])
    assert all(one.grad_fn is None for one in after["kept"])
    assert all(torch.equal(a, b) for a, b in zip(before["kept"], after["kept"], strict=True))


TRAINING = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(FOLDER, use_cache=True)
model.gradient_checkpointing_enable()
model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
model.train()
model.enable_input_require_grads()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
total = 0
for step in range(3):
    ids = torch.tensor([[2, 3, 4, 5]])
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    total += loss
"""


def test_a_training_loop_trains_alike_without_keeping_graphs(tiny: Path) -> None:
    pytest.importorskip("peft")
    before = run(TRAINING, tiny)
    text, settled = fix_python(TRAINING, stack=NOW)
    after = run(text, tiny)
    assert {f.rule for f in settled} == {"losses-keep-graph", "checkpointing-with-cache"}
    assert before["total"].grad_fn is not None
    assert after["total"].grad_fn is None
    assert float(before["total"].detach()) == pytest.approx(float(after["total"]), rel=1e-5)
    assert "use_cache=False" in text
