"""Optimizer states and step temporaries against the optimizers themselves, really stepped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.recorder import Recorder

from willfit.dtypes import DTYPES
from willfit.errors import InputError
from willfit.formulas.training.optimizers import (
    LOW_RANK,
    OPTIMIZERS,
    REFUSED,
    find_optimizer,
    state_bytes,
)
from willfit.formulas.training.static import Trainable, step_temporary_bytes

ROWS, COLUMNS = 256, 512
SIZE = ROWS * COLUMNS
STEP = 64
"""Step counters and other scalars."""


def _torch_optimizer(name: str, parameter: Any) -> Any:
    from transformers.optimization import Adafactor

    makers = {
        "adamw_torch": lambda p: torch.optim.AdamW(p, foreach=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
        "adagrad": lambda p: torch.optim.Adagrad(p, foreach=True),
        "rmsprop": lambda p: torch.optim.RMSprop(p, foreach=True),
        "adafactor": lambda p: Adafactor(p, lr=0.1, relative_step=False, scale_parameter=False),
    }
    return makers[name]([parameter])


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_what_the_optimizer_holds(name: str, dtype: str) -> None:
    parameter = torch.nn.Parameter(torch.randn(ROWS, COLUMNS).to(getattr(torch, dtype)))
    optimizer = _torch_optimizer(name, parameter)
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    held = sum(
        value.untyped_storage().nbytes()
        for value in optimizer.state[parameter].values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    )
    estimate = state_bytes(OPTIMIZERS[name], (ROWS, COLUMNS), DTYPES[dtype].block_bytes)
    assert estimate == held


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_steady_step_takes_the_temporaries_of_the_table(name: str, dtype: str) -> None:
    with Recorder() as recorder:
        parameter = torch.nn.Parameter(torch.empty(ROWS, COLUMNS, dtype=getattr(torch, dtype)))
        optimizer = _torch_optimizer(name, parameter)
        parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        before = recorder.mark("states exist")
        recorder.reset_peak()
        optimizer.step()
        temporaries = recorder.peak_bytes - before
    one = Trainable(shape=(ROWS, COLUMNS), count=1, dtype=DTYPES[dtype])
    assert step_temporary_bytes((one,), OPTIMIZERS[name]) == pytest.approx(temporaries, abs=STEP)


@pytest.mark.parametrize(
    ("name", "cls", "options"),
    [("adamw_bnb_8bit", "AdamW", {"optim_bits": 8}), ("adamw_bnb_32bit", "AdamW", {}),
     ("lion_8bit", "Lion", {"optim_bits": 8}), ("lion_32bit", "Lion", {}),
     ("ademamix", "AdEMAMix", {}), ("ademamix_8bit", "AdEMAMix", {"optim_bits": 8}),
     ("rmsprop_bnb_8bit", "RMSprop", {"optim_bits": 8}), ("rmsprop_bnb", "RMSprop", {})],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (63, 64), (64, 64)])
def test_bitsandbytes_states_are_its_own(
    name: str, cls: str, options: dict[str, Any], shape: tuple[int, int]
) -> None:
    import bitsandbytes

    parameter = torch.nn.Parameter(torch.randn(shape))
    optimizer = getattr(bitsandbytes.optim, cls)([parameter], lr=1e-3, **options)
    parameter.grad = torch.randn(shape)
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, 0)
    held = sum(
        value.untyped_storage().nbytes()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, torch.Tensor) and not key.startswith("qmap")
    )
    assert state_bytes(OPTIMIZERS[name], shape, 4) == held


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("adamw_torch_fusd", "adamw_torch_fused"), ("adamw_8bits", "adamw_8bit"),
     ("lyon_8bit", "lion_8bit")],
)  # fmt: skip
def test_an_unknown_optimizer_is_refused_with_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(InputError, match=nearest):
        find_optimizer(given)


def test_every_name_of_the_trainer_is_known_traced_or_refused() -> None:
    from transformers.training_args import OptimizerNames

    names = {name.value for name in OptimizerNames}
    assert names == names & set(OPTIMIZERS) | set(LOW_RANK) | set(REFUSED)
    for name in REFUSED:
        with pytest.raises(InputError, match=f"{name}: "):
            find_optimizer(name)


SHARDS = """
import json, sys, warnings
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Trainer, TrainingArguments

warnings.filterwarnings("ignore")
dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
mesh = init_device_mesh("cpu", (2,))
found = {}
for name in sys.argv[2:]:
    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 256))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    targets = ["0", "1"] if name.startswith(("galore", "apollo")) else None
    given = TrainingArguments(sys.argv[1], optim=name, use_cpu=True, report_to=[], optim_target_modules=targets)
    try:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(given, model)
    except (ImportError, ValueError):
        continue  # its package is not installed
    optimizer = cls(options.pop("params", list(model.parameters())), **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    model(torch.randn(4, 256)).sum().backward()
    try:
        optimizer.step()
        found[name] = ""
    except (RuntimeError, NotImplementedError) as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def test_optimizers_that_stop_at_fsdps_shards_are_known(tmp_path: Path) -> None:
    """Each that the Trainer makes is stepped on the shards of a real `fully_shard`."""
    from transformers.training_args import OptimizerNames

    names = {one.value for one in OptimizerNames} & {*OPTIMIZERS, *LOW_RANK}
    asked = sorted(name for name in names if "lomo" not in name and "layerwise" not in name)
    ran = subprocess.run(
        [sys.executable, "-c", SHARDS, str(tmp_path), *asked],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    assert {"adamw_torch_fused", "adamw_8bit", "lion_32bit", "adafactor"} <= found.keys()
    assert {name: find_optimizer(name).whole_tensors for name in found} == {
        name: bool(error) for name, error in found.items()
    }
    assert all("DTensor" in error or "sharding" in error for error in found.values() if error)


@pytest.mark.parametrize("trace", [False, True])
def test_an_optimizer_that_takes_no_shards_is_refused_under_fsdp(trace: bool) -> None:
    import willfit
    from willfit.scenario import Loading, Machine, Scenario, Training, Workload

    def asked(optimizer: str, strategy: Any) -> Scenario:
        training = Training(method="full", optimizer=optimizer, micro_batch_size=1, max_length=32)
        return Scenario(
            model=willfit.find_model("HuggingFaceTB/SmolLM2-135M"),
            workload=Workload(loading=Loading(strategy=strategy), training=training),
            machine=Machine(gpus=willfit.parse_machine("L4x2").gpus),
        )

    with pytest.raises(InputError, match="adamw_8bit cannot step FSDP's shards"):
        willfit.estimate(asked("adamw_8bit", "fsdp"), trace=trace, search_limits=False)
    assert willfit.estimate(asked("adamw_8bit", "zero2"), trace=trace, search_limits=False).gpus
