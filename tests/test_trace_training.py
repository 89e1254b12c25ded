"""What a traced training step does: every optimizer of the Trainer, precision, lengths, losses."""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.meta_spec import meta_model, spec_of_model
from transformers.training_args import OptimizerNames

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import InputError, UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.replay import replay
from willfit.formulas.training.loss import TRL_COLUMNS, TRL_ROWS
from willfit.formulas.training.optimizers import LOW_RANK, REFUSED
from willfit.formulas.weights import load_weights
from willfit.results import Estimate
from willfit.scenario import Loading, Lora, Machine, ModelSpec, Scenario, Training, Workload
from willfit.trace import trace as door
from willfit.trace import training
from willfit.trace.cuda.kernels import replaced
from willfit.trace.cuda.triton import launches
from willfit.trace.fakes import fake_mode
from willfit.trace.optimizers import COUNTED
from willfit.trace.recorder import Recorder
from willfit.trace.recording import Recording

LLAMA: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1000, "num_hidden_layers": 6,
}  # fmt: skip
VOCAB = 20_000
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
    return door.trace(asked, weights, asked.machine.gpus[:1], loads_to_gpu=True).recording


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


def test_an_fp16_step_scales_and_unscales(llama: ModelSpec) -> None:
    """Torch's ``GradScaler``: its scale, a flag and its inverse, and outputs in float32."""
    plain = recording(scenario(llama, dtype=FLOAT32, bf16=True))
    scaled = recording(scenario(llama, dtype=FLOAT32, fp16=True))
    ops = [Counter(e.place.op for e in each.events if e.num_bytes) for each in (plain, scaled)]
    more = ops[1] - ops[0]
    assert more["aten.reciprocal.default"] == 2, "one inverse of the scale a step"
    sizes = [
        sorted(e.num_bytes for e in each.events if e.num_bytes > 4096) for each in (plain, scaled)
    ]
    assert sizes[0] == sizes[1], "nothing larger than a page is added"


@pytest.mark.parametrize("trace", [False, True])
def test_the_scaler_refuses_float16_weights(llama: ModelSpec, trace: bool) -> None:
    with pytest.raises(InputError, match="unscale FP16"):
        estimate(scenario(llama, dtype=FLOAT16, fp16=True), trace=trace)


def test_outputs_come_back_in_float32_from_accelerate_alone(llama: ModelSpec) -> None:
    """A loop of one's own keeps the logits as they are: B·S·V·2, not ·4."""
    logits = 32 * LLAMA["vocab_size"]
    for trainer, copies in (("transformers", 1), ("loop", 0)):
        events = recording(scenario(llama, bf16=True, trainer=trainer)).events
        outside = [
            e
            for e in events
            if e.num_bytes == 4 * logits and e.phase == "forward" and e.place.module == ""
            and "_to_copy" in e.place.op
        ]  # fmt: skip
        assert len(outside) == 2 * (1 + copies), "ForCausalLMLoss's and accelerate's, twice"


@pytest.mark.parametrize("accumulation", [2, 4])
def test_more_micro_batches_have_the_peak_of_two(
    llama: ModelSpec, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scenario(llama, gradient_accumulation_steps=accumulation)
    two = estimate(asked, search_limits=False, trace=True)
    monkeypatch.setattr(training, "MICRO_STEPS", accumulation)
    every = estimate(asked, search_limits=False, trace=True)
    assert at_peak(two) == at_peak(every)
    one = estimate(scenario(llama), search_limits=False, trace=True)
    assert at_peak(one) <= at_peak(two)


def test_batches_of_other_lengths_leave_garbage_and_the_same_peak(llama: ModelSpec) -> None:
    """Live bytes are the longest batch's; what is reserved is at least that of equal ones."""
    lengths = (32, 48, 64, 100, 150, 256)
    equal = estimate(scenario(llama, max_length=256), search_limits=False, trace=True)
    other = estimate(
        scenario(llama, max_length=None, lengths=lengths), search_limits=False, trace=True
    )
    assert at_peak(other) == pytest.approx(at_peak(equal), rel=0.01, abs=BLOCK)
    reserved = [max(p.reserved_bytes for p in each.gpus[0].phases) for each in (equal, other)]
    assert reserved[1] >= reserved[0]
    sizes = {
        e.num_bytes for e in recording(scenario(llama, max_length=None, lengths=lengths)).events
    }
    assert {8 * length for length in (32, 150, 256)} <= sizes, "token ids of B·S·8 bytes"


def test_packed_rows_need_a_mask_where_attention_is_not_flash(llama: ModelSpec) -> None:
    """Rows of B·S tokens: a mask of (B·S)² bytes, and its copy of 2 bytes for every layer."""
    pytest.importorskip("trl")
    work: dict[str, Any] = {
        "trainer": "trl", "micro_batch_size": 4, "max_length": 128, "packing": True,
        "gradient_checkpointing": False, "bf16": False,
    }  # fmt: skip
    events = recording(scenario(llama, **work)).events
    tokens = 4 * 128
    masks = [e for e in events if e.num_bytes == 2 * tokens**2 and "where" in e.place.op]
    assert len(masks) == 2 * LLAMA["num_hidden_layers"]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("library", ["liger_kernel", "trl"])
def test_losses_without_logits_are_the_librarys_own(library: str, method: str) -> None:
    """The formula stands by the real code, of which neither ever holds B·S·V."""
    model = spec_of_model(meta_model("llama", None, **{**LLAMA, "vocab_size": VOCAB}), BFLOAT16)
    work: dict[str, Any] = {"method": method, "micro_batch_size": 4, "max_length": 512}
    if method == "lora":
        work["lora"] = Lora(r=8)
    if library == "liger_kernel":
        work["use_liger_kernel"] = True
    else:
        work |= {"trainer": "trl", "gradient_checkpointing": False, "bf16": False}
    asked = scenario(model, **work)
    if importlib.util.find_spec(library) is None:
        with pytest.raises(UnsupportedError, match="pip install"):
            estimate(asked, trace=True)
        return
    traced = estimate(asked, search_limits=False, trace=True)
    formula = estimate(asked, search_limits=False)
    assert at_peak(formula) == pytest.approx(at_peak(traced), rel=0.03)
    tile = 2 * TRL_ROWS * TRL_COLUMNS
    whole = 2 * 4 * 512 * VOCAB
    sizes = [e.num_bytes for e in recording(asked).events if e.phase != "load"]
    assert all(size < whole or (library == "trl" and size <= tile) for size in sizes)


@pytest.mark.parametrize(("tokens", "liger_mib", "hf_mib"), [(1024, 232, 264), (16384, 1792, 2416)])
def test_a_swiglu_is_as_measured(tokens: int, liger_mib: int, hf_mib: int) -> None:
    """Peaks of Liger's own benchmark (tiled_swiglu, full, torch.cuda.max_memory_allocated)."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    assert _mlp_peak_mib(LlamaMLP, tokens, []) == hf_mib
    if importlib.util.find_spec("liger_kernel") is None:
        pytest.skip("liger-kernel is not installed")
    layers: Any = importlib.import_module("liger_kernel.transformers")
    assert _mlp_peak_mib(layers.LigerSwiGLUMLP, tokens, launches()) == liger_mib


def _mlp_peak_mib(cls: Any, tokens: int, rows: Any) -> int:
    """Two runs of 2 × ``tokens`` rows on h=2048, I=4096 in bfloat16, gradients kept between."""
    config = SimpleNamespace(
        hidden_size=2048, intermediate_size=4096, hidden_act="silu", mlp_bias=False
    )
    recorder = Recorder({}, workspaces=(8_519_680,))
    with replaced(rows), fake_mode(), recorder:
        torch.set_default_dtype(torch.bfloat16)
        try:
            layer = cls(config)
            x = torch.randn(2, tokens, 2048, requires_grad=True)
        finally:
            torch.set_default_dtype(torch.float32)
        recorder.phase = "forward"
        for _ in range(2):
            y = layer(x)
            y.backward(torch.randn_like(y), retain_graph=True)
            del y
        events = recorder.recording.with_events(list(recorder.recording.events))
    peak = max(phase.allocated_bytes for phase in replay(events) if phase.name == "forward")
    return round(peak / 2**20)
