"""Shards: where they are cut, that they leave nothing out, and that a broken file is never read."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.chaos import broken_copies

from willfit.runner.shards import Broken, Range, Shard, Store, boundaries, disjoint, gaps, pieces
from willfit.runner.shards import ranges as ranges_module
from willfit.runner.shards.ranges import FEWEST_TOKENS, MOST_ROWS, NUM_SHARDS
from willfit.runner.shards.store import shard_bytes, shard_name

WORK = st.lists(st.integers(0, 3000), max_size=300).map(lambda work: np.asarray(work, np.int64))
RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: Range(pair[0], sum(pair))),
    max_size=20,
)


def rows_of(found: list[Range]) -> list[int]:
    return [row for rows in found for row in range(*rows)]


# ---- ranges


@given(WORK, st.none() | st.integers(1, 400), st.sampled_from([1, 100, FEWEST_TOKENS]))
def test_cuts_begin_at_the_first_row_end_at_the_last_and_rise(
    work: np.ndarray, shards: int | None, fewest: int
) -> None:
    cuts = boundaries(work, shards=shards, fewest=fewest)
    assert cuts[0] == 0 and cuts[-1] == len(work)
    assert all(a < b for a, b in itertools.pairwise(cuts))
    assert len(cuts) - 1 <= (shards or NUM_SHARDS)


@given(WORK.filter(len), st.integers(1, 50))
def test_no_shard_has_more_than_its_part_of_the_work_and_one_row(
    work: np.ndarray, shards: int
) -> None:
    cuts = boundaries(work, shards=shards)
    parts = [int(work[a:b].sum()) for a, b in itertools.pairwise(cuts)]
    assert max(parts) <= work.sum() / min(shards, len(work)) + work.max()


def test_little_work_is_one_shard_and_many_rows_are_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert boundaries(np.full(100, 100)) == (0, 100)  # 10,000 tokens
    assert boundaries(np.full(100, 1000)) == (0, 17, 34, 50, 67, 84, 100)  # 100,000: 6 shards
    assert len(boundaries(np.full(100_000, 1000))) == NUM_SHARDS + 1
    assert boundaries(np.zeros(2 * MOST_ROWS + 1, np.int64), shards=1) == (0, 33333, 66667, 100001)
    monkeypatch.setattr(ranges_module, "MOST_ROWS", 10)
    assert boundaries(np.ones(25, np.int64), shards=1) == (0, 8, 16, 25)


@given(RANGES)
def test_disjoint_ranges_are_some_of_the_given_and_never_share_a_row(found: list[Range]) -> None:
    chosen = disjoint(found)
    assert set(chosen) <= set(found)
    rows = rows_of(chosen)
    assert len(rows) == len(set(rows)) and rows == sorted(rows)


@given(RANGES)
def test_what_is_done_and_what_is_missing_are_all_rows_once(found: list[Range]) -> None:
    chosen = disjoint(found)
    total = 80
    missing = gaps(chosen, total)
    assert sorted(rows_of(chosen) + rows_of(missing)) == list(range(total))
    assert all(rows.size > 0 for rows in missing)


@given(RANGES, st.sets(st.integers(0, 80)))
def test_pieces_are_what_is_missing_cut_where_shards_are_cut(
    found: list[Range], cuts: set[int]
) -> None:
    missing = gaps(disjoint(found), 80)
    parts = pieces(missing, sorted(cuts))
    assert rows_of(parts) == rows_of(missing)
    assert not any(cut in range(rows.start + 1, rows.stop) for rows in parts for cut in cuts)


@st.composite
def nested(draw: st.DrawFn) -> list[Range]:
    """What is left where shards were split after they had been written: all rows are somewhere."""

    def written(rows: Range) -> list[Range]:
        whole = draw(st.booleans()) or rows.size == 1
        split = rows.size > 1 and (not whole or draw(st.booleans()))
        middle = draw(st.integers(rows.start + 1, rows.stop - 1)) if split else 0
        halves = (Range(rows.start, middle), Range(middle, rows.stop)) if split else ()
        return [rows] * whole + [part for half in halves for part in written(half)]

    cuts = [0, *sorted(draw(st.sets(st.integers(1, 39), max_size=4))), 40]
    return [part for pair in itertools.pairwise(cuts) for part in written(Range(*pair))]


@given(nested())
def test_shards_that_were_split_after_they_were_written_leave_nothing_out(
    found: list[Range],
) -> None:
    """A worker dies between its file's name and its event, and the shard is tried in halves."""
    random.Random(0).shuffle(found)
    assert gaps(disjoint(found), 40) == []


# ---- files

IDS = pa.array([f"id {row}" for row in range(40)])


def store_in(folder: Path, fingerprint: str = "f" * 32, ids: pa.Array = IDS) -> Store:
    return Store(folder=folder, fingerprint=fingerprint, ids=ids)


def data_of(store: Store, rows: Range, value: float = 0.0) -> bytes:
    table = pa.table(
        {
            "id": store.ids_of(rows),
            "n_tokens": pa.array([7] * rows.size, pa.int32()),
            "error": pa.nulls(rows.size, pa.string()),
            "logits": pa.array([[value, 1.5]] * rows.size, pa.list_(pa.float32())),
        }
    )
    return shard_bytes(table, {"fingerprint": store.fingerprint})


def put(store: Store, rows: Range, value: float = 0.0) -> Path:
    data = data_of(store, rows, value)
    path = store.folder / shard_name(rows, data)
    path.write_bytes(data)
    return path


def test_a_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    shard = store.read(put(store, Range(3, 9), 2.0))
    assert isinstance(shard, Shard) and shard.rows == Range(3, 9)
    assert shard.table.column("id").to_pylist() == IDS[3:9].to_pylist()
    assert shard.table.column("logits").to_pylist() == [[2.0, 1.5]] * 6


def test_every_flipped_byte_and_every_cut_is_seen(tmp_path: Path) -> None:
    store, path = store_in(tmp_path), put(store_in(tmp_path), Range(0, 4))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            path.write_bytes(data)
            assert isinstance(store.read(path), Broken), at


def test_a_file_that_was_broken_before_it_was_named_is_no_shard_and_no_crash(
    tmp_path: Path,
) -> None:
    """Its digest is that of its bytes: what is read is then what its pages' checksums cover."""
    store, rows = store_in(tmp_path), Range(0, 4)
    whole = data_of(store, rows)
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            path = tmp_path / shard_name(rows, data)
            path.write_bytes(data)
            found = store.read(path)
            path.unlink()
            if isinstance(found, Shard):
                assert found.table.column("id").to_pylist() == IDS[:4].to_pylist()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_broken_counts_as_missing_and_is_removed(tmp_path: Path, seed: int) -> None:
    store, dice = store_in(tmp_path), random.Random(seed)
    paths = [put(store, Range(start, start + 2)) for start in range(0, 40, 2)]
    copies = dict(enumerate(broken_copies(paths[0].read_bytes(), dice)))
    for number, (_, data) in copies.items():
        paths[number].write_bytes(data)
    done, broken = store.scan()
    assert [found.path for found in broken] == [paths[number] for number in copies]
    assert sorted(tmp_path.iterdir()) == paths[len(copies) :]
    assert gaps(done, 40) == [Range(0, 2 * len(copies))]
    assert store.scan() == (done, [])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"fingerprint": "0" * 32}, "other data, model or settings"),
        ({"ids": pa.array([f"id {row}" for row in range(1, 41)])}, "its ids"),
        ({"ids": pa.array(range(40))}, "its ids"),
        ({"ids": IDS[:5]}, "its ids"),
    ],
)
def test_a_shard_of_another_stage_is_not_this_ones(tmp_path: Path, other: dict, why: str) -> None:
    path = put(store_in(tmp_path), Range(4, 8))
    found = store_in(tmp_path, **other).read(path)
    assert isinstance(found, Broken) and why in found.reason


def test_a_shard_under_another_range_is_not_that_ranges(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    path = put(store, Range(4, 8))
    for rows in ("000000005-000000009", "000000004-000000009", "000000000-000000000"):
        moved = path.with_name(path.name.replace("000000004-000000008", rows))
        moved.write_bytes(path.read_bytes())
        assert isinstance(store.read(moved), Broken)
    assert store.scan()[0] == [Range(4, 8)]
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_shards_are_left_alone_or_out(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    kept = put(store, Range(0, 40))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "0-40.parquet").write_bytes(kept.read_bytes())
    (tmp_path / f"{kept.name}.bak").write_bytes(b"")
    assert store.scan()[0] == [Range(0, 40)]
    assert {path.name for path in tmp_path.iterdir()} == {
        kept.name, f"{kept.name}.bak", "notes.txt",
    }  # fmt: skip


@given(nested(), st.data())
def test_every_row_is_read_once_whatever_was_split_computed_twice_or_broken_since(
    found: list[Range], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = store_in(Path(folder))
        for number, rows in enumerate(found):
            put(store, rows, float(number))
            if data.draw(st.booleans()):
                put(store, rows, number + 0.25)  # again, with another budget
        for path in data.draw(st.sets(st.sampled_from(sorted(store.folder.iterdir())), max_size=3)):
            path.write_bytes(path.read_bytes()[:-1])
        before = rows_of([shard.rows for shard in store.shards()])
        done, _ = store.scan()
        assert rows_of([shard.rows for shard in store.shards()]) == rows_of(done) == before
        assert len(before) == len(set(before))
        assert len(list(store.folder.iterdir())) == len(done)
        assert store.done() == done and store.missing() == gaps(done, 40)


def test_exactly_the_shard_that_was_asked_for_is_found(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    whole, half = put(store, Range(0, 8)), put(store, Range(0, 4))
    for rows, path in ((Range(0, 8), whole), (Range(0, 4), half)):
        shard = store.find(rows)
        assert shard is not None and shard.path == path
    assert store.find(Range(4, 8)) is None
    half.write_bytes(half.read_bytes()[:-1])
    assert store.find(Range(0, 4)) is None
