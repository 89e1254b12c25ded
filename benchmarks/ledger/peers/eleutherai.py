"""EleutherAI's ``calc_transformer_mem.py``: the published file, run by its flags."""

from __future__ import annotations

import importlib.util
import io
import re
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.peers._peer import AboutPeer, Answer, NotPredicted
from benchmarks.ledger.peers._places import script
from benchmarks.ledger.peers.accelerate_estimate import ADAM
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.training.settings import fill_training
from willfit.formulas.weights.cast import loading_dtype
from willfit.scenario import Scenario
from willfit.scenario.model import LayerGroup
from willfit.units import GIB

COMMIT: Final = "827ee3b293a63f14403f1467d08c91fda213f4e6"
ADDRESS: Final = (
    f"https://raw.githubusercontent.com/EleutherAI/cookbook/{COMMIT}/calc/calc_transformer_mem.py"
)
SHA256: Final = "7562501f7e7e8c6cbf5a431224c857cd25ccf9ad847192107a87a3bd26431f0e"

ABOUT: Final = AboutPeer(
    title="EleutherAI calc_transformer_mem.py",
    version=f"EleutherAI/cookbook {COMMIT[:7]} (2026-03-15)",
    licence="Apache-2.0",
    source="https://github.com/EleutherAI/cookbook/tree/main/calc",
    claims="device memory per GPU required to train, or for inference",
    called="by its flags, as in its examples: shapes of the model, batch, lengths, recomputation, "
    "ZeRO stage; the ratio of key and value heads, three products in a gated MLP, and gradients of "
    "the weights' type are given too, though their defaults are other",
    counters=("allocated", "reserved", "device"),
)
"""It says device memory required; what frameworks hold besides is a flag, 0 by default."""
_STAGES: Final = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3, None: 0}
_TOTAL: Final = re.compile(r"Per-GPU Memory Required for \w+: ([\d.]+) GiB")
_MODEL: Final = re.compile(r"Per-GPU Model Memory: ([\d.]+) GiB")


def predict(scenario: Scenario) -> Answer:
    """What it prints for one GPU, to the hundredth of a GiB as it prints it, bytes."""
    flags = _flags(scenario)
    if isinstance(flags, NotPredicted):
        return flags
    printed = run(tuple(flags))
    if isinstance(printed, NotPredicted):
        return printed
    work = scenario.workload
    whole = work.training is not None or work.inference is not None
    found = (_TOTAL if whole else _MODEL).search(printed)
    if found is None:
        return NotPredicted(reason="it printed no total")
    return round(float(found.group(1)) * GIB)


@lru_cache(maxsize=4096)
def run(flags: tuple[str, ...]) -> str | NotPredicted:
    """What the script prints for its flags."""
    program = _program()
    if isinstance(program, str):
        return NotPredicted(reason=program, is_kept=False)
    printed = io.StringIO()
    with redirect_stdout(printed):
        program.calc_mem(program.config_parser().parse_args(list(flags)))
    return printed.getvalue()


@lru_cache
def _program() -> Any:
    path = script(f"calc_transformer_mem-{COMMIT[:7]}.py", ADDRESS, SHA256)
    if isinstance(path, str):
        return path
    spec = importlib.util.spec_from_file_location("calc_transformer_mem", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _flags(scenario: Scenario) -> list[str] | NotPredicted:
    shapes = _shapes(scenario)
    if isinstance(shapes, NotPredicted):
        return shapes
    if scenario.workload.training is not None:
        rest = _training(scenario)
    elif scenario.machine is not None and len(scenario.machine.gpus) > 1:
        return NotPredicted(reason="it splits no inference by layers")
    else:
        rest = _inference(scenario)
    return rest if isinstance(rest, NotPredicted) else [*shapes, *rest]


def _shapes(scenario: Scenario) -> list[str] | NotPredicted:
    architecture = scenario.model.architecture
    if architecture is None or architecture.encoder_layers:
        return NotPredicted(reason="it has flags for a decoder's shapes alone")
    if scenario.model.quantization or scenario.workload.loading.quantization:
        return NotPredicted(reason="no flag says quantised weights with activations of 16 bit")
    groups = [group for group in architecture.layers if group.mlp and group.attention]
    if sum(group.count for group in groups) != architecture.num_layers:
        return NotPredicted(reason="it has flags for attention with an MLP alone")
    group = max(groups, key=_experts)
    assert group.mlp is not None
    assert group.attention is not None
    heads = group.attention
    flags = [
        f"--num-layers={architecture.num_layers}",
        f"--hidden-size={architecture.hidden_size}",
        f"--num-attention-heads={heads.num_heads}",
        f"--vocab-size={architecture.vocab_size or scenario.model.config.get('vocab_size', 0)}",
        f"--ffn-expansion-factor={group.mlp.intermediate_size / architecture.hidden_size}",
        f"--num-mlp-linears={3 if group.mlp.gated else 2}",
        f"--kv-size-ratio={heads.num_kv_heads / heads.num_heads}",
    ]
    return [*flags, f"--num-experts={group.mlp.num_experts}"] if group.mlp.num_experts else flags


def _experts(group: LayerGroup) -> int:
    return group.mlp.num_experts if group.mlp else 0


def _inference(scenario: Scenario) -> list[str] | NotPredicted:
    work = scenario.workload
    dtype = loading_dtype(scenario.model, work.loading, scenario.stack)[0]
    if dtype.name not in ("float32", "float16", "bfloat16"):
        return NotPredicted(reason=f"no flag for weights in {dtype.name}")
    flags = ["--infer"]
    if dtype.block_bytes == 4:
        flags += ["--disable-mixed-precision", "--low-prec-bytes-per-val=4"]
    if work.inference is None:
        return [*flags, "--sequence-length=1"]
    settings = fill_defaults(scenario.model.architecture, work.inference, dtype, scenario.stack)
    return [
        *flags,
        f"--sequence-length={settings.prompt_len}",
        f"--output-tokens={settings.new_tokens}",
        f"--batch-size-per-gpu={settings.batch}",
    ]


def _training(scenario: Scenario) -> list[str] | NotPredicted:
    work = scenario.workload
    assert work.training is not None
    if work.training.method != "full":
        return NotPredicted(reason="it has no adapters")
    settings = fill_training(work.training, scenario.model.architecture, scenario.stack)
    if settings.optimizer_name not in ADAM | {"muon"}:
        return NotPredicted(reason=f"it has no optimizer {settings.optimizer_name}")
    dtype = loading_dtype(scenario.model, work.loading, scenario.stack)[0]
    gpus = len(scenario.machine.gpus) if scenario.machine else 1
    strategy = work.loading.strategy if gpus > 1 else None
    flags = [
        f"--sequence-length={settings.seq_len}",
        f"--batch-size-per-gpu={settings.batch}",
        f"--optimizer={'muon' if settings.optimizer_name == 'muon' else 'adamw'}",
        f"--num-gpus={gpus}",
    ]
    if strategy == "tp":
        flags.append(f"--tensor-parallel-size={gpus}")
    elif strategy in _STAGES:
        flags.append(f"--zero-stage={_STAGES[strategy]}")
    else:
        return NotPredicted(reason=f"it has no strategy {strategy}")
    if settings.checkpointing:
        flags.append("--checkpoint-activations")
    if dtype.block_bytes == 4 and settings.autocast is None:
        flags += ["--disable-mixed-precision", "--low-prec-bytes-per-val=4"]
    if dtype.block_bytes == 2:
        flags.append("--bytes-per-grad-ele=2")
    return flags
