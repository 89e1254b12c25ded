"""Classic models with dropouts and two stacks, trained whole: the formulas against the trace.

BERT, GPT-2, OPT, T5 and BART keep what Llama does not: masks of dropouts, cross attention's q, k, v
and scores, an activation inside dropout. Bounds are of the allocated peak, weights included.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.devices import parse_machine
from willfit.dtypes import DTYPES
from willfit.estimator import estimate
from willfit.scenario import Loading, Machine, Scenario, Training, Workload
from willfit.sources.heads import with_own_head

WIDE: dict[str, Any] = {"vocab_size": 500}
T5: dict[str, Any] = {
    **WIDE, "d_model": 256, "d_kv": 64, "d_ff": 1024, "num_heads": 4, "num_layers": 6,
    "decoder_start_token_id": 0,
}  # fmt: skip
BART: dict[str, Any] = {
    **WIDE, "d_model": 256, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024,
    "activation_dropout": 0.1, "attention_dropout": 0.1,
}  # fmt: skip
BERT: dict[str, Any] = {
    **WIDE, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
    "num_hidden_layers": 6,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "BertForMaskedLM", BERT),
    "electra": ("electra", "ElectraForPreTraining", {**BERT, "embedding_size": 256}),
    "bert classifier": ("bert", "BertForSequenceClassification", {**BERT, "num_labels": 2}),
    "roberta": ("roberta", "RobertaForMaskedLM", {**BERT, "max_position_embeddings": 514}),
    "gpt2": (
        "gpt2", "GPT2LMHeadModel", {**WIDE, "n_embd": 256, "n_head": 4, "n_layer": 6},
    ),
    "opt": (
        "opt", "OPTForCausalLM",
        {
            **WIDE, "hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 4,
            "num_hidden_layers": 6, "word_embed_proj_dim": 256,
        },
    ),
    "t5": ("t5", "T5ForConditionalGeneration", T5),
    "mt5": ("mt5", "MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("bart", "BartForConditionalGeneration", BART),
    "pegasus": (
        "pegasus", "PegasusForConditionalGeneration", {**BART, "activation_function": "relu"},
    ),
}  # fmt: skip
BOUND = 0.02


def peaks(name: str, **changes: Any) -> tuple[int, int]:
    """Allocated bytes at the peak by formula and by trace."""
    model_type, model_class, config = MODELS[name]
    spec = spec_of_model(meta_model(model_type, model_class, **config), DTYPES["float32"])
    spec = with_own_head(spec)
    settings: dict[str, Any] = {
        "method": "full", "micro_batch_size": 8, "max_length": 256,
        "gradient_checkpointing": False, **changes,
    }  # fmt: skip
    work = Workload(loading=Loading(dtype=DTYPES["float32"]), training=Training(**settings))
    asked = Scenario(model=spec, workload=work, machine=Machine(gpus=parse_machine("T4").gpus))
    formula = estimate(asked, search_limits=False)
    traced = estimate(asked, trace=True)
    assert traced.level == "trace"
    return formula.binding.peak.allocated_bytes, traced.binding.peak.allocated_bytes


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_the_peak_of_a_training_step_in_float32(name: str, attn: str) -> None:
    formula, traced = peaks(name, attn=attn)
    assert formula == pytest.approx(traced, rel=BOUND)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "bart"])
def test_the_peak_under_autocast(name: str) -> None:
    formula, traced = peaks(name, attn="eager", fp16=True)
    assert formula == pytest.approx(traced, rel=BOUND)
