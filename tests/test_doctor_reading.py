"""Text of any size and any make is read as what was meant, each failure once, where it stands."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.growth import grows_at_most

from willfit.doctor.find import MOST_REPORTS, reports_in
from willfit.doctor.messages import READERS, Reader
from willfit.doctor.messages.reader import report
from willfit.doctor.passage import Flat, Line, Passage
from willfit.doctor.reading import Stretch, Stretches, passage_of
from willfit.doctor.reading.anchors import cover
from willfit.doctor.reading.blocks import BLOCK_BYTES, blocks
from willfit.doctor.reading.prefixes import PREFIXES, Prefix
from willfit.doctor.reading.search import Search
from willfit.doctor.reading.speech import Speech
from willfit.doctor.reading.stretches import AFTER_BYTES, BEFORE_LINES, WHOLE_BYTES
from willfit.doctor.report import Context, Report

OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total "
    "capacity of 14.75 GiB of which 11.06 MiB is free. Including non-PyTorch memory, this process "
    "has 14.73 GiB memory in use. Of the allocated memory 14.04 GiB is allocated by PyTorch, and "
    "509.85 MiB is reserved by PyTorch but unallocated."
)
TRIED = 224 * 2**20
MEBIBYTE = 1 << 20


def training_lines(num_bytes: int) -> bytes:
    line = b"{'loss': 0.7312, 'grad_norm': 1.25, 'learning_rate': 2e-05, 'epoch': 0.31}\n"
    return line * (num_bytes // len(line))


def lines_of(text: str | bytes) -> list[tuple[int, str, str]]:
    """Number, speaker and text of each cleaned line."""
    raw = text.encode() if isinstance(text, str) else text
    return [(line.number, line.speaker, line.text) for line in passage_of(Stretch(raw, 1)).lines]


def texts_of(text: str | bytes) -> list[str]:
    return [text for _, _, text in lines_of(text)]


# --- prefixes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PREFIXES, ids=lambda row: row.name)
def test_each_prefix_is_taken_off_its_example(row: Prefix) -> None:
    said = Speech(frozenset({row.name} if row.most else ())).said(row.example)
    assert (said.text, said.speaker) == (row.rest, row.speaker)
    assert row.rest != row.example
    assert not row.origin or row.origin in said.origins


def test_names_of_prefixes_are_their_own() -> None:
    assert len({row.name for row in PREFIXES}) == len(PREFIXES)


@pytest.mark.parametrize(
    "message",
    [
        "[METAL] Command buffer execution failed: Insufficient Memory",
        "[malloc_or_wait] Unable to allocate 12 bytes.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator",
        "[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n): out of memory",
        "[6] NVIDIA A100 80GB PCIe | 52'C, 100 % | 10151 / 81920 MB | (null)",
        "[launch.py:321:sigkill_handler] [...] exits with return code = -9",
        "[ERROR] failed (exitcode: -9) local_rank: 0 (pid: 438) of binary: /opt/conda/bin/python",
        "# GPU blocks: 229, # CPU blocks: 512",
        "ERROR: Unexpected bus error encountered in worker.",
        "ERROR warmup{max_input_length=64}:warmup: text_generation_client: Server error: x",
        "Error: model requires more system memory (164.8 GiB) than is available (13.4 GiB)",
        "Error out of memory at line 380 in file /home/csrc/pythonInterface.c",
        "traceback : Signal 9 (SIGKILL) received by PID 2198",
        "(0) Resource exhausted: OOM when allocating tensor with shape[32,12,512,512]",
        "ins-7df6:3018451:3018451 [0] enqueue.cc:1085 NCCL WARN Cuda failure 'out of memory'",
        "23859MiB / 24564MiB   (CUDA graphs on, gpu_memory_utilization 0.9)",
        "1: cudaMalloc failed: out of memory",
        "server | out of memory",
        "unable to mmap 23802932552 bytes from file <./flux1-dev.safetensors>: Cannot allocate",
        "    raise ValueError(\"No available memory for the cache blocks. \"",
        "--> 325             c2p_att = torch.gather(",
        "`device_map` to `from_pretrained`.",
        "  generated = model.generate(**inputs, **kwargs)",
        "   **inputs, x=2 ** 3)",
        r'OSError: [WinError 1455] Error loading "C:\Users\x\torch\lib\cudnn_adv.dll"',
        r'  File "D:\new\site-packages\torch\nn\modules\linear.py", line 114, in forward',
        r'  File "...\torch\nn\functional.py", line 3, in linear',
        "[31m is a street, [5m 30s] a time",
        "#0 0x7f in ggml_abort () from libggml.so",
    ],
)  # fmt: skip
def test_words_of_a_message_stay(message: str) -> None:
    assert texts_of(message) == [message]


@pytest.mark.parametrize("inner", ["", "(EngineCore_DP0 pid=270) ", "[rank3]:", "[rank3]: "])
@pytest.mark.parametrize(
    "outer",
    [
        "vllm-server-1  | ",
        "2021-12-08T01:25:15.387848564Z ",
        "2024-05-01T10:00:00.123456789Z stderr F ",
        "[2026-02-24T20:21:58Z] ",
        "Apr 29 12:31:28 host vllm[1654667]: ",
        "INFO 2025-11-19T20:16:36.096677269Z [resource.labels.containerName: vllm] ",
        "> ",
        "SUBPROCESS: ",
        "",
    ],
)
@pytest.mark.parametrize("level", ["", "ERROR 04-05 01:12:55 [core.py:390] "])
def test_prefixes_stand_in_front_of_prefixes(outer: str, inner: str, level: str) -> None:
    (line,) = lines_of(outer + inner + level + "  ValueError: no memory")
    assert line[2].strip() == "ValueError: no memory"
    assert ("EngineCore_DP0 pid=270" in line[1], "rank3" in line[1]) == (
        "EngineCore" in inner,
        "rank3" in inner,
    )


@pytest.mark.parametrize(
    ("label", "speaker"), [("0: ", "0"), ("server  | ", "server"), ("ml.node  | ", "ml.node")]
)
def test_a_label_that_may_be_words_counts_where_most_lines_have_it(
    label: str, speaker: str
) -> None:
    many = "".join(f"{label}line {number}\n" for number in range(5))
    assert {line[1] for line in lines_of(many)} == {speaker}
    few = f"{label}line\n" + "another line\n" * 5
    assert lines_of(few)[0] == (1, "", f"{label}line")


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("deep-seek-1  | x", {"docker"}),
        ("Apr 29 12:31:28 host ollama[77]: x", {"ollama"}),
        ("(EngineCore_0 pid=7) x", {"vllm"}),
        ("(raylet) x", {"ray"}),
        ("[2024-11-20 16:40:55 TP0] x", {"sglang"}),
        ("2023-12-22T00:21:35.318928Z ERROR text_generation_client: router/lib.rs:33: x", {"tgi"}),
        ("slurmstepd: error: Detected 1 oom-kill event(s)", {"slurm"}),
        ("[2024-01-22 16:50:49,553] [INFO] [launch.py:315:sigkill_handler] Killing", {"deepspeed"}),
        ("<ipython-input-3-5f2> in <module>", {"notebook"}),
        ("nothing of the kind", set()),
    ],
)
def test_prefixes_tell_the_program(text: str, origins: set[str]) -> None:
    assert passage_of(Stretch(text.encode(), 1)).origins == origins


# --- what stands around words -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "meant"),
    [
        ("\x1b[31mCUDA\x1b[0m out \x1b[1;38;5;196mof\x1b[0m memory", ["CUDA out of memory"]),
        ("\\x1b[31mCUDA\\x1b[0m out", ["CUDA out"]),
        ("#033[2m#033[33mCUDA#033[0m out", ["CUDA out"]),
        ("^[[31mCUDA^[[0m out", ["CUDA out"]),
        ("\\u001b[31mCUDA\\033[0m out\\e[m", ["CUDA out"]),
        ("␛[31mCUDA␛[0m out", ["CUDA out"]),
        ("[31mCUDA[0m out", ["CUDA out"]),
        ("&#27;[31mCUDA&#x1b;[0m out", ["CUDA out"]),
        ("\x1b]8;;file://x\x1b\\CUDA\x1b]8;;\x1b\\ out\x1b]0;title\x07", ["CUDA out"]),
        ("\x1b[2K\x1b[1ACUDA out\x1b[?25h", ["CUDA out"]),
        ("CUDX\bA out\b\b\bout", ["CUDA out"]),
        ("a\u200bb\ufeff\0c\x7f", ["abc"]),
        ("10%|█ | 1/9\r20%|██ | 2/9\rKilled\r\n", ["10%|█ | 1/9", "20%|██ | 2/9", "Killed"]),
        (
            "shards:   0%|          | 0/2 [00:00<?, ?it/s]Killed",
            ["shards:   0%|          | 0/2 [00:00<?, ?it/s]", "Killed"],
        ),
        (
            '</pre><pre style="a: b"><span style="c">OutOfMemoryError</span><span>: CUDA &gt;&gt; x'
            "</span>",
            ["OutOfMemoryError: CUDA >> x"],
        ),
        ("File &quot;a.py&quot;, in &lt;module&gt;<br>it&#39;s", ['File "a.py", in <module>', "it's"]),
        ("> > torch.OutOfMemoryError: CUDA", ["torch.OutOfMemoryError: CUDA"]),
        (">   File \"a.py\"", ["  File \"a.py\""]),
        ("- torch.OutOfMemoryError: CUDA", ["torch.OutOfMemoryError: CUDA"]),
        ("**RuntimeError: CUDA out of memory.**", ["RuntimeError: CUDA out of memory."]),
        ("`RuntimeError: CUDA out of memory.`", ["RuntimeError: CUDA out of memory."]),
        ("```python\nRuntimeError: x\n```", ["RuntimeError: x"]),
        (
            "╭──── Traceback (most recent call last) ────╮\n│ x = model(y)   │\n│        │\n╰────╯",
            ["Traceback (most recent call last)", "x = model(y)"],
        ),
        ("│ /a/b.py:12 in forward     │", ["│ /a/b.py:12 in forward     │"]),
        ("│ ❱ 105 │   x = y()  │", ["❱ 105 │   x = y()"]),
        (
            "+----+------+\n| a  | CUDA out of |\n|----|------|\n|    | memory      |",
            ["a  | CUDA out of", "memory"],
        ),
        ("\n\n  \n x\n\n", [" x"]),
    ],
)  # fmt: skip
def test_ornaments_go_and_words_stay(printed: str, meant: list[str]) -> None:
    assert texts_of(printed) == meant


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\nMemoryError: "x"'


@pytest.mark.parametrize(
    "quoted",
    [
        json.dumps(TRACEBACK),
        json.dumps({"log": TRACEBACK + "\n", "stream": "stderr", "time": "2024-05-01T10:00:00Z"}),
        json.dumps({"error": {"message": TRACEBACK, "code": 500}}),
        json.dumps({"a": json.dumps({"b": TRACEBACK})}),
        repr(TRACEBACK).strip("'"),
        f"2024-05-01T10:00:00Z stderr F {json.dumps({'message': TRACEBACK})}",
    ],
)
def test_a_line_that_quotes_lines_is_those_lines(quoted: str) -> None:
    lines = lines_of("first\n" + quoted)
    assert [text for _, _, text in lines[1:]] == TRACEBACK.split("\n")
    assert {number for number, _, _ in lines[1:]} == {2}


def test_json_lines_and_their_numbers() -> None:
    rows = [json.dumps({"level": "info", "msg": f"step {i} is done\nnext"}) for i in range(3)]
    assert [(number, text) for number, _, text in lines_of("\n".join(rows))] == [
        (1, "step 0 is done"), (1, "next"), (2, "step 1 is done"), (2, "next"),
        (3, "step 2 is done"), (3, "next"),
    ]  # fmt: skip


@given(st.binary(max_size=300))
@example(b"\xff\xfe\x00")
@example(b'{"a":' * 4000)
@example(b'"' + b"\\" * 3001)
@example(b"[0m" + b"\x1b[" * 2000)
@example(b"> " * 3000 + b"- " * 3000)
def test_any_bytes_are_read(text: bytes) -> None:
    lines = lines_of(text)
    assert all(1 <= number <= text.count(b"\n") + 1 for number, _, _ in lines)
    assert [number for number, _, _ in lines] == sorted(number for number, _, _ in lines)
    assert all(line.isprintable() or not re.search(r"[\x1b\x00\b\r\n]", line)
               for _, _, line in lines)  # fmt: skip


# --- encodings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("gb18030"),
        lambda text: text.encode("latin-1", "replace"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\0" * 5000 + text.encode(),
        lambda text: b"a line\n" * 200 + text.encode("utf-16-le"),
    ],
)
def test_a_text_in_any_encoding(encode: Callable[[str], bytes]) -> None:
    raw = encode(f"模型加载\nmodèle\n{OOM}\n完成\n")
    (found,) = reports_in(raw)
    assert found.fields["tried_bytes"] == TRIED
    assert found.line == 3 + raw.count(b"a line\n")


def test_a_letter_across_two_blocks_is_one() -> None:
    text = "é中" * BLOCK_BYTES
    for encoding in ("utf-8", "utf-16"):
        assert b"".join(blocks(text.encode(encoding))) == text.encode()


# --- a source of any size ---------------------------------------------------------------------

SAID = re.compile(r"NEEDLE (?P<number>\d{1,9})")


def _read_needles(flat: Flat) -> Iterator[Report]:
    for match in SAID.finditer(flat.text):
        yield report(flat, match, family="mine", fields={"number": int(match["number"])})


MINE = Reader(name="mine", needles=("NEEDLE ",), read=_read_needles)


@settings(max_examples=25)
@given(st.integers(0, 3 * MEBIBYTE), st.integers(1, 3))
@example(BLOCK_BYTES - AFTER_BYTES, 1)
@example(BLOCK_BYTES, 2)
@example(0, 1)
@example(3 * MEBIBYTE, 1)
def test_a_message_is_found_wherever_it_stands(place: int, count: int) -> None:
    filler = training_lines(3 * MEBIBYTE)
    place = filler.rfind(b"\n", 0, place) + 1
    added = b"".join(b"NEEDLE %d\n" % number for number in range(count))
    found = reports_in(filler[:place] + added + filler[place:], readers=[MINE])
    first = filler.count(b"\n", 0, place) + 1
    assert [(x.line, x.fields["number"], x.times) for x in found] == [
        (first + number, number, 1) for number in range(count)
    ]


@settings(max_examples=12)
@given(st.lists(st.integers(1, 900_000), min_size=1, max_size=12), st.randoms())
def test_chunks_do_not_matter(sizes: list[int], dice: random.Random) -> None:
    text = bytearray(training_lines(2 * MEBIBYTE))
    for number in range(4):
        place = dice.randrange(len(text))
        text[place:place] = b"\nNEEDLE %d\n" % number
    ends = list(accumulate(islice(cycle(sizes), 400)))
    cuts = [0, *(end for end in ends if end < len(text)), len(text)]
    chunks = [bytes(text[low:high]) for low, high in pairwise(cuts)]
    found = reports_in(iter(chunks), readers=[MINE])
    assert found == reports_in(bytes(text), readers=[MINE])
    assert sorted(x.fields["number"] for x in found) == [0, 1, 2, 3]


def test_a_file_a_text_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    text = training_lines(2 * MEBIBYTE).decode() + OOM + "\n"
    path = tmp_path / "train.log"
    path.write_text(text)
    found = reports_in(path)
    assert found == reports_in(text) == reports_in(text.encode())
    assert [x.fields["tried_bytes"] for x in found] == [TRIED]


def test_the_traceback_before_a_message_comes_with_it() -> None:
    lines = [f'  File "module_{i}.py", line {i}, in f{i}' for i in range(300)]
    text = "\n".join(["Traceback (most recent call last):", *lines, OOM]) + "\n"
    filler = training_lines(2 * MEBIBYTE)
    (stretch,) = Stretches(filler + text.encode() + filler, [b"out of memory"])
    assert text.encode() in stretch.text
    before = stretch.text[: stretch.text.index(OOM.encode())]
    assert before.count(b"\n") == BEFORE_LINES
    assert stretch.first_line == filler.count(b"\n") + 302 - BEFORE_LINES
    (found,) = reports_in(filler + text.encode())
    assert found.context.frames[-1].function == "f299"


def test_lines_after_a_message_come_with_it() -> None:
    filler = training_lines(2 * MEBIBYTE)
    (stretch,) = Stretches(filler + b"NEEDLE 1\n" + filler, [b"NEEDLE "])
    after = stretch.text[stretch.text.index(b"NEEDLE ") + 9 :]
    assert AFTER_BYTES - 100 < len(after) <= AFTER_BYTES
    assert stretch.text.endswith(b"\n")
    assert filler.startswith(after)


WORDS = st.sampled_from([b"out of memory", b"memory", b"Killed", b"Error 137", b"[1] +", b"killed"])


@given(
    st.lists(WORDS, min_size=1, max_size=5, unique=True),
    st.lists(
        st.tuples(st.binary(max_size=6), st.one_of(WORDS, st.just(b"out of memor")), st.booleans()),
        max_size=30,
    ),
    st.integers(1, 60),
)
def test_the_search_finds_the_lines_that_hold_a_needle(
    needles: list[bytes], parts: list[tuple[bytes, bytes, bool]], step: int
) -> None:
    text = b"".join(a + word + (b"\n" if ends else b"") for a, word, ends in parts)
    search = Search(needles)
    hits = [
        hit
        for start in range(0, len(text), step)
        for hit in search.hits(text, start, min(start + step, len(text)))
    ]
    assert all(text[begin:end] in needles for begin, end in hits)
    lines = {text.count(b"\n", 0, begin) for begin, _ in hits}
    expected = {
        number
        for number, line in enumerate(text.split(b"\n"))
        if any(needle in line for needle in needles)
    }
    assert lines == expected


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=20, unique=True))
def test_anchors_cover_every_needle_once(needles: list[bytes]) -> None:
    groups = cover(needles)
    assert sorted(needle for group in groups for needle in group.needles) == sorted(needles)
    assert all(group.anchor in needle for group in groups for needle in group.needles)


# --- logs that say the same again and again ---------------------------------------------------


@pytest.mark.parametrize("gap", ["", "step 1 loss 0.5\n" * 40, "step 1 loss 0.5\n" * 3000])
def test_every_repetition_is_counted(gap: str) -> None:
    times = 5000 if len(gap) < 2000 else 60
    lines = (
        f"INFO 08-19 07:{i // 60 % 60:02}:{i % 60:02} [core.py:3] {OOM}\n{gap}"
        for i in range(times)
    )
    found = reports_in("".join(lines))
    assert [(x.line, x.times) for x in found] == [(1, times)]


def test_repetitions_of_two_messages_are_told_apart() -> None:
    lines = "".join(
        f"{i:05} allocating {9866 if i % 3 else 42}.00 MiB on device 0: NEEDLE {i % 3 and 1}\n"
        for i in range(60_000)
    )
    found = reports_in(lines, readers=[MINE])
    assert sorted((x.fields["number"], x.times) for x in found) == [(0, 20_000), (1, 40_000)]


def test_of_a_million_different_reports_the_first_are_kept() -> None:
    lines = "".join(f"NEEDLE {i}\n" for i in range(200_000)) + f"{OOM}\n"
    found = reports_in(lines, readers=[MINE, *READERS])
    assert [x.fields["number"] for x in found[:-1]] == list(range(MOST_REPORTS))
    assert found[-1].fields["tried_bytes"] == TRIED


def test_a_line_without_end_is_read_around_its_needles() -> None:
    text = b"x y z " * (MEBIBYTE // 2) + OOM.encode() + b" a b c" * MEBIBYTE
    (found,) = reports_in(text)
    assert (found.line, found.times, found.fields["tried_bytes"]) == (1, 1, TRIED)


def test_memory_is_constant() -> None:
    block = training_lines(MEBIBYTE)
    last = block + f"{OOM}\n".encode() * 50 + block
    source = (block if number < 24 else last for number in range(25))
    tracemalloc.start()
    try:
        (found,) = reports_in(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.times == 50
    assert peak < 24 * MEBIBYTE


PATHOLOGICAL: dict[str, Callable[[int], bytes]] = {
    "the same message": lambda size: f"{OOM}\n".encode() * (size // len(OOM)),
    "different messages": lambda size: b"".join(b"NEEDLE %d\n" % i for i in range(size // 12)),
    "one word a line": lambda size: b"NEEDLE 1\n" * (size // 9),
    "one line": lambda size: b"NEEDLE 1 " * (size // 9),
    "no spaces": lambda size: b"x" * size,
    "brackets": lambda size: b"[({<" * (size // 4),
    "NULs": lambda size: b"\0" * size,
    "carriage returns": lambda size: b"a\r" * (size // 2),
}


@pytest.mark.parametrize("kind", PATHOLOGICAL)
def test_time_is_linear(kind: str) -> None:
    size = 9 * MEBIBYTE // 8
    short, long = (PATHOLOGICAL[kind](length) for length in (size, 4 * size))
    # 4 times the text; a square would take 16 times as long
    assert grows_at_most(
        8, lambda: reports_in(short, readers=[MINE]), lambda: reports_in(long, readers=[MINE])
    )


# --- one report a failure ---------------------------------------------------------------------


def reader(name: str, words: str, weight: str = "words") -> Reader:
    pattern = re.compile(words)

    def read(flat: Flat) -> Iterator[Report]:
        for match in pattern.finditer(flat.text):
            yield report(flat, match, family=name, weight=weight)  # type: ignore[arg-type]

    return Reader(name=name, needles=(words.split()[0],), read=read)


@pytest.mark.parametrize(
    ("weights", "kept"),
    [
        (("words", "words"), ["a"]),
        (("numbers", "numbers"), ["a"]),
        (("numbers", "words"), ["a"]),
        (("words", "numbers"), ["b"]),
        (("aftermath", "words"), ["b"]),
        (("words", "aftermath"), ["a"]),
        (("aftermath", "aftermath"), ["a"]),
    ],
)
def test_of_two_readings_of_a_line_one_counts(weights: tuple[str, str], kept: list[str]) -> None:
    readers = [reader("a", "out of", weights[0]), reader("b", "of memory", weights[1])]
    found = reports_in("ran out of memory\n", readers=readers)
    assert [x.family for x in found] == kept


def test_readings_of_different_lines_all_count_in_order() -> None:
    readers = [reader("a", "third"), reader("b", "first"), reader("c", "second")]
    found = reports_in("first\nsecond\nthird\n", readers=readers)
    assert [(x.family, x.line) for x in found] == [("b", 1), ("c", 2), ("a", 3)]


def test_what_follows_is_left_out_where_the_cause_is_there() -> None:
    readers = [reader("follows", "exit code", "aftermath"), reader("cause", "no memory")]
    assert [x.family for x in reports_in("exit code\nno memory\n", readers=readers)] == ["cause"]
    alone = reports_in("exit code\nx\nexit code 3\n", readers=readers)
    assert [(x.family, x.line) for x in alone] == [("follows", 1)]


def test_equal_reports_are_one_and_those_of_other_ranks_are_not() -> None:
    text = "[rank0]: no memory\n[rank1]: no memory\n[rank0]: no memory\n"
    found = reports_in(text, readers=[reader("a", "no memory")])
    assert [(x.speaker, x.line, x.times) for x in found] == [("rank0", 1, 2), ("rank1", 2, 1)]


def test_interleaved_ranks_are_each_read_whole() -> None:
    words = OOM.split(" ")
    thirds = [" ".join(words[i : i + 24]) for i in range(0, len(words), 24)]
    text = "".join(
        f"[rank{rank}]: {third.replace('GPU 0', f'GPU {rank}')}\n"
        for third in thirds
        for rank in (0, 1, 2)
    )
    found = reports_in(text)
    assert [(x.speaker, x.line, x.fields["gpu"]) for x in found] == [
        ("rank0", 1, 0), ("rank1", 2, 1), ("rank2", 3, 2),
    ]  # fmt: skip
    assert all(
        x.fields["reserved_unallocated_bytes"] == int(509.85 * 2**20) and x.times == 1
        for x in found
    )


def test_a_message_of_which_the_first_line_alone_has_a_prefix() -> None:
    half = OOM.index("GPU 0")
    text = f"[rank5]: {OOM[:half]}\n{OOM[half:]}\n[rank5]: done\n"
    (found,) = reports_in(text)
    assert (found.speaker, found.line, found.last_line) == ("rank5", 1, 2)
    assert found.fields["free_bytes"] == int(11.06 * 2**20)


def test_two_failures_in_one_line_that_quotes_them() -> None:
    quoted = json.dumps({"log": "x is so\nno memory at all\nthen\nno disk at all"})
    readers = [reader("a", "no memory"), reader("b", "no disk")]
    found = reports_in("before\n" + quoted, readers=readers)
    assert [(x.family, x.line, x.last_line) for x in found] == [("a", 2, 2), ("b", 2, 2)]


def test_the_context_is_asked_of_the_passage_that_holds_the_report() -> None:
    asked = []

    def context_of(passage: Passage, found: Report) -> Context:
        asked.append(passage.lines[found.line].text)
        return Context(clues=frozenset({"mine"}))

    text = training_lines(2 * MEBIBYTE) + b"\n\nno memory\n"
    (found,) = reports_in(text, readers=[reader("a", "no memory")], context_of=context_of)
    assert asked == ["no memory"]
    assert found.context.clues == {"mine"}
    assert found.line == training_lines(2 * MEBIBYTE).count(b"\n") + 3


def test_nothing_is_found_in_nothing() -> None:
    for nothing in ("", b"", iter(()), "\n" * 10, training_lines(WHOLE_BYTES + 100)):
        assert reports_in(nothing) == []


# --- the corpus, in other clothes -------------------------------------------------------------


def _plain(text: str) -> bytes:
    return text.encode()


CLOTHES: dict[str, Callable[[str], bytes]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "a JSON string": lambda text: json.dumps({"log": text}).encode(),
    "coloured": lambda text: "\n".join(
        f"\x1b[31m{line}\x1b[0m" for line in text.split("\n")
    ).encode(),
    "in a container": lambda text: "\n".join(
        f"trainer-1  | 2024-05-01T10:00:00.123456Z {line}" for line in text.split("\n")
    ).encode(),
    "in a large log": lambda text: (
        training_lines(WHOLE_BYTES + 100) + text.encode() + b"\n" + training_lines(30_000)
    ),
}


@pytest.mark.parametrize("clothes", CLOTHES)
def test_the_corpus_reads_the_same_in_other_clothes(clothes: str, shared: Path) -> None:
    different = []
    paths = sorted((shared / "oom_corpus" / "raw").glob("*.log"))
    for path in paths[:: 12 if clothes == "in a large log" else 1]:
        text = path.read_text("utf-8", "replace").rstrip("\n")
        worn, plain = (
            {(x.family, json.dumps(x.fields, sort_keys=True)) for x in reports_in(made(text))}
            for made in (CLOTHES[clothes], _plain)
        )
        if worn != plain:
            different.append((path.name, plain ^ worn))
    assert not different


def test_numbers_of_lines_are_those_of_the_source(shared: Path) -> None:
    for path in sorted((shared / "oom_corpus" / "raw").glob("*.log")):
        text = path.read_text("utf-8", "replace")
        below = "a line before\n" * 50 + text
        assert [x.line for x in reports_in(below)] == [x.line + 50 for x in reports_in(text)]


def test_a_passage_gives_each_speaker_its_words() -> None:
    lines = [Line(number=i, text=f"w{i}", speaker="ab"[i % 2]) for i in range(6)]
    assert [flat.text for flat in Passage(lines).flats()] == [
        "w0 w2 w4", "w1 w3 w5", "w0 w1 w2 w3 w4 w5",
    ]  # fmt: skip
