"""State-space, linear-attention and convolution mixers: the formulas beside the real classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmarks.grid import case

import willfit
from willfit.changes import CHANGES, NotApplicable
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.planning import plan
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Stack, Workload
from willfit.sources.resolve import resolve
from willfit.units import MIB


def work(batch: int, length: int, scheme: Any = None, **settings: Any) -> Workload:
    quantization = Quantization(scheme=scheme, compute_dtype=BFLOAT16) if scheme else None
    return Workload(
        loading=Loading(dtype=BFLOAT16, quantization=quantization),
        inference=Inference(batch_size=batch, context_len=length, **settings),
    )


@pytest.mark.parametrize(
    ("model", "batch", "length", "more"),
    [
        ("ibm-granite/granite-4.0-h-350m", 8, 65, {}),
        ("ibm-granite/granite-4.0-h-350m", 2, 2048, {"scheme": "nf4"}),
        ("ibm-granite/granite-4.0-h-350m", 8, 512, {"use_cache": False}),
        ("tiiuae/Falcon-H1-0.5B-Base", 4, 1000, {"padded": True}),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 4, 1000, {}),
        ("state-spaces/mamba-130m-hf", 2, 400, {}),
        ("LiquidAI/LFM2-350M", 4, 2048, {}),
        ("Qwen/Qwen3.5-27B", 1, 4096, {"scheme": "nf4"}),
    ],
)
def test_a_scan_by_the_librarys_own_code(
    model: str, batch: int, length: int, more: dict[str, Any]
) -> None:
    """They were up to 82 % apart while the formulas had kernels in mind that few install."""
    found = case(model, "", work(batch, length, **more), "A100")
    assert found.difference == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("model", "batch", "length", "release", "mebibytes"),
    [
        ("ibm-granite/granite-4.0-h-350m", 1, 300, "5.14.0", 4653),
        ("ibm-granite/granite-4.0-h-350m", 1, 300, "5.16.0", 3833),
        ("Qwen/Qwen3.5-27B", 2, 1000, "5.14.0", 53271),
        ("Qwen/Qwen3.5-27B", 2, 1000, "5.16.0", 53271),
        ("state-spaces/mamba-130m-hf", 2, 200, "5.14.0", 386),
    ],
)
def test_older_releases_scan_in_their_own_way(
    model: str, batch: int, length: int, release: str, mebibytes: int
) -> None:
    """Peaks that a trace gives with that release of transformers in a side directory."""
    stack = Stack(versions={**Stack().versions, "transformers": release})
    found = willfit.estimate(scenario(model, batch, length, stack=stack), search_limits=False)
    assert allocated(found) == pytest.approx(mebibytes * MIB, rel=0.01)


def test_kernels_of_an_engine_take_less_and_the_librarys_code_says_so() -> None:
    asked = scenario("Qwen/Qwen3.5-27B", 4, 2048)
    inference = asked.workload.inference
    assert inference is not None
    served = replace(
        asked, workload=replace(asked.workload, inference=replace(inference, engine="vllm"))
    )
    ours, theirs = (willfit.estimate(each, search_limits=False) for each in (asked, served))
    assert any("flash-linear-attention" in said for said in ours.assumptions)
    assert not any("flash-linear-attention" in said for said in theirs.assumptions)


def test_an_mlp_is_as_wide_as_its_tensors() -> None:
    """LFM2 states a width that its class adjusts; Nemotron-H has an MLP in some layers only."""
    for model in ("LiquidAI/LFM2-350M", "LiquidAI/LFM2-700M", "nvidia/NVIDIA-Nemotron-Nano-9B-v2"):
        spec = resolve(model)
        assert spec.architecture is not None
        sizes = {size for row in spec.tensors for size in row.shape}
        widths = [g.mlp.intermediate_size for g in spec.architecture.layers if g.mlp is not None]
        assert widths and set(widths) <= sizes
    nemotron = resolve("nvidia/NVIDIA-Nemotron-Nano-9B-v2").architecture
    assert nemotron is not None
    parts = [(bool(g.recurrent), bool(g.attention), bool(g.mlp)) for g in nemotron.layers]
    assert all(sum(part) == 1 for part in parts)


_TINY: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "full_attention_interval": 4,
}  # fmt: skip
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 32}


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("qwen3_5_text", _DELTA),
        ("falcon_h1", {"mamba_d_ssm": 128, **_MAMBA2}),
        (
            "granitemoehybrid",
            {
                "layer_types": ["mamba", "attention", "mamba", "mamba"], "num_local_experts": 0,
                "shared_intermediate_size": 64, **_MAMBA2,
            },
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv", "conv"]}),
    ],
)  # fmt: skip
def test_a_prompt_in_pieces_has_the_same_answer(model_type: str, more: dict[str, Any]) -> None:
    """Real classes with random weights: a plan may read a hybrid's prompt in pieces."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**_TINY, **more})
    model = AutoModelForCausalLM.from_config(config).eval().float()
    prompt = torch.randint(3, 128, (2, 150))
    asked = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        whole = model.generate(prompt, **asked)
        pieces = model.generate(prompt, prefill_chunk_size=64, **asked)
    for one, other in zip(whole.logits, pieces.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "release", "reason"),
    [
        ("Qwen/Qwen3.5-27B", "5.23.0", None),
        ("ibm-granite/granite-4.0-h-350m", "5.23.0", None),
        ("ibm-granite/granite-4.0-h-350m", "5.14.0", "since transformers 5.15"),
        ("ai21labs/Jamba-v0.1", "5.23.0", "begins anew"),
        ("state-spaces/mamba-130m-hf", "5.23.0", "no layer has one"),
    ],
)
def test_which_mixers_read_a_prompt_in_pieces(model: str, release: str, reason: str | None) -> None:
    stack = Stack(versions={**Stack().versions, "transformers": release})
    change = next(change for change in CHANGES if change.id == "prefill_chunk_size=512")
    changed = change.apply(scenario(model, 1, 4096, stack=stack))
    if reason is None:
        assert isinstance(changed, Scenario)
    else:
        assert isinstance(changed, NotApplicable)
        assert reason in changed.reason


def test_a_plan_reads_the_prompt_of_a_hybrid_in_pieces() -> None:
    """What was a cut of the context to a half loses nothing now."""
    asked = scenario("Qwen/Qwen3.5-27B", 1, 16384)
    asked = replace(
        asked,
        machine=Machine(gpus=parse_machine("RTX 4090").gpus),
        workload=work(1, 16384, scheme="nf4"),
    )
    best = plan(asked, top=1).plans[0]
    assert [step.change.setting for step in best.steps] == ["prefill_chunk_size"]
    assert best.estimate.verdict == "fits"


def scenario(model: str, batch: int, length: int, stack: Stack | None = None) -> Scenario:
    return Scenario(
        model=resolve(model),
        workload=work(batch, length),
        machine=Machine(gpus=parse_machine("A100").gpus),
        stack=stack or Stack(),
    )


def allocated(found: willfit.Estimate) -> int:
    return max(p.allocated_bytes for p in found.gpus[0].phases if p.name != "load")
