"""Seconds that a trace takes, beside what it must be measured against in the same run.

``python -m benchmarks.trace_speed [--peer]``: two training steps of small and large models after
the libraries are imported; a whole command beside the bare imports; with ``--peer`` torch's own
MemTracker on the same model (minutes).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.estimator import estimate
from willfit.scenario import (
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.resolve import resolve

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PEER_MODEL: Final = "meta-llama/Llama-3.2-3B"
_COMMAND: Final = [
    "-m", "willfit", "estimate", "meta-llama/Meta-Llama-3-8B", "--gpu", "T4", "--train", "qlora",
    "--gradient-checkpointing", "--per-device-train-batch-size", "1", "--max-length", "2048",
    "--trace",
]  # fmt: skip
_IMPORTS: Final = "import torch, transformers, peft; transformers.LlamaForCausalLM"


def main(argv: Sequence[str] | None = None) -> int:
    """Print every time and the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace_speed", description=__doc__)
    parser.add_argument("--peer", action="store_true", help="time torch's MemTracker too")
    arguments = parser.parse_args(argv)
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers

    logs: Any = transformers.logging
    logs.set_verbosity_error()
    traced("meta-llama/Llama-3.2-1B", "full")  # what torch sets up once
    seconds = {
        "8B, QLoRA, 2,048 tokens, checkpointed": traced("meta-llama/Meta-Llama-3-8B", "qlora"),
        "70B, the same": traced("meta-llama/Llama-3.1-70B", "qlora"),
        "405B, full": traced("meta-llama/Llama-3.1-405B", "full"),
        "8B, full": traced("meta-llama/Meta-Llama-3-8B", "full"),
        "8B, LoRA": traced("meta-llama/Meta-Llama-3-8B", "lora"),
        "3B, full": traced(PEER_MODEL, "full"),
    }
    for name, taken in seconds.items():
        print(f"{taken:7.2f} s  {name}")
    print(f"LoRA / full = {seconds['8B, LoRA'] / seconds['8B, full']:.2f}")
    command = timed(lambda: run(_COMMAND))
    imports = timed(lambda: run(["-c", _IMPORTS]))
    print(f"{command:7.2f} s  a whole command\n{imports:7.2f} s  the imports alone")
    print(f"command / imports = {command / imports:.2f}")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GiB of host memory")
    if arguments.peer:
        peer = mem_tracker()
        print(f"{peer:7.2f} s  MemTracker, 3B, full")
        print(f"MemTracker / trace = {peer / seconds['3B, full']:.1f}")
    return 0


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def run(words: Sequence[str]) -> None:
    """Another Python, its output dropped; raises where it fails."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def traced(model: str, method: str) -> float:
    """Seconds of two steps of training, batch 1, replay included."""
    loading = Loading(dtype=BFLOAT16)
    if method == "qlora":
        quantization = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
        loading = Loading(dtype=BFLOAT16, quantization=quantization)
    training = Training(
        method=method,  # type: ignore[arg-type]
        lora=None if method == "full" else Lora(r=16, target_modules=("all-linear",)),
        micro_batch_size=1,
        max_length=2048,
        gradient_checkpointing=True,
        optimizer="adamw_torch",
    )
    scenario = Scenario(
        model=resolve(model),
        workload=Workload(loading=loading, training=training),
        machine=Machine(gpus=parse_machine("H200").gpus),
    )
    return timed(lambda: estimate(scenario, trace=True))


def mem_tracker() -> float:
    """Seconds that torch's MemTracker takes for two steps of full fine-tuning."""
    import torch
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    config = transformers.AutoConfig.for_model(**resolve(PEER_MODEL).config)
    make: Any = transformers.AutoModelForCausalLM
    with FakeTensorMode(allow_non_fake_inputs=True):
        model: Any = make.from_config(config, dtype=torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        tracker: Any = MemTracker()
        tracker.track_external(model, optimizer)

        def steps() -> None:
            with tracker:
                for _ in range(2):
                    ids = torch.zeros((1, 2048), dtype=torch.int64)
                    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    tracker.reset_mod_stats()

        return timed(steps)


if __name__ == "__main__":
    sys.exit(main())
