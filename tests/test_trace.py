"""The trace held to itself: a short model's repeated events are those of the whole model."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.allocator.rounding import round_block
from willfit.allocator.simulator import SimulatedOutOfMemory
from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.estimator.replay import replay, replay_on
from willfit.estimator.snapshot import snapshot
from willfit.estimator.timeline import timeline, timelines
from willfit.formulas.weights import load_weights
from willfit.report.bitmap import SCALE
from willfit.report.html.timeline import timeline_html
from willfit.report.panel import HEIGHT
from willfit.report.peak import WIDE
from willfit.report.terminal import render
from willfit.report.timeline import timeline_png, timeline_svg
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.catalogue import load
from willfit.trace import decode, generation
from willfit.trace import trace as door
from willfit.trace.cuda.hidden import TEMPORARIES, Call
from willfit.trace.recording import Recording
from willfit.trace.repeat import NotRepeating

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
}
MODELS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama": ("llama", None, {**SMALL, "num_hidden_layers": 9}),
    "gemma2": ("gemma2", None, {**SMALL, "num_hidden_layers": 11, "sliding_window": 64}),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", {**SMALL, "num_hidden_layers": 32}),
    "mixtral": ("mixtral", None, {**SMALL, "num_hidden_layers": 8, "num_local_experts": 4}),
    "gpt2": ("gpt2", "GPT2LMHeadModel", {"n_embd": 256, "n_layer": 8, "n_head": 8, "vocab_size": 1000}),
    "bert": (
        "bert",
        "BertForSequenceClassification",
        {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 1000},
    ),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {"d_model": 256, "d_kv": 32, "d_ff": 512, "num_layers": 8, "num_heads": 8, "vocab_size": 1000},
    ),
}  # fmt: skip
LORA = Lora(r=8, target_modules=("all-linear",))
QLORA = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
INT8 = Quantization(scheme="int8")
STEP = {"micro_batch_size": 2, "max_length": 96, "optimizer": "adamw_torch"}
WORK: dict[str, Workload] = {
    "full": Workload(training=Training(method="full", **STEP)),
    "full, checkpointed": Workload(
        training=Training(method="full", gradient_checkpointing=True, **STEP)
    ),
    "full, loop": Workload(training=Training(method="full", trainer="loop", padded=True, **STEP)),
    "lora": Workload(training=Training(method="lora", lora=LORA, bf16=True, **STEP)),
    "qlora, reentrant": Workload(
        loading=Loading(quantization=QLORA),
        training=Training(
            method="qlora", lora=LORA, prepare_kbit=True, bf16=True,
            gradient_checkpointing=True, use_reentrant=True, **STEP,
        ),
    ),
    "int8, lora": Workload(
        loading=Loading(quantization=INT8),
        training=Training(method="lora", lora=LORA, gradient_checkpointing=True, **STEP),
    ),
    "generate": Workload(inference=Inference(context_len=96, max_new_tokens=8)),
    "padded": Workload(inference=Inference(context_len=96, padded=True, batch_size=2)),
}  # fmt: skip
PAIRS = [
    *[("llama", work) for work in WORK],
    ("gemma2", "full"), ("gemma2", "generate"), ("gemma3", "lora"), ("gemma3", "padded"),
    ("mixtral", "full"), ("mixtral", "generate"), ("gpt2", "full"), ("gpt2", "generate"),
    ("bert", "lora"), ("bert", "padded"), ("t5", "generate"),
]  # fmt: skip


@pytest.fixture(scope="module")
def spec_of() -> Any:
    specs: dict[str, ModelSpec] = {}

    def find(name: str) -> ModelSpec:
        if name not in specs:
            kind, cls, changes = MODELS[name]
            specs[name] = spec_of_model(meta_model(kind, cls, **changes), BFLOAT16)
        return specs[name]

    return find


def scenario(spec: ModelSpec, workload: Workload, gpu: str = "L4") -> Scenario:
    return Scenario(model=spec, workload=workload, machine=Machine(gpus=parse_machine(gpu).gpus))


def job(spec: ModelSpec, workload: Workload, gpu: str = "L4") -> Any:
    asked = scenario(spec, workload, gpu)
    weights = load_weights(spec, workload.loading, asked.stack)
    made = door._Job(
        scenario=asked,
        weights=weights,
        gpus=asked.machine.gpus[:1],  # type: ignore[union-attr]
        loads_to_gpu=True,
        placement={},
    )
    return made, weights


def normal(recording: Recording) -> list[tuple[Hashable, ...]]:
    """The stream with storages numbered as they come, and sizes as blocks.

    Clipping stacks one number for each parameter, so a short model's stack is short.
    """
    numbers: dict[Hashable, int] = {}
    return [
        (numbers.setdefault(e.handle, len(numbers)),
         round_block(e.num_bytes) if e.num_bytes and "stack" not in e.place.op else 0,
         e.phase, e.layer)
        for e in recording.events
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "work"), PAIRS)
def test_repeated_layers_are_the_whole_model(spec_of: Any, name: str, work: str) -> None:
    """Event by event: order, size, storage, phase and layer."""
    made, weights = job(spec_of(name), WORK[work])
    short = door.shorten(made.config, weights)
    assert short is not None and all(stack.left_out for stack in short.stacks)
    repeated, whole = made.run(short), made.run(None)
    assert normal(repeated.recording) == normal(whole.recording)
    assert repeated.num_trainable_params == whole.num_trainable_params
    for ours, theirs in zip(replay(repeated.recording), replay(whole.recording), strict=True):
        assert ours.name == theirs.name and ours.reserved_bytes == theirs.reserved_bytes
        assert abs(ours.allocated_bytes - theirs.allocated_bytes) < 4096


def test_unequal_middle_layers_are_noticed(spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that behaves unlike its neighbours, which neither its shapes nor its config show."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    kept = LlamaMLP.forward
    calls = iter(range(1000))

    def odd(self: Any, x: Any) -> Any:
        return kept(self, x + 1 if next(calls) % 9 == 2 else x)

    monkeypatch.setattr(LlamaMLP, "forward", odd)
    made, weights = job(spec_of("llama"), WORK["padded"])
    with pytest.raises(NotRepeating):
        made.run(door.shorten(made.config, weights))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_takes_the_kernels_of_forward(spec_of: Any, reentrant: bool) -> None:
    """As many attention calls again, by the same kernel: a function mode would be inactive."""
    training = Training(method="full", gradient_checkpointing=True, use_reentrant=reentrant, **STEP)
    made, _ = job(spec_of("llama"), Workload(training=training))
    found: list[Any] = []
    real = door.Session

    def remembered(*args: Any, **kwargs: Any) -> Any:
        found.append(real(*args, **kwargs))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "Session", remembered)
        made.run(None)
    assert found[0].attention.calls == {"flash": 2 * 2 * 9}
    kernel = "aten._scaled_dot_product_flash_attention.default"
    by_phase = {
        phase: sum(e.place.op == kernel for e in found[0].recording.events if e.phase == phase)
        for phase in ("forward", "backward")
    }
    assert by_phase["forward"] == by_phase["backward"] > 0


def test_components_add_up_and_weights_are_the_formulas(spec_of: Any) -> None:
    for work in WORK.values():
        asked = scenario(spec_of("llama"), work)
        traced = estimate(asked, trace=True)
        formula = estimate(asked, search_limits=False)
        assert traced.level == "trace" and traced.verdict == "fits"
        for phase in traced.gpus[0].phases:
            assert sum(part.num_bytes for part in phase.components) == phase.device_bytes
        assert traced.num_trainable_params == formula.num_trainable_params


def test_a_checkpoint_of_a_method_without_layers_is_not_traced_as_something_else() -> None:
    spec = load("nvidia/GLM-5.1-NVFP4")
    assert spec is not None and spec.quantization is not None
    with pytest.raises(UnsupportedError, match="stored in modelopt"):
        estimate(scenario(spec, Workload(inference=Inference()), "H200"), trace=True)


def test_a_value_that_the_code_reads_is_said(spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    kept = LlamaMLP.forward

    def reads(self: Any, x: Any) -> Any:
        return kept(self, x if float(x.sum()) > 0 else x + 1)

    monkeypatch.setattr(LlamaMLP, "forward", reads)
    result = estimate(scenario(spec_of("llama"), WORK["padded"]), trace=True)
    assert "values that model.layers.N.mlp reads were taken as 0" in result.assumptions


def test_shapes_that_depend_on_values_are_refused_by_module(
    spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    monkeypatch.setattr(LlamaMLP, "forward", lambda _, x: x[x > 0])
    with pytest.raises(
        UnsupportedError, match=r"cannot run this model: .* in model\.layers\.0\.mlp"
    ):
        estimate(scenario(spec_of("llama"), WORK["padded"]), trace=True)


def test_a_single_random_number_decides_as_it_would(
    spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoHa skips its adapter unless ``torch.rand(1) > module_dropout``, which is 0 by default."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    kept = LlamaMLP.forward

    def drops(self: Any, x: Any) -> Any:
        return kept(self, x) if bool(torch.rand(1) > -1.0) else x

    made, _ = job(spec_of("llama"), WORK["padded"])
    usual = made.run(None).recording
    monkeypatch.setattr(LlamaMLP, "forward", drops)
    made, _ = job(spec_of("llama"), WORK["padded"])
    large = [event for event in usual.events if event.num_bytes > 4096]
    again = [event for event in made.run(None).recording.events if event.num_bytes > 4096]
    assert [e.num_bytes for e in large] == [e.num_bytes for e in again]


def test_a_full_card_gives_cached_segments_back(spec_of: Any) -> None:
    """A cache that grows leaves garbage; a card too small for the garbage still holds the rest."""
    work = Workload(inference=Inference(batch_size=64, context_len=700, max_new_tokens=600))
    made, weights = job(spec_of("llama"), work)
    recording = made.run(door.shorten(made.config, weights)).recording
    roomy = max(phase.reserved_bytes for phase in replay(recording))
    most = max(phase.allocated_bytes for phase in replay(recording))
    capacity = round(0.9 * roomy)
    assert most < capacity
    tight = replay(recording, capacity_bytes=capacity)
    assert max(phase.reserved_bytes for phase in tight) <= capacity
    with pytest.raises(SimulatedOutOfMemory):
        replay(recording, capacity_bytes=most // 2)
    failed = replay_on(recording, "", most // 2)
    assert failed.failure is not None and failed.failure.phase in ("prefill", "decode")
    assert max(phase.reserved_bytes for phase in failed.phases) <= capacity
    assert replay_on(recording, "", capacity).failure is None


def test_a_run_that_ends_says_where_in_torchs_words(spec_of: Any) -> None:
    asked = scenario(spec_of("llama"), WORK["full"], "24GiB:sm_80")
    largest = estimate(asked, trace=True).gpus[0].peak.allocated_bytes
    context = 1 << 30
    gpu = replace(asked.machine.gpus[0], capacity_bytes=largest * 9 // 10 + context,  # type: ignore[union-attr]
                  context_bytes=context, context_range_bytes=(context, context))  # fmt: skip
    result = estimate(replace(asked, machine=Machine(gpus=(gpu,))), trace=True)
    assert result.verdict == "does_not_fit"
    failure = result.failure
    assert failure is not None and failure.phase in ("backward", "step")
    assert failure.message.startswith("CUDA out of memory. Tried to allocate ")
    assert "GPU 0 has a total capacity of 1." in failure.message
    report = render(result)
    assert "would end in" in report and "Tried to allocate" in report


def test_every_decoding_step_is_as_if_it_had_been_run(
    spec_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve tokens from three steps, and the same twelve run one by one."""
    work = Workload(inference=Inference(context_len=96, max_new_tokens=12))
    made, _ = job(spec_of("llama"), work)
    usual = made.run(None).recording
    monkeypatch.setattr(decode, "WHOLE_STEPS", 12)
    made, _ = job(spec_of("llama"), work)
    from_three = made.run(None).recording
    assert len(usual.events) < len(from_three.events)
    assert [(p.allocated_bytes, p.reserved_bytes) for p in replay(usual)] == [
        (p.allocated_bytes, p.reserved_bytes) for p in replay(from_three)
    ]
    monkeypatch.setattr(generation, "DECODED", 12)
    made, _ = job(spec_of("llama"), work)
    one_by_one = made.run(None).recording
    ran = [event for event in normal(one_by_one) if event[2] == "decode"]
    steps = [event for event in normal(from_three) if event[2] == "decode"]
    assert len(steps) > 1000
    assert steps == ran


def test_what_is_largest_at_the_peak_has_its_module(spec_of: Any) -> None:
    result = estimate(scenario(spec_of("llama"), WORK["full"]), trace=True)
    listed = result.largest_alive
    assert [item.num_bytes for item in listed] == sorted(
        (item.num_bytes for item in listed), reverse=True
    )
    kept = {item.module: item.count for item in listed}
    assert kept["model.layers.*.mlp.down_proj.weight"] == 9
    assert sum(item.num_bytes for item in listed) <= result.gpus[0].peak.allocated_bytes


def test_pytorch_reads_the_snapshot(spec_of: Any) -> None:
    from torch.cuda import _memory_viz

    made, weights = job(spec_of("llama"), WORK["full"])
    recording = made.run(door.shorten(made.config, weights)).recording
    written = snapshot(recording)
    reserved = max(phase.reserved_bytes for phase in replay(recording))
    assert sum(segment["total_size"] for segment in written["segments"]) == reserved
    viz: Any = _memory_viz
    assert f"segments: {len(written['segments'])}" in viz.segsum(written)
    assert "cudaMalloc" in viz.trace(written) and "snapshot.pickle" in viz.trace_plot(written)


def test_the_timeline_is_a_picture_of_the_same_peaks(spec_of: Any) -> None:
    made, weights = job(spec_of("llama"), WORK["full"])
    recording = made.run(door.shorten(made.config, weights)).recording
    drawn = timeline(recording)
    assert timelines(recording) == {0: drawn}
    allocated = max(sum(moment.components.values()) for moment in drawn.moments)
    assert allocated == max(phase.allocated_bytes for phase in replay(recording))
    assert all(
        sum(m.components.values()) <= m.reserved_bytes for m in drawn.moments if m.phase != "load"
    )
    picture = ElementTree.fromstring(timeline_svg({0: drawn, 1: drawn}, "a <title> & more"))
    width, height = (int(picture.attrib[side]) for side in ("width", "height"))
    assert width == WIDE and height > 2 * HEIGHT
    points = [
        tuple(map(float, pair.split(",")))
        for polygon in picture.iter("{http://www.w3.org/2000/svg}polygon")
        for pair in polygon.attrib["points"].split()
    ]
    assert len(points) > 400
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    bitmap = timeline_png({0: drawn, 1: drawn}, "a <title> & more")
    size = [int.from_bytes(bitmap[at : at + 4], "big") for at in (16, 20)]
    assert bitmap.startswith(b"\x89PNG") and size == [width * SCALE, height * SCALE]
    assert timeline_html({0: drawn}, "t").startswith("<!doctype html>")


def test_a_library_that_is_missing_is_named(spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnsupportedError, match=r"peft.*pip install 'willfit\[trace\]'"):
        estimate(scenario(spec_of("llama"), WORK["lora"]), trace=True)


def test_a_strangers_adapter_loads_nothing(spec_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def fetched(*_: Any, **__: Any) -> Any:
        raise AssertionError("a tokenizer was asked for")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fetched)
    adapter = {
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM",
        "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x",
        "tokenizer_name_or_path": "someone/evil", "tokenizer_kwargs": {"trust_remote_code": True},
    }  # fmt: skip
    training = Training(method="lora", adapter_config=adapter, **STEP)
    result = estimate(scenario(spec_of("llama"), Workload(training=training)), trace=True)
    assert result.num_trainable_params == 4 * 256


def test_a_matrix_without_a_unit_stride_is_copied_for_cublas() -> None:
    """The gradient that ``sum`` expands has strides 0, 0; a transposed one goes as it is."""
    rows = TEMPORARIES[torch.ops.aten.mm.default]
    expanded = torch.zeros((), dtype=torch.float16).expand(8, 32)
    weight = torch.zeros(32, 4, dtype=torch.float16)
    assert list(rows(Call((expanded, weight), {}, None))) == [8 * 32 * 2]
    assert list(rows(Call((weight.t(), expanded.t().contiguous()), {}, None))) == []
