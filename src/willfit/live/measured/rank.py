"""One rank of several on one GPU: torch's fake process group stands for the other processes.

Its collectives return at once and move nothing, so what a rank allocates is real and how long it
takes is not. NCCL's own buffers are not there.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from willfit.emitting.accelerate_config import accelerate_config, deepspeed_config
from willfit.errors import UnsupportedError
from willfit.formulas.training.zero import STAGES
from willfit.scenario import Scenario

STRATEGIES: Final = ("ddp", "fsdp", *STAGES)
"""Those whose processes can be tried one at a time."""
NOTE: Final = (
    "rank 0 of {}: the others are torch's fake process group, which moves nothing; NCCL's buffers "
    "and the time of communication are not in this"
)
_ONE: Final = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def num_ranks(scenario: Scenario) -> int:
    """Processes of which one is measured; 1 where the scenario names no such strategy."""
    machine, work = scenario.machine, scenario.workload
    if machine is None or work.training is None or work.loading.strategy not in STRATEGIES:
        return 1
    return len(machine.gpus)


@contextmanager
def as_rank(scenario: Scenario) -> Iterator[None]:
    """Inside, this process is rank 0 of the scenario's, as ``accelerate launch`` would start it."""
    ranks = num_ranks(scenario)
    if ranks == 1:
        yield
        return
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    before = dict(os.environ)
    if scenario.workload.loading.strategy not in STAGES:
        os.environ.update(_launched(scenario))
    os.environ.update(_ONE, WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with _partitioned(scenario):
            yield
    finally:
        dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def _launched(scenario: Scenario) -> dict[str, str]:
    """Variables that ``accelerate launch`` sets for the file that `emit` writes."""
    import yaml

    launch: Any = importlib.import_module("accelerate.commands.launch")
    settings: Any = importlib.import_module("accelerate.utils.launch")
    with tempfile.TemporaryDirectory(prefix="willfit-measure-") as folder:
        file = Path(folder) / "accelerate.yaml"
        file.write_text(yaml.safe_dump(accelerate_config(scenario)), encoding="utf-8")
        words = ["--config_file", str(file), "--main_process_port", "0", "train.py"]
        given = launch.launch_command_parser().parse_args(words)
        given, *_ = launch._validate_launch_command(given)
    found: dict[str, str] = settings.prepare_multi_gpu_env(given)
    return {name: text for name, text in found.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def zero_settings(scenario: Scenario) -> dict[str, Any]:
    """What ``TrainingArguments`` is given for DeepSpeed; empty for other strategies."""
    strategy = scenario.workload.loading.strategy
    if strategy not in STAGES or num_ranks(scenario) == 1:
        return {}
    return {"deepspeed": deepspeed_config(STAGES[strategy])}


@contextmanager
def _partitioned(scenario: Scenario) -> Iterator[None]:
    """Under ZeRO-3 every weight is given to its ranks as it is loaded."""
    if scenario.workload.loading.strategy != "zero3":
        yield
        return
    integrations: Any = importlib.import_module("transformers.integrations")
    training = scenario.workload.training
    settings: dict[str, Any] = {
        "zero_optimization": {"stage": 3},
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": bool(training and training.bf16)},
        "fp16": {"enabled": bool(training and training.fp16)},
    }
    kept = integrations.HfDeepSpeedConfig(settings)
    yield
    del kept  # transformers asks for it as long as somebody holds it


def require_rank(scenario: Scenario, device: str) -> None:
    """Raise `UnsupportedError` where accelerate shards on a GPU alone and there is none."""
    if num_ranks(scenario) > 1 and scenario.workload.loading.strategy == "fsdp" and device == "cpu":
        raise UnsupportedError(
            "accelerate's FSDP runs on a GPU alone, and none is here: --strategy ddp is measured "
            "on a CPU, 'willfit estimate' says what FSDP takes"
        )


def answer_for_others(model: Any, ranks: int) -> None:
    """Let DDP's buckets come back at once: the fake group's answers have no tensors in them."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    if not isinstance(model, DistributedDataParallel):
        return

    def averaged(_: object, bucket: Any) -> Any:
        answer: Any = torch.futures.Future()
        answer.set_result(bucket.buffer().div_(ranks))
        return answer

    averaged.__annotations__.clear()  # DDP wants its own types there, or none
    model.register_comm_hook(None, averaged)
