"""FLOPs of the time model against torch's own counter on the real classes, without weights."""

from __future__ import annotations

from typing import Any

import pytest

from willfit.estimator.timing import timing
from willfit.scenario import Inference, Lora, ModelSpec, Scenario, Training, Workload

pytest.importorskip("torch")
pytest.importorskip("transformers")

BATCH, LENGTH = 2, 128
SMALL: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
}  # fmt: skip
ROUTED: dict[str, Any] = {**SMALL, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": {**SMALL, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 256, "n_layer": 3, "n_head": 8, "vocab_size": 1000},
    "gemma2": {**SMALL, "head_dim": 32, "sliding_window": 64},
    "mixtral": {**ROUTED, "num_local_experts": 8},
    "qwen3_moe": {**ROUTED, "num_experts": 8, "moe_intermediate_size": 128, "head_dim": 32},
    "gpt_oss": {**ROUTED, "num_local_experts": 8, "head_dim": 32, "sliding_window": 64},
    "deepseek_v3": {
        **ROUTED, "num_key_value_heads": 8, "moe_intermediate_size": 128, "n_routed_experts": 8,
        "first_k_dense_replace": 1, "kv_lora_rank": 64, "q_lora_rank": 96, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16, "v_head_dim": 32, "n_group": 2, "topk_group": 1,
    },
}  # fmt: skip


def _model(model_type: str) -> Any:
    from tests.support.meta_spec import meta_model

    config = dict(CONFIGS[model_type])
    if any("expert" in name for name in config):
        config["experts_implementation"] = "batched_mm"  # shapes alone decide it
    return meta_model(model_type, attn_implementation="eager", **config)


def _counted(model: Any, *, backward: bool) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros((BATCH, LENGTH), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs = model(ids, attention_mask=torch.ones_like(ids), use_cache=False)
        if backward:
            outputs.logits.sum().backward()
    return int(counter.get_total_flops())


def _spec(model: Any) -> ModelSpec:
    from tests.support.meta_spec import spec_of_model

    return spec_of_model(model)


def _trained(spec: ModelSpec, **settings: Any) -> float:
    training = Training(
        trainer="loop", micro_batch_size=BATCH, max_length=LENGTH, attn="eager", **settings
    )
    return timing(Scenario(model=spec, workload=Workload(training=training))).flops


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_prompt_has_the_flops_that_torch_counts(model_type: str) -> None:
    model = _model(model_type)
    inference = Inference(
        batch_size=BATCH, context_len=LENGTH + 1, max_new_tokens=1, attn="eager", full_logits=True
    )
    ours = timing(Scenario(model=_spec(model), workload=Workload(inference=inference))).flops
    assert ours == _counted(model, backward=False)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_full_step_has_the_flops_that_torch_counts(model_type: str) -> None:
    model = _model(model_type).train()
    ours = _trained(_spec(model), method="full", gradient_checkpointing=False)
    assert ours == _counted(model, backward=True)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_checkpointing_recomputes_what_torch_recomputes(model_type: str, reentrant: bool) -> None:
    """Non-reentrant checkpointing stops early: of the plain decoders it skips the last product."""
    model = _model(model_type).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    ours = _trained(
        _spec(model), method="full", gradient_checkpointing=True, use_reentrant=reentrant
    )
    # DeepSeek's shared experts are not recomputed either, which is 1 % here
    tolerance = 0.01 if model_type == "deepseek_v3" and not reentrant else 1e-9
    assert ours == pytest.approx(_counted(model, backward=True), rel=tolerance)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("all-linear",)])
def test_frozen_weights_have_no_gradient_of_their_own(
    targets: tuple[str, ...], checkpointing: bool
) -> None:
    """LoRA: every product's input has a gradient, the adapters' weights too, the others not."""
    peft = pytest.importorskip("peft")
    import torch

    model = _model("llama")
    spec = _spec(model)
    wanted = "all-linear" if targets == ("all-linear",) else list(targets)
    config = peft.LoraConfig(r=8, target_modules=wanted, task_type="CAUSAL_LM")
    with torch.device("meta"):
        adapted = peft.get_peft_model(model, config).train()
    adapted.enable_input_require_grads()
    if checkpointing:
        adapted.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    ours = _trained(
        spec,
        method="lora",
        lora=Lora(r=8, target_modules=targets),
        gradient_checkpointing=checkpointing,
    )
    assert ours == pytest.approx(_counted(adapted, backward=True), rel=0.002)


def test_an_encoder_decoder_has_the_flops_that_torch_counts() -> None:
    import torch
    from tests.support.meta_spec import meta_model
    from torch.utils.flop_counter import FlopCounterMode

    model = meta_model(
        "t5", cls="T5ForConditionalGeneration", attn_implementation="eager", d_model=256, d_kv=32,
        d_ff=1024, num_layers=3, num_heads=8, vocab_size=1000,
    ).train()  # fmt: skip
    ids = torch.zeros((BATCH, LENGTH), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs = model(
            input_ids=ids, decoder_input_ids=ids, decoder_attention_mask=torch.ones_like(ids),
            use_cache=False,
        )  # fmt: skip
        outputs.logits.sum().backward()
    ours = _trained(_spec(model), method="full", gradient_checkpointing=False)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.001)
