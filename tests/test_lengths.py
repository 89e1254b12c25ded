"""The user's data: every format gives the same lengths, in bounded memory, and padding is exact."""

from __future__ import annotations

import csv
import itertools
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from willfit.cli.main import main
from willfit.errors import InputError, MissingLibraryError
from willfit.formulas.training.padding import (
    expected_longest,
    grouped_by_length,
    packed_rows,
    random_order,
)
from willfit.scenario.lengths import SAMPLES, Lengths
from willfit.settings.lengths import by_characters, by_tokenizer, read_lengths

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "dogs", "and", "reads", "transformers")


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def lmsys_rows(count: int) -> list[dict[str, Any]]:
    """Rows as the LMSYS competition has them: JSON lists of turns, some of them null."""
    rng = random.Random(0)
    columns = ("prompt", "response_a", "response_b")
    return [
        {"id": i, **{name: json.dumps([sentence(rng, rng.randint(1, 60)), None][: 1 + i % 2])
                     for name in columns}, "winner_model_a": 1}
        for i in range(count)
    ]  # fmt: skip


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".tsv": write_csv,
    ".jsonl": lambda rows, path: (
        path.write_text("".join(json.dumps(r) + "\n" for r in rows)) and None
    ),
    ".json": lambda rows, path: path.write_text(json.dumps(rows, indent=1)) and None,
}


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_every_format_says_the_same_of_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = lmsys_rows(700)
    WRITERS[suffix](rows, tmp_path / f"train{suffix}")
    read = read_lengths(tmp_path / f"train{suffix}")
    texts = [
        "\n".join(
            t for name in ("prompt", "response_a", "response_b") for t in json.loads(r[name]) if t
        )
        for r in rows
    ]
    assert read.lengths == Lengths.of(by_characters().count(texts))
    assert "prompt, response_a, response_b" in read.assumptions[0]


def test_counts_are_taken_as_they_are(tmp_path: Path) -> None:
    expected = Lengths.of([7, 12, 12])
    (tmp_path / "a.txt").write_text("7 12,\n12\n")
    (tmp_path / "b.json").write_text("[7, 12, 12]")
    (tmp_path / "c.jsonl").write_text(
        '{"length": 7, "text": "x"}\n{"length": 12}\n{"length": 12.0}\n'
    )
    (tmp_path / "d.csv").write_text("text,num_tokens\nx,7\ny,12\n\nz,12\n")
    ids = [{"input_ids": list(range(n))} for n in (7, 12, 12)]
    write_parquet(ids, tmp_path / "e.parquet")
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ids))
    for path in sorted(tmp_path.iterdir()):
        assert read_lengths(path).lengths == expected, path


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with a BOS, learnt here, that also asks for truncation and padding."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(1)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([sentence(rng, 50) for _ in range(50)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=32, pad_token="<s>")
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_the_real_tokenizer_counts_what_transformers_would(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    rng = random.Random(2)
    texts = [
        sentence(rng, rng.randint(0, 80)) + rng.choice(["", " naïve 模型 🚀\t\n"])
        for _ in range(300)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json")
    )
    real = [len(ids) for ids in fast(texts, truncation=False, padding=False)["input_ids"]]
    counter = by_tokenizer(tokenizer_folder / "tokenizer.json", "here")
    read = read_lengths(tmp_path / "t.jsonl", counter=counter)
    assert read.lengths == Lengths.of(real)
    assert "tokenizer of here" in read.assumptions[0]


@pytest.mark.parametrize("vocab_size", [32_000, 128_256])
def test_the_estimate_from_characters_is_its_rate(vocab_size: int) -> None:
    rate = 3.17 if vocab_size == 32_000 else 3.94
    (ascii_tokens, cjk_tokens) = by_characters(vocab_size).count(["a" * 10_000, "模" * 100])
    assert ascii_tokens == pytest.approx(10_000 / rate, abs=2) and cjk_tokens == 101


def test_messages_count_their_template(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a" * 394}, {"role": "assistant", "content": [
        {"type": "text", "text": "b" * 393}, {"type": "image"}]}]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    read = read_lengths(tmp_path / "chat.jsonl")
    assert read.lengths.longest == pytest.approx(200 + 1 + 2 * 5, abs=2)
    assert any("chat template" in said for said in read.assumptions)


def test_columns_are_chosen_by_name_or_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("body,text,length\n" + "x" * 3940 + ",y,9\n")
    assert read_lengths(path).lengths.longest == 9
    assert read_lengths(path, columns=["body"]).lengths.longest == pytest.approx(1001, abs=1)
    assert read_lengths(path, tokenizer_given=True).lengths.longest == 2
    with pytest.raises(InputError, match=r"no column 'bod'.*body, text, length"):
        read_lengths(path, columns=["bod"])


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no rows": ("a.csv", b"text\n", "no rows"),
    "nothing": ("a.jsonl", b"", "column"),
    "nothing at all": ("a.csv", b"", "0 columns"),
    "no known column": ("a.csv", b"foo,bar\n1,2\n", "--text-column (it has foo, bar)"),
    "zero tokens": ("a.txt", b"0\n", "at least 1"),
    "words": ("a.txt", b"5 five\n", "'five' is no whole number"),
    "a word without end": ("a.txt", b"9" * 3_000_000, "no whole number"),
    "not ASCII": ("a.txt", "５\n".encode(), "whole number"),
    "a negative count": ("a.csv", b"length\n-4\n", "'-4'"),
    "a huge count": ("a.jsonl", b'{"length": 1e300}', "whole numbers"),
    "true": ("a.jsonl", b'{"length": true}', "whole numbers"),
    "another encoding": ("a.csv", b"text\n\xff\xfe\x00\n", "UTF-8"),
    "an endless field": ("a.csv", b'text\n"' + b"x\n" * 9_000_000, "comma-separated"),
    "an endless line": ("a.jsonl", b"x" * 17_000_000, "longer than 16.0 MiB"),
    "an endless value": ("a.json", b'[{"text": "' + b"x" * 34_000_000, "at most 16.0 MiB"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n{"text"\n', "line 2"),
    "a list cut short": ("a.json", b'[{"text": "a"}, {"te', "JSON list"),
    "a list without end": ("a.json", b'[{"text": "a"},', "JSON list"),
    "deep nesting": ("a.jsonl", b"[" * 100_000, "not JSON"),
    "a list of lists": ("a.json", b"[[1], [2]]", "expected an object"),
    "not Parquet": ("a.parquet", b"PAR1 not really PAR1", "not a readable Parquet"),
    "an empty Parquet": ("a.parquet", b"", "not a readable Parquet"),
    "gzip": ("a.txt", b"\x1f\x8b\x08\x00" * 8, "whole number"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_a_broken_file_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, case: str
) -> None:
    name, content, expected = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    words = ["estimate", "gpt2", "--train", "lora", "--lengths", str(tmp_path / name)]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("willfit: ") and err.count("\n") == 1
    assert expected in err


def test_a_parquet_cut_in_the_middle_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(lmsys_rows(2000), path)
    content = bytearray(path.read_bytes())
    content[1000 : len(content) // 2] = bytes(len(content) // 2 - 1000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_lengths(path)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError, match=r"willfit\[data\]"):
        read_lengths(tmp_path / "a.parquet")


def test_a_tokenizer_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    for content in (
        b"{}",
        b"nothing",
        b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}',
    ):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(InputError, match="no tokenizer"):
            by_tokenizer(tmp_path / "tokenizer.json", "x")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".txt", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}{suffix}"
        if suffix == ".txt":
            path.write_text("\n".join(str(1 + i % 700) for i in range(rows)))
        else:
            WRITERS[suffix]([{"text": "x" * (1 + i % 700)} for i in range(rows)], path)
        tracemalloc.start()
        assert read_lengths(path).lengths.num_samples == rows
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)  # imports
    rows = 100_000 if suffix == ".txt" else 10_000
    few, many = peak(rows), peak(4 * rows)
    assert many < few * 1.1 + 2**20


HISTOGRAMS = st.lists(st.integers(1, 300), min_size=1, max_size=9)


@given(HISTOGRAMS, st.integers(1, 9))
def test_the_expected_longest_is_the_mean_over_all_batches(data: list[int], batch: int) -> None:
    drawn = [max(chosen) for chosen in itertools.combinations(data, min(batch, len(data)))]
    assert expected_longest(Lengths.of(data), batch) == pytest.approx(sum(drawn) / len(drawn))


@given(HISTOGRAMS, st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_random_order_is_the_mean_over_all_orders(data: list[int], batch: int) -> None:
    data = data[:6]
    orders = list(itertools.permutations(data))
    total = sum(_positions(order, batch) for order in orders)
    assert random_order(Lengths.of(data), batch).num_positions == pytest.approx(total / len(orders))


def _positions(order: Any, batch: int) -> int:
    parts = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(len(part) * max(part) for part in parts)


def log_normal(count: int, seed: int = 3) -> list[int]:
    rng = random.Random(seed)
    return [min(max(int(rng.lognormvariate(5.5, 0.9)), 1), 8000) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "batch", "accumulation"), [(10_000, 8, 1), (3_000, 4, 4), (50, 8, 1), (7, 8, 1)]
)
def test_grouping_is_that_of_the_trainers_sampler(
    count: int, batch: int, accumulation: int
) -> None:
    torch = pytest.importorskip("torch")
    sampler = pytest.importorskip("transformers.trainer_pt_utils")
    data = log_normal(count)
    torch.manual_seed(0)
    rounds = 30 if count < 5000 else 8
    total = 0
    for _ in range(rounds):
        order = sampler.get_length_grouped_indices(data, batch * accumulation)
        total += _positions([data[i] for i in order], batch)
    exact = grouped_by_length(Lengths.of(data), batch, accumulation)
    swap = batch * accumulation * max(data) * 0.5  # the longest row goes to the front
    assert exact.num_positions == pytest.approx(total / rounds, rel=0.005, abs=swap)
    assert exact.num_tokens == sum(data)


def test_padding_is_between_none_and_that_of_random_order() -> None:
    lengths = Lengths.of(log_normal(20_000))
    shuffled, grouped = random_order(lengths, 8), grouped_by_length(lengths, 8)
    assert 0 < grouped.waste < shuffled.waste < 1
    assert random_order(lengths, 1).waste == pytest.approx(0)
    wastes = [random_order(lengths, batch).waste for batch in (1, 2, 4, 8, 16, 32)]
    assert wastes == sorted(wastes)


def test_packing_is_trls() -> None:
    packing = pytest.importorskip("trl.data_utils")
    datasets = pytest.importorskip("datasets")
    data = log_normal(1500, seed=5)
    packed = packing.pack_dataset(
        datasets.Dataset.from_dict({"input_ids": [list(range(min(n, 512))) for n in data]}),
        512,
        "bfd",
        map_kwargs={"batch_size": len(data)},
    )
    assert packed_rows(Lengths.of(data), 512) == len(packed)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=300))
def test_packing_holds_everything_and_is_half_full(data: list[int]) -> None:
    rows = packed_rows(Lengths.of(data), 64)  # at most one row stays half empty
    assert max(-(-sum(data) // 64), sum(n > 32 for n in data)) <= rows <= sum(data) // 32 + 1


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=2000), st.integers(2, 64))
def test_a_sample_keeps_the_ends_the_ranks_and_the_mean(data: list[int], most: int) -> None:
    lengths = Lengths.of(data)
    sample, ordered = lengths.strata(most), sorted(data)
    assert (sample[0], sample[-1]) == (ordered[0], ordered[-1]) or len(ordered) == 1
    if len(data) <= most:
        assert list(sample) == ordered
        return
    assert len(sample) == most
    for i, value in enumerate(sample):
        start, stop = len(ordered) * i // most, len(ordered) * (i + 1) // most
        assert ordered[start] <= value <= ordered[stop - 1]


@pytest.mark.parametrize(("longest", "most"), [(8000, SAMPLES[1]), (90_000, SAMPLES[-1])])
def test_a_sample_is_as_large_as_the_mean_needs(longest: int, most: int) -> None:
    lengths = Lengths.of([*log_normal(200_000), longest])
    sample = lengths.sample()
    assert len(sample) == most and sample[-1] == longest
    assert sum(sample) / len(sample) == pytest.approx(lengths.mean, rel=0.015)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 400))
def test_a_histogram_is_its_list(data: list[int], limit: int) -> None:
    lengths, ordered = Lengths.of(data), sorted(data)
    assert lengths.num_samples == len(data) and lengths.num_tokens == sum(data)
    assert [lengths.at(i) for i in range(len(data))] == ordered
    assert lengths.quantile(0.5) == ordered[(len(data) + 1) // 2 - 1]
    assert lengths.cut(limit) == Lengths.of([min(n, limit) for n in data])
    assert lengths.num_above(limit) == sum(n > limit for n in data)


def test_the_longest_decides_memory_and_the_report_shows_the_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("\n".join(map(str, [*[100] * 900, *[200] * 90, *[700] * 10])))
    asked = ["estimate", "llama-3-8b", "--train", "lora", "--gpu", "A100-80GB", "--batch-size", "4"]
    assert main([*asked, "--lengths", str(path), "--json"]) == 0
    estimated = json.loads(capsys.readouterr().out)
    assert main([*asked, "--max-length", "700", "--json"]) == 0
    given_length = json.loads(capsys.readouterr().out)
    assert estimated["peak"]["allocated_bytes"] == given_length["peak"]["allocated_bytes"]
    assert estimated["notes"]["data"] == (
        "1,000 samples, 115,000 tokens: mean 115, half up to 100, 95 % up to 200, longest 700"
    )
    assert main([*asked, "--lengths", str(path), "--max-length", "150"]) == 0
    out = capsys.readouterr().out
    assert "10 % cut at 150" in out and "packing fills" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--tokenizer", "x"], ["--text-column", "text"]])
def test_settings_of_data_need_the_data(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["estimate", "gpt2", "--train", "lora", *words]) == 1
    assert "--lengths" in capsys.readouterr().err
