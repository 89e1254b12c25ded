"""The grid: probes and scenarios, the most important first, each with its estimate's arguments."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from willfit.scenario import Scenario
from willfit.sources.resolve import resolve


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    name: str
    group: str
    """Cases of a group run one after the other in one process."""
    probe: str = ""
    """Name of a probe; "" for a scenario."""
    arguments: str = ""
    """What ``willfit estimate`` is given for it; ``{gpu}`` is the card's name."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the workload that have no flag yet: ``{"training.sdpa_kernel": "math"}``."""
    layers: int | None = None
    """Layers of a model that is shortened on both sides; None keeps all."""
    disk: bool = False
    """Whether the weights come from a checkpoint on disk."""
    history: bool = False
    """Whether to keep what is alive at the peak of the second step."""


LLAMA8: Final = "meta-llama/Meta-Llama-3-8B"
LLAMA1: Final = "meta-llama/Llama-3.2-1B"
LLAMA3: Final = "meta-llama/Llama-3.2-3B"
QWEN: Final = "Qwen/Qwen3-0.6B"
GEMMA2: Final = "google/gemma-2-2b"
GEMMA9: Final = "google/gemma-2-9b"
MOE: Final = "Qwen/Qwen3-30B-A3B"
BERT: Final = "google-bert/bert-base-cased"

EXPANDABLE: Final = "expandable_segments:True"
LORA: Final = "--lora-r 64 --lora-target-modules all-linear"
THREAD: Final = (
    f"{LLAMA8} --auto-class AutoModelForSequenceClassification --num-labels 3 --dtype bfloat16 "
    f"--quantize nf4 --bnb-4bit-compute-dtype bfloat16 --train qlora {LORA} --lora-dropout 0.05 "
    "--max-length 1024"
)
"""The question that started this: three labels with Llama-3-8B in 4 bit, 1,024 tokens."""


def _training(name: str, group: str, text: str, **more: Any) -> Case:
    return Case(name=name, group=group, arguments=text, **more)


def _micro(count: int) -> str:
    return f"--per-device-train-batch-size {count}"


def cases() -> list[Case]:
    """All of them, in the order in which they are worth their time."""
    small = f"{_micro(2)} --max-length 512"
    half1 = f"{LLAMA1} --dtype bfloat16 --train"
    return [
        Case(name="probe/context", group="context", probe="context"),
        *(Case(name=f"probe/{name}", group="probes", probe=name) for name in (
            "workspaces", "attention", "softmax", "rates")),
        *(Case(name=f"probe/{name}", group="bitsandbytes", probe=name) for name in (
            "four_bit", "eight_bit")),
        # QLoRA: the thread's case first
        _training("qlora/thread mb2", "qlora", f"{THREAD} {_micro(2)} --bf16 --prepare-kbit --gradient-checkpointing --optim paged_adamw_8bit", history=True),
        _training("qlora/thread mb2 no prepare", "qlora", f"{THREAD} {_micro(2)} --bf16 --no-prepare-kbit --gradient-checkpointing --optim paged_adamw_8bit", history=True),
        _training("qlora/thread mb2 not checkpointed", "qlora", f"{THREAD} {_micro(2)} --bf16 --no-prepare-kbit --optim paged_adamw_32bit"),
        _training("qlora/thread mb8", "qlora", f"{THREAD} {_micro(8)} --bf16 --prepare-kbit --gradient-checkpointing --optim paged_adamw_32bit"),
        _training("qlora/thread mb1 fp16 math", "qlora", f"{THREAD.replace('bfloat16', 'float16')} {_micro(1)} --fp16 --prepare-kbit --gradient-checkpointing --optim paged_adamw_8bit", extra={"training.sdpa_kernel": "math"}, history=True),
        _training("qlora/thread mb4 fp16 efficient padded", "qlora", f"{THREAD.replace('bfloat16', 'float16')} {_micro(4)} --padded --fp16 --no-prepare-kbit --gradient-checkpointing --optim paged_adamw_8bit", extra={"training.sdpa_kernel": "efficient"}),
        _training("qlora/causal mb1 reentrant", "qlora", f"{LLAMA8} --dtype bfloat16 --quantize nf4-double --bnb-4bit-compute-dtype bfloat16 --train qlora --lora-r 16 --lora-target-modules all-linear {_micro(1)} --max-length 1024 --bf16 --prepare-kbit --gradient-checkpointing --use-reentrant --optim adamw_8bit"),
        # small models: what a step takes, by setting
        _training("full/llama1 fused", "small", f"{half1} full {small} --optim adamw_torch_fused", history=True),
        _training("lora/llama1", "small", f"{half1} lora --lora-r 16 --lora-target-modules all-linear {small}", history=True),
        _training("lora/llama1 bf16 checkpointed", "small", f"{half1} lora --lora-r 16 --lora-target-modules all-linear {small} --bf16 --gradient-checkpointing"),
        _training("full/llama1 foreach", "small", f"{half1} full {small} --optim adamw_torch"),
        _training("full/llama1 fp32 bf16 autocast", "small", f"{LLAMA1} --dtype float32 --train full {small} --bf16"),
        _training("full/llama1 fp32 fp16 scaler", "small", f"{LLAMA1} --dtype float32 --train full {small} --fp16"),
        _training("full/llama1 accumulation", "small", f"{half1} full {small} --gradient-accumulation-steps 2 --gradient-checkpointing"),
        _training("full/llama1 8bit", "small", f"{half1} full {small} --optim adamw_8bit"),
        _training("full/llama1 adafactor", "small", f"{half1} full {small} --optim adafactor"),
        _training("full/llama1 paged 8bit", "small", f"{half1} full {small} --optim paged_adamw_8bit"),
        _training("loop/llama1", "small", f"{half1} full {small} --trainer loop"),
        _training("full/qwen3 padded 1001", "small", f"{QWEN} --dtype bfloat16 --train full {_micro(2)} --max-length 1001 --padded", history=True),
        _training("full/qwen3", "small", f"{QWEN} --dtype bfloat16 --train full {_micro(4)} --max-length 1024"),
        _training("full/qwen3 eager", "small", f"{QWEN} --dtype bfloat16 --train full {_micro(2)} --max-length 1024 --attn eager"),
        _training("lora/qwen3 math", "small", f"{QWEN} --dtype float16 --train lora {_micro(2)} --max-length 1024 --fp16", extra={"training.sdpa_kernel": "math"}),
        _training("dora/qwen3", "small", f"{QWEN} --dtype bfloat16 --train lora --lora-r 16 --lora-target-modules all-linear {small} --bf16", extra={"training.lora.use_dora": True}),
        _training("lora/gemma2 eager", "small", f"{GEMMA2} --dtype bfloat16 --train lora --lora-r 16 --lora-target-modules all-linear {_micro(1)} --max-length 1024", history=True),
        _training("lora/gemma2 sdpa", "small", f"{GEMMA2} --dtype bfloat16 --train lora --lora-r 16 --lora-target-modules all-linear {_micro(1)} --max-length 1024 --attn sdpa"),
        _training("int8/llama1 non-reentrant", "small", f"{LLAMA1} --dtype float16 --quantize int8 --train lora --lora-r 16 --lora-target-modules all-linear {small} --fp16 --gradient-checkpointing", history=True),
        _training("int8/llama1 reentrant", "small", f"{LLAMA1} --dtype float16 --quantize int8 --train lora --lora-r 16 --lora-target-modules all-linear {small} --fp16 --gradient-checkpointing --use-reentrant"),
        _training("qlora/llama1 compute fp32", "small", f"{LLAMA1} --dtype bfloat16 --quantize nf4 --train qlora --lora-r 16 --lora-target-modules all-linear {small}"),
        _training("encoder/bert", "small", f"{BERT} --auto-class AutoModelForSequenceClassification --num-labels 3 --train full {_micro(16)} --max-length 512"),
        # inference
        Case(name="infer/llama8 bf16", group="infer", arguments=f"{LLAMA8} --dtype bfloat16 --context 4096 --max-new-tokens 65"),
        Case(name="infer/llama8 nf4", group="infer", arguments=f"{LLAMA8} --dtype bfloat16 --quantize nf4 --bnb-4bit-compute-dtype bfloat16 --context 4096 --max-new-tokens 65"),
        Case(name="infer/llama8 int8", group="infer", arguments=f"{LLAMA8} --dtype float16 --quantize int8 --context 4096 --max-new-tokens 33"),
        Case(name="infer/llama1 bf16 decode 512", group="infer", arguments=f"{LLAMA1} --dtype bfloat16 --batch-size 8 --context 1024 --max-new-tokens 512"),
        Case(name="infer/llama8 bf16 batch 8", group="infer", arguments=f"{LLAMA8} --dtype bfloat16 --batch-size 8 --context 4096 --max-new-tokens 33"),
        Case(name="infer/llama8 nf4 batch 8", group="infer", arguments=f"{LLAMA8} --dtype bfloat16 --quantize nf4 --bnb-4bit-compute-dtype bfloat16 --batch-size 8 --context 4096 --max-new-tokens 33"),
        Case(name="infer/llama8 fp16 math", group="infer", arguments=f"{LLAMA8} --dtype float16 --context 4096 --max-new-tokens 17", extra={"inference.sdpa_kernel": "math"}),
        Case(name="infer/gemma9 padded", group="infer", arguments=f"{GEMMA9} --dtype bfloat16 --batch-size 2 --context 2048 --max-new-tokens 33 --padded"),
        Case(name="infer/moe 12 layers", group="infer", arguments=f"{MOE} --dtype bfloat16 --batch-size 1 --context 2048 --max-new-tokens 33", layers=12),
        Case(name="infer/llama1 static", group="infer", arguments=f"{LLAMA1} --dtype bfloat16 --batch-size 4 --context 1024 --max-new-tokens 65 --cache static"),
        Case(name="infer/bert", group="infer", arguments=f"{BERT} --dtype float16 --batch-size 32 --context 512"),
        # loading a checkpoint that is on disk
        *(Case(name=f"load/{name}", group="loading", disk=True, arguments=f"{LLAMA1} --task load {text}")
          for name, text in (
              ("bf16", "--dtype bfloat16"),
              ("nf4", "--dtype bfloat16 --quantize nf4"),
              ("nf4 double", "--dtype bfloat16 --quantize nf4-double"),
              ("int8", "--dtype float16 --quantize int8"))),
        *(Case(name=f"expandable/{name}", group="expandable", arguments=f"{text} --alloc-conf {EXPANDABLE}")
          for name, text in (
              ("lora/llama1", f"{half1} lora --lora-r 16 --lora-target-modules all-linear {small}"),
              ("infer/llama1 decode", f"{LLAMA1} --dtype bfloat16 --batch-size 8 --context 1024 --max-new-tokens 129"))),
        # larger ones last
        _training("lora/llama3b", "large", f"{LLAMA3} --dtype bfloat16 --train lora --lora-r 16 --lora-target-modules all-linear {_micro(4)} --max-length 1024 --bf16 --gradient-checkpointing"),
        _training("qlora/llama3b", "large", f"{LLAMA3} --dtype bfloat16 --quantize nf4 --bnb-4bit-compute-dtype bfloat16 --train qlora --lora-r 16 --lora-target-modules all-linear {_micro(4)} --max-length 1024 --bf16"),
        _training("full/llama3b", "large", f"{LLAMA3} --dtype bfloat16 --train full {_micro(4)} --max-length 1024 --gradient-checkpointing"),
        _training("lora/llama8 bf16", "large", f"{LLAMA8} --dtype bfloat16 --train lora --lora-r 16 --lora-target-modules all-linear {_micro(2)} --max-length 1024 --bf16 --gradient-checkpointing"),
        _training("qlora/thread mb1", "large", f"{THREAD} {_micro(1)} --bf16 --prepare-kbit --optim paged_adamw_32bit"),
        _training("qlora/thread mb4", "large", f"{THREAD} {_micro(4)} --bf16 --no-prepare-kbit --gradient-checkpointing --optim paged_adamw_8bit"),
    ]  # fmt: skip


def scenario_of(case: Case, gpu: str = "H100", stack: str = "") -> Scenario:
    """The scenario that the case's arguments describe, with the fields that have no flag."""
    from willfit.cli.build import build_request
    from willfit.cli.options import add_scenario_options
    from willfit.cli.parser import Parser

    parser = Parser(prog="willfit estimate")
    add_scenario_options(parser)
    for flag in ("--trace", "--json"):
        parser.add_argument(flag, action="store_true", default=None)
    text = [*shlex.split(case.arguments), "--gpu", gpu]
    if case.layers is not None:
        text[0] = str(_shortened(text[0], case.layers))
    if stack:
        text += ["--stack", stack]
    arguments: argparse.Namespace = parser.parse_args(text)
    scenario = build_request(arguments).scenario
    for path, value in case.extra.items():
        scenario = replace(scenario, workload=_with(scenario.workload, path.split("."), value))
    return scenario


def _shortened(name: str, layers: int) -> Path:
    """A ``config.json`` of the model with fewer layers."""
    spec = resolve(name)
    folder = Path(tempfile.gettempdir()) / f"willfit-{spec.id.replace('/', '-')}-{layers}"
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps({**spec.config, "num_hidden_layers": layers}), encoding="utf-8")
    return file


def _with(holder: Any, path: list[str], value: Any) -> Any:
    """The dataclass with the field at the path set."""
    name, *rest = path
    return replace(holder, **{name: _with(getattr(holder, name), rest, value) if rest else value})
