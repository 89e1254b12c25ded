"""The user's table: every format gives the same rows, and ids are all there, each once."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.errors import InputError

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")

from willfit.runner.data import csv_file  # noqa: E402 - after the imports that may skip
from willfit.runner.table import SUFFIXES, DataTable, data_digest, read_ids, read_table  # noqa: E402


def write_stream(table: Any, path: Path) -> None:
    """As the datasets library writes its ``.arrow`` files."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def write_csv(table: Any, path: Path, delimiter: str = ",") -> None:
    options = csv.WriteOptions(delimiter=delimiter, quoting_style="needed")
    csv.write_csv(table, path, options)


def write_gz(table: Any, path: Path, delimiter: str = ",") -> None:
    plain = path.with_name("plain")
    write_csv(table, plain, delimiter)
    path.write_bytes(gzip.compress(plain.read_bytes()))


def write_lines(table: Any, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "d.parquet": lambda table, path: pq.write_table(table, path, row_group_size=32),
    "d.csv": write_csv,
    "d.csv.gz": write_gz,
    "d.tsv": lambda table, path: write_csv(table, path, "\t"),
    "d.tsv.gz": lambda table, path: write_gz(table, path, "\t"),
    "d.jsonl": write_lines,
    "d.ndjson": write_lines,
    "d.json": lambda table, path: path.write_text(json.dumps(table.to_pylist(), indent=1)),
    "d.feather": lambda table, path: feather.write_feather(table, path, chunksize=16),
    "d.arrow": write_stream,
    "d.ipc": lambda table, path: feather.write_feather(table, path, compression="uncompressed"),
}


CSV = "d.csv is not a readable table of comma-separated values ("


def rows(count: int = 100) -> Any:
    texts = ["plain", "with, comma", 'with "quotes"', "two\nlines", "", "naïve ⊕", " spaced "]
    return pa.table(
        {
            "id": [7919 * i % 1009 for i in range(count)],
            "prompt": [f"{texts[i % 7]}{'' if i % 7 == 4 else i}" for i in range(count)],
            "score": [i / 8 for i in range(count)],
            "turns": [None if i % 3 == 0 else i for i in range(count)],
        }
    )


def read(folder: Path, content: str | bytes, name: str = "d.csv", **given: Any) -> DataTable:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **given)


def refusal(folder: Path, content: str | bytes, name: str = "d.csv", **given: Any) -> str:
    """The one sentence about a file, without its folder."""
    with pytest.raises(InputError) as caught:
        read(folder, content, name, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


# ---- what is read


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](rows(), path)
    read = read_table(path, "id")
    assert read.table.combine_chunks().equals(rows().combine_chunks())
    assert read.ids.to_pylist() == rows().column("id").to_pylist()
    assert read.table.schema.metadata is None
    assert read.digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert read_ids(path, "id").equals(read.ids)


def test_every_suffix_has_been_written_here() -> None:
    assert sorted(SUFFIXES) == sorted(name.removeprefix("d") for name in WRITERS)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_only_the_columns_asked_for_are_read(tmp_path: Path, name: str) -> None:
    WRITERS[name](rows(), tmp_path / name)
    table = read_table(tmp_path / name, "id", ["turns", "score", "turns"]).table
    assert table.column_names == ["id", "turns", "score"]
    assert table.combine_chunks().equals(rows().select(["id", "turns", "score"]).combine_chunks())
    with pytest.raises(InputError, match=r"no column 'nope': it has id, prompt, score, turns"):
        read_table(tmp_path / name, "id", ["nope"])


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_one_row_is_a_table(tmp_path: Path, name: str) -> None:
    WRITERS[name](pa.table({"id": ["a"], "x": [1]}), tmp_path / name)
    assert read_table(tmp_path / name).table.to_pylist() == [{"id": "a", "x": 1}]


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_names_in_capitals_have_their_format_too(tmp_path: Path, name: str) -> None:
    WRITERS[name](rows(), tmp_path / name.upper())
    assert read_table(tmp_path / name.upper()).table.num_rows == 100


CSV_COLUMNS: list[tuple[list[str], list[Any]]] = [
    (["1", "2"], [1, 2]),
    (["-1", "0"], [-1, 0]),
    (["1", ""], [1, None]),
    (["007", "010"], ["007", "010"]),  # leading zeros would be lost
    (["1", "02"], ["1", "02"]),
    (["+1", "2"], ["+1", "2"]),
    (["-0", "1"], [0.0, 1.0]),
    (["9223372036854775807", "1"], [2**63 - 1, 1]),
    (
        ["9223372036854775808", "1"],
        ["9223372036854775808", "1"],
    ),  # beyond 64 bits: every digit stays
    (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
    (["1.10", "2"], [1.1, 2.0]),
    (["1e5", "2"], [1e5, 2.0]),
    (["01.5", "2"], ["01.5", "2"]),
    (["1234567890123456789.5", "2"], ["1234567890123456789.5", "2"]),
    (["true", "false"], ["true", "false"]),
    (["2024-01-01", "12:30"], ["2024-01-01", "12:30"]),
    (["nan", "inf"], ["nan", "inf"]),
    (["", "x"], ["", "x"]),
    (["", ""], ["", ""]),
    (["1\n", "2"], ["1\n", "2"]),
    ([" 1", "2"], [" 1", "2"]),
    (["1,000", "2"], ["1,000", "2"]),
    (["NA", "null"], ["NA", "null"]),
]


@pytest.mark.parametrize(("fields", "values"), CSV_COLUMNS, ids=[str(f) for f, _ in CSV_COLUMNS])
def test_a_csv_column_is_numbers_where_no_digit_is_lost(
    tmp_path: Path, fields: list[str], values: list[Any]
) -> None:
    text = "id,x\n" + "".join(f'{i},"{field}"\n' for i, field in enumerate(fields))
    found = read(tmp_path, text).table.column("x").to_pylist()
    assert found == values and [type(x) for x in found] == [type(x) for x in values]


@given(
    st.lists(
        st.one_of(st.integers(-(2**70), 2**70), st.text("01", min_size=1)),
        min_size=1,
        unique_by=str,
    )
)
def test_ids_of_a_csv_are_written_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int | str]
) -> None:
    path = tmp_path_factory.mktemp("ids") / "d.csv"
    path.write_text("id,x\n" + "".join(f"{each},\n" for each in ids))
    assert [str(each) for each in read_table(path).ids.to_pylist()] == [str(each) for each in ids]


def test_a_column_is_one_type_however_late_its_text_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = csv.ReadOptions(block_size=4096, use_threads=False)
    monkeypatch.setattr(csv_file, "_BLOCKS", blocks)
    text = "id,x\n" + "".join(f"{i},{i}\n" for i in range(1200)) + "x7,007\n"
    table = read(tmp_path, text).table
    assert table.column("id").num_chunks > 1
    assert table.column("x").to_pylist()[-2:] == ["1199", "007"]
    assert table.column("id").to_pylist()[-2:] == ["1199", "x7"]
    long = refusal(tmp_path, text + "1," + "y" * 10_000 + "\n2,\n")
    assert long.startswith(CSV + "straddling") and long.endswith("none has more than 16 MiB")


IDS: list[tuple[Any, Any]] = [
    (pa.array(["a", "b"]).dictionary_encode(), pa.string()),
    (pa.array(["a", "b"], pa.large_string()), pa.string()),
    (pa.array(["a", "b"], pa.string_view()), pa.string()),
    (pa.array([1, 2], pa.uint64()), pa.uint64()),
    (pa.array([1, 2], pa.int32()).dictionary_encode(), pa.int32()),
]


@pytest.mark.parametrize(("ids", "kind"), IDS, ids=[str(ids.type) for ids, _ in IDS])
def test_ids_are_integers_or_plain_text_whatever_encodes_them(
    tmp_path: Path, ids: Any, kind: Any
) -> None:
    feather.write_feather(pa.table({"id": ids}), tmp_path / "d.feather")
    read = read_table(tmp_path / "d.feather").ids
    assert read.type == kind and read.to_pylist() == ids.to_pylist()


def test_json_columns_have_the_type_of_all_their_rows(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"id": i, "x": None if i < 5000 else [str(i)], "y": 1} for i in range(9000)
    ]
    lines[8000]["y"] = 0.5
    del lines[3]["x"]
    text = "".join(json.dumps(line) + "\n\n" for line in lines)
    table = read(tmp_path, "\ufeff" + text, "d.jsonl").table
    assert table.schema.types == [pa.int64(), pa.list_(pa.string()), pa.float64()]
    assert table.column("x").to_pylist()[4999:5001] == [None, ["5000"]]


def test_dates_and_numbers_in_json_texts_stay_text(tmp_path: Path) -> None:
    text = json.dumps([{"id": "2024-01-01", "x": "12"}, {"id": "2024-01-02", "x": "1.10"}])
    assert read(tmp_path, text, "d.json").table.to_pylist() == json.loads(text)


def test_quotes_amid_a_bare_field_are_quotes(tmp_path: Path) -> None:
    table = read(tmp_path, 'id,x\n1,a 5" pipe\n2,b').table
    assert table.column("x").to_pylist() == ['a 5" pipe', "b"]


# ---- what is refused, with the whole sentence

PEOPLE = "'id: %s' in the pipeline file says which column does"
CSV_BAD: list[tuple[str | bytes, str]] = [
    ("a,b\n1,2\n", "d.csv has no column 'id', which names each row: it has a, b; " + PEOPLE % "row_id"),
    ("row_id,b\n1,2\n", "d.csv has no column 'id', which names each row: it has row_id, b; " + PEOPLE % "row_id"),
    ("x,essay_id\n1,2\n", "d.csv has no column 'id', which names each row: it has x, essay_id; " + PEOPLE % "essay_id"),
    (",".join(f"c{i}" for i in range(20)) + "\n", "d.csv has no column 'id', which names each row: it has c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 8 more; " + PEOPLE % "row_id"),
    ("id,id\n1,2\n", "d.csv has the column 'id' twice: rename one of them"),
    ("id,x\n", "d.csv has no rows: expected one for each prediction"),
    ("id,x\n1,a\n,b\n3,c\n", "row 2 of d.csv has no 'id': give each row its own"),
    ("id,x\na,a\n,b\n,c\n", "row 2 of d.csv has no 'id', and 1 more have none: give each row its own"),
    ("id,x\n1,a\n1,b\n", "d.csv repeats the 'id' 1: give each row its own"),
    ("id,x\n" + "".join(f"k{i % 5},\n" for i in range(9)), "d.csv repeats the 'id' 'k0', 'k1', 'k2' and 1 more: give each row its own"),
    ("id,x\n1.5,a\n2,b\n", "d.csv has double in column 'id', expected whole numbers or text: convert them, or name another column with 'id:' in the pipeline file"),
    ('id,x\n1,"abc\n2,x\n', "d.csv ends within a quoted value: it is cut short or a quote is missing, write it again"),
    ('id,x\n1,"abc', "d.csv ends within a quoted value: it is cut short or a quote is missing, write it again"),
    ('id,x\n1,"a"b\n2,"c\n', "d.csv ends within a quoted value: it is cut short or a quote is missing, write it again"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), CSV_BAD, ids=range(len(CSV_BAD)))
def test_a_table_without_ids_has_its_sentence(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    assert refusal(tmp_path, content) == sentence
    with pytest.raises(InputError) as caught:
        read_ids(tmp_path / "d.csv")
    assert str(caught.value).replace(f"{tmp_path}/", "") == sentence


def test_a_column_that_is_there_twice_matters_where_it_is_read(tmp_path: Path) -> None:
    text = "id,x,x\n1,2,3\n"
    assert refusal(tmp_path, text) == "d.csv has the column 'x' twice: rename one of them"
    assert read(tmp_path, text, columns=[]).table.to_pylist() == [{"id": 1}]
    assert read_ids(tmp_path / "d.csv").to_pylist() == [1]


OTHERS: list[tuple[str, str | bytes, str]] = [
    # what Arrow says in brackets is its own
    ("d.csv", "", CSV + "Empty CSV file): check its quotes, that every row has every column and none has more than 16 MiB"),
    ("d.csv", "id,x\n1\n", CSV + "CSV parse error:"),
    ("d.csv", "id,x\n1,a,b\n", CSV + "CSV parse error:"),
    ("d.jsonl", "", "d.jsonl has no rows: expected one for each prediction"),
    ("d.json", " [\n ]", "d.json has no rows: expected one for each prediction"),
    ("d.jsonl", '{"id": 1}\n{"id": 2', "line 2 of d.jsonl is not JSON: expected one object a line"),
    ("d.json", '[{"id": 1}, {"id": 2}', "d.json is not a JSON list: expected objects or whole numbers in brackets"),
    ("d.jsonl", '{"id": 1}\n"a"\n', "row 2 of d.jsonl is a JSON str: expected an object with named fields"),
    ("d.jsonl", '{"id": 1}\n{"id": "a"}\n', "d.jsonl has values of several types, or whole numbers beyond 64 bits, in column 'id': write them as text"),
    ("d.jsonl", '{"id": 1}\n{"id": 99999999999999999999}\n', "d.jsonl has values of several types, or whole numbers beyond 64 bits, in column 'id': write them as text"),
    ("d.jsonl", '{"id": null}\n', "d.jsonl has no value in column 'id': give each row its own"),
    ("d.jsonl", '{"id": 1}\n{}\n', "row 2 of d.jsonl has no 'id': give each row its own"),
    ("d.jsonl", '{"id": [1]}\n', "d.jsonl has list<item: int64> in column 'id', expected whole numbers or text"),
    ("d.jsonl", '{"id": true}\n', "d.jsonl has bool in column 'id', expected whole numbers or text"),
    ("d.jsonl", b'{"id": "\xff"}\n', "d.jsonl is not UTF-8 text after line 0: save it as UTF-8"),
    ("d.parquet", b"PAR1 no", "d.parquet is not a readable Parquet file ("),
    ("d.arrow", b"no arrow file at all", "d.arrow is an Arrow stream without its end, so rows may be missing: write it again"),
    ("d.feather", b"ARROW1\0\0 but no more", "d.feather is not a readable Arrow file ("),
    ("d.csv.gz", b"no gzip", "d.csv.gz is not a readable table of comma-separated values (zlib inflate failed"),
    ("d.csv", b"id,x\n1,\xff\n", CSV + "In CSV column #1"),
    ("d.xlsx", b"PK", f"d.xlsx has no suffix of a table: expected one of {', '.join(SUFFIXES)}"),
    ("d.gz", b"", f"d.gz has no suffix of a table: expected one of {', '.join(SUFFIXES)}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "beginning"), OTHERS, ids=range(len(OTHERS)))
def test_a_broken_file_has_its_sentence(
    tmp_path: Path, name: str, content: str | bytes, beginning: str
) -> None:
    sentence = refusal(tmp_path, content, name)
    assert sentence.startswith(beginning) and len(sentence) < 400


def test_what_is_not_there_or_a_folder_is_said(tmp_path: Path) -> None:
    for name in WRITERS:
        with pytest.raises(InputError, match=f"there is no file .*{name}: check the path"):
            read_table(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"folder\.parquet is a folder: name one file of the data"):
        read_table(tmp_path / "folder.parquet")
    with pytest.raises(InputError, match="there is no file"):
        data_digest(tmp_path / "none")


def test_types_that_change_in_later_rows_have_their_sentence(tmp_path: Path) -> None:
    lines = [{"id": i, "x": i if i < 8192 else "a"} for i in range(9000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    found = refusal(tmp_path, text, "d.jsonl")
    assert found.startswith("d.jsonl is not a table (") and "Field x" in found
    assert found.endswith("): write a column's values in one type")


def test_text_that_is_not_utf_8_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"id,x\n1,\xff\n").endswith("): save it as UTF-8")


WHOLE = [name for name in sorted(WRITERS) if name not in ("d.csv", "d.tsv", "d.jsonl", "d.ndjson")]


@pytest.mark.parametrize("name", WHOLE)
def test_no_cut_of_a_file_reads_as_fewer_rows(tmp_path: Path, name: str) -> None:
    """Lines of text alone cannot say how many there should be."""
    WRITERS[name](rows(64), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for stop in range(0, len(content) - 1, max(1, len(content) // 97)):
        (tmp_path / name).write_bytes(content[:stop])
        with pytest.raises(InputError) as caught:
            read_table(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["d.arrow", "d.feather", "d.ipc", "d.parquet", "d.csv.gz"])
def test_a_flipped_byte_is_a_sentence_or_a_table_never_a_crash(tmp_path: Path, name: str) -> None:
    WRITERS[name](rows(64), tmp_path / name)
    content = bytearray((tmp_path / name).read_bytes())
    for at in range(0, len(content), max(1, len(content) // 150)):
        content[at] ^= 0x55
        (tmp_path / name).write_bytes(content)
        content[at] ^= 0x55
        try:
            read_table(tmp_path / name)
        except InputError:
            continue


MEASURE = """
import re, sys
from pathlib import Path
import willfit.runner.table as table
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
getattr(table, sys.argv[1])(Path(sys.argv[2]))
print(peak() - before)
"""


def peak_kib(function: str, path: Path) -> int:
    """Resident memory that a call adds to a fresh process."""
    command = [sys.executable, "-c", MEASURE, function, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_ids_are_read_without_the_texts_beside_them(tmp_path: Path) -> None:
    count = 50_000
    texts = [f"{i:>2000}" for i in range(count)]  # 95 MiB
    table = pa.table({"id": range(count), "prompt": texts})
    pq.write_table(table, tmp_path / "d.parquet", use_dictionary=False, row_group_size=5000)
    ids, whole = (peak_kib(f, tmp_path / "d.parquet") for f in ("read_ids", "read_table"))
    assert ids < 40 * 1024 < 95 * 1024 < whole
