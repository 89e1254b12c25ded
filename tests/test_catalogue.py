"""The embedded catalogue: counts, aliases, accelerate's own figures."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from willfit.dtypes import BFLOAT16, FLOAT32
from willfit.estimator.dtype_table import dtype_rows
from willfit.formulas.largest_layer import largest_layer
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, ModelSpec, Stack
from willfit.scenario.stack import TESTED
from willfit.sources.catalogue import ALIASES, FOLDER, entries, find, load, nearest
from willfit.sources.heads import with_auto_class, with_own_head
from willfit.units import GIB

NAMED = [
    "bert-base-cased", "HuggingFaceM4/idefics-80b-instruct", "timm/resnet50.a1_in1k",
    "mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-2-7b-hf", "google/gemma-2-9b-it", "tiiuae/falcon-7b", "facebook/opt-350m",
    "bigscience/bloom-3b", "bloom-2b5", "t5-11b",
]  # fmt: skip
"""Every checkpoint that the guides and threads behind the project name."""


def named(name: str) -> ModelSpec:
    spec = load(name)
    assert spec is not None, name
    return spec


@pytest.mark.parametrize("name", NAMED)
def test_the_checkpoints_people_name_are_there(name: str) -> None:
    assert named(name).num_params > 10**7


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("META-LLAMA/meta-llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("llama3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("bloom-2b5", "bigscience/bloom-3b"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("bert-base-cased", "google-bert/bert-base-cased"),
        ("gpt2", "openai-community/gpt2"),
        ("t5-11b", "google-t5/t5-11b"),
        ("bigscience/bloom-2b5", "bigscience/bloom-3b"),
        ("meta-llama/Llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("timm/resnet50", "timm/resnet50.a1_in1k"),
        ("nosuchorg/Meta-Llama-3-8B", None),
        ("unsloth/bloom-2b5", None),
        ("llama-3-9b", None),
    ],
)
def test_names_are_forgiving_but_never_change_the_size(name: str, model: str | None) -> None:
    assert find(name) == model


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("meta-lama/Lama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("mistral-7b-v1", "mistralai/Mistral-7B-v0.1"),
        ("gema-2-9b-it", "google/gemma-2-9b-it"),
        ("mixtral", "mistralai/Mixtral-8x7B-v0.1"),
        ("t5", "google-t5/t5-base"),
        ("clip", "openai/clip-vit-base-patch16"),
    ],
)
def test_a_misspelt_name_finds_its_neighbours(typed: str, meant: str) -> None:
    assert meant in nearest(typed, 3)


@pytest.mark.parametrize("model", sorted(set(ALIASES.values())))
def test_every_alias_leads_somewhere(model: str) -> None:
    assert find(model) == model


def test_it_is_large_enough_and_small_enough() -> None:
    assert len(entries()) >= 400
    packed = sum(len(zlib.compress(path.read_bytes())) for path in FOLDER.iterdir())
    assert packed < 2 * 10**6  # a wheel of at most 3 MB


def test_every_parameter_count_is_the_built_and_where_known_the_published_one(shared: Path) -> None:
    unexplained = []
    compared = 0
    for line in (shared / "models" / "index.jsonl").read_text().splitlines():
        facts = json.loads(line)
        if find(facts["id"]) is None:
            continue
        spec = named(facts["id"])
        assert spec.num_params == facts["num_params_built"], facts["id"]
        published = facts.get("num_params_published")
        if published and published != spec.num_params and facts["confidence"] == "certain":
            unexplained.append(facts["id"] if not facts["notes"] else None)
        compared += published is not None
    assert compared > 350
    assert not any(unexplained)


def test_what_is_not_confirmed_says_so() -> None:
    standings = {entry.standing for entry in entries()}
    assert any("published safetensors total" in standing for standing in standings)
    assert any("not confirmed" in standing for standing in standings)


@pytest.mark.parametrize(
    ("model", "transformers", "total", "largest"),
    [
        ("bert-base-cased", "5.23", 433_249_280, 90_669_056),
        ("HuggingFaceM4/idefics-80b-instruct", "5.23", 318_822_786_216, 3_238_068_736),
        ("HuggingFaceM4/idefics-80b-instruct", "4.46", None, 3_240_165_632),
        ("timm/resnet50.a1_in1k", "5.23", 102_441_032, 9_437_184),
    ],
)
def test_accelerates_documented_figures(
    model: str, transformers: str, total: int | None, largest: int
) -> None:
    spec = with_auto_class(named(model), "AutoModel", None)
    stack = Stack(versions={**TESTED, "transformers": transformers})
    (row,) = dtype_rows(spec, stack, ["float32"])
    assert row.largest_layer_bytes == largest
    if total is not None:
        assert row.total_bytes == total
    else:  # the manual prints 297.12 GB, which is GiB
        assert row.total_bytes / GIB == pytest.approx(297.12, abs=0.005)


def test_every_automodel_figure_of_accelerate_is_reproduced(shared: Path) -> None:
    wrong: dict[str, Any] = {}
    checked = 0
    for line in (shared / "models" / "index.jsonl").read_text().splitlines():
        facts = json.loads(line)
        if "automodel_fp32_bytes" not in facts or find(facts["id"]) is None:
            continue
        spec = with_auto_class(named(facts["id"]), "AutoModel", None)
        weights = load_weights(spec, Loading(dtype=FLOAT32), Stack())
        ours = (weights.weight_bytes, largest_layer(spec, weights)[1])
        if ours != (facts["automodel_fp32_bytes"], facts["largest_layer_bytes"]):
            wrong[facts["id"]] = (ours, facts["automodel_fp32_bytes"], facts["largest_layer_bytes"])
        checked += 1
    assert checked > 100
    assert not wrong


def test_the_declared_class_keeps_the_head_that_automodel_drops() -> None:
    spec = named("meta-llama/Llama-3.1-8B")
    whole = load_weights(spec, Loading(dtype=BFLOAT16), Stack()).weight_bytes
    base = load_weights(
        with_auto_class(spec, "AutoModel", None), Loading(dtype=BFLOAT16), Stack()
    ).weight_bytes
    assert round(whole / GIB, 2) == 14.96
    assert whole - base == 128_256 * 4_096 * 2


@pytest.mark.parametrize(
    ("model", "cls", "labels"),
    [
        ("meta-llama/Llama-3.2-1B", "LlamaForSequenceClassification", 3),
        ("google/gemma-2-2b", "Gemma2ForSequenceClassification", 3),
        ("Qwen/Qwen2.5-0.5B", "Qwen2ForSequenceClassification", 5),
        ("mistralai/Mistral-7B-v0.1", "MistralForSequenceClassification", 3),
        ("openai-community/gpt2", "GPT2ForSequenceClassification", 2),
        ("google-bert/bert-base-cased", "BertForSequenceClassification", 3),
        ("FacebookAI/roberta-base", "RobertaForSequenceClassification", 3),
        ("distilbert/distilbert-base-uncased", "DistilBertForSequenceClassification", 2),
        ("google/electra-small-discriminator", "ElectraForSequenceClassification", 2),
        ("microsoft/deberta-v3-base", "DebertaV2ForSequenceClassification", 6),
        ("answerdotai/ModernBERT-base", "ModernBertForSequenceClassification", 2),
        ("sentence-transformers/all-mpnet-base-v2", "MPNetForSequenceClassification", 2),
    ],
)
def test_classification_heads_equal_the_real_classes(model: str, cls: str, labels: int) -> None:
    import torch
    import transformers

    spec = with_auto_class(named(model), None, labels)
    loaded = transformers.AutoConfig.for_model(**{**spec.config, "num_labels": labels})
    with torch.device("meta"):
        real = getattr(transformers, cls)(loaded)
    assert spec.model_class == cls
    assert spec.num_params == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize(
    "model",
    ["albert/albert-base-v2", "distilbert/distilbert-base-uncased", "FacebookAI/xlm-roberta-base",
     "answerdotai/ModernBERT-base", "google-t5/t5-small", "openai-community/gpt2",
     "HuggingFaceTB/SmolLM2-135M", "facebook/opt-350m", "bigscience/bloom-560m"],
)  # fmt: skip
def test_a_tied_head_is_no_layer_of_its_own(model: str) -> None:
    """Accelerate counts a shared tensor once, where it is named first."""
    import torch
    from accelerate.utils.modeling import calculate_maximum_sizes

    from willfit.meta.transformers_build import _class

    spec = named(model)
    transformers = pytest.importorskip("transformers")
    cls = _class(transformers, spec.config, None)
    with torch.device("meta"):
        real = cls(transformers.AutoConfig.for_model(**spec.config))
    total, (largest, _) = calculate_maximum_sizes(real.to(torch.float32))
    weights = load_weights(spec, Loading(dtype=FLOAT32), Stack())
    assert (weights.weight_bytes, largest_layer(spec, weights)[1]) == (total, largest)


SAMPLE = entries()[::16]


@pytest.mark.parametrize("model", [e.id for e in SAMPLE if e.library == "transformers"])
def test_tables_equal_a_fresh_build_of_the_real_class(model: str) -> None:
    """A spread sample; the whole catalogue is rebuilt by ``make catalogue``."""
    from willfit.meta.transformers_build import build_transformers

    spec = named(model)
    if spec.quantization is not None:
        pytest.skip("stored quantised: the class alone does not have these tensors")
    fresh = build_transformers(spec.config, param_dtype=spec.stored_dtype.name)
    kept = tuple(row for row in spec.tensors if row.until is None)
    assert [(r.name, r.shape, r.dtype, r.tied_to) for r in kept] == [
        (r.name, r.shape, r.dtype, r.tied_to) for r in fresh.rows
    ]


@pytest.mark.parametrize(
    ("model_class", "head", "width", "is_classifier"),
    [
        ("BertForSequenceClassification", "classifier", 3, True),
        ("BertForTokenClassification", "classifier", 9, False),
        ("BertForQuestionAnswering", "qa_outputs", 2, False),
        ("ElectraForPreTraining", "discriminator_predictions.dense_prediction", 1, False),
    ],
)
def test_a_stored_class_that_scores_labels_has_logits_of_their_width(
    model_class: str, head: str, width: int, is_classifier: bool
) -> None:
    base = with_auto_class(named("google-bert/bert-base-uncased"), "AutoModel", None)
    row = replace(base.tensors[0], name=f"{head}.weight", shape=(width, 768))
    architecture = named("google-bert/bert-base-uncased").architecture
    assert architecture is not None and architecture.vocab_size == 30_522
    spec = replace(
        base, model_class=model_class, tensors=(*base.tensors, row), architecture=architecture
    )
    found = with_own_head(spec)
    assert found.architecture is not None
    assert (found.architecture.vocab_size, found.classifier) == (width, is_classifier)
    assert with_own_head(named("google-bert/bert-base-uncased")).architecture == architecture
