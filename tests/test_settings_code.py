"""Settings that scripts and notebooks tell, read as text: what people write, what nobody should."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.growth import ends_within, grows_at_most

from willfit.cli import estimate as estimate_command
from willfit.cli.build import Request, build_request
from willfit.cli.parser import Parser
from willfit.settings import Settings
from willfit.settings.code import read_code

SCRIPTS = Path(__file__).parent / "data" / "doctor" / "code"
LLAMA_8B, LLAMA_8B_IT = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def source_of(name: str) -> str | list[str]:
    text = (SCRIPTS / name).read_text()
    if not name.endswith(".ipynb"):
        return text
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"]]


def request_of(read: Settings, **more: Any) -> Request:
    """What ``willfit estimate`` makes of the flags."""
    parser = Parser(prog="willfit estimate")
    estimate_command.configure(parser)
    typed = vars(parser.parse_args([]))
    return build_request(argparse.Namespace(**{**typed, **read.flags, "model": read.model, **more}))


def classifier(**flags: Any) -> dict[str, Any]:
    return {"auto_class": "AutoModelForSequenceClassification", **flags}


SCENARIOS: list[tuple[str, str, dict[str, Any]]] = [
    ("trainer_full.py", "FacebookAI/roberta-large", classifier(
        num_labels=5, train="full", per_device_train_batch_size=16, fp16=True, max_length=384,
        padded=True)),
    ("trl_qlora.py", "mistralai/Mistral-7B-v0.1", {
        "train": "qlora", "trainer": "trl", "quantize": "nf4-double", "attn": "sdpa",
        "bnb_4bit_compute_dtype": "bfloat16", "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "gradient_checkpointing": False, "bf16": True,
        "optim": "paged_adamw_32bit", "max_grad_norm": 0.3, "max_length": 2048, "lora_r": 64,
        "lora_dropout": 0.1, "lora_target_modules": LINEAR}),
    ("llama3_qlora_classifier.ipynb", LLAMA_8B, classifier(
        num_labels=3, train="qlora", quantize="nf4", bnb_4bit_compute_dtype="float16",
        per_device_train_batch_size=1, gradient_accumulation_steps=8, optim="paged_adamw_32bit",
        fp16=True, bf16=False, max_grad_norm=0.3, lora_r=64, lora_dropout=0.0, max_length=1024,
        prepare_kbit=True, gradient_checkpointing=False,
        lora_target_modules=LINEAR,
        stack="transformers=4.41.2,peft=0.11.1,bitsandbytes=0.43.1,trl=0.9.4,accelerate=0.31.0")),
    ("plain_loop.py", "openai-community/gpt2-large", {
        "train": "full", "trainer": "loop", "optim": "adamw_torch", "fp16": True,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_grad_norm": 1.0,
        "max_length": 1024, "padded": True}),
    ("accelerate_loop.py", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", {
        "train": "full", "trainer": "loop", "optim": "adamw_8bit", "bf16": True, "attn": "eager",
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "max_grad_norm": 1.0,
        "gradient_checkpointing": True, "use_reentrant": False}),
    ("custom_module.py", "microsoft/deberta-v3-large", {
        "auto_class": "AutoModel", "train": "full", "trainer": "loop", "optim": "adamw_torch",
        "fp16": True, "per_device_train_batch_size": 4, "max_grad_norm": 1000.0,
        "gradient_checkpointing": True, "max_length": 1536, "padded": True}),
    ("argparse_trainer.py", "meta-llama/Llama-2-7b-hf", {
        "train": "lora", "dtype": "bfloat16", "per_device_train_batch_size": 2, "bf16": True,
        "gradient_accumulation_steps": 16, "optim": "adamw_torch", "lora_r": 16,
        "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"], "max_length": 1024,
        "alloc_conf": "expandable_segments:True"}),
    ("seq2seq.py", "google/flan-t5-large", {
        "train": "full", "per_device_train_batch_size": 8, "optim": "adafactor",
        "max_length": 1024}),
    ("unsloth_colab.ipynb", "unsloth/Meta-Llama-3.1-8B-bnb-4bit", {
        "train": "qlora", "trainer": "trl", "per_device_train_batch_size": 2, "bf16": True,
        "gradient_accumulation_steps": 4, "fp16": False, "optim": "adamw_8bit",
        "gradient_checkpointing": True, "lora_r": 16, "lora_dropout": 0.0, "max_length": 2048,
        "lora_target_modules": LINEAR}),
    ("generation.py", "Qwen/Qwen2.5-7B-Instruct", {
        "dtype": "bfloat16", "max_new_tokens": 512, "context": 3072 + 512, "batch_size": 16,
        "padded": True}),
    ("int8_inference.py", "mistralai/Mistral-7B-v0.1", {"quantize": "int8", "max_new_tokens": 20}),
    ("pipeline_8bit.py", "google/gemma-2-9b-it", {
        "dtype": "bfloat16", "quantize": "int8", "max_new_tokens": 256}),
    ("embeddings.py", "google-bert/bert-base-uncased", {
        "auto_class": "AutoModel", "dtype": "float16", "context": 512, "batch_size": 256,
        "padded": True}),
    ("two_models_threadpool.ipynb", "google/gemma-2-9b-it", classifier(
        num_labels=3, use_cache=False, quantize="int8", context=2048, batch_size=4, padded=True)),
    ("vllm_offline.py", "meta-llama/Llama-3.1-8B-Instruct", {
        "engine": "vllm", "dtype": "float16", "context": 8192, "batch_size": 8,
        "max_new_tokens": 1024}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "flags"), SCENARIOS, ids=lambda value: str(value)[:30])
def test_what_people_write(name: str, model: str, flags: dict[str, Any]) -> None:
    read = read_code(source_of(name))
    assert (read.model, dict(read.flags)) == (model, flags)


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.iterdir()))
def test_every_script_is_a_scenario(name: str) -> None:
    for loaded in read_code(source_of(name)).loads:
        scenario = request_of(loaded.settings, gpu="T4").scenario
        assert scenario.model.id == loaded.settings.model
        assert scenario.workload.task == ("train" if "train" in loaded.settings.flags else
                                          "inference")  # fmt: skip


def test_the_qlora_notebook_fails_on_a_t4_for_its_activations_and_checkpointing_saves_it() -> None:
    """The mission's document B: what its thread found by trial, from the notebook's text alone."""
    from willfit.estimator import estimate

    read = read_code(source_of("llama3_qlora_classifier.ipynb"))
    without = estimate(request_of(read, gpu="T4").scenario, search_limits=False)
    assert without.verdict == "does_not_fit"
    checkpointed = request_of(read, gpu="T4", gradient_checkpointing=True)
    assert estimate(checkpointed.scenario, search_limits=False).verdict == "fits"


def test_two_configs_that_differ_in_what_nobody_reads_are_one() -> None:
    """The mission's document A."""
    text = str(source_of("int8_inference.py"))
    other = text.replace(
        "    bnb_8bit_compute_dtype=torch.float16,\n    bnb_8bit_use_double_quant=False,\n",
        '    bnb_8bit_quant_type="nf8",\n    bnb_8bit_use_double_quant=True,\n'
        "    bnb_8bit_compute_dtype=torch.bfloat16,\n",
    )
    assert other != text
    first, second = read_code(text), read_code(other)
    assert first.flags == second.flags
    assert [line.split()[0] for line in second.ignored] == [
        "bnb_8bit_quant_type", "bnb_8bit_use_double_quant", "bnb_8bit_compute_dtype",
    ]  # fmt: skip


def test_the_ensemble_loads_four_models_on_two_cards() -> None:
    """The mission's document C, and which of them a line of a traceback belongs to."""
    cells = source_of("two_models_threadpool.ipynb")
    loads = read_code(cells).loads
    assert [(one.settings.model, one.device) for one in loads] == [
        ("google/gemma-2-9b-it", 0), ("google/gemma-2-9b-it", 1), (LLAMA_8B_IT, 0), (LLAMA_8B_IT, 1),
    ]  # fmt: skip
    assert [(one.cell, one.line, one.last_line) for one in loads] == [
        (4, 4, 6), (4, 7, 9), (8, 2, 3), (8, 4, 5),
    ]  # fmt: skip
    chosen = {(cell, line): read_code(cells, line, cell).chosen
              for cell, line in ((4, 5), (4, 8), (6, 5), (8, 3), (8, 5))}  # fmt: skip
    assert chosen == {(4, 5): 0, (4, 8): 1, (6, 5): 1, (8, 3): 2, (8, 5): 3}
    assert "number 3, loaded at cell 8 line 2" in read_code(cells, 3, 8).assumptions[-1]


MODEL = "from transformers import *\nimport torch\n"
BERT = "AutoModelForSequenceClassification.from_pretrained('google-bert/bert-base-uncased'"
GPT = "model = AutoModelForCausalLM.from_pretrained('gpt2')\n"


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        # four bits are fp4 unless the config says nf4 (transformers, BitsAndBytesConfig)
        ("m = AutoModelForCausalLM.from_pretrained('gpt2', load_in_4bit=True)",
         {"quantize": "fp4", "task": "load"}),
        ("q = dict(load_in_4bit=True, bnb_4bit_quant_type='nf4')\n"
         "m = AutoModelForCausalLM.from_pretrained('gpt2', quantization_config="
         "BitsAndBytesConfig(**q))", {"quantize": "nf4", "task": "load"}),
        ("kw = {'torch_dtype': 'bfloat16', 'max_memory': {0: '10GB', 'cpu': '20GB'}}\n"
         "m = AutoModelForCausalLM.from_pretrained('gpt2', device_map='auto', **kw)",
         {"dtype": "bfloat16", "max_memory": "{0: '10GB', 'cpu': '20GB'}", "task": "load"}),
        (f"m = {BERT}, config=AutoConfig.from_pretrained('google-bert/bert-base-uncased', "
         "num_labels=7))", classifier(num_labels=7, task="load")),
        (f"m = {BERT}, id2label={{0: 'a', 1: 'b', 2: 'c'}})", classifier(num_labels=3, task="load")),
        ("class C:\n  half = True\n"
         "m = AutoModelForCausalLM.from_pretrained('gpt2', torch_dtype=torch.float16 if C.half "
         "else torch.float32)", {"dtype": "float16", "task": "load"}),
        (GPT + "with torch.no_grad():\n  logits = model(**x).logits", {"full_logits": True}),
        (GPT + "logits = model(**x, logits_to_keep=1).logits", {}),
        (GPT + "for chunk in chunks:\n  model.generate(**chunk, max_new_tokens=10, num_beams=4)",
         {"max_new_tokens": 10, "batch_size": 4}),
        (GPT + "t = AutoTokenizer.from_pretrained('gpt2')\nx = t(s, max_length=100, truncation=True)"
         "\nmodel.generate(**x, generation_config=GenerationConfig(max_new_tokens=28, "
         "cache_implementation='static'))",
         {"max_new_tokens": 28, "context": 128, "cache": "static"}),
        ("with torch.backends.cuda.sdp_kernel(enable_flash=True, enable_math=False, "
         "enable_mem_efficient=False):\n  model = AutoModelForCausalLM.from_pretrained('gpt2')\n"
         "  model.generate(x, max_length=64)", {"context": 64, "sdpa_kernel": "flash"}),
        (GPT + "args = TrainingArguments('out')\nargs.bf16 = True\n"
         "args.per_device_train_batch_size = 2\nTrainer(model, args).train()",
         {"train": "full", "bf16": True, "per_device_train_batch_size": 2}),
        (GPT + "model = torch.nn.DataParallel(model)\nopt = torch.optim.SGD(model.parameters(), 0.1)"
         "\nfor b in DataLoader(d, 6):\n  model(**b).loss.backward()\n  opt.step()",
         {"train": "full", "trainer": "loop", "optim": "sgd", "per_device_train_batch_size": 6,
          "max_grad_norm": 0.0}),
        ("from trl import *\nSFTTrainer('facebook/opt-350m', args=SFTConfig(max_length=256), "
         "peft_config=LoraConfig(r=4, target_modules='all-linear')).train()",
         {"train": "lora", "trainer": "trl", "max_length": 256, "lora_r": 4, "lora_dropout": 0.0,
          "lora_target_modules": ["all-linear"]}),
        # TrainingArguments under SFTTrainer keep the Trainer's defaults, which SFTConfig changes
        ("from trl import *\n" + GPT + "SFTTrainer(model=model, args=TrainingArguments('o'), "
         "max_seq_length=512)", {"train": "full", "trainer": "trl", "max_length": 512,
                                 "gradient_checkpointing": False, "bf16": False, "fp16": False}),
        ("m = AutoModelForCausalLM.from_pretrained('gpt2', load_in_8bit=True)\n"
         "m = prepare_model_for_kbit_training(m)\nm = get_peft_model(m, LoraConfig(r=8))\n"
         "Trainer(m, TrainingArguments('o')).train()",
         {"train": "lora", "quantize": "int8", "prepare_kbit": True, "lora_r": 8,
          "lora_dropout": 0.0, "gradient_checkpointing": True}),
        ("m = AutoModelForCausalLM.from_pretrained('gpt2').half().to('cuda')\nm.generate(x)",
         {"dtype": "float16"}),
        ("def load(name, bits):\n  q = BitsAndBytesConfig(load_in_8bit=bits == 8)\n"
         "  return AutoModelForCausalLM.from_pretrained(name, quantization_config=q)\n"
         "load('gpt2', 8).generate(x)", {"quantize": "int8"}),
    ],
)  # fmt: skip
def test_idioms(code: str, flags: dict[str, Any]) -> None:
    read = read_code(MODEL + code)
    assert read.model in ("gpt2", "google-bert/bert-base-uncased", "facebook/opt-350m")
    assert read.flags == flags


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/kaggle/input/llama-3/transformers/8b-hf/1", LLAMA_8B),
        ("/kaggle/input/gemma-2/transformers/gemma-2-9b-it/2", "google/gemma-2-9b-it"),
        ("/kaggle/input/gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("../models/Mistral-7B-v0.1/", "mistralai/Mistral-7B-v0.1"),
        ("/kaggle/input/my-finetune/checkpoint-500", None),
        ("./output", None),
        ("/data/llama3", None),  # which of the Llama-3 models is not said
        ("somebody/unheard-of-7b", "somebody/unheard-of-7b"),
    ],
)
def test_a_folder_is_a_model_only_where_its_name_is_one(path: str, model: str | None) -> None:
    read = read_code(f"m = AutoModelForCausalLM.from_pretrained({path!r})\nm.generate(x)")
    assert read.model == model
    assert (model is not None) or any("name it" in line for line in read.assumptions)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("m = AutoModel.from_pretrained(path)", "the model's name (path) is not in the text"),
        (GPT + "Trainer(model, TrainingArguments(per_device_train_batch_size=int(sys.argv[1])))",
         "per_device_train_batch_size of TrainingArguments is"),
        ("if debug:\n  bs = 2\nelse:\n  bs = 64\n" + GPT +
         "Trainer(model, TrainingArguments(per_device_train_batch_size=bs))",
         "per_device_train_batch_size of TrainingArguments is 'debug'"),
        (GPT + "model = PeftModel.from_pretrained(model, 'out')\nmodel.generate(x)", "its rank is"),
        (GPT + "Trainer(model, TrainingArguments(**settings))", "**settings, which is not in"),
        ("x = = 1\n" + GPT, "1 lines are no Python"),
    ],
)  # fmt: skip
def test_what_the_text_does_not_tell_is_said(code: str, said: str) -> None:
    read = read_code(code)
    assert any(said in line for line in (*read.assumptions, *read.ignored)), read
    assert "per_device_train_batch_size" not in read.flags


def test_a_piece_of_a_function_and_prompts_and_magics_are_read() -> None:
    piece = "    model = AutoModelForCausalLM.from_pretrained('gpt2', torch_dtype=torch.float16)\n"
    assert read_code(piece).flags["dtype"] == "float16"
    prompted = ">>> from transformers import *\n>>> m = AutoModelForCausalLM.from_pretrained(\n" \
               "...     'gpt2')\n>>> m.generate(x, max_new_tokens=5)\n"  # fmt: skip
    assert read_code(prompted).flags == {"max_new_tokens": 5}
    cells = ["%%bash\nnvidia-smi", "%cd /tmp\n!python train.py --model_name_or_path gpt2 \\\n"
             "  --per_device_train_batch_size 4 --fp16 True"]  # fmt: skip
    read = read_code(cells)
    assert (read.model, read.flags) == ("gpt2", {"per_device_train_batch_size": 4, "fp16": True,
                                                 "train": "full"})  # fmt: skip


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')\n__import__('os').system('touch {mark}')\n" \
           f"class A:\n  x = eval('open({str(mark)!r}, \"w\")')\n" + GPT  # fmt: skip
    assert read_code(code).model == "gpt2"
    assert not mark.exists()


def test_a_training_argument_opens_no_file(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3}}')
    named = str(tmp_path / "ds.json")
    read = read_code(GPT + f"Trainer(model, TrainingArguments('o', deepspeed={named!r}))")
    assert "strategy" not in read.flags
    inlined = "{'zero_optimization': {'stage': 3}}"
    read = read_code(GPT + f"Trainer(model, TrainingArguments('o', deepspeed={inlined}))")
    assert read.flags["strategy"] == "zero3"


TEXTS = {path.name: source_of(path.name) for path in sorted(SCRIPTS.iterdir())}
ALL_LINES = [line for text in TEXTS.values() for cell in ([text] if isinstance(text, str) else text)
             for line in cell.split("\n")]  # fmt: skip


@given(lines=st.lists(st.one_of(st.sampled_from(ALL_LINES), st.text(max_size=30)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_text_makes_it_raise(lines: list[str]) -> None:
    read = read_code("\n".join(lines), line=3)
    assert isinstance(read.flags, dict)
    assert read_code(lines, line=1, cell=2).chosen in (None, *range(200))


@given(name=st.sampled_from(sorted(TEXTS)), cut=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_a_text_that_is_cut_off_tells_no_more_than_the_whole(name: str, cut: int) -> None:
    """No model is made up: every one of the piece is one of the whole."""
    text = TEXTS[name]
    whole = {one.settings.model for one in read_code(text).loads} | {None}
    piece = text[:cut] if isinstance(text, str) else text[: cut % 10]
    assert {one.settings.model for one in read_code(piece).loads} <= whole


@pytest.mark.parametrize(
    "code",
    [
        "x = " + "(" * 5000,
        "x = " + "[" * 99 + "]" * 99,
        "x = " + "1 + " * 20_000 + "1",
        "x = " + "-" * 20_000 + "1",
        "x" + ".a" * 20_000,
        "x = 2 ** 10 ** 10 ** 10\ny = 'a' * 10**9\nz = [0] * 10**9\nw = 1 << 10**9",
        "x = " + "9" * 5000,
        "def f():\n  return f()\nf()",
        "f = lambda: f()\nf()",
        "def f(n):\n  return g(n), g(n)\ndef g(n):\n  return f(n), f(n)\nf(1)",
        "a0 = 'x' * 9999\n" + "\n".join(f"a{i + 1} = a{i} + a{i}" for i in range(60)),
        "a0 = [1]\n" + "\n".join(f"a{i + 1} = [*a{i}, *a{i}]" for i in range(40)),
        "class A:\n  def __init__(self):\n    self.a = A()\nA()",
        "\0\n\r\x0c\ufeff\ud800",
        "for a in [(1,2)]*3:\n" + "\n".join(" " * i + f"for x{i} in ('a','b','c','d'):"
                                            for i in range(1, 18)) + "\n" + " " * 19 + "f()",
        "if True:\n" * 50 + "x",
        "\n".join(f"n{i} = {i}\nif a:\n  b = 1" for i in range(9_000)),
        "a = {}\n" + "\n".join(f"a = {{**a, {i}: 1}}" for i in range(9_000)),
    ],
    ids=range(18),
)  # fmt: skip
def test_hostile_code_ends_soon(code: str) -> None:
    assert ends_within(lambda: read_code(code), 2)


def test_time_grows_with_the_text_and_no_faster() -> None:
    cell = "x = foo(bar, 1)\nif x:\n  y = baz(x)\n!pip install a==1.0"
    short, long = ("\n".join([cell] * copies) for copies in (400, 4000))
    assert grows_at_most(20, lambda: read_code(short), lambda: read_code(long))


def test_reading_code_imports_no_torch() -> None:
    import subprocess
    import sys

    code = ("import sys; from willfit.settings.code import read_code; read_code('import torch');"
            "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'willfit.cli')))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
