"""The linter: what each rule says and where it keeps quiet, judged by the libraries themselves."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import grows_at_most

from willfit.doctor.lint import (
    compare_configs,
    lint_command,
    lint_notebook,
    lint_python,
    lint_settings,
    lint_shell,
    same_in_effect,
)
from willfit.doctor.lint.known import KNOWN
from willfit.doctor.lint.rules import RULES
from willfit.doctor.lint.rules.memory_limits import misread
from willfit.doctor.lint.signatures import Signatures, here
from willfit.doctor.lint.sources import Sources
from willfit.doctor.lint.spelling import distance, near
from willfit.doctor.notebooks import Cell, plain, read_notebook
from willfit.errors import BrokenFileError
from willfit.scenario.stack import TESTED, Stack

DATA = Path(__file__).parent / "data" / "doctor"
NOW = Stack()
V4 = Stack(versions={**TESTED, "transformers": "4.46.3", "trl": "0.12.1"})

HEAD = """\
import gc, os
import torch
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer,
    BitsAndBytesConfig, GenerationConfig, Trainer, TrainingArguments, pipeline)
from peft import LoraConfig, get_peft_model
"""
START = HEAD.count("\n")
LLM = 'm = AutoModelForCausalLM.from_pretrained("a/b-7b", device_map="auto")\n'
INT8 = (
    'm = AutoModelForCausalLM.from_pretrained("a/b-7b", device_map="auto", '
    "quantization_config=BitsAndBytesConfig(load_in_8bit=True))\n"
)
TOK = 'tok = AutoTokenizer.from_pretrained("a/b-7b")\n'


def said(code: str, stack: Stack = NOW, gpu: str = "") -> list[tuple[str, int]]:
    """Rules and lines after the imports."""
    return [(f.rule, f.line - START) for f in lint_python(HEAD + code, stack=stack, gpu=gpu)]


FOUND = [
    # rule, line, code; each is one finding and no more
    ("bnb-unknown-key", 1, "BitsAndBytesConfig(load_in_8bit=True, bnb_8bit_quant_type='nf8')"),
    ("bnb-unknown-key", 1, "BitsAndBytesConfig(load_in_8bit=True, load_in_8bit_fp32_cpu_offload=True)"),
    ("bnb-unknown-key", 1, "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_type=torch.bfloat16)"),
    ("bnb-unknown-key", 1, "k = dict(load_in_8bit=True, bnb_8bit_compute_dtype=torch.float16)\nBitsAndBytesConfig(**k)"),
    ("bnb-unknown-key", 2, "from transformers import BitsAndBytesConfig as B\nB(load_in_8bit=True, bnb_8bit_use_double_quant=True)"),
    ("bnb-unknown-key", 2, "import transformers as tf\ntf.BitsAndBytesConfig(load_in_8bit=True, bnb_8bit_x=1)"),
    ("bnb-unknown-key", 2, "Q = BitsAndBytesConfig\nQ(load_in_8bit=True, bnb_8bit_x=1)"),
    ("bnb-silent-4bit", 1, "BitsAndBytesConfig()"),
    ("bnb-silent-4bit", 1, "BitsAndBytesConfig(load_in_8bits=True)"),
    ("bnb-silent-4bit", 1, "BitsAndBytesConfig(load_in_4bits=True, bnb_4bit_compute_dtype='bfloat16')"),
    ("bnb-silent-4bit", 1, "BitsAndBytesConfig(llm_int8_threshold=6.0)"),
    ("bnb-4bit-key-with-8bit", 1, "BitsAndBytesConfig(load_in_8bit=True, bnb_4bit_quant_type='nf4')"),
    ("bnb-both-bits", 1, "BitsAndBytesConfig(load_in_8bit=True, load_in_4bit=True)"),
    ("bnb-float32-compute", 1, "BitsAndBytesConfig(load_in_4bit=True)"),
    ("bnb-float32-compute", 1, "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.float32)"),
    ("bnb-wrong-value", 1, "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='int4', bnb_4bit_compute_dtype='bfloat16')"),
    ("bnb-wrong-value", 1, "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6)"),
    ("bnb-wrong-value", 1, "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype='fp16')"),
    ("unknown-argument", 1, "TrainingArguments('out', evaluation_strategy='epoch')"),
    ("unknown-argument", 1, "TrainingArguments('out', gradient_acumulation_steps=4)"),
    ("unknown-argument", 1, "TrainingArguments('out', group_by_length=True)"),
    ("unknown-argument", 1, "LoraConfig(r=8, lora_aplha=16)"),
    ("unknown-argument", 2, "m = f()\nTrainer(model=m, tokenizer=t)"),
    ("unknown-argument", 2, "from trl import SFTConfig\nSFTConfig(max_seq_length=512)"),
    ("unknown-argument", 2, "from trl import GRPOConfig\nGRPOConfig(max_prompt_length=512)"),
    ("unknown-engine-argument", 2, "from vllm import LLM\nLLM('m', gpu_memory_utilisation=0.9)"),
    ("unknown-loading-argument", 1, "AutoModelForCausalLM.from_pretrained('a/b', load_in_8bit=True)"),
    ("unknown-loading-argument", 1, "AutoModelForCausalLM.from_pretrained('a/b', use_flash_attention_2=True)"),
    ("unknown-loading-argument", 1, "AutoModelForCausalLM.from_pretrained('a/b', gradient_checkpointing=True)"),
    ("unknown-loading-argument", 1, "kw = {'device_mapp': 'auto'}\nAutoModelForCausalLM.from_pretrained('a/b', **kw)"),
    ("ignored-loading-argument", 1, "AutoModelForCausalLM.from_pretrained('a/b', offload_state_dict=True)"),
    ("misspelt-generation-setting", 1, "GenerationConfig(max_new_token=5)"),
    ("misspelt-generation-setting", 2, LLM + "m.generate(ids, max_new_token=5)"),
    ("limit-without-device-map", 1, "AutoModelForCausalLM.from_pretrained('a/b', max_memory={0: '10GiB'})"),
    ("limit-for-text-key", 1, "AutoModelForCausalLM.from_pretrained('a/b', device_map='auto', max_memory={'cuda:0': '10GiB', 'cpu': '30GiB'})"),
    ("limit-misread", 1, "cap = {0: '10Gb'}\nAutoModelForCausalLM.from_pretrained('a/b', device_map='auto', max_memory=cap)"),
    ("limit-misread", 1, "AutoModelForCausalLM.from_pretrained('a/b', device_map='auto', max_memory={0: '10G'})"),
    ("float32-load", 1, "AutoModelForCausalLM.from_pretrained('a/b-7b', dtype=torch.float32, device_map='auto')"),
    ("gemma-2-float16", 1, "AutoModelForCausalLM.from_pretrained('google/gemma-2-9b-it', dtype=torch.float16)"),
    ("better-transformer", 2, LLM + "m = m.to_bettertransformer()"),
    ("sdp-kernel", 1, "with torch.backends.cuda.sdp_kernel(enable_flash=True, enable_math=False, enable_mem_efficient=False):\n    pass"),
    ("quantised-cast", 2, INT8 + "m.half()"),
    ("quantised-cast", 2, INT8 + "m = m.to(torch.float16)"),
    ("quantised-move", 2, INT8 + "m.cuda()"),
    ("quantised-move", 2, INT8 + "m.to('cpu')\ndel m"),
    ("move-after-device-map", 2, LLM + "m.cuda()"),
    ("move-after-device-map", 2, LLM + "m = get_peft_model(m, LoraConfig()).to('cuda')"),
    ("inputs-left-on-cpu", 4, LLM + TOK + "x = tok('a', return_tensors='pt')\nm.generate(**x)"),
    ("inputs-left-on-cpu", 4, LLM + TOK + "x = tok('a', return_tensors='pt')\nm.generate(x.input_ids, max_new_tokens=5)"),
    ("int8-through-pipeline", 2, INT8 + "pipeline('text-generation', model=m)"),
    ("text-for-boolean", 1, "TrainingArguments('out', gradient_checkpointing='false')"),
    ("checkpointing-settings-alone", 1, "TrainingArguments('out', gradient_checkpointing_kwargs={'use_reentrant': False})"),
    ("checkpointing-with-cache", 1, "m = AutoModelForCausalLM.from_pretrained('a/b', use_cache=True)\nm.gradient_checkpointing_enable()\nTrainer(model=m, args=TrainingArguments('o')).train()"),
    ("checkpointing-in-inference", 2, LLM + "m.gradient_checkpointing_enable()\nm.generate(x)"),
    ("checkpointing-in-eval-mode", 3, LLM + "m.gradient_checkpointing_enable()\nm.eval()\nfor b in d:\n    loss = m(**b).loss\n    loss.backward()"),
    ("paged-optimizer-idle", 2, "LoraConfig(r=4)\nTrainingArguments('o', optim='paged_adamw_8bit')"),
    ("losses-keep-graph", 5, "total = 0\nfor b in d:\n    loss = f(b)\n    loss.backward()\n    total += loss"),
    ("losses-keep-graph", 5, "kept = []\nfor b in d:\n    loss = f(b)\n    loss.backward()\n    kept.append(loss)"),
    ("device-map-in-ddp", 1, LLM + "from torch.nn.parallel import DistributedDataParallel as DDP\nm = DDP(m)"),
    ("evaluation-keeps-logits", 2, LLM + "Trainer(model=m, args=TrainingArguments('o'), compute_metrics=f)"),
    ("graph-in-inference", 3, LLM + "for b in d:\n    out = m(**b)\n    print(out.logits.argmax())"),
    ("logits-kept-on-gpu", 5, LLM + "kept = []\nwith torch.no_grad():\n    for b in d:\n        o = m(**b); kept.append(o.logits)"),
    ("return-inside-loop", 5, "def f(d):\n    out = []\n    for b in d:\n        out.append(g(b))\n        return out"),
    ("return-inside-loop", 6, "def f(df):\n    out = []\n    for b in df:\n        out.extend(g(b))\n        df['x'] = out\n        return df"),
    ("empty-cache-before-del", 2, "m = f()\ntorch.cuda.empty_cache()\ndel m"),
    ("empty-cache-before-del", 3, "m = f()\ngc.collect()\ntorch.cuda.empty_cache()\ndel m\ngc.collect()"),
    ("second-model", 3, "a = AutoModelForCausalLM.from_pretrained('a/b', device_map='auto')\nuse(a)\nb = AutoModelForCausalLM.from_pretrained('a/c', device_map='auto')\nuse(b)"),
    ("second-model", 2, LLM + LLM + "use(m)"),
    ("second-model", 2, "for name in names:\n    m = AutoModelForCausalLM.from_pretrained(name, device_map='auto')\n    use(m)"),
    ("pool-results-kept", 4, LLM + "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor() as e:\n    r = e.map(f, [d], [m])\ndel m\ntorch.cuda.empty_cache()"),
    ("exception-kept", 5, LLM + "try:\n    m.generate(x)\nexcept Exception as e:\n    last = e"),
    ("retry-inside-except", 5, LLM + "try:\n    m.generate(x)\nexcept torch.cuda.OutOfMemoryError:\n    torch.cuda.empty_cache()\n    m.generate(x[:1])"),
    ("cached-loader", 3, "from functools import lru_cache\n@lru_cache\ndef load(n):\n    return AutoModelForCausalLM.from_pretrained(n)\nload('a')\nload('b')"),
    ("environment-too-late", 2, LLM + "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'expandable_segments:True'"),
    ("environment-too-late", 2, "d = 'cuda' if torch.cuda.is_available() else 'cpu'\nos.environ['CUDA_VISIBLE_DEVICES'] = '1'\n"),
    ("environment-misspelt", 1, "os.environ['PYTORCH_CUDA_ALLOC_CONFIG'] = 'expandable_segments:True'"),
    ("allocator-option", 1, "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'max_split_size_mb=128'"),
    ("allocator-option", 1, "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'max_split_size_mb:10'"),
    ("allocator-option", 1, "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'backend:cudaMallocAsync,max_split_size_mb:128'"),
    ("configs-mean-the-same", 2, "BitsAndBytesConfig(load_in_8bit=True)\nBitsAndBytesConfig(load_in_8bit=True, bnb_8bit_compute_dtype=torch.bfloat16)"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "line", "code"), FOUND)
def test_a_fault_is_found_on_its_line(rule: str, line: int, code: str) -> None:
    found = said(code)
    assert (rule, line) in found
    beside = {"bnb-unknown-key"} if rule == "configs-mean-the-same" else set()
    assert {name for name, _ in found} - beside == {rule}


def test_every_rule_has_a_fault_that_it_finds() -> None:
    by_stack = {"trainer-loads-float32", "bfloat16-on-t4"}  # in tests of their own below
    quiet = {name for name, rule in RULES.items() if rule.quiet}
    assert {rule for rule, _, _ in FOUND} | by_stack | quiet == set(RULES)


QUIET = [
    # unknown values are left alone
    "BitsAndBytesConfig(**load_settings())",
    "BitsAndBytesConfig(load_in_8bit=flag, bnb_4bit_quant_type='nf4')",
    "c = BitsAndBytesConfig()\nc.load_in_8bit = True",
    "k = {}\nk['load_in_8bit'] = True\nBitsAndBytesConfig(**k)",
    "k = {'load_in_4bit': True}\nk.update(other)\nBitsAndBytesConfig(**k)",
    "k = {'load_in_4bit': True} if small else {'load_in_8bit': True}\nBitsAndBytesConfig(**k)",
    "class BitsAndBytesConfig:\n    pass\nBitsAndBytesConfig(anything=1)",
    "def f(BitsAndBytesConfig):\n    return BitsAndBytesConfig(anything=1)",
    # a configuration's own attribute, a model of somebody else's code
    "AutoModelForSequenceClassification.from_pretrained('a', num_labels=3, problem_type='x')",
    "AutoModelForCausalLM.from_pretrained('a', trust_remote_code=True, my_switch=3)",
    "AutoModelForCausalLM.from_pretrained('a', low_cpu_mem_usage=True)",
    "AutoModelForCausalLM.from_pretrained('a', config=c, anything_at_all=3)",
    # the healthy twins of what is found above
    "AutoModelForCausalLM.from_pretrained('a', device_map='auto', max_memory={0: '10GiB', 'cpu': '30GB'})",
    "AutoModelForCausalLM.from_pretrained('google/gemma-2b', dtype=torch.float16)",
    "AutoModelForCausalLM.from_pretrained('google/gemma-2-9b', dtype=torch.bfloat16)",
    "AutoModelForCausalLM.from_pretrained('a/b-0.5b', dtype=torch.float32, device_map='auto')",
    "AutoModelForCausalLM.from_pretrained('a/b-7b', dtype=torch.float32, device_map='cpu')",
    LLM + "o = torch.optim.AdamW(m.parameters())\nfor b in d:\n    step(m(**b), o)",
    LLM + "m.to('cpu')",
    LLM + TOK + "x = tok('a', return_tensors='pt').to('cuda')\nm.generate(**x)",
    LLM + TOK + "x = tok('a', return_tensors='pt')\nx = {k: v.cuda() for k, v in x.items()}\nm.generate(**x)",
    "m = AutoModelForCausalLM.from_pretrained('a')\n" + TOK + "x = tok('a', return_tensors='pt')\nm.generate(**x)",
    LLM + "with torch.no_grad():\n    for b in d:\n        m(**b)",
    LLM + "@torch.inference_mode()\ndef f():\n    for b in d:\n        m(**b)\nf()",
    LLM + "for b in d:\n    loss = m(**b).loss\n    loss.backward()\n    total = loss.item()",
    "for e in range(3):\n    total = 0\n    for b in d:\n        loss = f(b)\n        total += loss\n    total.backward()",
    "losses = []\nfor b in d:\n    loss = f(b)\n    loss.backward()\n    losses.append(loss.item())",
    "def f(d):\n    out = []\n    for b in d:\n        out.append(g(b))\n    return out",
    "def f(d):\n    seen = []\n    for b in d:\n        if b in seen:\n            continue\n        seen.append(b)\n        return seen",
    "del m\ngc.collect()\ntorch.cuda.empty_cache()",
    "torch.cuda.empty_cache()\ndel m\ngc.collect()\ntorch.cuda.empty_cache()",
    "torch.cuda.empty_cache()\nx = train(m)\ndel x",
    LLM + "use(m)\ndel m\n" + LLM,
    "teacher = AutoModelForCausalLM.from_pretrained('a', device_map='auto')\nstudent = AutoModelForCausalLM.from_pretrained('b', device_map='auto')\ndistil(teacher, student)",
    "if big:\n    m = AutoModelForCausalLM.from_pretrained('a', device_map='auto')\nelse:\n    m = AutoModelForCausalLM.from_pretrained('b', device_map='auto')",
    LLM + "b = AutoModelForCausalLM.from_pretrained('x', device_map='cpu')\nuse(b)",
    LLM + "t = Trainer(model=m, args=a)\nb = AutoModelForCausalLM.from_pretrained('x', device_map='auto')\nt.save_model()",
    "for n in names:\n    m = AutoModelForCausalLM.from_pretrained(n, device_map='auto')\n    use(m)\n    del m",
    LLM + "try:\n    m.generate(x)\nexcept Exception as e:\n    errors.append(str(e))",
    LLM + "try:\n    m.generate(x)\nexcept torch.cuda.OutOfMemoryError:\n    torch.cuda.empty_cache()\n    skipped += 1",
    "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'expandable_segments:True'\n" + LLM,
    "os.environ['OLD_CUDA_VISIBLE_DEVICES'] = '0'",
    "os.environ['PYTORCH_CUDA_ALLOC_CONF'] = 'roundup_power2_divisions:[256:1,512:2,>:8]'",
    "LoraConfig(r=64)\nTrainingArguments('o', optim='paged_adamw_32bit')",
    "LoraConfig(r=16, target_modules='all-linear')\nTrainingArguments('o', optim='paged_adamw_8bit')",
    "TrainingArguments('o', gradient_checkpointing=True, gradient_checkpointing_kwargs={'use_reentrant': False})",
    "m = AutoModelForCausalLM.from_pretrained('a')\nm.gradient_checkpointing_enable()\nTrainer(model=m, args=a).train()\nm.config.use_cache = True",
    "from trl import SFTConfig\nSFTConfig(gradient_checkpointing_kwargs={'use_reentrant': False})",
    "from unsloth import FastLanguageModel\nfrom trl import SFTTrainer\nSFTTrainer(model=m, tokenizer=t, max_seq_length=512)",
    "import willfit\nm = willfit.load('x').to_bettertransformer()",
    "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)\nBitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float16)",
    "from vllm import LLM\nLLM('m', max_seq_len_to_capture=4096)",  # of an older release
]  # fmt: skip


@pytest.mark.parametrize("code", QUIET)
def test_nothing_is_said_where_it_is_not_certain(code: str) -> None:
    assert said(code) == []


HEALTHY = sorted((DATA / "healthy").glob("code/*")) + sorted((DATA / "healthy").glob("configs/*"))
ROOT = Path(__file__).parents[1]
OWN = [
    path
    for folder in ("examples", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name not in ("doctor", "compare")  # whose examples are patients
]


@pytest.mark.parametrize("path", [*HEALTHY, *OWN], ids=lambda p: p.name)
def test_healthy_files_have_no_findings(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".py":
        assert lint_python(text) == []
    elif path.suffix == ".ipynb":
        assert lint_notebook(text) == []
    else:
        assert lint_settings(text, path.name) == []


def test_there_are_enough_healthy_files_of_each_kind() -> None:
    kinds = {
        kind: len(list((DATA / "healthy" / kind).iterdir())) for kind in ("code", "logs", "configs")
    }
    assert kinds["code"] >= 15
    assert kinds["logs"] >= 10
    assert kinds["configs"] >= 8


def test_the_versions_decide() -> None:
    load = "AutoModelForCausalLM.from_pretrained('a/b-7b', {}device_map='auto')"
    assert said(load.format("load_in_8bit=True, "), V4) == []  # 4.46 takes it
    assert said(load.format(""), V4) == [("float32-load", 1)]  # and loads float32 by default
    assert said(load.format("torch_dtype='auto', "), V4) == []
    assert said("TrainingArguments('o', group_by_length=True, no_cuda=True)", V4) == []
    old = Stack(versions={**TESTED, "transformers": "4.37.2"})
    assert said("BitsAndBytesConfig()", old) == []  # no 4 bit unless asked, before 4.38
    assert said("BitsAndBytesConfig()", Stack(versions={"transformers": "4.37.2"})) == []
    newer = Stack(versions={**TESTED, "transformers": "99.0"})
    assert said("TrainingArguments('o', some_new_switch=True)", newer) == []
    assert said("TrainingArguments('o', group_by_length=True)", newer) == [("unknown-argument", 1)]


def test_a_t4_is_known_from_a_flag_or_the_notebook() -> None:
    code = (
        "TrainingArguments('o', bf16=True)\n"
        "AutoModelForCausalLM.from_pretrained('a', attn_implementation='flash_attention_2')"
    )
    assert said(code) == []
    assert said(code, gpu="T4") == [("bfloat16-on-t4", 1), ("bfloat16-on-t4", 2)]
    assert [f.line for f in lint_notebook(notebook(HEAD + code, gpu="T4"), stack=NOW)] == [6, 7]


def test_trl_loads_a_named_model_in_float32() -> None:
    code = "from trl import SFTTrainer, SFTConfig\nSFTTrainer('a/b-7b', train_dataset=d, peft_config=LoraConfig(){})"
    assert said(code.format("")) == [("trainer-loads-float32", 2)]
    assert said(code.format(", args=SFTConfig(model_init_kwargs={'dtype': 'auto'})")) == []
    assert said(code.format(", args=settings")) == []


def test_the_two_configs_of_the_thread_mean_the_same() -> None:
    source = (DATA / "mission" / "a_two_configs.py").read_text()
    (same,) = same_in_effect(source)
    assert same.effect == "8-bit LLM.int8"
    assert same.lines == (5, 10)
    assert set(same.ignored) == {
        "bnb_8bit_compute_dtype", "bnb_8bit_use_double_quant", "bnb_8bit_quant_type",
    }  # fmt: skip
    assert "the difference came from elsewhere" in same.message
    assert "fresh process" in same.message
    rules = {f.rule for f in lint_python(source)}
    assert rules == {"bnb-unknown-key", "configs-mean-the-same", "second-model"}


@pytest.mark.parametrize(
    ("first", "second", "effect"),
    [
        ({"load_in_8bit": True}, {"load_in_8bit": True, "bnb_8bit_x": 1}, "8-bit LLM.int8"),
        ({"load_in_8bit": True}, {"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "8-bit LLM.int8"),
        ({"load_in_4bit": True}, {"load_in_8bits": True}, "4-bit FP4"),
        ({"load_in_8bit": True}, {"load_in_8bit": True, "llm_int8_threshold": 0.0}, None),
        ({"load_in_8bit": True}, {"load_in_4bit": True}, None),
        ({"load_in_8bit": True}, {"load_in_8bit": True}, None),  # no difference to explain
    ],
)  # fmt: skip
def test_configs_are_compared_by_what_they_load(
    first: dict[str, Any], second: dict[str, Any], effect: str | None
) -> None:
    same = compare_configs(first, second)
    assert (same.effect if same is not None else None) == effect


def test_equal_configs_are_equal_in_the_real_library() -> None:
    """What compare_configs calls the same has the same attributes once transformers has read it."""
    transformers = pytest.importorskip("transformers")
    first = {"load_in_8bit": True, "bnb_8bit_compute_dtype": "float16"}
    second = {"load_in_8bit": True, "bnb_8bit_quant_type": "nf8"}
    read = [transformers.BitsAndBytesConfig(**keys).to_dict() for keys in (first, second)]
    assert read[0] == read[1]
    assert compare_configs(first, second) is not None


def test_the_mission_s_cells() -> None:
    found = {
        path.name: {(f.cell, f.rule) for f in lint_notebook(path.read_text(), stack=None)}
        for path in sorted((DATA / "mission").glob("*.ipynb"))
    }
    assert found == {
        # 4.41.2, which the notebook installs, still takes evaluation_strategy
        "b_qlora_llama3.ipynb": {(6, "text-for-boolean")},
        "c_gemma_llama.ipynb": {
            (3, "return-inside-loop"),
            (4, "pool-results-kept"),
            (6, "bnb-unknown-key"),
        },
    }
    guide = {
        f.rule for f in lint_python((DATA / "mission" / "d_efficient_inference.py").read_text())
    }
    assert guide == {
        "better-transformer", "sdp-kernel", "unknown-loading-argument", "inputs-left-on-cpu",
        "int8-through-pipeline",
    }  # fmt: skip


def test_the_recorded_signatures_are_those_of_the_installed_libraries() -> None:
    """Each class's fields or parameters, by import, are among those read from source, and back."""
    pytest.importorskip("transformers")
    import importlib

    checked = 0
    for known in KNOWN:
        if known.library not in ("transformers", "peft", "accelerate") or known.kind == "words":
            continue
        installed = Signatures(stack=here()).of(known.key)
        module = importlib.import_module(
            f"{known.library}.{known.module.split('|')[0]}".removesuffix(".__init__")
        )
        thing = module
        for part in known.name.split("."):
            thing = getattr(thing, part)
        if dataclasses.is_dataclass(thing) and known.kind == "fields":
            real = {f.name for f in dataclasses.fields(thing) if f.init}
        else:
            real = {
                name
                for name, p in inspect.signature(thing).parameters.items()
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in ("self", "cls")
            }
        assert installed is not None
        assert real <= installed.parameters.names, known.key
        if known.kind == "fields":
            assert installed.parameters.names <= real | {"pp_size"}, known.key
        checked += 1
    assert checked >= 16


def test_the_libraries_are_read_without_importing_them() -> None:
    code = (
        "import sys; from willfit.doctor.lint import lint_python;"
        "lint_python('from transformers import TrainingArguments\\nTrainingArguments(\"o\", x=1)');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'libcst')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unrecorded_installed_release_is_read_from_its_source(tmp_path: Path) -> None:
    known = next(k for k in KNOWN if k.key == "transformers.TrainingArguments")
    folder = tmp_path / "transformers"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text(
        "class Base:\n    parent: int = 1\n    off: bool = field(init=False)\n"
    )
    (folder / "training_args.py").write_text(
        "from .base import Base\n"
        "class TrainingArguments(Base):\n"
        "    switch: bool = field(default=True)\n"
        "    count: ClassVar[int] = 0\n"
    )
    found = Sources((tmp_path,)).parameters(known)
    assert found is not None
    assert found.names == {"parent", "switch"}
    assert found.booleans == found.on == {"switch"}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"group_by_length": True}, "TypeError"), ({"evaluation_strategy": "no"}, "TypeError"),
        ({"gradient_checkpointing": "false"}, "on"),
    ],
)  # fmt: skip
def test_what_is_said_of_training_arguments_is_so(keys: dict[str, Any], kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    if kind == "TypeError":
        with pytest.raises(TypeError, match=next(iter(keys))):
            transformers.TrainingArguments("out", **keys)
    else:
        assert transformers.TrainingArguments("out", **keys).gradient_checkpointing


def test_what_is_said_of_loading_is_so(tmp_path: Path) -> None:
    """Every name that the loader ever took: what is said to be refused is refused by a tiny model."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=8, max_position_embeddings=8,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    signature = Signatures(stack=here()).of("transformers.PreTrainedModel.from_pretrained")
    assert signature is not None
    wrong, refused = [], 0
    for name in sorted(signature.ever | {"dtyp", "max_seq_len", "pad_token_id", "device"}):
        code = f"AutoModelForCausalLM.from_pretrained('x', {name}=None)"
        if not any(rule == "unknown-loading-argument" for rule, _ in said(code, here())):
            continue
        refused += 1
        try:
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **{name: None})
            wrong.append(name)
        except TypeError as error:
            assert name in str(error)  # noqa: PT017 — what is refused is this keyword
    assert not wrong
    assert refused >= 8


@pytest.mark.parametrize(
    "text",
    ["10Gb", "10gb", "500mB", "500Mb", "10GB", "10gB", "10GiB", "10gib", "7.5GiB", "10G", "10"],
)
def test_amounts_are_read_as_accelerate_reads_them(text: str) -> None:
    """What is called misread is not what the letters say, by the library's own function."""
    modeling = pytest.importorskip("accelerate.utils.modeling")
    factor = {"g": 10**9, "m": 10**6}[text.lstrip("0123456789.")[:1].lower() or "g"]
    number = float(text.rstrip("GgMmiIBb"))
    if "i" in text.lower():
        factor = {10**9: 2**30, 10**6: 2**20}[factor]
    try:
        read = modeling.convert_file_size_to_int(text)
    except ValueError:
        read = None
    assert (misread(text) is None) == (read == int(number * factor))


def test_a_notebook_s_lines_are_those_of_its_cells() -> None:
    text = notebook(
        "# a heading's cell comes first",
        "%matplotlib inline\n!pip install x\nimport os\nfrom transformers import BitsAndBytesConfig",
        "if True:\n    !ls\n    c = BitsAndBytesConfig(\n        load_in_8bit=True,\n        bnb_8bit_x=1)",
        "%env PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb=64",
        "def broken(:\n",
        "%%writefile train.py\nfrom transformers import BitsAndBytesConfig\nBitsAndBytesConfig(load_in_8bit=True, bnb_8bit_x=1)",
        "!PYTORCH_CUDA_ALLOC_CONFIG=expandable_segments:True python train.py",
    )
    assert [(f.cell, f.line, f.rule) for f in lint_notebook(text, stack=NOW)] == [
        (2, 5, "bnb-unknown-key"),
        (3, 1, "allocator-option"),
        (4, 1, "unreadable-code"),
        (5, 3, "bnb-unknown-key"),
        (6, 1, "environment-misspelt"),
    ]


def notebook(*cells: str, gpu: str = "") -> str:
    meta = {"colab": {"gpuType": gpu}} if gpu else {}
    found = [
        {"cell_type": "code", "source": c.splitlines(keepends=True), "outputs": []} for c in cells
    ]
    return json.dumps({"cells": found, "metadata": meta, "nbformat": 4})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("!pip install x \\\n  y\nz = 1", "\n\nz = 1"),
        ("a = !ls", "a = ..."),
        ("x = (1\n  % 2)\ny = '''\n!no\n%no\n'''", "x = (1\n  % 2)\ny = '''\n!no\n%no\n'''"),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%bash\nrm -rf x", "\n"),
        ("for a in b:\n    %run x", "for a in b:\n    pass"),
        ("model?\nmodel??", "\n"),
        ("%time f(x)", "f(x)"),
        ("a = b if c != d else e", "a = b if c != d else e"),
        ("x = 5 \\\n % 3", "x = 5 \\\n % 3"),
    ],
)  # fmt: skip
def test_magics_leave_lines_as_they_are(source: str, expected: str) -> None:
    text = plain(Cell(index=0, source=source)).text
    assert text == expected
    ast.parse(text)


def test_a_notebook_keeps_its_traceback() -> None:
    read = read_notebook((DATA / "mission" / "b_qlora_llama3.ipynb").read_text())
    assert "Tried to allocate 224.00 MiB" in read.outputs()
    assert read.gpu == "T4"


SETTINGS = [
    ("output_dir: o\nlearning_rate: 1\nper_device_train_batchsize: 1", 3, "unknown-setting"),
    ('output_dir: o\nlearning_rate: 1\ngradient_checkpointing: "false"', 3, "text-for-boolean"),
    ("output_dir: o\nlearning_rate: 1\nevaluation_strategy: epoch", 3, "unknown-setting"),
    ("base_model: m\ndatasets: []\nmicro_batch_sise: 2", 3, "unknown-setting"),
    ("compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_proceses: 2", 3, "unknown-setting"),
    ("compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nfsdp_config:\n  fsdp_ofload_params: true", 4, "unknown-setting"),
    ('{"zero_optimization": {\n"stage": 2,\n"overlap_com": true}}', 3, "unknown-setting"),
    ('{"peft_type": "LORA", "r": 8,\n "lora_aplha": 16}', 2, "unknown-setting"),
    ("model: m\nmax-model-len: 9\ngpu-memory-utilisation: 0.9\ntensor-parallel-size: 2", 3, "unknown-engine-argument"),
    ("a:\n  max_memory:\n    0: 10Gb", 3, "limit-misread"),
    ("model:\n  quant: {load_in_8bit: true, bnb_8bit_compute_dtype: float16}", 2, "bnb-unknown-key"),
    ("a: [1\nb: 2", 2, "unreadable-settings"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "rule"), SETTINGS)
def test_settings_files(text: str, line: int, rule: str) -> None:
    assert [(f.line, f.rule) for f in lint_settings(text, stack=NOW)] == [(line, rule)]


def test_settings_already_read_have_no_lines() -> None:
    found = lint_settings({"base_model": "m", "datasets": [], "micro_batch_sise": 2}, stack=NOW)
    assert [(f.line, f.fix) for f in found] == [(1, "micro_batch_size: …")]


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("vllm serve m --gpu-memory-utilisation 0.9", ["unknown-engine-argument"]),
        ("vllm serve m --gpu_memory_utilization 0.9 --max-model-len 8192 --port 80", []),
        ("vllm serve m --kv-cache-memory-bytes 5 --gpu-memory-utilization 0.9", ["engine-argument-overruled"]),
        ("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:true python a.py", ["allocator-option"]),
        ("export CUDA_VISIBLE_DEVICE=0 && python a.py", ["environment-misspelt"]),
        ("export CUDA_VISIBLE_DEVICES=0; accelerate launch --num_processes 2 a.py", []),
        ("echo 'unbalanced", []),
    ],
)  # fmt: skip
def test_commands(command: str, rules: list[str]) -> None:
    assert [f.rule for f in lint_command(command, stack=NOW)] == rules


def test_a_shell_script_is_read_by_line() -> None:
    text = "#!/bin/sh\n# vllm serve m --gpu-memory-utilisation 1\nvllm serve m \\\n  --gpu-memory-utilisation 0.9\n"
    assert [(f.line, f.rule) for f in lint_shell(text, stack=NOW)] == [
        (3, "unknown-engine-argument")
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("micro_batch_sise", "micro_batch_size"), ("lr", None), ("max_stpes", "max_steps"), ("zzzzzzz", None)],
)  # fmt: skip
def test_misspellings_are_two_letters_at_most(name: str, expected: str | None) -> None:
    assert (
        near(name, frozenset({"micro_batch_size", "max_steps", "max_length", "learning_rate"}))
        == expected
    )


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_the_distance_is_one(left: str, right: str) -> None:
    assert distance(left, right) == distance(right, left)
    assert (distance(left, right) == 0) == (left == right)
    assert distance(left, right) >= min(3, abs(len(left) - len(right)))


@pytest.mark.parametrize(
    "source",
    ["def f(:\n", "x = (", "\x00", "(" * 500, "x" + "+x" * 20_000, "\ufeffx = 1 +", "é = '"],
)
def test_what_is_not_python_is_one_finding(source: str) -> None:
    found = lint_python(source)
    assert [f.rule for f in found] == ["unreadable-code"]
    assert found[0].line >= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"cells": 3}',
        "[" * 100_000,
        "\x00",
        '{"cells": [1, null, {"cell_type": "code"}]}',
    ],
)
def test_what_is_no_notebook_is_an_error_or_nothing(text: str) -> None:
    if text.startswith('{"cells": ['):
        assert lint_notebook(text) == []
    else:
        with pytest.raises(BrokenFileError, match="notebook"):
            lint_notebook(text)


_PIECES = st.sampled_from(
    [
        *(code for _, _, code in FOUND),
        *QUIET,
        "(",
        "%",
        "!ls",
        '"""',
        "\t",
        "é",
        "\x0c",
        "if x:",
        "\\",
    ]
)


@given(st.lists(_PIECES, max_size=6).map("\n".join))
def test_no_text_makes_a_traceback(text: str) -> None:
    lint_python(text)
    lint_notebook(notebook(text, text))
    lint_command(text[:200])
    lint_settings(text)


def test_time_grows_with_the_lines() -> None:
    """Four times the lines take about four times as long; seconds are in benchmarks/lint.py."""
    body = (
        HEAD
        + LLM
        + "def step(batch, scale=1.0):\n"
        + "    batch = [x * scale for x in batch if x]\n" * 20
    )

    def source(count: int) -> str:
        return "\n".join([body, *(f"value_{i} = step([{i}], scale={i} / 7)" for i in range(count))])

    lint_python(source(100))  # data files are read once
    short, long = source(1000), source(4000)
    # 16 were it the square
    assert grows_at_most(10, lambda: lint_python(short), lambda: lint_python(long), least=0.05)
