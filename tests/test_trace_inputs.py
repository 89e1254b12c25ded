"""The batch of every kind of model: the real class, with weights, takes it and returns a loss."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import transformers
from tests.support.meta_spec import meta_model, spec_of_model

from willfit.devices import parse_machine
from willfit.errors import UnsupportedError
from willfit.estimator import estimate
from willfit.scenario import Inference, Machine, Scenario, Training, Workload
from willfit.trace.inputs import forward_batch, input_notes, training_batch
from willfit.trace.inputs.model import face
from willfit.trace.timm import ImageModel

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip
SOUND: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 20, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "pad_token_id": 0, "mask_time_length": 2,
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8, "num_labels": 5,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100,
    "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8,
    "max_source_positions": 20, "max_target_positions": 12, "vocab_size": 100, "pad_token_id": 0,
    "decoder_start_token_id": 1,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "projection_dim": 16,
    "text_config": {**TEXT, "max_position_embeddings": 9, "eos_token_id": 2},
    "vision_config": IMAGE,
}
SWIN: dict[str, Any] = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
    "window_size": 4, "num_labels": 5,
}  # fmt: skip
CONVNEXT: dict[str, Any] = {
    "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32, "num_labels": 5,
}  # fmt: skip
AST: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_mel_bins": 16, "max_length": 32, "num_labels": 5,
}  # fmt: skip
BERT = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("llama", TEXT),
    "LlamaForSequenceClassification": ("llama", {**TEXT, "pad_token_id": 0, "num_labels": 3}),
    "BertForMaskedLM": ("bert", BERT),
    "BertForPreTraining": ("bert", BERT),
    "BertForTokenClassification": ("bert", BERT),
    "BertForQuestionAnswering": ("bert", BERT),
    "BertForMultipleChoice": ("bert", BERT),
    "BertForNextSentencePrediction": ("bert", BERT),
    "BertForSequenceClassification": ("bert", {**BERT, "num_labels": 1}),
    "T5ForConditionalGeneration": ("t5", T5),
    "WhisperForConditionalGeneration": ("whisper", WHISPER),
    "Wav2Vec2ForCTC": ("wav2vec2", SOUND),
    "Wav2Vec2ForSequenceClassification": ("wav2vec2", SOUND),
    "ASTForAudioClassification": ("audio-spectrogram-transformer", AST),
    "ViTForImageClassification": ("vit", IMAGE),
    "SwinForImageClassification": ("swin", SWIN),
    "ConvNextForImageClassification": ("convnext", CONVNEXT),
    "CLIPModel": ("clip", CLIP),
    "SiglipModel": ("siglip", CLIP),
}
LENGTH = 9


def real(cls: str) -> Any:
    """The class with weights, in float32."""
    kind, facts = HEADS[cls]
    return getattr(transformers, cls)(transformers.AutoConfig.for_model(kind, **facts))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cls", HEADS)
def test_the_real_class_takes_the_batch_and_returns_its_loss(cls: str, padded: bool) -> None:
    model = real(cls)
    batch = training_batch(model, batch=2, length=LENGTH, padded=padded)
    assert ("attention_mask" in batch) is (padded and face(model).main == "input_ids")
    loss = model(**batch).loss
    assert loss.shape == () and loss.requires_grad


@pytest.mark.parametrize("cls", HEADS)
def test_one_forward_pass_without_labels(cls: str) -> None:
    model = real(cls).eval()
    with torch.no_grad():
        outputs = model(**forward_batch(model, batch=2, length=LENGTH, padded=False))
    first = next(value for value in outputs.values() if isinstance(value, torch.Tensor))
    assert first.shape[0] == 2


def test_a_token_of_sound_is_a_frame() -> None:
    """So many samples that the convolutions leave the asked length."""
    model = real("Wav2Vec2ForCTC").eval()
    batch = forward_batch(model, batch=1, length=LENGTH, padded=False)
    assert model(**batch).logits.shape == (1, LENGTH, 20)
    assert any("frame of sound" in note for note in input_notes(model))


def test_whisper_reads_its_whole_window_and_writes_no_more_than_it_can() -> None:
    model = real("WhisperForConditionalGeneration")
    batch = training_batch(model, batch=3, length=1000, padded=False)
    assert batch["input_features"].shape == (3, 8, 2 * 20)
    assert batch["labels"].shape == (3, 12)


def test_a_class_without_a_loss_is_refused_in_words() -> None:
    config = transformers.AutoConfig.for_model("bert", **BERT)
    with pytest.raises(UnsupportedError, match="BertModel has no loss"):
        training_batch(transformers.BertModel(config), batch=1, length=4, padded=False)


def test_an_unknown_input_is_named() -> None:
    model = real("BertForMaskedLM")
    model.main_input_name = "flattened_patches"
    with pytest.raises(UnsupportedError, match="does not know the flattened_patches"):
        forward_batch(model, batch=1, length=4, padded=False)


@pytest.mark.parametrize(
    "cls",
    ["CLIPModel", "ASTForAudioClassification", "ConvNextForImageClassification", "SwinForImageClassification",
     "WhisperForConditionalGeneration", "T5ForConditionalGeneration"],
)  # fmt: skip
def test_the_trace_runs_them(cls: str) -> None:
    """Weights of the trace are those of the table, and activations come on top."""
    kind, facts = HEADS[cls]
    spec = spec_of_model(meta_model(kind, cls, **facts))
    machine = Machine(gpus=parse_machine("L4").gpus)
    weights = 4 * spec.num_params
    step = Training(method="full", micro_batch_size=2, max_length=12, bf16=False)
    asked = (
        Workload(inference=Inference(context_len=12, batch_size=2)),
        Workload(training=step),
    )
    inference, training = (
        estimate(Scenario(model=spec, workload=work, machine=machine), trace=True) for work in asked
    )
    assert inference.gpus[0].peak.allocated_bytes > weights
    assert training.gpus[0].peak.allocated_bytes > 4 * weights  # gradients and two states of Adam
    assert 0.98 < training.num_trainable_params / spec.num_params <= 1  # Whisper's table is fixed


class Tiny(torch.nn.Module):
    """An image classifier as timm builds them: a size, a number of classes, logits out."""

    default_cfg = {"input_size": (3, 8, 8)}  # noqa: RUF012

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.head = torch.nn.Linear(3 * 8 * 8, num_classes or 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


def test_a_timm_model_has_transformers_face() -> None:
    model = ImageModel(Tiny(5))
    outputs = model(**training_batch(model, batch=2, length=99, padded=True))
    assert outputs["logits"].shape == (2, 5) and outputs["loss"].requires_grad
    headless = ImageModel(Tiny(0))
    with pytest.raises(UnsupportedError, match="without a head"):
        headless(**training_batch(headless, batch=2, length=99, padded=False))


def test_timm_itself() -> None:
    """The real library where it can be imported, else one sentence of what it lacks."""
    from willfit.sources.resolve import resolve

    spec = resolve("timm/resnet18.a1_in1k")
    scenario = Scenario(
        model=spec,
        workload=Workload(inference=Inference(batch_size=4)),
        machine=Machine(gpus=parse_machine("L4").gpus),
    )
    try:
        importlib.import_module("timm")
    except ImportError:
        with pytest.raises(UnsupportedError, match="timm cannot be imported here"):
            estimate(scenario, trace=True)
        return
    peak = estimate(scenario, trace=True).gpus[0].peak
    first = 4 * 64 * 112 * 112 * 4  # the first convolution's output, in float32
    assert peak.allocated_bytes > 4 * spec.num_params + 2 * first


def test_convolutions_say_what_is_not_known() -> None:
    for cls, told in (("ConvNextForImageClassification", True), ("BertForMaskedLM", False)):
        kind, facts = HEADS[cls]
        spec = spec_of_model(meta_model(kind, cls, **facts))
        scenario = Scenario(
            model=spec,
            workload=Workload(inference=Inference(context_len=8)),
            machine=Machine(gpus=parse_machine("L4").gpus),
        )
        found = estimate(scenario, trace=True)
        assert any("convolutions" in note for note in found.assumptions) is told
