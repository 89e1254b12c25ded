"""``kaggle``: a notebook cell that starts the job as processes of its own, without internet."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from willfit.emit.arguments import Arguments, arguments
from willfit.emit.code import literal, said
from willfit.emit.inference_script import inference_script
from willfit.emit.script import machine_words
from willfit.emit.training import trainer_class
from willfit.emit.training_script import training_script
from willfit.errors import InputError
from willfit.scenario import Scenario


def kaggle_cell(scenario: Scenario) -> str:
    """Installs from a bundle, writes the script, runs it; its end frees every GPU."""
    offline = _offline(scenario)
    training = offline.workload.training is not None
    file = "train.py" if training else "infer.py"
    if training:
        trainer = trainer_class(offline)
        script, given = training_script(offline, trainer), arguments(offline, trainer=trainer)
    else:
        script, given = inference_script(offline, to_file=True), arguments(offline)
    if given.launch.strategy in ("fsdp", "zero1", "zero2", "zero3"):
        raise InputError(
            f"{given.launch.strategy} needs a config file: emit accelerate, or use --strategy ddp"
        )
    gathers = not training and offline.workload.inference is not None
    blocks = [
        f'"""{said(scenario.model.id)}{machine_words(scenario)}: one notebook cell, offline."""',
        "\n".join(_imports(gathers)),
        "\n".join(_bundle(given, offline)),
        f"SCRIPT = r'''\n{script}'''",
        "\n".join(_start(given, file)),
    ]
    if gathers:
        blocks.append("\n".join(_gathered(given)))
    return "\n\n".join(blocks) + "\n"


def _imports(gathers: bool) -> list[str]:
    modules = ["json"] * gathers + ["subprocess", "sys"]
    return [*(f"import {name}" for name in modules), "from pathlib import Path"]


def _offline(scenario: Scenario) -> Scenario:
    """The model as a folder that is attached to the notebook, the network closed."""
    machine = scenario.machine
    if machine is None:
        raise InputError("a Kaggle notebook has GPUs: name them with --gpu P100 or --gpu T4x2")
    path = scenario.model.id
    if not PurePath(path).is_absolute():
        slug = re.sub(r"[^a-z0-9.]+", "-", path.rpartition("/")[2].lower()).strip("-")
        path = f"/kaggle/input/{slug}"
    return replace(
        scenario,
        model=replace(scenario.model, id=path),
        machine=replace(machine, internet=False),
    )


def _bundle(given: Arguments, scenario: Scenario) -> list[str]:
    names = packages(given, scenario)
    if not names:
        return ["# Every library that the script imports is in Kaggle's image."]
    install = ["-m", "pip", "install", "-q", "--no-index", "--find-links"]
    return [
        f"# With internet, once: pip download -d wheels --no-deps {' '.join(names)}",
        'WHEELS = "/kaggle/input/wheels"',
        "if Path(WHEELS).is_dir():",
        f"    install = [sys.executable, {', '.join(map(literal, install))}, WHEELS]",
        f"    subprocess.run([*install, {', '.join(map(literal, names))}], check=True)",
    ]


def packages(given: Arguments, scenario: Scenario) -> list[str]:
    """Packages beside torch and transformers, pinned to the stack's releases where it has one."""
    load = given.load.arguments
    generate = given.generate.arguments if given.generate is not None else {}
    training = given.training
    wanted = {
        "peft": given.adapter is not None,
        "bitsandbytes": "quantization_config" in load
        or (training is not None and "bit" in str(training.arguments["optim"])),
        "trl": training is not None and training.library == "trl",
        "liger-kernel": training is not None and "use_liger_kernel" in training.arguments,
        "flash-attn": load.get("attn_implementation") == "flash_attention_2",
        "optimum-quanto": "quanto" in str(generate.get("cache_config")),
    }
    versions = scenario.stack.versions
    return [
        f"{name}=={versions[name]}" if name in versions else name
        for name, needed in wanted.items()
        if needed
    ]


def _start(given: Arguments, file: str) -> list[str]:
    how = given.launch
    module = {
        "python": [],
        "accelerate": ["-m", "accelerate.commands.launch", "--num_processes"],
        "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node"],
        "replicas": ["-m", "torch.distributed.run", "--nproc-per-node"],
    }[how.starter]
    words = [*module, *([str(how.num_processes)] if module else []), file]
    command = f"[sys.executable, {', '.join(map(literal, words))}]"
    return [
        f'Path("{file}").write_text(SCRIPT, encoding="utf-8")',
        "# Processes of their own: when they end, all of their GPU memory is free again.",
        "done = subprocess.run(",
        f"    {command},",
        "    stdout=subprocess.PIPE,",
        "    stderr=subprocess.STDOUT,",
        "    text=True,",
        ")",
        "print(done.stdout[-5000:])",
        "done.check_returncode()",
    ]


_READ: Final = 'Path(f"results-{rank}.jsonl").read_text(encoding="utf-8").splitlines()'


def _gathered(given: Arguments) -> list[str]:
    count = given.launch.num_processes if given.launch.starter == "replicas" else 1
    return [
        "parts = [",
        f"    {_READ} for rank in range({count})",
        "]",
        "count = sum(map(len, parts))",
        "results = [json.loads(parts[i % len(parts)][i // len(parts)]) for i in range(count)]",
    ]
