"""`willfit.load`: the real model of tiny checkpoints, and refusals before anything is loaded."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.tiny import tiny

import willfit
from willfit.changes import changes_for
from willfit.devices import context_of
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.emit.call import Variable
from willfit.errors import InputError, ModelAccessError, ModelNotFoundError
from willfit.live.asked import Asked
from willfit.live.here import Here, look
from willfit.live.load import load, require_ram
from willfit.live.planned import cpu_bytes, plan_load
from willfit.live.wanted import wanted
from willfit.plan import plan
from willfit.units import GIB, MIB

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA, also where there is a GPU."""
    found = replace(look(), gpus=(), in_use_bytes=(), holders=())
    monkeypatch.setattr("willfit.live.load.look", lambda: found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def ids() -> Any:
    return torch.tensor([[3, 4, 5, 6]])


def plain(path: Path, auto_class: str, **arguments: Any) -> Any:
    """The same model by transformers alone."""
    return getattr(transformers, auto_class).from_pretrained(path, device_map="cpu", **arguments)


def bits(scheme: str, **more: Any) -> Any:
    if scheme == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=scheme, bnb_4bit_compute_dtype=torch.bfloat16, **more
    )


def outputs(model: Any) -> Any:
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=ids(), decoder_input_ids=ids()).logits
        return model(input_ids=ids()).logits


def same(model: Any, expected: Any) -> None:
    """Classes, types, attention and outputs, all of them."""
    assert [(n, type(m)) for n, m in model.named_modules()] == [
        (n, type(m)) for n, m in expected.named_modules()
    ]
    assert {n: p.dtype for n, p in model.named_parameters()} == {
        n: p.dtype for n, p in expected.named_parameters()
    }
    assert model.config._attn_implementation == expected.config._attn_implementation
    assert torch.equal(outputs(model), outputs(expected))


CASES: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    # family, stored type, auto class, arguments of load, arguments of transformers
    ("llama", "bfloat16", "AutoModelForCausalLM", {}, {}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"dtype": "float16"}, {"dtype": torch.float16}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"attn": "eager"}, {"attn_implementation": "eager"}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"quantize": "int8"}, {"quantization_config": bits("int8")}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"quantize": "nf4"}, {"quantization_config": bits("nf4")}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"quantize": "fp4"}, {"quantization_config": bits("fp4")}),
    ("llama", "bfloat16", "AutoModelForCausalLM", {"quantize": "nf4-double"},
     {"quantization_config": bits("nf4", bnb_4bit_use_double_quant=True)}),
    ("opt", "float16", "AutoModelForCausalLM", {"better_transformer": True}, {"attn_implementation": "sdpa"}),
    ("opt", "float16", "AutoModelForCausalLM", {"attn": "to_bettertransformer"}, {"attn_implementation": "sdpa"}),
    ("opt", "float16", "AutoModelForCausalLM", {"quantize": "int8", "sdpa_kernel": "math"}, {"quantization_config": bits("int8")}),
    ("bloom", "float16", "AutoModelForCausalLM", {"quantize": "int8"}, {"quantization_config": bits("int8")}),
    ("bert", "float32", "AutoModelForMaskedLM", {"better_transformer": True}, {"attn_implementation": "sdpa"}),
    ("bert", "float32", "AutoModelForMaskedLM", {"attn": "sdpa", "quantize": "int8"},
     {"attn_implementation": "sdpa", "quantization_config": bits("int8")}),
    ("t5", "float32", "AutoModelForSeq2SeqLM", {"quantize": "int8"}, {"quantization_config": bits("int8")}),
    ("t5", "float32", "AutoModelForSeq2SeqLM", {"quantize": "int8", "dtype": "bfloat16"},
     {"quantization_config": bits("int8"), "dtype": torch.bfloat16}),
    ("gemma2", "bfloat16", "AutoModelForCausalLM", {"quantize": "int8"}, {"quantization_config": bits("int8")}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "stored", "auto_class", "asked", "arguments"),
    CASES,
    ids=[f"{case[0]}-{'-'.join(map(str, case[3].values()))}" for case in CASES],
)
def test_what_is_loaded_is_what_transformers_loads(
    folder: Path, family: str, stored: str, auto_class: str, asked: Any, arguments: Any
) -> None:
    path = tiny(folder, family, stored)
    loaded = load(path, context=32, **asked)
    same(loaded.model, plain(path, auto_class, **arguments))
    assert loaded.tokenizer("w3 w4")["input_ids"] == [3, 4]
    assert not loaded.model.training


@pytest.mark.parametrize("quantize", ["int8", "nf4", "fp4"])
def test_linear_layers_are_packed_and_the_rest_is_not(folder: Path, quantize: str) -> None:
    import bitsandbytes

    model = load(tiny(folder, "llama"), quantize=quantize, context=32).model
    layer = model.model.layers[0]
    wanted: Any = bitsandbytes.nn
    packed = wanted.Linear8bitLt if quantize == "int8" else wanted.Linear4bit
    projections = (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj)
    assert all(isinstance(projection, packed) for projection in projections)
    assert type(model.lm_head) is torch.nn.Linear
    assert model.model.embed_tokens.weight.dtype is torch.bfloat16
    if quantize != "int8":
        assert layer.mlp.down_proj.weight.quant_type == quantize
        assert layer.mlp.down_proj.compute_dtype is torch.bfloat16


def test_t5_keeps_its_output_projection_out_of_8_bit(folder: Path) -> None:
    """The reason for which T5-11b takes 20 GiB in 8 bit; in bfloat16 it is halved."""
    path = tiny(folder, "t5", "float32")
    for dtype, kept in (("float16", torch.float32), ("bfloat16", torch.bfloat16)):
        model = load(path, quantize="int8", dtype=dtype, context=32).model
        dense = model.encoder.block[0].layer[-1].DenseReluDense
        assert type(dense.wo) is torch.nn.Linear
        assert dense.wo.weight.dtype is kept
        assert dense.wi.weight.dtype is torch.int8


@pytest.mark.parametrize("quantize", [None, "int8", "nf4", "fp4"])
def test_generation_runs_inside_the_forced_flash_kernel(folder: Path, quantize: str | None) -> None:
    """The mixture of the guide: facebook/opt-350m's class, packed, with flash alone allowed."""
    loaded = load(
        tiny(folder, "opt", "float16"), gpu="A100", quantize=quantize, sdpa_kernel="flash",
        context=32,
    )  # fmt: skip
    with loaded.kernels():
        assert torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        out = loaded.model.generate(ids(), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.backends.cuda.math_sdp_enabled()
    assert out.shape == (1, 8)
    assert loaded.settings["torch.nn.attention.sdpa_kernel"] == {"backends": "flash"}


def test_a_kernel_that_the_cpu_lacks_is_left_to_the_gpu(folder: Path) -> None:
    path = tiny(folder, "opt", "float16")
    loaded = load(path, gpu="T4", sdpa_kernel="efficient", context=32)
    with loaded.kernels():
        assert outputs(loaded.model).shape == (1, 4, 64)
    with pytest.raises(InputError, match="a kernel of CUDA, and on the CPU torch has flash and"):
        load(path, sdpa_kernel="efficient", context=32)


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
@pytest.mark.parametrize("task", ["inference", "train"])
def test_an_adapter_is_there_and_asks_for_gradients_only_in_training(
    folder: Path, quantize: str | None, task: str
) -> None:
    from peft import LoraConfig, PeftModel

    config = LoraConfig(r=8)
    loaded = load(
        tiny(folder, "llama"), adapter=config, quantize=quantize, task=task, gpu="A100",
        attn="flash_attention_2", context=32,
    )  # fmt: skip
    assert isinstance(loaded.model, PeftModel)
    assert loaded.model.active_peft_config.r == 8
    assert loaded.model.training is (task == "train")
    names = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert loaded.on_target["AutoModelForCausalLM.from_pretrained"]["attn_implementation"] == (
        "flash_attention_2"
    )
    assert loaded.model.get_base_model().config._attn_implementation == "sdpa"
    if task == "train":
        loaded.model(input_ids=ids(), labels=ids()).loss.backward()
        gradients = [p.grad for n, p in loaded.model.named_parameters() if "lora_B" in n]
        assert gradients
        assert all(gradient is not None for gradient in gradients)


def test_a_trained_adapter_gives_what_it_gave(folder: Path, tmp_path: Path) -> None:
    base = tiny(folder, "llama")
    trained = load(base, adapter={"r": 4, "target_modules": ["q_proj"]}, context=32).model
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    trained.save_pretrained(tmp_path)
    again = load(base, adapter=tmp_path, context=32)
    assert torch.equal(outputs(again.model), outputs(trained))
    assert not torch.equal(outputs(again.model), outputs(load(base, context=32).model))
    assert again.settings["PeftModel.from_pretrained"] == {"model_id": str(tmp_path)}


def test_a_classifier_has_its_labels(folder: Path) -> None:
    loaded = load(tiny(folder, "llama"), task="text-classification", num_labels=3, context=32)
    assert type(loaded.model).__name__ == "LlamaForSequenceClassification"
    assert loaded.model.config.num_labels == 3
    assert loaded.model.score.weight.shape == (3, 64)


def test_every_argument_arrives(folder: Path) -> None:
    """No key that a library ignores: each is found again on the object."""
    loaded = load(
        tiny(folder, "llama"), dtype="float16", quantize="nf4-double", attn="eager",
        num_labels=5, task="text-classification", context=32,
    )  # fmt: skip
    (call,) = loaded.settings
    arguments = dict(loaded.settings[call])
    config = loaded.model.config
    assert config.dtype is torch.float16
    assert config._attn_implementation == arguments.pop("attn_implementation") == "eager"
    assert config.num_labels == arguments.pop("num_labels") == 5
    assert arguments.pop("dtype") is FLOAT16
    assert arguments.pop("device_map") == "cpu"
    fields = arguments.pop("quantization_config").arguments
    assert not arguments, "an argument that this test does not look for"
    known = inspect.signature(transformers.BitsAndBytesConfig.__init__).parameters
    assert set(fields) <= set(known)
    for name, value in fields.items():
        found = getattr(config.quantization_config, name)
        assert found == (torch.float16 if value is FLOAT16 else value)


def test_an_ignored_key_would_be_seen(folder: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'load_in_8bit'"):
        plain(tiny(folder, "llama"), "AutoModelForCausalLM", load_in_8bit=True)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"gpu": "T4", "attn": "flash_attention_2"},
     r"compute capability 8.0 and later, and NVIDIA T4 has 7.5: use attn='sdpa', which takes the math kernel"),
    ("opt", {"gpu": "T4", "attn": "flash_attention_2", "dtype": "float16"},
     r"use attn='sdpa', which takes the efficient kernel there"),
    ("llama", {"gpu": "A100", "attn": "flash_attention_2", "dtype": "float32"},
     r"would be loaded in float32.*first forward pass fails: use dtype='bfloat16'"),
    ("t5", {"gpu": "A100", "attn": "flash_attention_2"},
     r"T5ForConditionalGeneration has no flash_attention_2 path.*position bias.*use attn='sdpa'"),
    ("opt", {"gpu": "T4", "sdpa_kernel": "flash", "dtype": "float16"},
     r"No available kernel.*needs sm_80, this is sm_75\): use sdpa_kernel='efficient'"),
    ("opt", {"gpu": "T4", "sdpa_kernel": "flash"},
     r"this is sm_75\): use dtype='float16' and sdpa_kernel='efficient'"),
    ("opt", {"gpu": "A100", "sdpa_kernel": "flash", "dtype": "float32"},
     r"No available kernel.*needs 16 bit, this is float32\): use dtype='bfloat16'"),
    ("opt", {"gpu": "A100", "sdpa_kernel": "flash", "padded": True, "batch_size": 2},
     r"with a padding mask: takes no mask\): use sdpa_kernel='efficient'"),
    ("llama", {"gpu": "A100", "sdpa_kernel": "efficient"},
     r"takes no grouped queries in torch 2.13\): use sdpa_kernel='flash'"),
    ("gemma2", {"gpu": "A100", "sdpa_kernel": "flash"},
     r"attention is eager, as Gemma2ForCausalLM has no SDPA path, so it would change nothing"),
    ("gemma2", {"gpu": "T4", "attn": "sdpa"}, r"no SDPA path in transformers .*: use attn='eager'"),
    ("bloom", {"gpu": "T4", "better_transformer": True}, r"BloomForCausalLM has no SDPA path: leave it out"),
    ("opt", {"better_transformer": True, "attn": "eager"}, r"contradicts attn='eager'"),
    ("opt", {"quantize": "nf8"}, r"unknown quantisation 'nf8': expected int8, nf4, fp4"),
    ("opt", {"dtype": "int8"}, r"dtype int8 is not a type to load in: use float32.*quantize='int8'"),
    ("opt", {"context": 0}, r"context is 0: expected a whole number of at least 1"),
    ("opt", {"max_new_tokens": 64}, r"max_new_tokens 64 is more than context 32"),
    ("opt", {"task": "chat"}, r"unknown task 'chat': expected one of inference"),
    ("opt", {"gpu": "T4", "max_memory": {0: "1GB", 1: "2GB"}}, r"names GPU 1 and there is one GPU, number 0"),
    ("opt", {"max_memory": {"gpu": "1GB"}}, r"max_memory names 'gpu': expected GPU numbers"),
    ("opt", {"gpu": "T4", "budget": "ten"}, r"cannot read 'ten' as an amount"),
    ("opt", {"adapter": 8}, r"adapter is a int: expected 'lora', a LoraConfig"),
    ("llama", {"adapter": {"r": 8, "target_modules": ["nothing"]}}, r"is called nothing: it has down_proj"),
    ("llama", {"adapter": {"r": 8, "alpha": 16}}, r"PEFT .* refuses this adapter: TypeError: .*'alpha'"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "asked", "sentence"), REFUSED)
def test_what_cannot_run_is_refused_before_loading(
    folder: Path, family: str, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        load(tiny(folder, family), **{"context": 32, **asked})
    assert "\n" not in str(error.value)


def test_transformers_itself_fails_where_flash_is_refused(folder: Path) -> None:
    """The refusal of a class without FlashAttention is transformers' own."""
    with pytest.raises((ValueError, ImportError), match=r"Flash ?Attention"):
        plain(tiny(folder, "t5", "float32"), "AutoModelForSeq2SeqLM",
              attn_implementation="flash_attention_2")  # fmt: skip
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        plain(tiny(folder, "gemma2"), "AutoModelForCausalLM", attn_implementation="sdpa")


A100 = willfit.parse_machine("A100").gpus
MISSING = Here(gpus=A100, in_use_bytes=(0,))


def test_sdpa_takes_the_place_of_a_missing_flash_attn(folder: Path) -> None:
    asked = Asked(model=tiny(folder, "llama"), attn="flash_attention_2", context=32)
    planned = plan_load(asked, MISSING)
    assert planned.scenario.workload.inference is not None
    assert planned.scenario.workload.inference.attn == "sdpa"
    assert any("whose flash kernel is the same algorithm" in note for note in planned.notes)


def test_the_hub_s_kernels_take_its_place_where_they_can_be_had(folder: Path) -> None:
    asked = Asked(model=tiny(folder, "llama"), attn="flash_attention_2", context=32)
    planned = plan_load(asked, Here(gpus=A100, in_use_bytes=(0,), hub_kernels=True))
    assert planned.scenario.workload.inference is not None
    assert planned.scenario.workload.inference.attn == "flash_attention_2"
    assert any("kernels-community/flash-attn2" in note for note in planned.notes)
    real = transformers.modeling_flash_attention_utils.FLASH_ATTN_KERNEL_FALLBACK
    assert real["flash_attention_2"] == "kernels-community/flash-attn2"


@pytest.mark.parametrize(
    ("gpu", "settings", "changes"),
    [
        ("24GiB:sm_86", {}, ()),
        ("T4", {}, ("quantize='int8'",)),
        ("8GiB:sm_86", {}, ("quantize='nf4'",)),
        ("T4x2", {}, ()),
    ],
)
def test_the_least_change_that_fits_is_made(
    gpu: str, settings: dict[str, Any], changes: tuple[str, ...]
) -> None:
    """Llama-3-8B: 15.0 GiB in bfloat16, 8.5 in int8, 5.7 in nf4."""
    loaded = load("meta-llama/Meta-Llama-3-8B", gpu=gpu, context=512, dry_run=True, **settings)
    assert loaded.changes == changes
    assert loaded.estimate.verdict == "fits"
    assert loaded.model is None


def test_what_is_given_stays() -> None:
    with pytest.raises(
        InputError,
        match=r"does not fit on NVIDIA T4 .*whatever loading changes: willfit plan makes it fit with \w+=",
    ):
        load("meta-llama/Meta-Llama-3-8B", gpu="T4", dtype="bfloat16", quantize="int8",
             context=8192, batch_size=64)  # fmt: skip


def test_the_host_takes_what_nothing_else_makes_fit() -> None:
    """Nothing of 70B in 4 bit is left for a T4: the rest of the 16-bit weights goes to the host."""
    loaded = load("meta-llama/Llama-2-70b-hf", gpu="T4", context=512, dry_run=True)
    assert loaded.changes == ("max_memory with 'cpu': part of the weights on the host",)
    assert loaded.estimate.off_gpu_bytes > 100 * GIB
    arguments = loaded.settings["AutoModelForCausalLM.from_pretrained"]
    assert arguments["device_map"] == "auto"
    assert set(arguments["max_memory"]) == {0, "cpu"}


def quantized_first(scenario: Any) -> str:
    """What `willfit.plan` ranks first among the changes that loading can make."""
    loads = [c for c in changes_for(scenario) if c.setting in ("dtype", "quantize")]
    (step,) = plan(scenario, changes=loads).plans[0].steps
    return str(step.change.id)


def test_the_plan_s_first_is_taken_with_its_reason() -> None:
    asked = Asked(model="meta-llama/Meta-Llama-3-8B", gpu="T4", context=512)
    choice = plan_load(asked, Here()).choice
    scenario = wanted(asked, Here()).scenario
    assert choice.changes == (quantized_first(scenario).replace("=", "='") + "'",)
    (reason,) = choice.reasons
    assert re.search(r": saves \d\.\d\d GiB; 8-bit weights", reason)


def test_a_budget_is_what_each_gpu_may_take() -> None:
    loaded = load(
        "meta-llama/Meta-Llama-3-8B", gpu="A100", budget="10GiB", context=512, dry_run=True
    )
    (change,) = loaded.changes
    assert change.startswith("quantize=")
    assert loaded.estimate.binding.budget_bytes == 10 * GIB
    assert loaded.estimate.binding.peak.device_bytes <= 10 * GIB
    two = load("meta-llama/Meta-Llama-3-8B", gpu="T4x2", budget="9GiB", context=512, dry_run=True)
    caps = two.scenario.workload.loading.max_memory
    assert caps is not None
    assert all(8 * GIB < cap < 9 * GIB for cap in caps.values())
    assert all(gpu.peak.device_bytes <= 9 * GIB for gpu in two.estimate.gpus)


def test_the_cpu_s_budget_is_its_memory(folder: Path) -> None:
    path = tiny(folder, "llama")
    assert load(path, budget="1GiB", context=32).changes == ()
    with pytest.raises(InputError, match=r"of this machine's memory and 16.0 KiB may be used"):
        load(path, budget=MIB // 64, context=32)
    asked = Asked(model="meta-llama/Llama-2-70b-hf", gpu="B200", context=512)
    planned = plan_load(asked, Here(ram_bytes=16 * GIB))
    assert planned.choice.fits
    with pytest.raises(InputError, match=r"of this machine's memory and .* dry_run=True"):
        require_ram(planned)


def test_sixteen_bit_is_taken_where_flash_needs_it(folder: Path) -> None:
    path = tiny(folder, "bert", "float32")
    loaded = load(path, gpu="A100", attn="flash_attention_2", context=32)
    assert loaded.scenario.workload.loading.dtype is BFLOAT16
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert load(path, gpu="A100", context=32).settings[
        "AutoModelForMaskedLM.from_pretrained"
    ]["dtype"] is FLOAT32  # fmt: skip


def test_memory_that_others_hold_counts() -> None:
    """Llama-3-8B in bfloat16 takes 15.6 GiB of an A100's 39.25, and 11.25 are free."""
    here = Here(gpus=A100, in_use_bytes=(28 * GIB,))
    planned = plan_load(Asked(model="meta-llama/Meta-Llama-3-8B", context=512), here)
    assert planned.choice.changes
    assert planned.choice.estimate.fits
    assert planned.choice.asked is not None
    assert not planned.choice.asked.fits
    free = Here(gpus=A100, in_use_bytes=(0,))
    assert not plan_load(
        Asked(model="meta-llama/Meta-Llama-3-8B", context=512), free
    ).choice.changes


class FakeCuda:
    """torch.cuda of a machine with one A100, of which this process uses some."""

    free, total = 20 * GIB, 40 * GIB
    reserved, allocated = 6 * GIB, 4 * GIB

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        properties = SimpleNamespace(
            name="NVIDIA A100-SXM4-40GB", major=8, minor=0, total_memory=self.total
        )
        values: dict[str, Any] = {
            "is_available": True, "device_count": 1, "get_device_properties": properties,
            "mem_get_info": (self.free, self.total), "memory_reserved": self.reserved,
            "memory_allocated": self.allocated,
        }  # fmt: skip
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


def test_what_this_process_can_use_again_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 GiB − 20 free − 2 reserved without tensors − its context."""
    cuda = FakeCuda(monkeypatch)
    here = look()
    (gpu,) = here.gpus
    context = context_of(gpu).nominal_bytes
    assert here.in_use_bytes == (cuda.total - cuda.free - 2 * GIB - context,)
    assert (gpu.sm, gpu.capacity_bytes) == (80, cuda.total)
    planned = plan_load(Asked(model="meta-llama/Meta-Llama-3-8B", context=512), here)
    assert planned.scenario.machine is not None
    assert planned.scenario.machine.ram_bytes is not None
    assert planned.calls().load.arguments["device_map"] == {"": Variable(name="DEVICE", value=0)}


def test_gpus_that_are_named_and_here_are_those_here() -> None:
    here = Here(gpus=A100, in_use_bytes=(28 * GIB,), ram_bytes=64 * GIB)
    same = plan_load(Asked(model="meta-llama/Meta-Llama-3-8B", gpu="A100", context=512), here)
    assert same.wanted.target_is_here
    assert same.choice.changes
    assert same.scenario.machine is not None
    assert same.scenario.machine.in_use_bytes == (28 * GIB,)
    assert same.calls_here() == same.calls()


def test_on_other_gpus_placement_is_theirs() -> None:
    """Planned for two T4 by their limits, loaded on the one card that is here."""
    here = Here(gpus=A100, in_use_bytes=(0,))
    asked = Asked(model="meta-llama/Meta-Llama-3-8B", gpu="T4x2", budget="12GiB", context=512)
    planned = plan_load(asked, here)
    assert planned.calls().load.arguments["device_map"] == "auto"
    assert set(planned.calls().load.arguments["max_memory"]) == {0, 1}
    arguments = planned.calls_here().load.arguments
    assert arguments["device_map"] == {"": 0}
    assert "max_memory" not in arguments
    assert any("loaded on NVIDIA A100" in note for note in planned.notes)
    flash = Asked(
        model="meta-llama/Meta-Llama-3-8B", gpu="L4", attn="flash_attention_2", context=512
    )
    assert plan_load(flash, here).calls_here().load.arguments["attn_implementation"] == "sdpa"


def test_memory_of_a_split_adds_up_on_the_cpu() -> None:
    def needed(gpu: str) -> int:
        asked = Asked(model="meta-llama/Meta-Llama-3-8B", gpu=gpu, dtype="float16", context=512)
        return cpu_bytes(plan_load(asked, Here(), as_given=True).choice.estimate)

    assert needed("A100") <= needed("T4x2") < 1.1 * needed("A100")
    assert needed("A100") > 2 * 8_030_261_248


def test_adapters_take_the_type_that_they_are_given(folder: Path) -> None:
    from willfit.scenario import Lora

    given = load(tiny(folder, "llama"), adapter=Lora(r=4, dtype=BFLOAT16), task="train", context=32)
    usual = load(tiny(folder, "llama"), adapter=Lora(r=4), task="train", context=32)
    for loaded, dtype in ((given, torch.bfloat16), (usual, torch.float32)):
        trained = {p.dtype for p in loaded.model.parameters() if p.requires_grad}
        assert trained == {dtype}


def test_a_revision_reaches_the_library() -> None:
    asked = Asked(model=willfit.find_model("facebook/opt-125m"), revision="abc", context=32)
    assert plan_load(asked, Here()).calls().load.arguments["revision"] == "abc"


def test_no_class_of_transformers_is_torch_s_encoder(folder: Path) -> None:
    """Whose fast path BetterTransformer was; what it became is SDPA."""
    torch_s = (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer)
    model = load(tiny(folder, "bert", "float32"), better_transformer=True, context=32).model
    assert not any(isinstance(module, torch_s) for module in model.modules())
    assert not hasattr(model, "to_bettertransformer")


def test_better_transformer_s_methods_are_kept(folder: Path) -> None:
    loaded = load(tiny(folder, "opt", "float16"), attn="eager", context=32)
    expected = outputs(plain(tiny(folder, "opt", "float16"), "AutoModelForCausalLM"))
    assert loaded.to_bettertransformer().reverse_bettertransformer() is loaded
    assert loaded.model.config._attn_implementation == "sdpa"
    assert torch.equal(outputs(loaded.model), expected)


def test_the_report_says_what_was_done_and_why(folder: Path) -> None:
    text = repr(load(tiny(folder, "llama"), gpu="T4x2", quantize="nf4", context=32))
    assert "LlamaForCausalLM, loaded on cpu" in text
    assert "GPUs: 2 × NVIDIA T4 (14.56 GiB usable each)" in text
    assert "bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.bfloat16" in text
    assert "device_map='cpu')" in text
    assert "on the GPUs planned for:" in text
    assert "device_map='auto')" in text
    assert "T4x2 is not here" in text


def test_the_report_on_a_cpu_speaks_of_its_memory(folder: Path) -> None:
    """Some 100,000 parameters of 2 bytes, and what runs beside them."""
    loaded = load(tiny(folder, "llama"), context=32)
    assert loaded.model is not None
    assert "of host memory by formula" in repr(loaded)
    parameters = sum(p.nbytes for p in loaded.model.parameters())
    assert parameters < cpu_bytes(loaded.estimate) < 3 * parameters
    assert "GPU" not in repr(loaded)


def test_what_is_no_checkpoint_is_said(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config.json").write_text((tiny(folder, "llama") / "config.json").read_text())
    with pytest.raises(InputError, match="has no weights to load beside"):
        load(tmp_path / "config.json", context=32)
    with pytest.raises(ModelNotFoundError, match="there is no"):
        load(tiny(folder, "llama"), adapter=tmp_path / "no", context=32)
    with pytest.raises(InputError, match="is a timm model, and"):
        load("timm/resnet50.a1_in1k")
    with pytest.raises(ModelAccessError, match="opt-125m cannot be loaded: "):
        load("facebook/opt-125m", context=32)


def test_importing_willfit_costs_no_torch() -> None:
    code = "import sys, willfit; willfit.Scenario; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    code = "import sys, willfit; willfit.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
