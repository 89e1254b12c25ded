"""What a traced training step does: every optimizer of the Trainer, precision, lengths, losses."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from tests.support.meta_spec import meta_model, spec_of_model
from transformers.training_args import OptimizerNames

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, DType
from willfit.errors import InputError, UnsupportedError
from willfit.estimator import estimate
from willfit.formulas.training.optimizers import LOW_RANK, REFUSED
from willfit.formulas.weights import load_weights
from willfit.results import Estimate
from willfit.scenario import Loading, Machine, ModelSpec, Scenario, Training, Workload
from willfit.trace import trace as door
from willfit.trace.optimizers import COUNTED
from willfit.trace.recording import Recording

LLAMA: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1000, "num_hidden_layers": 6,
}  # fmt: skip
OF_OTHERS = {
    "galore_adamw": "galore_torch",
    "galore_adafactor": "galore_torch", "galore_adamw_layerwise": "galore_torch",
    "apollo_adamw": "apollo_torch", "apollo_adamw_layerwise": "apollo_torch", "lomo": "lomo_optim",
    "adalomo": "lomo_optim", "schedule_free_radam": "schedulefree",
    "schedule_free_adamw": "schedulefree", "schedule_free_sgd": "schedulefree",
}  # fmt: skip
"""Package that the Trainer asks for, by optimizer."""
BLOCK = 1 << 20
"""What a block of the large pool may be larger than asked for: a smaller rest is not split off."""


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return spec_of_model(meta_model("llama", None, **LLAMA), BFLOAT16)


def scenario(
    spec: ModelSpec, *, dtype: DType = BFLOAT16, gpu: str = "A100", **training: Any
) -> Scenario:
    work = {"method": "full", "micro_batch_size": 1, "max_length": 32, **training}
    workload = Workload(loading=Loading(dtype=dtype), training=Training(**work))
    return Scenario(model=spec, workload=workload, machine=Machine(gpus=parse_machine(gpu).gpus))


def recording(asked: Scenario) -> Recording:
    weights = load_weights(asked.model, asked.workload.loading, asked.stack)
    assert asked.machine is not None
    return door.trace(asked, weights, asked.machine.gpus[0], device_map=True).recording


def at_peak(result: Estimate) -> int:
    phases = [phase for phase in result.gpus[0].phases if phase.name != "load"]
    return max(phase.allocated_bytes for phase in phases)


@pytest.mark.parametrize("name", [each.value for each in OptimizerNames])
def test_every_optimizer_of_the_trainer_is_traced_or_refused(llama: ModelSpec, name: str) -> None:
    """By name in one sentence; and where there is a formula, it is within 2 % and a block."""
    asked = scenario(llama, optimizer=name)
    if name in REFUSED:
        with pytest.raises(InputError, match=name):
            estimate(asked, trace=True)
        return
    package = OF_OTHERS.get(name)
    if package is not None and importlib.util.find_spec(package) is None and name not in COUNTED:
        with pytest.raises(UnsupportedError, match=f"(?s){name}.*nstall"):
            estimate(asked, trace=True)
        return
    traced = estimate(asked, search_limits=False, trace=True)
    if name in LOW_RANK:
        with pytest.raises(UnsupportedError, match=f"{name}.*--trace"):
            estimate(asked, search_limits=False)
        return
    formula = estimate(asked, search_limits=False)
    assert at_peak(formula) == pytest.approx(at_peak(traced), rel=0.02, abs=BLOCK)
