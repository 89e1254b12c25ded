"""`FirstStepCallback`: the first step's forecast against what later steps of a real Trainer take."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import willfit
from willfit.live.memory.batches import dimensions, longest_batch, shape_of
from willfit.live.memory.forecast import Forecast, Measured, forecast
from willfit.live.memory.host_meter import HostMeter
from willfit.live.memory.rows import Rows, length_of, read_rows
from willfit.live.memory.timeline import Event, LaterSteps, Shape, is_telling, peak_bytes, power

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 301, "hidden_size": 96, "intermediate_size": 240, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 18, "use_cache": False,
    "max_position_embeddings": 1024,
}  # fmt: skip


class Peaks(transformers.TrainerCallback):  # type: ignore[misc]
    """The peak of each step, by the same meter."""

    def __init__(self) -> None:
        self.peaks: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.meter = HostMeter()
        self.meter.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.meter.__exit__(None, None, None)
        self.peaks.append(self.meter.peak_bytes)


def rows(lengths: Sequence[int]) -> list[dict[str, list[int]]]:
    return [{"input_ids": [5] * n, "labels": [5] * n} for n in lengths]


def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
    longest = max(len(row["input_ids"]) for row in batch)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch]
    labels = [row["labels"] + [-100] * (longest - len(row["labels"])) for row in batch]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def small_model(kind: str, attention: str, lora: bool) -> Any:
    name = {"llama": "Llama", "gemma2": "Gemma2"}[kind]
    config = getattr(transformers, f"{name}Config")(**SMALL)
    found = getattr(transformers, f"{name}ForCausalLM")._from_config(
        config, attn_implementation=attention
    )
    if not lora:
        return found
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(found, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))


def train(model: Any, lengths: Sequence[int], callback: Any, **settings: Any) -> list[int]:
    peaks = Peaks()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=1, report_to=[], use_cpu=True, save_strategy="no",
            disable_tqdm=True, logging_strategy="no", train_sampling_strategy="sequential",
            **{"per_device_train_batch_size": 4, **settings},
        )  # fmt: skip
        transformers.Trainer(
            model=model, args=arguments, train_dataset=rows(lengths), data_collator=pad,
            callbacks=[callback, peaks],
        ).train()  # fmt: skip
    return peaks.peaks


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("kind", "attention", "lora", "long", "settings"),
    [
        ("llama", "sdpa", False, 52, {}),
        ("llama", "sdpa", True, 208, {}),
        ("llama", "eager", False, 208, {}),
        ("llama", "sdpa", False, 208, {"gradient_checkpointing": True}),
        ("llama", "sdpa", False, 104, {"gradient_accumulation_steps": 2}),
        ("llama", "sdpa", False, 104, {"bf16": True}),
        ("llama", "sdpa", False, 104, {"optim": "adafactor"}),
        ("gemma2", "eager", True, 208, {}),
    ],
)
def test_the_longest_batch_is_foreseen(
    kind: str, attention: str, lora: bool, long: int, settings: dict[str, Any]
) -> None:
    """The first batch has 26 tokens a row; the longest comes second. Measured: within 0.1 %."""
    count = 4 * settings.get("gradient_accumulation_steps", 1)
    lengths = [20] * (count - 4) + [26, 25, 20, 24] + [20] * (count - 1) + [long] + [26] * count
    callback = willfit.FirstStepCallback(quiet=True, budget_bytes=2**30)
    first, real, _ = train(small_model(kind, attention, lora), lengths, callback, **settings)
    found = callback.forecast
    assert found is not None, callback.why_none
    assert found.first_peak_bytes == first
    assert (found.first, found.longest) == (Shape(rows=4, length=26), Shape(rows=4, length=long))
    assert found.longest_row == 2 * count - 1
    assert abs(found.peak_bytes / real - 1) < 0.005
    assert found.low_bytes <= real <= found.high_bytes
    assert found.verdict == "fits" and not found.notes
    assert found.longest_that_fits is not None and found.longest_that_fits > long


def test_the_limit_of_tokens_is_where_the_real_peak_crosses_the_budget() -> None:
    """Rows as long as the limit stay within the budget; 25 % longer ones do not."""
    budget = 16 * 2**20
    callback = willfit.FirstStepCallback(quiet=True, budget_bytes=budget)
    train(small_model("llama", "sdpa", False), [26, 25, 20, 24] + [500] * 4, callback)
    found = callback.forecast
    assert found is not None and found.verdict == "does_not_fit"
    limit = found.longest_that_fits
    assert limit is not None
    silent = willfit.FirstStepCallback(quiet=True)
    at, over = (
        train(small_model("llama", "sdpa", False), [20] * 4 + [length] + [20] * 3, silent)[1]
        for length in (limit, limit * 5 // 4)
    )
    assert at <= budget < over


def test_it_is_said_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    callback = willfit.FirstStepCallback(budget_bytes=10**7)
    train(small_model("llama", "sdpa", False), [26, 20, 20, 20, 100] + [26] * 7, callback)
    printed = capsys.readouterr().err
    found = callback.forecast
    assert found is not None and printed.count("after the first step, 4 × 26 tokens on cpu") == 1
    assert "the longest batch, 4 × 100 tokens (row 4 of the data), will peak at " in printed
    assert f"it does not fit in 9.5 MiB; at most {found.longest_that_fits} tokens a row" in printed


def test_a_length_that_is_a_dimension_of_the_model_waits_for_the_next_step() -> None:
    """18 is the size of a head: what has it cannot be told from what grows."""
    callback = willfit.FirstStepCallback(quiet=True)
    lengths = [18, 15, 15, 15, 26, 20, 20, 20, 100, 20, 20, 20]
    peaks = train(small_model("llama", "sdpa", False), lengths, callback)
    found = callback.forecast
    assert found is not None and found.first == Shape(rows=4, length=26)
    assert abs(found.peak_bytes / peaks[2] - 1) < 0.02


def test_a_batch_without_padding_waits_for_one_that_has_it() -> None:
    """Without padding transformers leaves the mask out, and the step would tell too little."""
    callback = willfit.FirstStepCallback(quiet=True)
    lengths = [26] * 4 + [29, 20, 20, 20] + [208, 20, 20, 20]
    peaks = train(small_model("llama", "sdpa", False), lengths, callback)
    found = callback.forecast
    assert found is not None and found.first == Shape(rows=4, length=29)
    assert abs(found.peak_bytes / peaks[2] - 1) < 0.005


def test_rows_of_one_length_need_no_second_look() -> None:
    callback = willfit.FirstStepCallback(quiet=True)
    first, second = train(small_model("llama", "sdpa", False), [18] * 8, callback)
    found = callback.forecast
    assert found is not None and found.first == found.longest == Shape(rows=4, length=18)
    assert found.peak_bytes >= second > first, "optimizer states are there from the second step"


def test_without_lengths_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
        def __iter__(self) -> Iterator[Any]:
            return iter(rows([26] * 8))

    callback = willfit.FirstStepCallback()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=1, report_to=[], use_cpu=True, save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(
            model=small_model("llama", "sdpa", False), args=arguments, train_dataset=Stream(),
            data_collator=pad, callbacks=[callback],
        ).train()  # fmt: skip
    assert callback.forecast is None
    assert "no forecast: the data set tells no lengths of rows\n" in capsys.readouterr().err


def test_nothing_is_left_on_the_model_or_in_the_process() -> None:
    model = small_model("llama", "sdpa", False)
    callback = willfit.FirstStepCallback(quiet=True)
    train(model, [26] * 8, callback)
    assert not model._forward_pre_hooks
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


BATCH = Shape(rows=4, length=26)


@pytest.mark.parametrize(
    ("shape", "grows"),
    [
        ((4, 26, 96), 1), ((104, 301), 1), ((4, 6, 26, 26), 2), ((24, 26, 26), 2),
        ((96, 240), 0), ((96,), 0), ((), 0), ((4, 1, 1), 0),
        ((100, 301), 1),  # labels moved by one: 4 × 25
        ((4, 25, 301), 1), ((208, 96), 1),  # two experts a token
        ((78, 96), 0),  # 3 × 26, and a dimension of the model
    ],
)  # fmt: skip
def test_how_a_tensor_grows(shape: tuple[int, ...], grows: int) -> None:
    assert power(shape, BATCH, frozenset({96, 240, 301, 18, 6, 78})) == grows


@pytest.mark.parametrize(
    ("batch", "telling"),
    [
        (BATCH, True), (Shape(rows=4, length=18), False), (Shape(rows=4, length=24), False),
        (Shape(rows=4, length=19), False), (Shape(rows=26, length=26), False),
        (Shape(rows=1, length=2), False),
    ],
)  # fmt: skip
def test_when_a_length_tells(batch: Shape, telling: bool) -> None:
    """24 × 4 and 18 are dimensions, 19 − 1 as well, and as many rows as tokens say nothing."""
    assert is_telling(batch, frozenset({96, 18})) is telling


def test_dimensions_of_a_model_hold_its_heads() -> None:
    found = dimensions(small_model("llama", "sdpa", False))
    assert {301, 96, 240, 6, 2, 18, 3} <= found  # 3 = 6 / 2 query heads a key
    assert 1024 not in found  # the longest position is no dimension of a tensor


EVENTS = (
    Event(num_bytes=100, power=1, length=10),
    Event(num_bytes=50, power=0, length=10, is_kept=True),
    Event(num_bytes=20, power=2, length=10),
    Event(num_bytes=-20, power=2, length=10),
    Event(num_bytes=-100, power=1, length=10),
)


def test_a_later_step_is_the_first_with_what_grows_grown() -> None:
    assert peak_bytes(EVENTS) == 170
    # kept 50 from the start, then 100 · 3, then 20 · 9
    assert LaterSteps(EVENTS).peak_bytes(30) == 50 + 300 + 180
    assert LaterSteps(EVENTS).peak_bytes(10) == 170


@given(
    sizes=st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2)), min_size=1, max_size=9),
    short=st.integers(1, 50), more=st.integers(0, 50),
)  # fmt: skip
def test_a_longer_batch_never_takes_less(
    sizes: list[tuple[int, int]], short: int, more: int
) -> None:
    later = LaterSteps([Event(num_bytes=n, power=k, length=10) for n, k in sizes])
    assert later.peak_bytes(short) <= later.peak_bytes(short + more)
    assert later.peak_bytes(10) == sum(n for n, _ in sizes)


def told(budget: int | None) -> Forecast:
    measured = Measured(
        device="cpu", first=Shape(rows=1, length=10), base_bytes=1000, events=EVENTS
    )
    return forecast(measured, Shape(rows=1, length=30), budget_bytes=budget)


def test_the_verdict_and_its_range() -> None:
    """Peak 1,530; 480 of it grow: 48 of doubt on each side."""
    found = told(None)
    assert (found.low_bytes, found.peak_bytes, found.high_bytes) == (1482, 1530, 1578)
    assert found.verdict is None and found.longest_that_fits is None
    verdicts = [told(budget).verdict for budget in (1481, 1482, 1577, 1578)]
    assert verdicts == ["does_not_fit", "tight", "tight", "fits"]
    assert told(1000).longest_that_fits == 0
    limit = told(1578).longest_that_fits
    assert limit == 30


def test_workspaces_and_split_blocks_of_a_gpu_widen_the_upper_end() -> None:
    first = Shape(rows=1, length=10)
    plain = Measured(device="cuda:0", first=first, base_bytes=1000, events=EVENTS)
    more = Measured(
        device="cuda:0", first=first, base_bytes=1000, events=EVENTS, unseen_bytes=100,
        reserved_factor=1.1,
    )  # fmt: skip
    assert more.peak(30) == plain.peak(30) + 100
    # workspaces may be three times as large too, and reserved is 1.1 × allocated
    assert more.high(30) == round((1530 + 100 + 200 + 48) * 1.1)


def test_lengths_are_read_from_columns_and_rows() -> None:
    class Columns(list[Any]):
        column_names = ("input_ids", "length")

        def __getitem__(self, key: Any) -> Any:
            return [3, 9, 4] if key == "length" else super().__getitem__(key)

    by_column = read_rows(Columns(rows([1, 1, 1])))
    assert by_column is not None and by_column.longest() == (9, 1)
    one_by_one = read_rows(rows([3, 4, 9, 2]))
    assert one_by_one is not None
    assert (one_by_one.longest(), one_by_one.is_sample) == ((9, 2), False)
    pairs = read_rows([(torch.zeros(5), 1), (torch.zeros(7), 0)])
    assert pairs is not None and pairs.longest() == (7, 1)
    assert read_rows(iter([])) is None and read_rows([]) is None
    assert read_rows([{"text": "abc"}]) is None and length_of("words") is None


def test_a_large_data_set_is_sampled_all_over() -> None:
    """Sorted by length, and read for no time at all: the first rows alone would be the shortest."""

    class Sorted:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, number: int) -> Any:
            return {"input_ids": range(number // 1000 + 1)}

    found = read_rows(Sorted())
    assert found is not None and found.is_sample and found.num_rows == 1_000_000
    assert len(found.lengths) <= 20_000 and max(found.lengths) > 990
    short = read_rows(Sorted(), time_limit=0.0)
    assert short is not None and len(short.lengths) == 1


@pytest.mark.parametrize(
    ("collator", "first", "batch_size", "longest"),
    [
        ({}, Shape(rows=4, length=26), 4, Shape(rows=4, length=90)),
        ({"pad_to_multiple_of": 64}, Shape(rows=4, length=64), 4, Shape(rows=4, length=128)),
        ({"padding": "max_length", "max_length": 512}, Shape(rows=4, length=512), 4, Shape(rows=4, length=512)),
        ({}, Shape(rows=1, length=50), 2, Shape(rows=1, length=90 + 40)),  # strung together
        ({}, Shape(rows=4, length=100), 4, Shape(rows=4, length=100)),  # longer than any row
    ],
)  # fmt: skip
def test_the_longest_batch_is_as_the_collator_makes_it(
    collator: dict[str, Any], first: Shape, batch_size: int, longest: Shape
) -> None:
    data = Rows(lengths=[10, 90, 40], numbers=[0, 1, 2], num_rows=3)
    inner = type("Collator", (), collator)()
    outer = type("Outer", (), {"data_collator": inner})()  # the Trainer drops columns around it
    for one in (inner, outer):
        assert longest_batch(first, data, one, batch_size).shape == longest


def test_the_shape_of_a_batch_is_that_of_its_ids() -> None:
    ids = torch.zeros(2, 7)
    assert shape_of((), {"input_ids": ids}) == Shape(rows=2, length=7) == shape_of((ids,), {})
    assert shape_of((), {"inputs_embeds": torch.zeros(2, 7, 3)}) == Shape(rows=2, length=7)
    assert shape_of((), {"pixel_values": torch.zeros(1, 3, 8, 8)}) is None
