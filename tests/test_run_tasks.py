"""Tasks of a run: what a plain loop of transformers computes, bit for bit at equal batches.

The loops of this file use transformers, PEFT and torch alone; they share no line with the runner.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("pydantic")
pytest.importorskip("psutil")
peft = pytest.importorskip("peft")

import pyarrow.parquet as pq  # noqa: E402 - after the extras are known to be there
from tests.support import classifiers  # noqa: E402

from willfit.errors import InputError  # noqa: E402
from willfit.runner.batching import Budget  # noqa: E402
from willfit.runner.pipeline import pipeline_from  # noqa: E402
from willfit.runner.prepared import PreparedRows, open_rows  # noqa: E402
from willfit.runner.protocol import Job  # noqa: E402
from willfit.runner.run import run  # noqa: E402
from willfit.runner.shards import Range  # noqa: E402
from willfit.worker.oom import is_dead_context, is_out_of_memory  # noqa: E402
from willfit.worker.prepare import prepare  # noqa: E402
from willfit.worker.returned import columns_of  # noqa: E402
from willfit.worker.tasks import task_of  # noqa: E402
from willfit.worker.tasks.generate import num_new  # noqa: E402
from willfit.worker.tasks.task import Task  # noqa: E402

TEXTS = classifiers.sentences(41, seed=3)
SIZE = 8
"""Rows of a batch where batches are equal."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA, also where there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


# ---- the runner's side, in this process


def job_of(stage: Mapping[str, Any], tmp: Path, texts: Sequence[Any] = TEXTS, **more: Any) -> Job:
    """A stage as the driver would hand it to a worker, over rows with these texts."""
    rows = [row if isinstance(row, dict) else {"text": row} for row in texts]
    pq.write_table(
        pa.Table.from_pylist([{"id": i, **r} for i, r in enumerate(rows)]), tmp / "d.parquet"
    )
    file = pipeline_from({"data": str(tmp / "d.parquet"), "stages": {"s": dict(stage)}}, tmp).file
    return Job(
        kind="stage", name="s", stage=file.stages["s"].model_dump(mode="json"), parent=0,
        rows=str(tmp / "rows.arrow"), data=str(tmp / "d.parquet"),
        **{"context": classifiers.MAX_LENGTH, **more},
    )  # fmt: skip


def prepared(job: Job) -> PreparedRows:
    prepare(job, SimpleNamespace(tell=lambda _: None))
    return open_rows(Path(job.rows))


def loaded(stage: Mapping[str, Any], tmp: Path, texts: Sequence[Any] = TEXTS, **more: Any) -> Any:
    """A task that is ready, with its rows as ``task.rows``, and what it said while loading."""
    job = job_of(stage, tmp, texts, **more)
    rows = prepared(job)
    task: Any = task_of(job, rows)
    task.remarks = task.load()
    task.rows = rows
    return task


def results(task: Any, budget: Budget, cuts: Sequence[int] = ()) -> dict[str, list[Any]]:
    """Columns in the data's order, computed shard by shard and batch by batch."""
    rows, tables = task.rows, []
    edges = [0, *cuts, rows.num_rows]
    for start, stop in itertools.pairwise(edges):
        while start < stop:
            lengths, sequences = rows.sizes(Range(start, stop))
            count = budget.rows(lengths, sequences, task.new_tokens)
            tables.append(task.compute(rows.table(Range(start, start + count))))
            start += count
    table = pa.concat_tables(tables).take(pa.array(np.argsort(rows.numbers())))
    return table.to_pydict()


def computed(
    stage: Mapping[str, Any], tmp: Path, texts: Sequence[Any] = TEXTS, *,
    cuts: Sequence[int] = (), budget: Budget | None = None,
) -> Any:  # fmt: skip
    """Numbers of each row as one array, at batches of `SIZE` rows."""
    task = loaded(stage, tmp, texts)
    found = results(task, budget or Budget(tokens=None, most_rows=SIZE), cuts)
    return np.asarray(next(iter(found.values())), dtype=np.float32)


# ---- the other side: a plain loop


def tokens_of(folder: Path, texts: Sequence[str], **cut: Any) -> tuple[Any, list[list[int]]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    sides = {"truncation_side": cut.pop("truncation_side", "right")}
    tokenizer.truncation_side = sides["truncation_side"]
    return tokenizer, tokenizer(list(texts), **cut)["input_ids"]


def batches(
    encoded: Sequence[Sequence[int]], cuts: Sequence[int] = (), size: int = SIZE
) -> Iterator[list[int]]:
    """The documented batches: rows sorted longest first, ``size`` at a time within a shard."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    for start, stop in itertools.pairwise([0, *cuts, len(order)]):
        for at in range(start, stop, size):
            yield order[at : min(at + size, stop)]


def plain_model(auto: str, folder: Path, adapter: Path | None = None, **arguments: Any) -> Any:
    model = getattr(transformers, auto).from_pretrained(folder, **arguments)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()


def plain(
    model: Any, tokenizer: Any, encoded: Sequence[Sequence[int]], read: Any, *, side: str = "right",
    cuts: Sequence[int] = (), size: int = SIZE, **arguments: Any,
) -> Any:  # fmt: skip
    """``read(output, attention_mask)`` of each row, in the data's order."""
    rows: list[Any] = [None] * len(encoded)
    for batch in batches(encoded, cuts, size):
        inputs = tokenizer.pad(
            {"input_ids": [encoded[i] for i in batch]}, return_tensors="pt", padding_side=side
        )
        with torch.no_grad():
            output = model(**inputs, **arguments)
        for row, values in zip(batch, read(output, inputs["attention_mask"]), strict=True):
            rows[row] = values.numpy()
    return np.stack(rows)


def plain_classify(
    folder: Path, texts: Sequence[str] = TEXTS, *, tokens: Mapping[str, Any] | None = None,
    adapter: Path | None = None, cuts: Sequence[int] = (), size: int = SIZE, **arguments: Any,
) -> Any:  # fmt: skip
    tokenizer, encoded = tokens_of(folder, texts, **(tokens or {}))
    model = plain_model("AutoModelForSequenceClassification", folder, adapter, **arguments)
    model.config.pad_token_id = tokenizer.pad_token_id
    return plain(
        model, tokenizer, encoded, lambda out, _: out.logits.float(), cuts=cuts, size=size,
        **({} if "bert" in folder.name else {"use_cache": False}),
    )  # fmt: skip


# ---- classify

CLASSIFY: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    # family, labels, settings of the stage, arguments of the tokenizer
    ("gemma2", 1, {}, {}),
    ("gemma2", 2, {}, {}),
    ("gemma2", 3, {}, {}),
    ("gemma2", 7, {}, {}),
    ("llama", 3, {}, {}),
    ("bert", 3, {}, {}),
    ("gemma2", 3, {"max_length": 9}, {"truncation": True, "max_length": 9}),
    ("gemma2", 3, {"max_length": 9, "truncate": "left"},
     {"truncation": True, "max_length": 9, "truncation_side": "left"}),
    ("bert", 3, {"max_length": 9, "truncate": "left"},
     {"truncation": True, "max_length": 9, "truncation_side": "left"}),
    ("llama", 3, {"add_special_tokens": False}, {"add_special_tokens": False}),
    ("llama", 3, {"attn": "eager"}, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "labels", "settings", "tokens"), CLASSIFY,
    ids=[f"{family}-{labels}-{'-'.join(map(str, more.values()))}" for family, labels, more, _ in CLASSIFY],
)  # fmt: skip
def test_logits_are_those_of_a_plain_loop_bit_for_bit(
    folder: Path, tmp_path: Path, family: str, labels: int, settings: Any, tokens: Any
) -> None:
    model = classifiers.classifier(family, folder, labels=labels)
    arguments = {"attn_implementation": settings["attn"]} if "attn" in settings else {}
    found = computed({"model": str(model), "labels": labels, **settings}, tmp_path, cuts=(11, 30))
    expected = plain_classify(model, tokens=tokens, cuts=(11, 30), **arguments)
    assert found.shape == (len(TEXTS), labels)
    assert np.array_equal(found, expected)
    assert np.ptp(expected, axis=0).min() > 0.1  # rows do differ


@pytest.mark.parametrize("family", ["gemma2", "llama", "bert"])
@pytest.mark.parametrize("tokens", [1, 60, 4096])
def test_other_batches_change_nothing_but_rounding(
    folder: Path, tmp_path: Path, family: str, tokens: int
) -> None:
    model = classifiers.classifier(family, folder)
    stage = {"model": str(model), "labels": 3}
    found = computed(stage, tmp_path, budget=Budget(tokens=tokens))
    expected = plain_classify(model)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


# ---- adapters, and heads


@pytest.mark.parametrize(("family", "labels"), [("llama", 3), ("gemma2", 2)])
def test_an_adapter_brings_its_own_head_to_a_language_model(
    folder: Path, tmp_path: Path, family: str, labels: int
) -> None:
    base = classifiers.causal_lm(family, folder)
    adapter = classifiers.adapter(base, "SEQ_CLS", folder, labels=labels)
    assert "score" in json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"]
    stage = {"model": str(base), "adapter": str(adapter), "labels": labels}
    expected = plain_classify(base, adapter=adapter, num_labels=labels)
    assert np.array_equal(computed(stage, tmp_path), expected)
    plain_base = plain_model("AutoModelForSequenceClassification", base, num_labels=labels)
    assert not np.allclose(plain_base.score.weight.numpy(force=True), 0)  # random, and replaced


def test_an_adapter_changes_a_classifier_that_has_a_head(folder: Path, tmp_path: Path) -> None:
    base = classifiers.classifier("llama", folder)
    adapter = classifiers.adapter(base, "SEQ_CLS", folder, modules_to_save=None)
    found = computed({"model": str(base), "adapter": str(adapter), "labels": 3}, tmp_path)
    assert np.array_equal(found, plain_classify(base, adapter=adapter))
    assert np.abs(found - plain_classify(base)).max() > 0.1


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": ["score", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"trainable_token_indices": {"embed_tokens": [5, 6]}},
    ],
)
def test_adapters_of_every_kind_are_put_on_as_peft_does(
    folder: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    """Those that wrap the embeddings too, whose device and size a task asks for."""
    base = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(base, "SEQ_CLS", tmp_path, **config)
    task = loaded({"model": str(base), "adapter": str(adapter), "labels": 3}, tmp_path)
    found = results(task, Budget(tokens=None, most_rows=SIZE))["logits"]
    expected = plain_classify(base, adapter=adapter, num_labels=3)
    assert np.array_equal(np.asarray(found, np.float32), expected)
    unknown = [text for text in task.remarks if text.startswith("its memory is not estimated")]
    assert bool(unknown) == ("use_dora" in config)


def refused(stage: Mapping[str, Any], tmp: Path, **more: Any) -> str:
    with pytest.raises(InputError) as error:
        loaded(stage, tmp, **more)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_head_that_nobody_trained_is_refused(folder: Path, tmp_path: Path) -> None:
    """The library would make it up, and only log that it did."""
    base = classifiers.causal_lm("llama", folder)
    text = refused({"model": str(base), "labels": 3}, tmp_path)
    assert "score of the head is neither in the model's files nor in an adapter" in text
    headless = classifiers.adapter(base, "CAUSAL_LM", tmp_path, modules_to_save=None)
    config = json.loads((headless / "adapter_config.json").read_text())
    (headless / "adapter_config.json").write_text(json.dumps({**config, "task_type": None}))
    stage = {"model": str(base), "labels": 3, "adapter": str(headless)}
    assert "would be random" in refused(stage, tmp_path)


def test_the_wrong_number_of_labels_is_refused(folder: Path, tmp_path: Path) -> None:
    model = classifiers.classifier("llama", folder, labels=3)
    text = refused({"model": str(model), "labels": 2}, tmp_path)
    assert "has labels: 2" in text
    assert "was trained with 3: write labels: 3" in text
    base = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(base, "SEQ_CLS", folder)
    stage = {"model": str(base), "adapter": str(adapter), "labels": 2}
    assert "size mismatch" in refused(stage, tmp_path)


def test_an_adapter_of_another_task_is_refused(folder: Path, tmp_path: Path) -> None:
    base = classifiers.causal_lm("llama", folder)
    generating = classifiers.adapter(base, "CAUSAL_LM", folder, modules_to_save=None)
    for task, labels in (("classify", {"labels": 3}), ("embed", {})):
        text = refused(
            {"model": str(base), "adapter": str(generating), "task": task, **labels}, tmp_path
        )
        assert "its adapter was trained as CAUSAL_LM" in text


def test_an_adapter_whose_weights_fit_nowhere_is_refused(folder: Path, tmp_path: Path) -> None:
    """Trained on the class with a head, its weights are named for that; PEFT only warns."""
    base = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(base, "CAUSAL_LM", tmp_path, modules_to_save=None)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "task_type": None}))
    text = refused({"model": str(base), "adapter": str(adapter), "task": "embed"}, tmp_path)
    assert "trained on another class of model than LlamaModel" in text


def test_tokens_that_the_model_does_not_know_are_refused(folder: Path, tmp_path: Path) -> None:
    """On a GPU they would be an assertion that ends the process."""
    small = transformers.AutoConfig.for_model(
        "gemma2", **{**classifiers.CONFIGS["gemma2"], "vocab_size": 200}, num_labels=3
    )
    transformers.AutoModelForSequenceClassification.from_config(small).save_pretrained(
        tmp_path / "m"
    )
    classifiers.write_tokenizer(tmp_path / "m")
    text = refused({"model": str(tmp_path / "m"), "labels": 3}, tmp_path)
    assert "and the model knows 200 tokens: name the model's own with tokenizer:" in text


def saved(kind: str, auto: str, path: Path, **config: Any) -> Path:
    """A checkpoint of another model type, as small as that goes."""
    made = transformers.AutoConfig.for_model(kind, **config)
    torch.manual_seed(0)
    getattr(transformers, auto).from_config(made).save_pretrained(path)
    classifiers.write_tokenizer(path)
    return path


def test_a_class_that_sees_padding_as_text_runs_row_by_row(tmp_path: Path) -> None:
    """FNet takes no mask."""
    model = saved(
        "fnet", "AutoModelForSequenceClassification", tmp_path / "m", vocab_size=384,
        hidden_size=64, num_hidden_layers=1, intermediate_size=64, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    stage = {"model": str(model), "labels": 3}
    assert "cannot tell padding from text" in refused(stage, tmp_path)
    task = loaded({**stage, "batch_size": 1}, tmp_path, batch_size=1)
    found = np.asarray(results(task, Budget(tokens=None, most_rows=1))["logits"])
    _, encoded = tokens_of(model, TEXTS)
    fnet = plain_model("AutoModelForSequenceClassification", model)
    with torch.no_grad():
        expected = np.stack([fnet(torch.tensor([ids])).logits[0].numpy() for ids in encoded])
    assert np.array_equal(found, expected)


def test_a_decoder_without_positions_is_padded_behind(tmp_path: Path) -> None:
    """Bart's counts them itself, from the first token that it is given."""
    model = saved(
        "bart", "AutoModelForCausalLM", tmp_path / "m", vocab_size=384, d_model=64,
        decoder_layers=1, encoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
        max_position_embeddings=256, init_std=0.2,
    )  # fmt: skip
    task = loaded({"model": str(model), "choices": CHOICES}, tmp_path)
    assert not task.pads_left
    found = np.asarray(results(task, Budget(tokens=300))["logits"])
    expected = plain_choose(model, TEXTS, CHOICES)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


ROBERTA: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 260, "initializer_range": 0.2,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config"),
    [("xlnet", {"vocab_size": 384, "d_model": 64, "n_layer": 1, "n_head": 4, "d_inner": 64}),
     ("roberta", ROBERTA)],
)  # fmt: skip
def test_a_model_that_looks_ahead_chooses_nothing(
    tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    """The library gives such a class under the same name; its numbers are no likelihoods."""
    model = saved(kind, "AutoModelForCausalLM", tmp_path / "m", **config)
    assert "looks ahead" in refused({"model": str(model), "choices": CHOICES}, tmp_path)


def test_positions_that_begin_behind_the_padding_s_are_left_to_the_class(tmp_path: Path) -> None:
    model = saved("roberta", "AutoModelForCausalLM", tmp_path / "m", **ROBERTA, is_decoder=True)
    found = computed({"model": str(model), "choices": CHOICES}, tmp_path)
    expected = plain_choose(model, TEXTS, CHOICES)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


POSITIONS: list[tuple[str, dict[str, Any], int]] = [
    # model type, its config, positions that it has
    ("bert", {}, 256), ("gpt2", {}, 256),
    ("roberta", {"vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 1, "pad_token_id": 1,
                 "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 130}, 128),
    ("opt", {"vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 1, "ffn_dim": 64,
             "num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 64}, 128),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "config", "known"), POSITIONS, ids=[row[0] for row in POSITIONS]
)
def test_a_row_beyond_the_model_s_positions_is_refused(
    folder: Path, tmp_path: Path, family: str, config: dict[str, Any], known: int
) -> None:
    """As many as there are run, one more is told; on a GPU it would end the process.

    The estimate refuses what lies beyond the config's own number; RoBERTa uses fewer than that.
    """
    if config:
        auto = "AutoModelForSequenceClassification"
        model = saved(family, auto, tmp_path / family, **config, num_labels=3)
    else:
        model = classifiers.classifier(family, folder)
    stage = {"model": str(model), "labels": 3}
    task = loaded({**stage, "max_length": known}, tmp_path, ["fox " * 300], context=known)
    assert np.asarray(results(task, Budget(tokens=None))["logits"]).shape == (1, 3)
    text = refused(
        {**stage, "max_length": known + 1}, tmp_path, texts=["fox " * 300], context=known
    )
    assert f"has a row of {known + 1} tokens and the model knows {known} positions" in text
    assert f"lower max_length to {known}" in text


def test_the_model_s_own_padding_decides_which_token_the_head_reads(
    folder: Path, tmp_path: Path
) -> None:
    """It was trained with that; the tokenizer may come from elsewhere, and pad with another."""
    model = plain_model(
        "AutoModelForSequenceClassification", classifiers.classifier("llama", folder)
    )
    model.config.pad_token_id = classifiers.EOS
    model.save_pretrained(tmp_path / "m")
    classifiers.write_tokenizer(tmp_path / "m", pads=True)
    texts = ["fox <pad>", "the quick brown fox", "a"]
    tokenizer, encoded = tokens_of(tmp_path / "m", texts)
    assert encoded[0][-1] == tokenizer.pad_token_id == classifiers.PAD
    with torch.no_grad():
        expected = np.stack([model(torch.tensor([ids])).logits[0].numpy() for ids in encoded])
    found = computed({"model": str(tmp_path / "m"), "labels": 3}, tmp_path, texts)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_padding_that_the_model_has_no_embedding_for_is_not_used(
    folder: Path, tmp_path: Path
) -> None:
    """A [PAD] added to the tokenizer alone, as many notebooks do."""
    base = classifiers.classifier("llama", folder)
    plain_model("AutoModelForSequenceClassification", base).save_pretrained(tmp_path / "m")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<never used {i}>" for i in range(classifiers.VOCABULARY)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "m")
    assert tokenizer.pad_token_id > classifiers.VOCABULARY
    found = computed({"model": str(tmp_path / "m"), "labels": 3}, tmp_path)
    assert np.array_equal(found, plain_classify(base))


def test_a_gpu_that_torch_does_not_find_is_told(folder: Path, tmp_path: Path) -> None:
    stage = {"model": str(classifiers.classifier("llama", folder)), "labels": 3}
    text = refused(stage, tmp_path, gpus=2)
    assert "has 2 GPU(s) and torch" in text
    assert "install a CUDA build of torch, or set device: cpu" in text


def test_a_model_that_spills_over_its_gpus_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would run what does not fit from host memory, without a word."""
    import willfit.worker.loading as loading

    def spilling(*arguments: Any, **keywords: Any) -> Any:
        result = load(*arguments, **keywords)
        result.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu", "score": "cpu"}
        return result

    load = loading.load
    monkeypatch.setattr(loading, "load", spilling)
    monkeypatch.setattr(loading, "_require_gpus", lambda _: None)
    stage = {"model": str(classifiers.classifier("llama", folder)), "labels": 3}
    text = refused(stage, tmp_path, gpus=1)
    assert "2 parts of the model, such as model.layers.1, do not fit on its GPUs" in text


def test_what_is_not_finite_is_no_result(folder: Path, tmp_path: Path) -> None:
    """NaN would count as a row that is missing."""
    model = plain_model(
        "AutoModelForSequenceClassification", classifiers.classifier("gemma2", folder)
    )
    with torch.no_grad():
        model.score.weight.fill_(float("inf"))
    model.save_pretrained(tmp_path / "m")
    classifiers.write_tokenizer(tmp_path / "m")
    with pytest.raises(ValueError, match=r"results of 8 of 8 rows are not finite .* bfloat16"):
        computed({"model": str(tmp_path / "m"), "labels": 3}, tmp_path)


# ---- 8 and 4 bit, and 16

QUANTIZED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("float32", {"quantize": "int8"}, {"quantization_config": {"load_in_8bit": True}}),
    ("float32", {"quantize": "nf4"},
     {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}),
    ("bfloat16", {"quantize": "nf4-double"},
     {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
      "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}}),
    ("bfloat16", {}, {}),
    ("bfloat16", {"dtype": "float32"}, {"dtype": torch.float32}),
    ("bfloat16", {"dtype": "float16"}, {"dtype": torch.float16}),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "settings", "arguments"), QUANTIZED,
                         ids=[f"{s}-{'-'.join(m.values())}" for s, m, _ in QUANTIZED])  # fmt: skip
def test_fewer_bits_are_the_library_s_own(
    folder: Path, tmp_path: Path, stored: str, settings: Any, arguments: Any
) -> None:
    model = classifiers.classifier("llama", folder, dtype=stored)
    arguments = dict(arguments)
    if "quantization_config" in arguments:
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            **arguments["quantization_config"]
        )
        arguments["device_map"] = "cpu"
    found = computed({"model": str(model), "labels": 3, **settings}, tmp_path)
    assert np.array_equal(found, plain_classify(model, **arguments))


def test_an_adapter_runs_on_eight_bits(folder: Path, tmp_path: Path) -> None:
    """The case of LMSYS: int8 base, LoRA, a head of the adapter's."""
    base = classifiers.causal_lm("gemma2", folder, dtype="bfloat16")
    adapter = classifiers.adapter(base, "SEQ_CLS", folder)
    stage = {"model": str(base), "adapter": str(adapter), "labels": 3, "quantize": "int8"}
    expected = plain_classify(
        base, adapter=adapter, num_labels=3, device_map="cpu",
        quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True),
    )  # fmt: skip
    assert np.array_equal(computed(stage, tmp_path), expected)


# ---- embed


def plain_embed(folder: Path, pooling: str, *, unit: bool, adapter: Path | None = None) -> Any:
    tokenizer, encoded = tokens_of(folder, TEXTS)
    model = plain_model("AutoModel", folder, adapter)
    model = model.get_encoder() if model.config.is_encoder_decoder else model

    def read(output: Any, mask: Any) -> Any:
        states = output.last_hidden_state
        if pooling == "mean":
            mask = mask[..., None].float()
            vectors = (states * mask).sum(1) / mask.sum(1)
        elif pooling == "last":
            vectors = torch.stack(
                [row[int(m.sum()) - 1] for row, m in zip(states, mask, strict=True)]
            )
        else:
            vectors = states[:, 0]
        return torch.nn.functional.normalize(vectors, dim=-1) if unit else vectors

    return plain(model, tokenizer, encoded, read)


@pytest.mark.parametrize(
    ("family", "pooling", "unit"),
    [
        ("bert", "mean", True),
        ("bert", "cls", False),
        ("llama", "last", True),
        ("t5", "mean", False),
    ],
)
def test_embeddings_are_those_of_a_plain_loop(
    folder: Path, tmp_path: Path, family: str, pooling: str, unit: bool
) -> None:
    model = classifiers.encoder(family, folder)
    stage = {"model": str(model), "task": "embed", "pooling": pooling, "normalize_embeddings": unit}
    found = computed(stage, tmp_path)
    assert np.array_equal(found, plain_embed(model, pooling, unit=unit))
    other = computed(stage, tmp_path, budget=Budget(tokens=60))
    assert np.abs(found - other).max() <= 1e-6 * max(1, np.abs(found).max())


def test_an_adapter_changes_embeddings(folder: Path, tmp_path: Path) -> None:
    base = classifiers.encoder("llama", folder)
    adapter = classifiers.adapter(base, "FEATURE_EXTRACTION", folder, modules_to_save=None)
    found = computed({"model": str(base), "adapter": str(adapter), "task": "embed"}, tmp_path)
    assert np.array_equal(found, plain_embed(base, "mean", unit=True, adapter=adapter))
    assert not np.allclose(found, plain_embed(base, "mean", unit=True))


# ---- generate

GENERATE: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gemma2", {}),
    ("llama", {"generation": {"repetition_penalty": 1.3, "min_new_tokens": 3}}),
    ("llama", {"generation": {"num_beams": 2}}),
    ("llama", {"generation": {"stop_strings": ["a"]}}),
    ("gpt2", {}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "settings"), GENERATE)
def test_texts_are_those_of_a_plain_loop(
    folder: Path, tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    model = classifiers.causal_lm(family, folder)
    stage = {"model": str(model), "task": "generate", "max_new_tokens": 6, **settings}
    found = results(loaded(stage, tmp_path), Budget(tokens=None, most_rows=SIZE))
    tokenizer, encoded = tokens_of(model, TEXTS)
    lm = plain_model("AutoModelForCausalLM", model)
    expected: list[str] = [""] * len(TEXTS)
    more = dict(settings.get("generation", {}))
    if "stop_strings" in more:
        more["tokenizer"] = tokenizer
    for batch in batches(encoded):
        inputs = tokenizer.pad(
            {"input_ids": [encoded[i] for i in batch]}, return_tensors="pt", padding_side="left"
        )
        with torch.no_grad():
            output = lm.generate(**inputs, max_new_tokens=6, do_sample=False,
                                 pad_token_id=tokenizer.pad_token_id, **more)  # fmt: skip
        new = output[:, inputs["input_ids"].shape[1] :]
        for row, text in zip(
            batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
        ):
            expected[row] = text
    assert found["text"] == expected
    assert len(set(expected)) > 5
    assert all(1 <= count <= 6 for count in found["num_new_tokens"])


def test_a_text_does_not_depend_on_its_neighbours(folder: Path, tmp_path: Path) -> None:
    stage = {
        "model": str(classifiers.causal_lm("llama", folder)),
        "task": "generate",
        "max_new_tokens": 6,
    }
    task = loaded(stage, tmp_path)
    alone = results(task, Budget(tokens=None, most_rows=1))
    assert results(task, Budget(tokens=500)) == alone


def test_sampling_is_the_same_again_and_another_with_another_seed(
    folder: Path, tmp_path: Path
) -> None:
    stage = {
        "model": str(classifiers.causal_lm("llama", folder)), "task": "generate",
        "max_new_tokens": 6, "generation": {"do_sample": True, "temperature": 5.0},
    }  # fmt: skip
    budget = Budget(tokens=None, most_rows=SIZE)
    task = loaded(stage, tmp_path)
    first, again = results(task, budget), results(task, budget)
    other = results(loaded(stage, tmp_path, seed=1), budget)
    assert first == again
    assert first != other


def test_a_checkpoint_saved_in_training_generates_with_its_cache(
    folder: Path, tmp_path: Path
) -> None:
    """Trainers set use_cache to False, and save it."""
    lm = plain_model("AutoModelForCausalLM", classifiers.causal_lm("llama", folder))
    lm.config.use_cache = False
    lm.save_pretrained(tmp_path / "m")
    classifiers.write_tokenizer(tmp_path / "m")
    task = loaded({"model": str(tmp_path / "m"), "task": "generate", "max_new_tokens": 4}, tmp_path)
    lengths: list[int] = []
    task.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: lengths.append(args[0].shape[1])
    )
    results(task, Budget(tokens=None))
    assert lengths[0] > 1
    assert set(lengths[1:]) == {1}


@pytest.mark.parametrize("argument", ["num_return_sequences", "return_dict_in_generate"])
def test_a_row_has_one_text(folder: Path, tmp_path: Path, argument: str) -> None:
    stage = {"model": str(classifiers.causal_lm("llama", folder)), "task": "generate",
             "generation": {argument: 2}}  # fmt: skip
    assert f"generation.{argument} is 2 and a row has one text" in refused(stage, tmp_path)


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([5, 6, 2, 0, 0], 3),
        ([5, 6, 7], 3),
        ([2, 0], 1),
        ([5, 0, 0], 1),
        ([0, 0], 0),
        ([5, 0, 6], 3),
    ],
)
def test_new_tokens_are_counted_to_their_end(tokens: list[int], count: int) -> None:
    assert num_new(tokens, frozenset({2}), 0) == count


# ---- choose

CHOICES = [" the answer", " both", "question about memory", " a long brown fox"]


def plain_choose(
    folder: Path, texts: Sequence[str], choices: Sequence[str], adapter: Path | None = None
) -> Any:
    """Σ log p of each choice, one sequence at a time and without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = plain_model("AutoModelForCausalLM", folder, adapter)
    table = []
    for text in texts:
        row = []
        for choice in choices:
            whole = tokenizer(text + choice)["input_ids"]
            start = len(tokenizer(text)["input_ids"])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole])).logits[0].float()
            log_p = torch.log_softmax(logits, dim=-1)
            row.append(sum(log_p[at - 1, whole[at]].double() for at in range(start, len(whole))))
        table.append(row)
    return np.asarray(table)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("without", [(), ("logits_to_keep",), ("position_ids", "logits_to_keep")])
def test_choices_have_the_likelihood_of_their_tokens(
    folder: Path, tmp_path: Path, family: str, without: tuple[str, ...]
) -> None:
    """GPT-2 has learned positions, so padding must not move them; not every class can be told."""
    model = classifiers.causal_lm(family, folder)
    task = loaded({"model": str(model), "choices": CHOICES}, tmp_path)
    assert {"logits_to_keep", "position_ids"} <= task.takes
    task.takes = task.takes.difference(without)
    task.pads_left = task.padding_first(task.model)
    assert task.pads_left == ("position_ids" not in without)
    found = np.asarray(results(task, Budget(tokens=300))["logits"])
    expected = plain_choose(model, TEXTS, CHOICES)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 1  # rows do differ


def test_choices_are_divided_as_asked_and_may_be_a_column(folder: Path, tmp_path: Path) -> None:
    model = classifiers.causal_lm("llama", folder)
    rows = [{"text": text, "options": [f" {text[:5]}", " fox"]} for text in TEXTS[:9]]
    raw = np.concatenate([plain_choose(model, [row["text"]], row["options"]) for row in rows])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    counts = {
        "none": np.ones_like(raw),
        "characters": np.asarray([[len(c) for c in row["options"]] for row in rows]),
        "tokens": np.asarray([
            [len(tokenizer(row["text"] + c)["input_ids"]) - len(tokenizer(row["text"])["input_ids"])
             for c in row["options"]] for row in rows
        ]),
    }  # fmt: skip
    for normalize, divisors in counts.items():
        stage = {"model": str(model), "task": "choose", "choices": "options", "normalize": normalize,
                 "template": "{text}"}  # fmt: skip
        assert np.allclose(computed(stage, tmp_path, rows), raw / divisors, rtol=1e-6)


def test_choices_of_an_adapter_are_its_own(folder: Path, tmp_path: Path) -> None:
    base = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(base, "CAUSAL_LM", folder, modules_to_save=None)
    found = computed({"model": str(base), "adapter": str(adapter), "choices": CHOICES}, tmp_path)
    assert np.allclose(found, plain_choose(base, TEXTS, CHOICES, adapter), rtol=1e-6)
    assert not np.allclose(found, plain_choose(base, TEXTS, CHOICES), rtol=1e-3)


# ---- preparing


def ids_of(rows: PreparedRows) -> list[Any]:
    """Token ids in the data's order."""
    order = pa.array(np.argsort(rows.numbers()))
    return list(rows.source.column("#input_ids").take(order).to_pylist())


def test_rows_are_sorted_longest_first_and_equal_ones_keep_their_order(
    folder: Path, tmp_path: Path
) -> None:
    rows = prepared(
        job_of({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, tmp_path)
    )
    lengths = rows.source.column("#length").to_pylist()
    assert lengths == sorted(lengths, reverse=True)
    numbers = rows.numbers().tolist()
    assert numbers == sorted(numbers, key=lambda i: -len(ids_of(rows)[i]))
    assert rows.ids().to_pylist() == numbers


LIMITS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"max_length": 7}, {"truncation": True, "max_length": 7}),
    ({"max_length": 7, "truncate": "left"}, {"truncation": True, "max_length": 7, "side": "left"}),
    ({"add_special_tokens": False, "max_length": 7, "truncate": "left"},
     {"truncation": True, "max_length": 7, "side": "left", "add_special_tokens": False}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "arguments"), LIMITS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_tokens_are_the_tokenizer_s(
    folder: Path, tmp_path: Path, family: str, settings: Any, arguments: Any
) -> None:
    model = classifiers.classifier(family, folder)
    rows = prepared(job_of({"model": str(model), "labels": 3, **settings}, tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    arguments = dict(arguments)
    tokenizer.truncation_side = arguments.pop("side", "right")
    assert ids_of(rows) == tokenizer(TEXTS, **arguments)["input_ids"]
    full = tokenizer(TEXTS, add_special_tokens=settings.get("add_special_tokens", True))[
        "input_ids"
    ]
    cut = sum(len(ids) > settings.get("max_length", 10**9) for ids in full)
    assert int(rows.facts["num_cut"]) == cut
    assert bool(cut) == ("max_length" in settings)


def test_rows_that_were_cut_are_counted_whatever_the_tokenizer_tells(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizers written in Python do not say what they cut off."""
    stage = {"model": str(classifiers.classifier("bert", folder)), "labels": 3, "max_length": 7}
    counted = prepared(job_of(stage, tmp_path)).facts["num_cut"]
    encoding = transformers.tokenization_utils_base.BatchEncoding
    monkeypatch.setattr(encoding, "encodings", property(lambda _: None))
    assert prepared(job_of(stage, tmp_path)).facts["num_cut"] == counted != "0"


def test_what_was_cut_is_told(folder: Path, tmp_path: Path) -> None:
    stage = {"model": str(classifiers.classifier("llama", folder)), "labels": 3, "max_length": 7}
    (remark,) = loaded(stage, tmp_path).remarks
    assert remark.endswith("of 41 rows have more than 7 tokens and were cut on the right: max_length and truncate decide that")  # fmt: skip
    whole = loaded({**stage, "max_length": 100}, tmp_path)
    assert whole.remarks == ()


def test_without_a_limit_the_model_s_own_holds(folder: Path, tmp_path: Path) -> None:
    """256 positions; where text is generated, the prompt leaves room for it."""
    long = ["fox " * 400, "a"]
    for stage, longest in (
        ({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, 256),
        ({"model": str(classifiers.causal_lm("llama", folder)), "task": "generate", "max_new_tokens": 50}, 206),
    ):  # fmt: skip
        rows = prepared(job_of(stage, tmp_path, long))
        assert rows.source.column("#length").to_pylist()[0] == longest


def test_an_empty_text_is_one_token(folder: Path, tmp_path: Path) -> None:
    stage = {"model": str(classifiers.classifier("llama", folder)), "labels": 3,
             "add_special_tokens": False, "template": "{text}"}  # fmt: skip
    rows = prepared(job_of(stage, tmp_path, [{"text": None}, {"text": "fox"}]))
    assert ids_of(rows)[0] == [classifiers.BOS]


def test_a_chat_is_the_tokenizer_s_template(folder: Path, tmp_path: Path) -> None:
    for task, prompt in (("generate", True), ("classify", False)):
        make = classifiers.causal_lm if prompt else classifiers.classifier
        model = make("llama", folder)
        more = {"max_new_tokens": 4} if prompt else {"labels": 3}
        stage = {"model": str(model), "task": task, "chat": True, "system": "be long", **more}
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        expected = [
            tokenizer.apply_chat_template(
                [{"role": "system", "content": "be long"}, {"role": "user", "content": text}],
                add_generation_prompt=prompt, return_dict=False,
            )
            for text in TEXTS
        ]  # fmt: skip
        assert ids_of(prepared(job_of(stage, tmp_path))) == expected


@pytest.mark.parametrize("side", ["right", "left"])
def test_of_a_chat_only_the_message_is_cut(folder: Path, tmp_path: Path, side: str) -> None:
    """Cut plainly, a prompt would lose the words that ask for an answer, or its beginning."""
    model = classifiers.causal_lm("llama", folder)
    stage = {
        "model": str(model),
        "task": "generate",
        "chat": True,
        "max_length": 40,
        "truncate": side,
    }
    long = "  " + " ".join(TEXTS[:9])
    rows = prepared(job_of(stage, tmp_path, [long, "fox"]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    text = tokenizer.decode(ids_of(rows)[0])
    assert len(ids_of(rows)[0]) == 40
    assert text.startswith("<s><user>")
    assert text.endswith("</user><assistant>")
    kept = text.removeprefix("<s><user>").removesuffix("</user><assistant>")
    whole = long.strip()
    assert whole.startswith(kept) if side == "right" else whole.endswith(kept)
    assert rows.facts["num_cut"] == "1"


def test_a_chat_that_the_template_refuses_is_told(folder: Path, tmp_path: Path) -> None:
    """Gemma's template, for one, raises on a system message."""
    model = plain_model("AutoModelForCausalLM", classifiers.causal_lm("llama", folder))
    model.save_pretrained(tmp_path / "m")
    classifiers.write_tokenizer(tmp_path / "m")
    settings = tmp_path / "m" / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    stage = {"model": str(tmp_path / "m"), "task": "generate", "chat": True, "system": "be long"}
    for template, sentence in (
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
         "refuses the messages (no system role): leave system out"),
        (None, "its tokenizer has no chat template"),
    ):  # fmt: skip
        settings.write_text(json.dumps({**known, "chat_template": template}))
        with pytest.raises(InputError) as error:
            prepared(job_of(stage, tmp_path))
        assert sentence in str(error.value)


def parts_of(rows: PreparedRows) -> list[list[tuple[list[int], list[int]]]]:
    """Context and choice as tokens, by row of the data and choice."""
    table = rows.source.take(pa.array(np.argsort(rows.numbers())))
    pairs = zip(
        table.column("#input_ids").to_pylist(),
        table.column("#num_context").to_pylist(),
        strict=True,
    )
    return [[(ids[:at], ids[at:]) for ids, at in zip(*row, strict=True)] for row in pairs]


def test_a_choice_begins_where_its_context_ends(folder: Path, tmp_path: Path) -> None:
    """Blanks at a context's end belong to the choice, as in `` answer``."""
    model = classifiers.causal_lm("llama", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = prepared(
        job_of({"model": str(model), "choices": ["answer", "long fox"]}, tmp_path, ["the quick "])
    )
    for (context, choice), text in zip(parts_of(rows)[0], ["answer", "long fox"], strict=True):
        assert context == tokenizer("the quick")["input_ids"]
        assert choice == tokenizer(f" {text}", add_special_tokens=False)["input_ids"]


def test_choices_of_a_row_are_scored_from_the_same_token_on(folder: Path, tmp_path: Path) -> None:
    """Of "mem" come one token with "ory" and two with "x": both choices begin before it."""
    model = classifiers.causal_lm("llama", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = prepared(job_of({"model": str(model), "choices": ["ory", "x"]}, tmp_path, ["about mem"]))
    (ory, x) = parts_of(rows)[0]
    assert ory[0] == x[0] == tokenizer("about")["input_ids"]
    assert tokenizer.decode(ory[1]) == " memory"
    assert tokenizer.decode(x[1]) == " memx"
    assert len(ory[1]) == 1


def test_a_context_without_tokens_is_begun_all_the_same(folder: Path, tmp_path: Path) -> None:
    model = classifiers.causal_lm("llama", folder)
    for special in (True, False):
        stage = {"model": str(model), "choices": ["fox", "a"], "add_special_tokens": special}
        rows = prepared(job_of(stage, tmp_path, [""]))
        assert [context for context, _ in parts_of(rows)[0]] == [[classifiers.BOS]] * 2


def test_a_context_is_cut_on_the_left_and_its_beginning_kept(folder: Path, tmp_path: Path) -> None:
    model = classifiers.causal_lm("llama", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    texts = [" ".join(TEXTS[:9]), "the"]
    rows = prepared(
        job_of({"model": str(model), "choices": CHOICES, "max_length": 12}, tmp_path, texts)
    )
    for context, choice in parts_of(rows)[0]:
        assert len(context) + len(choice) == 12
        assert context[0] == classifiers.BOS
        assert tokenizer(texts[0])["input_ids"][-(len(context) - 1) :] == context[1:]
    assert [tokenizer.decode(choice) for _, choice in parts_of(rows)[0]] == [
        c if c.startswith(" ") else tokenizer.decode(parts_of(rows)[0][2][1]) for c in CHOICES
    ]
    assert rows.facts["num_cut"] == "1"


def test_a_tokenizer_that_ends_every_text_does_not_end_a_context(
    folder: Path, tmp_path: Path
) -> None:
    """Trainers save ``add_eos_token``; the end would stand between context and choice."""
    model = plain_model("AutoModelForCausalLM", classifiers.causal_lm("llama", folder))
    model.save_pretrained(tmp_path / "m")
    classifiers.write_tokenizer(tmp_path / "m", encoder=True)
    rows = prepared(job_of({"model": str(tmp_path / "m"), "choices": CHOICES}, tmp_path))
    assert all(classifiers.EOS not in ids for row in ids_of(rows) for ids in row)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"text": "a", "o": ["x", ""]}], "has an empty choice in row 0"),
        (
            [{"text": "a", "o": ["x", "y"]}, {"text": "a", "o": ["x"]}],
            "has [1, 2] choices in its rows",
        ),
        ([{"text": "a", "o": ["x"]}], "has [1] choices in its rows"),
    ],
)
def test_choices_that_cannot_be_compared_are_refused(
    folder: Path, tmp_path: Path, rows: list[Any], sentence: str
) -> None:
    stage = {"model": str(classifiers.causal_lm("llama", folder)), "task": "choose", "choices": "o",
             "template": "{text}"}  # fmt: skip
    with pytest.raises(InputError, match=sentence.replace("[", r"\[")):
        prepared(job_of(stage, tmp_path, rows))


# ---- functions of the user's

RETURNED: list[tuple[Any, dict[str, list[Any]]]] = [
    (np.ones((2, 3)), {"logits": [[1, 1, 1], [1, 1, 1]]}),
    (np.asarray([1, 2]), {"logits": [[1], [2]]}),
    (np.asarray([True, False]), {"logits": [[1], [0]]}),
    (torch.ones((2, 2), dtype=torch.bfloat16), {"logits": [[1, 1], [1, 1]]}),
    ([0.5, 1.5], {"logits": [[0.5], [1.5]]}),
    ([[1, 2], [3, 4]], {"logits": [[1, 2], [3, 4]]}),
    (["a", None], {"text": ["a", None]}),
    ([None, "b"], {"text": [None, "b"]}),
    (np.asarray(["a", "b"]), {"text": ["a", "b"]}),
    ([{"x": 1, "y": "a"}, {"x": 2}], {"x": [1, 2], "y": ["a", None]}),
    ({"x": [1, 2], "y": (3.0, 4.0)}, {"x": [1, 2], "y": [3.0, 4.0]}),
    (pa.table({"x": [1, 2]}), {"x": [1, 2]}),
]  # fmt: skip


@pytest.mark.parametrize(("result", "columns"), RETURNED)
def test_what_a_function_returns_becomes_columns(result: Any, columns: dict[str, Any]) -> None:
    assert columns_of(result, "mine").to_pydict() == columns


def test_a_data_frame_becomes_columns() -> None:
    pandas = pytest.importorskip("pandas")
    assert columns_of(pandas.DataFrame({"x": [1, 2]}), "mine").to_pydict() == {"x": [1, 2]}
    assert columns_of(pandas.Series([1.0, 2.0]), "mine").to_pydict() == {"logits": [[1], [2]]}


WRONG: list[tuple[Any, int | None, str]] = [
    (np.ones((2, 3, 4)), None, r"array of shape \(2, 3, 4\): expected \[rows, labels\] or \[rows\]"),
    ("text", None, "returned str: expected an array"),
    (3.0, None, "returned float: expected an array"),
    ([[1, 2], [3]], None, "list holds no numbers"),
    ([1, object()], None, "list holds no numbers"),
    ({"x": [1, 2], "y": [1]}, None, "make no table"),
    ({"id": [1, 2]}, None, "returned a column 'id', which every result has already"),
    (pa.table({"error": ["a"]}), None, "returned a column 'error'"),
    (np.ones((2, 3)), 2, r"returned 3 numbers a row and the stage has labels: 2"),
    (np.ones(2), 3, r"returned 1 numbers a row and the stage has labels: 3"),
]  # fmt: skip


@pytest.mark.parametrize(("result", "labels", "sentence"), WRONG)
def test_what_is_no_result_is_told(result: Any, labels: int | None, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^mine: the function.* {sentence}") as error:
        columns_of(result, "mine", labels=labels)
    assert "\n" not in str(error.value)


def test_a_number_that_is_none_is_no_result() -> None:
    for result in ([1.0, None], np.asarray([1, np.nan]), [float("inf")]):
        with pytest.raises(ValueError, match="a function must return finite numbers"):
            columns_of(result, "mine")


FUNCTIONS: list[tuple[str, list[Any]]] = [
    ("def predict(rows):\n    return [len(r['text']) for r in rows]", [1, 2]),
    ("def load():\n    return 10\ndef predict(rows, state):\n    return [state] * len(rows)", [10, 10]),
    ("def load():\n    return 10\ndef predict(rows):\n    return [1.0] * len(rows)", [1, 1]),
    ("def predict(rows, scale=3):\n    return [scale] * len(rows)", [3, 3]),
    ("def load():\n    return 10\ndef predict(rows, *, scale=3):\n    return [scale] * len(rows)", [3, 3]),
    ("def predict(rows):\n    return [rows.table.num_rows] * len(rows[0:9])", [2, 2]),
    ("import sibling\ndef predict(rows):\n    return [sibling.NUMBER] * 2", [5, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), FUNCTIONS)
def test_a_function_gets_the_rows_and_what_it_loaded(
    tmp_path: Path, code: str, expected: list[Any]
) -> None:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "sibling.py").write_text("NUMBER = 5")
    task = loaded({"run": f"{tmp_path / 'mine.py'}:predict"}, tmp_path, ["a", "bb"])
    assert results(task, Budget(tokens=None)) == {"logits": [[value] for value in expected]}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("x = 1", "mine.py has no function 'predict'"), ("predict = 1", "mine.py has no function")],
)
def test_a_module_without_the_function_is_told(tmp_path: Path, code: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    assert sentence in refused({"run": f"{tmp_path / 'mine.py'}:predict"}, tmp_path)


def test_every_task_says_what_it_holds(folder: Path, tmp_path: Path) -> None:
    """On the CPU nothing; giving back what a batch left is always allowed."""
    (tmp_path / "mine.py").write_text("def predict(rows): return [1] * len(rows)")
    for stage in (
        {"model": str(classifiers.classifier("bert", folder)), "labels": 3},
        {"run": f"{tmp_path / 'mine.py'}:predict"},
    ):
        task: Task = loaded(stage, tmp_path)
        task.free()
        assert (task.allocated(), task.reserved(), task.num_alloc_retries()) == ((), (), 0)
        task.close()


# ---- whole runs


def shards_of(folder: Path, stage: str) -> list[int]:
    """Where a stage's shards are cut, by the names of their files."""
    files = sorted((folder / "stages" / stage).glob("*/shards/*.parquet"))
    return [int(file.name.partition("-")[0]) for file in files][1:]


def test_an_ensemble_is_a_plain_loop_and_some_numpy(folder: Path, tmp_path: Path) -> None:
    """A Gemma and a Llama with an adapter, which saw the answers swapped; weights 2 and 1."""
    gemma = classifiers.classifier("gemma2", folder)
    llama = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(llama, "SEQ_CLS", folder)
    texts = classifiers.sentences(90, seed=5)
    pq.write_table(
        pa.table({"id": [f"r{i}" for i in range(90)], "text": texts}), tmp_path / "d.parquet"
    )
    report = run(
        {
            "data": str(tmp_path / "d.parquet"),
            "defaults": {"labels": 3, "batch_size": SIZE, "shards": 4},
            "stages": {
                "gemma": {"model": str(gemma)},
                "llama": {"model": str(llama), "adapter": str(adapter), "columns": [1, 0, 2]},
            },
            "ensemble": {"weights": {"gemma": 2, "llama": 1}},
            "output": {"path": str(tmp_path / "out.parquet"), "columns": ["a", "b", "tie"]},
        },
        run_dir=tmp_path / "run",
    )
    assert report.complete
    cuts = {name: shards_of(tmp_path / "run", name) for name in ("gemma", "llama")}
    assert [len(edges) for edges in cuts.values()] == [3, 3]
    total = np.zeros((90, 3))
    for weight, logits in (
        (2, plain_classify(gemma, texts, cuts=cuts["gemma"])),
        (
            1,
            plain_classify(llama, texts, adapter=adapter, num_labels=3, cuts=cuts["llama"])[
                :, [1, 0, 2]
            ],
        ),
    ):
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        total += weight * powers / powers.sum(axis=1, keepdims=True)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["id", "a", "b", "tie"]
    assert found.column("id").to_pylist() == [f"r{i}" for i in range(90)]
    table = np.stack([found.column(name).to_numpy() for name in ("a", "b", "tie")], axis=1)
    assert np.abs(table - total / 3).max() < 1e-15
    assert set(table.argmax(axis=1)) == {0, 1, 2}


def test_the_columns_of_a_run_are_those_of_its_task(folder: Path, tmp_path: Path) -> None:
    """Texts by a worker, and by the same task in this process."""
    model = classifiers.causal_lm("llama", folder)
    stage = {"model": str(model), "task": "generate", "max_new_tokens": 5, "batch_size": SIZE}
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "all.parquet")
    report = run(
        {"data": str(tmp_path / "all.parquet"), "stages": {"say": stage}}, run_dir=tmp_path / "run"
    )
    assert report.complete
    files = sorted((tmp_path / "run" / "stages" / "say").glob("*/shards/*.parquet"))
    stored = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("id")
    cuts = shards_of(tmp_path / "run", "say")
    here = results(loaded(stage, tmp_path), Budget(tokens=None, most_rows=SIZE), cuts)
    assert stored.column("text").to_pylist() == here["text"]
    assert stored.column("num_new_tokens").to_pylist() == here["num_new_tokens"]
    assert stored.column("error").null_count == len(TEXTS)


def test_memory_and_death_are_told_apart_where_a_loader_speaks() -> None:
    """`willfit.load` tells a library's failure in its own words, with the failure as cause."""
    error = InputError("transformers refuses this")
    error.__cause__ = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …")
    assert is_out_of_memory(error)
    assert not is_dead_context(error)
