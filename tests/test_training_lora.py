"""LoRA: targets and kept inputs against PEFT itself on the real classes.

Bound 0.2 % of what a layer keeps (scalars, and the rotary tables of the whole model).
"""

from __future__ import annotations

import pytest
from tests.support.meta_spec import spec_of_model
from tests.support.training import built, kept_by_class, kept_by_formula

from willfit.dtypes import BFLOAT16
from willfit.errors import InputError
from willfit.formulas.training.lora import build_adapter
from willfit.scenario import Lora

BOUND = 0.002
ATTENTION = ("q_proj", "v_proj")
ALL = ("all-linear",)


@pytest.mark.parametrize("name", ["llama", "llama wide", "qwen3"])
@pytest.mark.parametrize("targets", [ATTENTION, ALL, ("o_proj",), ("down_proj",)])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_keep_what_peft_keeps(
    name: str, targets: tuple[str, ...], dropout: float, autocast: bool
) -> None:
    lora = Lora(r=8, target_modules=targets, dropout=dropout)
    truth = kept_by_class(name, "flash", autocast=autocast, lora=lora)
    formula = kept_by_formula(name, "flash", autocast=autocast, lora=lora)
    assert formula == pytest.approx(truth, rel=BOUND)


@pytest.mark.parametrize(
    ("name", "targets"),
    [("llama", ALL), ("llama", ATTENTION), ("gpt2", ("c_attn",)), ("gpt2", ALL),
     ("gpt_neox", ("query_key_value",)), ("phi3", ("qkv_proj",)), ("bert", ("query", "value")),
     ("opt", ("fc1", "q_proj"))],
)  # fmt: skip
def test_as_many_parameters_as_peft_makes_trainable(name: str, targets: tuple[str, ...]) -> None:
    import peft

    model = built(name, 3)
    adapter, _ = build_adapter(spec_of_model(model, BFLOAT16), Lora(r=4, target_modules=targets))
    chosen = "all-linear" if targets == ALL else list(targets)
    config = peft.LoraConfig(r=4, target_modules=chosen, task_type="CAUSAL_LM")
    trainable, _ = peft.get_peft_model(model, config).get_nb_trainable_parameters()
    assert adapter.num_params == trainable


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen2", "opt", "gemma2"])
def test_targets_by_default_are_pefts(name: str) -> None:
    import peft

    model = built(name, 2, "eager")
    adapter, _ = build_adapter(spec_of_model(model, BFLOAT16), Lora(r=4))
    injected = peft.get_peft_model(model, peft.LoraConfig(r=4, task_type="CAUSAL_LM"))
    assert adapter.num_params == injected.get_nb_trainable_parameters()[0]


def test_a_target_that_no_module_has_is_refused_with_the_names_there_are() -> None:
    spec = spec_of_model(built("llama", 2), BFLOAT16)
    with pytest.raises(InputError, match=r"called query_key_value: it has .*q_proj"):
        build_adapter(spec, Lora(target_modules=("query_key_value",)))
