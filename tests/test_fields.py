"""Settings that change memory, formula beside trace: prompts in pieces, kernels, adapters, more."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from willfit.cli.main import main
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.errors import InputError
from willfit.estimator import estimate
from willfit.formulas.training.offload import pinned_bytes
from willfit.formulas.training.phases import training_step
from willfit.formulas.weights import load_weights
from willfit.results import Estimate, PhaseEstimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.sources.resolve import resolve
from willfit.trace.offloading import _Offloading
from willfit.units import MIB

LLAMA, SMALL = "meta-llama/Meta-Llama-3-8B", "Qwen/Qwen3-0.6B"
HALF = Loading(dtype=BFLOAT16)
ALL = Lora(r=16, target_modules=("all-linear",))
NF4 = Loading(dtype=BFLOAT16, quantization=Quantization(scheme="nf4", compute_dtype=BFLOAT16))


def made(
    model: str, *, gpu: str = "A100", loading: Loading = HALF, trace: bool = False, **work: Any
) -> Estimate:
    scenario = Scenario(
        model=resolve(model),
        workload=Workload(loading=loading, **work),
        machine=Machine(gpus=parse_machine(gpu).gpus),
    )
    return estimate(scenario, search_limits=False, trace=trace)


def phase(result: Estimate, name: str) -> PhaseEstimate:
    return next(phase for phase in result.gpus[0].phases if phase.name == name)


def infer(context_len: int, **facts: Any) -> dict[str, Any]:
    return {"inference": Inference(context_len=context_len, **facts)}


def train(method: Any = "full", **facts: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "micro_batch_size": 2, "max_length": 512, "optimizer": "adamw_torch_fused",
        "gradient_checkpointing": True, "lora": None if method == "full" else ALL,
    }  # fmt: skip
    return {"training": Training(method=method, **{**usual, **facts})}


@pytest.mark.parametrize(
    ("model", "facts", "within"),
    [
        # the first piece takes the math kernel on a T4, which has none for grouped heads
        (LLAMA, {"gpu": "T4", "loading": Loading(dtype=FLOAT16),
                 **infer(2049, prefill_chunk_size=1024)}, 0.001),
        (LLAMA, infer(8193, batch_size=4, prefill_chunk_size=512), 0.002),
        (LLAMA, infer(4097, prefill_chunk_size=1024, attn="flash_attention_2"), 0.002),
        ("google/gemma-3-1b-it", infer(4097, prefill_chunk_size=1024), 0.004),
        (LLAMA, infer(2049, sdpa_kernel="math"), 0.001),
        (LLAMA, infer(2049, lora=ALL), 0.001),
        (LLAMA, infer(2049, lora=Lora(target_modules=("o_proj", "down_proj"))), 0.001),
        (LLAMA, {"loading": NF4, **infer(2049, lora=ALL)}, 0.006),
        (LLAMA, infer(2049, lora=ALL, merge_adapter=True), 0.001),
        # layers and the head wait on the host; GPU 0 computes them and has their cache
        (LLAMA, {"gpu": "T4", "loading": Loading(
            dtype=FLOAT16, max_memory={0: 8 * 2**30, "cpu": 30 * 2**30}), **infer(2049)}, 0.001),
    ],
)  # fmt: skip
def test_prefill_is_as_traced(model: str, facts: dict[str, Any], within: float) -> None:
    formula, traced = (
        phase(made(model, **facts, trace=level), "prefill").allocated_bytes
        for level in (False, True)
    )
    assert formula == pytest.approx(traced, rel=within)


@pytest.mark.parametrize(
    ("model", "facts", "within"),
    [
        (SMALL, train(freeze=("embed_tokens",)), 0.002),  # and the head, which is tied to it
        ("Qwen/Qwen2.5-7B-Instruct", train(freeze=("embed_tokens",)), 0.006),
        ("Qwen/Qwen2.5-7B-Instruct", train(freeze=("lm_head",)), 0.006),
        ("microsoft/phi-2", train(sdpa_kernel="math"), 0.015),
    ],
)
def test_backward_is_as_traced(model: str, facts: dict[str, Any], within: float) -> None:
    formula, traced = (
        phase(made(model, **facts, trace=level), "backward").allocated_bytes
        for level in (False, True)
    )
    assert formula == pytest.approx(traced, rel=within)


@pytest.mark.parametrize(
    ("method", "checkpointing", "within"),
    [("full", False, 0.015), ("full", True, 0.005), ("lora", False, 0.03), ("lora", True, 0.03)],
)
def test_offloaded_activations_are_as_traced(
    method: str, checkpointing: bool, within: float
) -> None:
    """By TRL's rules; the peak of a step, which may be in forward."""
    pytest.importorskip("trl")
    facts = train(
        method, trainer="trl", offload_activations=True, max_length=1024,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    formula, traced = (made(SMALL, **facts, trace=level) for level in (False, True))
    peak = traced.binding.peak.allocated_bytes
    assert formula.binding.peak.allocated_bytes == pytest.approx(peak, rel=within)


def test_offloading_moves_activations_from_the_gpu_to_pinned_memory() -> None:
    """B·S = 1,024, h 1,024, 28 layers: inputs of 2 MiB each, all but a stash of five."""
    facts = train("lora", trainer="trl", offload_activations=True)
    result = made(SMALL, **facts)
    weights = load_weights(resolve(SMALL), HALF, Stack())
    step, _ = training_step(resolve(SMALL), facts["training"], None, Stack(), weights)
    assert result.host.pinned_bytes == step.saved_bytes() == 28 * 2 * MIB
    assert step.kept_bytes() == 5 * 2 * MIB
    without = made(SMALL, **train("lora", trainer="trl"))
    assert without.host.pinned_bytes == 0
    assert result.binding.peak.allocated_bytes < without.binding.peak.allocated_bytes


class Device(SimpleNamespace):
    """A device module whose streams have done everything at once."""

    Stream = MagicMock

    def current_stream(self) -> MagicMock:
        return MagicMock()

    def stream(self, _: object) -> nullcontext[None]:
        return nullcontext()

    def empty_cache(self) -> None: ...


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_offloaded_is_what_trl_offloads(
    monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """TRL's own hooks on a small Llama, streams apart: the same tensors go, in the same order."""
    pytest.importorskip("trl")
    from trl.models.activation_offloading import OffloadActivations

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_device_module", lambda *_: Device())
    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=64, intermediate_size=160, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_hidden_layers=2, vocab_size=300,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.zeros(2, 32, dtype=torch.int64)
    theirs = OffloadActivations(use_pin_memory=False)
    theirs.update_model_params(model)
    with theirs:
        model(tokens, use_cache=False)
        gone = [(tuple(entry[4]), entry[1]) for entry in theirs.tracker.values() if entry[1]]
        stayed = sum(not entry[1] for entry in theirs.tracker.values())
        theirs.tracker.clear()
    ours = _Offloading(model)
    packed: list[Any] = []

    def pack(tensor: torch.Tensor) -> Any:
        packed.append(ours.pack(tensor))
        return packed[-1]

    with saved_tensors_hooks(pack, ours.unpack):
        model(tokens, use_cache=False)
    away = [part for part in packed if not isinstance(part, torch.Tensor)]
    assert [tuple(part.tensor.shape) for part in away] == [shape for shape, _ in gone]
    assert len(packed) - len(away) == stayed
    assert len(away) >= (3 if checkpointing else 20)


def test_pinned_blocks_are_powers_of_two() -> None:
    assert pinned_bytes(3 * 28 * MIB, 28 * MIB) == 3 * 32 * MIB
    assert pinned_bytes(64, 64) == 64


@pytest.mark.parametrize(
    ("gpu", "dtype", "facts", "why"),
    [
        ("A100", BFLOAT16, {"sdpa_kernel": "efficient"}, "grouped"),
        ("T4", FLOAT16, {"sdpa_kernel": "flash"}, "sm_80"),
        ("T4", FLOAT16, {"sdpa_kernel": "cudnn"}, "sm_80"),
        ("A100", BFLOAT16, {"sdpa_kernel": "flash", "padded": True}, "no mask"),
        ("A100", BFLOAT16, {"sdpa_kernel": "flash", "attn": "eager"}, "attention is eager"),
    ],
)
@pytest.mark.parametrize("trace", [False, True])
def test_a_forced_kernel_that_cannot_run_is_refused(
    gpu: str, dtype: Any, facts: dict[str, Any], why: str, trace: bool
) -> None:
    if trace and "attn" in facts:
        pytest.skip("eager attention never reaches SDPA")
    with pytest.raises(InputError, match=why):
        made(LLAMA, gpu=gpu, loading=Loading(dtype=dtype), **infer(2049, **facts), trace=trace)


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to train"):
        made(SMALL, **train(freeze=("model", "lm_head")))


def test_frozen_layers_have_no_gradients_and_no_states() -> None:
    """Layers 0 to 3 of 28 frozen by their numbers: a seventh of the layers' parameters."""
    names = tuple(f"layers.{number}" for number in range(4))
    whole, part = (made(SMALL, **train(freeze=names)) for names in ((), names))
    layers = 15_730_944  # of one layer of Qwen3-0.6B
    assert whole.num_trainable_params - part.num_trainable_params == 4 * layers


def test_batches_of_like_length_are_shorter_in_the_middle() -> None:
    from willfit.formulas.training.settings import fill_training

    lengths = tuple(range(1, 1001))
    plain, grouped = (
        fill_training(
            Training(method="full", lengths=lengths, micro_batch_size=8, group_by_length=on),
            None,
            Stack(),
        ).step_lengths
        for on in (False, True)
    )
    assert plain[0] == grouped[0] == 1000
    assert grouped[1:4] == (100, 500, 900) and plain[2] > 900


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["estimate", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_flags_reach_the_scenario(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}))
    code, out, _ = run(
        capsys, "llama-3-8b", "--gpu", "A100", "--json", "--prefill-chunk-size", "512",
        "--sdpa-kernel", "math", "--adapter", str(adapter), "--merge-adapter",
    )  # fmt: skip
    inference = json.loads(out)["scenario"]["workload"]["inference"]
    assert code == 0
    assert inference["prefill_chunk_size"] == 512 and inference["sdpa_kernel"] == "math"
    assert inference["lora"]["r"] == 4 and inference["merge_adapter"] is True
    code, out, _ = run(
        capsys, "llama-3-8b", "--gpu", "A100", "--json", "--train", "full", "--trainer", "trl",
        "--activation-offloading", "--freeze", "embed_tokens", "lm_head", "--group-by-length",
    )  # fmt: skip
    training = json.loads(out)["scenario"]["workload"]["training"]
    assert code == 0
    assert training["offload_activations"] is True and training["group_by_length"] is True
    assert training["freeze"] == ["embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train", "lora", "--freeze", "embed_tokens"], "--freeze is for --train full"),
        (["--train", "full", "--freeze", "embeddings"], "no such module"),
        (["--train", "full", "--activation-offloading"], "--trainer trl"),
        (["--train", "full", "--prefill-chunk-size", "8"], "an inference setting"),
        (["--freeze", "embed_tokens"], "a training setting"),
        (["--merge-adapter"], "needs --adapter"),
        (["--prefill-chunk-size", "8", "--full-logits"], "contradicts --full-logits"),
        (["--prefill-chunk-size", "8", "--engine", "vllm"], "contradicts --engine vllm"),
        (["--adapter", "no-such-file.json"], "no-such-file.json"),
        (["--sdpa-kernel", "efficient", "--gpu", "A100"], "No available kernel"),
    ],
)
def test_flags_that_cannot_be_get_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    code, out, err = run(capsys, "llama-3-8b", *words)
    assert code == 1 and out == ""
    assert says in err and len(err.strip().splitlines()) == 1
