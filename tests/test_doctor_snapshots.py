"""Memory snapshots: nothing in one is run, its parts add up, and replays give what was recorded."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.snapshot_maker import FIRST, Recorder, frame, real_snapshot

from willfit.doctor.snapshots import explain, outcomes, read_snapshot, replayed, reproduced
from willfit.doctor.snapshots.contents import Snapshot
from willfit.doctor.snapshots.places import place_of
from willfit.dtypes import BFLOAT16
from willfit.errors import BrokenFileError, InputError
from willfit.estimator.replay import replay
from willfit.estimator.snapshot import snapshot as written
from willfit.formulas.phase import PhaseName
from willfit.report.snapshot import snapshot_data, snapshot_text
from willfit.trace.recording import Event as TraceEvent
from willfit.trace.recording import Place as TracePlace
from willfit.trace.recording import Recording
from willfit.trace.trace import shorten
from willfit.units import GIB, MIB

SITE = "/usr/lib/python3.11/site-packages"
TRAIN = "/home/me/train.py"
CALL = frame(f"{SITE}/torch/nn/modules/module.py", 1780, "_call_impl")
MLP = [frame(f"{SITE}/transformers/models/llama/modeling_llama.py", 155, "forward"), CALL]
LOAD = [frame(f"{SITE}/transformers/modeling_utils.py", 4900, "from_pretrained")]


def main(line: int) -> dict[str, Any]:
    return frame(TRAIN, line, "main")


def read(recorder: Recorder) -> Snapshot:
    return read_snapshot(recorder.pickled())


# hostile and foreign files


class _Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def _calling(canary: Path, protocol: int) -> list[bytes]:
    command = f"touch {canary}"
    calls = [
        _Calls(os.system, command),
        _Calls(eval, f"open({str(canary)!r}, 'w')"),
        _Calls(exec, f"open({str(canary)!r}, 'w')"),
        _Calls(open, str(canary), "w"),
        _Calls(Path, str(canary)),
    ]
    whole = {"segments": [], "device_traces": [[]]}
    nested = [{**whole, "device_traces": [[{"action": call, "frames": []}]]} for call in calls]
    settings = [{**whole, "allocator_settings": {"deep": [[call]]}} for call in calls]
    return [pickle.dumps(x, protocol) for x in [*calls, *nested, *settings]]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(
    tmp_path: Path, protocol: int
) -> None:
    canary = tmp_path / "canary"
    for data in _calling(canary, protocol):
        with pytest.raises(BrokenFileError, match="asks for code to be run"):
            read_snapshot(data)
        assert not canary.exists()
    # the same bytes do run elsewhere
    pickle.loads(_calling(canary, protocol)[0])
    assert canary.exists()


def _proto(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


LAUGHS = b"]\x94" + b"".join(
    b"](" + b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"e\x94" for i in range(60)
)
HOSTILE = {
    "global": (b"cposix\nsystem\n(S'true'\ntR.", "asks for code"),
    "inst": (b"(S'true'\nios\nsystem\n.", "bytes or sets|asks for code"),
    "stack global": (_proto(b"\x8c\x05posix\x8c\x06system\x93"), "asks for code"),
    "extension": (_proto(b"\x82\x01"), "asks for code"),
    "persistent id": (b"Pcanary\n.", "asks for code"),
    "build": (_proto(b"}}b"), "asks for code"),
    "newobj": (_proto(b")\x81"), "asks for code"),
    "out-of-band buffer": (_proto(b"\x97"), "asks for code"),
    "bytes of 2^63": (_proto(b"\x8e" + struct.pack("<Q", 2**63)), "bytes or sets"),
    "text of 2^63": (_proto(b"\x8d" + struct.pack("<Q", 2**63)), "a text of 9,223,372"),
    "text of 4 GiB": (_proto(b"X\xff\xff\xff\xff"), "a text of 4,294,967,295"),
    "number of 2 GiB": (_proto(b"\x8b\xff\xff\xff\x7f"), "more than 16 bytes"),
    "endless decimal": (b"L" + b"9" * 100_000, "a line without end"),
    "memo index": (_proto(b"]r\xff\xff\xff\xff"), "out of order"),
    "memo twice": (_proto(b"]q\x00]q\x00"), "out of order"),
    "memo unknown": (_proto(b"h\x07"), "refers to what it does not hold"),
    "deep marks": (_proto(b"(" * 100_000), "nested more than 64"),
    "deep tuple as a key": (_proto(b"}" + b")" + b"\x85" * 300_000 + b"Ns"), "keys that are not text"),
    "keys that collide": (
        _proto(b"}(" + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(50_000)) + b"u"),
        "keys that are not text",
    ),
    "a list in itself": (_proto(b"]\x94h\x00a"), "a segment is no dictionary"),
    "deep list as a state": (
        _proto(
            b"}\x8c\x08segments](}(\x8c\x07addressK\x00\x8c\x0atotal_sizeK\x01\x8c\x06blocks](}("
            b"\x8c\x04sizeK\x01\x8c\x05state" + b"]" * 100_000 + b"a" * 99_999 + b"ueues"
        ),
        "neither active",
    ),
    "billion laughs": (_proto(LAUGHS), "a segment is no dictionary"),
    "underflow": (_proto(b"u"), "refers to what it does not hold"),
    "empty": (b"", "cut off"),
    "only a header": (b"\x80\x04", "cut off"),
    "text": (b"CUDA out of memory", "bytes or sets|instruction is due"),
    "random": (b"\xde\xad\xbe\xef", "where an instruction is due"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_give_one_sentence(name: str) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(BrokenFileError, match=words) as raised:
        read_snapshot(data)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_other_files_are_named(tmp_path: Path) -> None:
    good = Recorder().pickled()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("model/data.pkl", good)
    for data, words in [
        (gzip.compress(good), "compressed"),
        (archive.getvalue(), "zip archive"),
        (json.dumps({"segments": []}).encode(), "JSON"),
        (b"<!DOCTYPE html>", "HTML"),
        (pickle.dumps({"model": 1}), "no segments"),
        (pickle.dumps({"segments": {"a": 1}}), "no list"),
        (pickle.dumps({"segments": [], "device_traces": [[1]]}), "no event"),
        (pickle.dumps(3), "no segments"),
    ]:
        path = tmp_path / "given.pickle"
        path.write_bytes(data)
        with pytest.raises(BrokenFileError, match=words):
            read_snapshot(path)
    with pytest.raises(BrokenFileError, match="No such file"):
        read_snapshot(tmp_path / "none.pickle")


def _small() -> Recorder:
    recorder = Recorder(capacity=60 * MIB)
    recorder.alloc("a", 3 * MIB, *MLP, main(1))
    recorder.alloc("b", 40 * MIB, main(2))
    recorder.free("a")
    recorder.alloc("c", 1000)
    return recorder


def test_every_cut_of_a_snapshot_is_refused() -> None:
    data = _small().pickled()
    for length in range(len(data)):
        with pytest.raises(BrokenFileError):
            read_snapshot(data[:length])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_snapshots_give_a_snapshot_or_one_sentence(data: st.DataObject) -> None:
    raw = bytearray(_small().pickled(data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        snapshot = read_snapshot(bytes(raw))
    except BrokenFileError:
        return
    for gpu in explain(snapshot).gpus:
        parts = gpu.live_bytes + gpu.cached_bytes + gpu.fragmentation_bytes + gpu.private_bytes
        assert parts == gpu.reserved_bytes
    with suppress(InputError):
        outcomes(snapshot, settings=["expandable_segments:True"])


# reading


def test_every_protocol_reads_the_same() -> None:
    recorder = _small()
    assert not recorder.alloc("d", 50 * MIB, main(3))
    one, *others = [read_snapshot(recorder.pickled(protocol)) for protocol in range(6)]
    assert all(other == one for other in others)
    actions = [event.action for event in one.trace(0)]
    assert actions == [
        "segment_alloc", "alloc", "segment_alloc", "alloc", "free_requested", "free_completed",
        "segment_free", "segment_alloc", "alloc", "oom",
    ]  # fmt: skip
    assert one.trace(0)[1].num_bytes == 3 * MIB
    assert [f.line for f in one.trace(0)[1].stack] == [155, 1780, 1]
    assert one.trace(0)[1].stack is one.trace(0)[4].stack
    assert one.trace(0)[-1].free_bytes == 60 * MIB - 42 * MIB


def test_long_lists_come_in_batches_and_stay_whole() -> None:
    # pickle writes 1,000 items at once; a list of one is written otherwise
    for count in (1, 2, 999, 1000, 1001, 2500):
        frames = [frame("/x/a.py", line, "f") for line in range(1, count + 1)]
        entry = {"action": "alloc", "addr": FIRST, "size": 1, "stream": 0, "frames": frames}
        again = {**entry, "addr": FIRST + 512}
        for protocol in (0, 2, 4):
            data = pickle.dumps({"segments": [], "device_traces": [[entry, again]]}, protocol)
            for event in read_snapshot(data).trace(0):
                assert [f.line for f in event.stack] == list(range(1, count + 1))


def test_a_file_larger_than_the_window_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("willfit.doctor.snapshots.plain._WINDOW", 50)
    recorder = Recorder()
    for number in range(2000):
        recorder.alloc(f"{number}", 512 * (number + 1), frame("/x/a.py", number + 1, "f" * 3000))
    data = recorder.pickled()
    assert len(data) > 2000 * 3000 / 1500  # names are stored once
    assert len(read_snapshot(data).trace(0)) == 2000 + recorder.entries.count(
        "segment_alloc"
    ) + sum(entry["action"] == "segment_alloc" for entry in recorder.entries)


def test_old_forms_are_read() -> None:
    blocks = [
        {"size": 1536, "state": "active_allocated", "history": [{"addr": 5, "real_size": 1100, "frames": [main(7)]}]},
        {"size": 2 * MIB - 1536, "state": "inactive"},
    ]  # fmt: skip
    segment = {"device": 1, "address": FIRST, "total_size": 2 * MIB, "stream": 0, "blocks": blocks}
    for data in ([segment], {"segments": [segment]}):
        snapshot = read_snapshot(pickle.dumps(data))
        (gpu,) = explain(snapshot).gpus
        assert (gpu.gpu, gpu.live_bytes, gpu.requested_bytes) == (1, 1536, 1100)
        assert gpu.lines[0].user is not None and gpu.lines[0].user.line == 7
        assert "nothing was recorded" in explain(snapshot).notes[0]
        with pytest.raises(InputError, match="_record_memory_history"):
            outcomes(snapshot)


def test_a_segment_that_lies_about_its_blocks_is_refused() -> None:
    blocks = [{"size": 512, "state": "inactive"}]
    segment = {"device": 0, "address": FIRST, "total_size": 2 * MIB, "stream": 0, "blocks": blocks}
    with pytest.raises(BrokenFileError, match=r"2,097,152 bytes has blocks of 512 bytes"):
        read_snapshot(pickle.dumps([segment]))


# what filled the GPU


def test_a_full_gpu_is_told_from_a_fragmented_one() -> None:
    # 12 × 1 GiB stay of 14, then 3 GiB are asked for: nothing that any setting could give
    recorder = Recorder(capacity=14 * GIB)
    for number in range(12):
        recorder.alloc(f"w{number}", GIB, *LOAD, main(10))
    assert not recorder.alloc("x", 3 * GIB, *MLP, main(20))
    snapshot = read(recorder)
    (gpu,) = explain(snapshot, total_bytes=15 * GIB).gpus
    assert (gpu.live_bytes, gpu.fragmentation_bytes, gpu.cached_bytes) == (12 * GIB, 0, 0)
    assert gpu.failure is not None and gpu.failure.free_bytes == 2 * GIB
    assert not gpu.failure.fits_together and not gpu.failure.capped
    assert gpu.outside_bytes == GIB  # 15 − 2 free − 12 reserved
    assert [(use.category, use.count) for use in gpu.lines] == [("weights", 12)]
    assert gpu.failure.user is not None and gpu.failure.user.line == 20
    for outcome in outcomes(snapshot):
        assert outcome.served is False and outcome.reproduction.faithful
    text = snapshot_text(explain(snapshot), outcomes(snapshot))
    assert "expandable_segments:True would not have helped: 12.00 GiB of 14.00 GiB were live" in " ".join(text.split())  # fmt: skip


def _fragmented(capacity: int = 1024 * MIB) -> Recorder:
    """Four segments of 240 MiB, each with 120 MiB in use at its end and 120 free before."""
    recorder = Recorder(capacity=capacity)
    for number in range(4):
        recorder.alloc(f"whole{number}", 240 * MIB, main(1))
    for number in range(4):
        recorder.free(f"whole{number}")
        recorder.alloc(f"first{number}", 120 * MIB, main(2))
        recorder.alloc(f"last{number}", 120 * MIB, main(3))
    recorder.free(*[f"first{number}" for number in range(4)])
    return recorder


def test_fragmentation_is_counted_and_expandable_segments_would_have_served() -> None:
    recorder = _fragmented()
    assert not recorder.alloc("x", 200 * MIB, *MLP, main(4))
    snapshot = read(recorder)
    (gpu,) = explain(snapshot).gpus
    assert gpu.live_bytes == gpu.fragmentation_bytes == 480 * MIB
    assert (gpu.cached_bytes, gpu.reserved_bytes) == (0, 960 * MIB)
    assert gpu.failure is not None
    # 1024 − 960 = 64 MiB on the device; the largest hole has 120; together 480 + 64 ≥ 200
    assert gpu.failure.free_bytes == 64 * MIB
    assert gpu.failure.largest_free_bytes == 120 * MIB
    assert gpu.failure.fits_together
    grown = replayed(snapshot, "expandable_segments:True")
    assert grown.served and grown.reproduction.faithful and grown.reproduction.num_unlike == 0
    assert grown.capacity_bytes == 1024 * MIB and grown.recorded_bytes == 960 * MIB
    # all that came before is in the recording, nothing of what came after
    assert [note[:31] for note in grown.notes] == ["what would have followed that r"]
    text = " ".join(snapshot_text(explain(snapshot), [grown]).split())
    assert "expandable_segments:True would have served the 200.0 MiB: reserved" in text
    assert "and fails where it failed" in text


def test_the_same_where_the_recording_began_too_late_says_what_is_taken_for_granted() -> None:
    recorder = _fragmented()
    recorder.forget()
    assert not recorder.alloc("x", 200 * MIB, *MLP, main(4))
    snapshot = read(recorder)
    (gpu,) = explain(snapshot).gpus
    assert gpu.earlier_bytes == gpu.live_bytes == 480 * MIB
    assert [use.user.line for use in gpu.earlier if use.user] == [3]
    _, note = replayed(snapshot, "expandable_segments:True").notes
    assert note.startswith("480.0 MiB were in use before the recording began")
    assert reproduced(snapshot).before.reserved_bytes == 960 * MIB


def test_the_failure_is_explained_as_it_was_though_memory_was_freed_after_it() -> None:
    recorder = _fragmented()
    assert not recorder.alloc("x", 200 * MIB, main(4))
    during = explain(read(recorder)).gpus[0]
    recorder.free(*[f"last{number}" for number in range(4)])
    recorder.empty_cache()
    recorder.alloc("small", 100, main(5))
    after = explain(read(recorder)).gpus[0]
    assert after.num_events > during.num_events
    for name in ("live_bytes", "reserved_bytes", "fragmentation_bytes", "lines", "failure"):
        assert getattr(after, name) == getattr(during, name), name
    assert replayed(read(recorder), "expandable_segments:True").served


def test_a_cap_is_told_from_a_full_device() -> None:
    recorder = _fragmented()
    recorder.entries.append(
        {"action": "oom", "size": 200 * MIB, "device_free": 9 * GIB, "stream": 0, "frames": []}
    )
    snapshot = read(recorder)
    failure = explain(snapshot).gpus[0].failure
    assert failure is not None and failure.capped
    # the cap is somewhere from what is reserved on
    assert replayed(snapshot, "expandable_segments:True").capacity_bytes == 960 * MIB


def test_an_earlier_model_is_still_there() -> None:
    recorder = Recorder(capacity=10 * GIB)
    for number in range(4):
        recorder.alloc(f"gemma{number}", GIB, *LOAD, frame("/tmp/ipykernel_7/1.py", 3))
    recorder.forget()
    for number in range(5):
        recorder.alloc(f"llama{number}", GIB, *LOAD, frame("/tmp/ipykernel_7/2.py", 5))
    assert not recorder.alloc("llama5", 2 * GIB, *LOAD, frame("/tmp/ipykernel_7/2.py", 5))
    gpu = explain(read(recorder)).gpus[0]
    assert gpu.earlier_bytes == 4 * GIB
    (use,) = gpu.earlier
    assert use.user is not None and use.user.file == "/tmp/ipykernel_7/1.py"
    assert {use.category for use in gpu.lines} == {"weights"} and not gpu.growing


def _steps(keeps: bool, rounds: int = 5) -> Recorder:
    """A loop: inputs, three layers kept for a while, a loss; 1 MiB a round stays where it keeps."""
    recorder = Recorder()
    recorder.alloc("weights", 64 * MIB, *LOAD, main(5))
    for step in range(rounds):
        recorder.alloc("inputs", 4 * MIB, main(10))
        for layer in range(3):
            recorder.alloc(f"layer{layer}", 20 * MIB, *MLP, main(11))
        if keeps:
            recorder.alloc(f"loss{step}", MIB, main(12))
        recorder.free("inputs", "layer0", "layer1", "layer2")
    return recorder


def test_a_leak_is_found_with_its_line_and_its_loop() -> None:
    (growth,) = explain(read(_steps(keeps=True))).gpus[0].growing
    assert (growth.rounds, growth.use.num_bytes, growth.use.count) == (5, 5 * MIB, 5)
    assert growth.use.user is not None and growth.use.user.line == 12
    assert growth.loop.file == TRAIN
    text = " ".join(snapshot_text(explain(read(_steps(keeps=True)))).split())
    assert "train.py:12 main allocated 5.0 MiB in 5 rounds of the loop" in text


def test_what_is_alive_in_the_first_forward_pass_is_no_leak() -> None:
    recorder = _steps(keeps=False)
    assert not explain(read(recorder)).gpus[0].growing
    # 32 layers of one pass, each with two lines in turn, nothing freed yet
    for layer in range(32):
        recorder.alloc(f"a{layer}", MIB, *MLP, main(11))
        recorder.alloc(f"b{layer}", MIB, CALL, main(11))
    # and 32 shards that a loop loads: with a line of its own for each
    for shard in range(32):
        recorder.alloc(f"c{shard}", MIB, *LOAD, main(21))
        recorder.alloc(f"d{shard}", MIB, *LOAD, main(22))
    assert not explain(read(recorder)).gpus[0].growing


def test_two_rounds_are_no_leak_yet() -> None:
    assert not explain(read(_steps(keeps=True, rounds=2))).gpus[0].growing


TORCH = f"{SITE}/torch"


@pytest.mark.parametrize(
    ("stack", "category", "user", "library"),
    [
        ([*MLP, main(3)], "activations", 3, 155),
        ([CALL, *LOAD, main(3)], "weights", 3, 4900),
        ([frame(f"{TORCH}/optim/adam.py", 139, "_init_group"), main(9)], "optimizer_states", 9, 139),
        ([frame(f"{TORCH}/optim/adam.py", 500, "_multi_tensor_adam"), main(9)], "temporaries", 9, 500),
        ([frame(f"{TORCH}/nn/functional.py", 3300, "cross_entropy"), *MLP, main(9)], "logits", 9, 155),
        ([frame(f"{SITE}/transformers/cache_utils.py", 120, "update"), *MLP, main(9)], "kv_cache", 9, 120),
        ([frame(f"{TORCH}/nn/modules/module.py", 900, "_apply"), main(9)], "weights", 9, 900),
        ([frame("??", 0, "torch::autograd::Engine::thread_main(...)")], "gradients", None, None),
        ([main(9)], "unknown", 9, None),
        ([], "unknown", None, None),
        # a checkout of a library in a home folder, and a script beside it
        ([frame("/home/me/peft/src/peft/tuners/lora/layer.py", 77, "forward"), main(9)], "activations", 9, 77),
    ],
)  # fmt: skip
def test_a_stack_names_the_users_line_the_librarys_and_a_purpose(
    stack: list[dict[str, Any]], category: str, user: int | None, library: int | None
) -> None:
    entry = {"action": "alloc", "addr": FIRST, "size": 1, "stream": 0, "frames": stack}
    data = pickle.dumps({"segments": [], "device_traces": [[entry]]})
    place = place_of(read_snapshot(data).trace(0)[0].stack)
    assert place.category == category and place.guessed
    assert (place.user.line if place.user else None) == user
    assert (place.library.line if place.library else None) == library


SIZES = st.one_of(st.integers(1, 2**16), st.integers(1, 3 * MIB), st.integers(MIB, 30 * MIB))
STEPS = st.lists(st.tuples(SIZES, st.integers(0, 3)), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(
    STEPS, st.sampled_from(["", "expandable_segments:True", "max_split_size_mb:21"]), st.booleans()
)
def test_parts_add_up_and_a_replay_gives_what_was_recorded(
    steps: list[tuple[int, int]], conf: str, late: bool
) -> None:
    recorder = Recorder(conf, capacity=200 * MIB)
    for number, (size, kind) in enumerate(steps):
        if kind == 0 and recorder.names:
            recorder.free(sorted(recorder.names)[size % len(recorder.names)])
        elif kind == 1 and size % 7 == 0:
            recorder.empty_cache()
        elif not recorder.alloc(str(number), size, main(kind)):
            break
        if late and number == len(steps) // 2:
            recorder.forget()
    snapshot = read(recorder)
    for gpu in explain(snapshot).gpus:
        assert gpu.live_bytes == recorder.allocator.allocated_bytes
        assert gpu.requested_bytes == recorder.allocator.requested_bytes
        assert gpu.reserved_bytes == recorder.allocator.reserved_bytes
        assert gpu.live_bytes + gpu.cached_bytes + gpu.fragmentation_bytes == gpu.reserved_bytes
        assert sum(use.num_bytes for use in gpu.lines) == gpu.live_bytes
        assert sum(use.num_bytes for use in gpu.categories) == gpu.live_bytes
        recorder.allocator.empty_cache()
        assert gpu.reserved_bytes - gpu.cached_bytes == recorder.allocator.reserved_bytes
    if snapshot.trace(0) and not (late and conf.startswith("max_split")):
        reproduction = reproduced(snapshot).reproduction
        assert reproduction.num_unlike == 0 and reproduction.last_difference_bytes == 0
        assert reproduction.fails_alike in (None, True)


# real recordings


def test_real_recordings_are_reproduced_to_the_byte(shared: Path) -> None:
    folder = shared / "measured"
    rows = [json.loads(line) for line in (folder / "allocator_snapshots.jsonl").open()]
    seen = 0
    for row in rows:
        if not row.get("events"):
            continue
        figures = {item["kind"]: item["bytes"] for item in row["measured"]}
        snapshot = read_snapshot(pickle.dumps(real_snapshot(folder, row), 4))
        gpu = explain(snapshot).gpus[0]
        assert gpu.reserved_bytes == figures["final reserved"]
        assert gpu.live_bytes == figures["final allocated (rounded)"]
        assert gpu.requested_bytes == figures["final requested"]
        assert gpu.peak_reserved_bytes == figures["peak reserved during trace"]
        recorded = reproduced(snapshot)
        assert recorded.before.reserved_bytes == figures["reserved at trace start"]
        live = sum(tenant.requested_bytes for tenant in recorded.before.tenants)
        assert live == figures["requested bytes live at trace start"]
        assert recorded.reproduction.num_unlike == 0 and recorded.reproduction.faithful
        seen += 1
    assert seen == 21


def test_a_profile_of_torch_is_read_with_its_categories() -> None:
    import torch
    from torch.cuda import _memory_viz
    from torch.profiler import ProfilerActivity, profile

    viz: Any = _memory_viz
    model = torch.nn.Linear(256, 512)
    optimizer = torch.optim.AdamW(model.parameters())
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True, with_stack=True
    ) as profiled:
        for _ in range(2):
            model(torch.randn(64, 256)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    snapshot = read_snapshot(pickle.dumps(viz._profile_to_snapshot(profiled)))
    (gpu,) = explain(snapshot).gpus
    found = {use.name: use for use in gpu.categories}
    # 256 × 512 weights and 512 biases in float32, twice that of states and a step each
    assert found["weights"].num_bytes == (256 * 512 + 512) * 4
    assert found["optimizer_states"].num_bytes >= 2 * (256 * 512 + 512) * 4
    assert found["weights"].guessed_bytes == found["optimizer_states"].guessed_bytes == 0


# reports


def test_the_report_is_80_columns_wide_and_its_data_is_json() -> None:
    recorder = _fragmented()
    long = frame("/a/very/long/path/" + "x" * 120 + ".py", 3, "y" * 90 + "\x1b[31m")
    assert not recorder.alloc("x", 200 * MIB, *MLP, long)
    snapshot = read(recorder)
    explanation, tried = explain(snapshot, total_bytes=2 * GIB), outcomes(snapshot)
    text = snapshot_text(explanation, tried)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "xxx.py:3" in text
    data = json.loads(json.dumps(snapshot_data(explanation, tried)))
    assert data["gpus"][0]["fragmentation_bytes"] == 480 * MIB
    assert data["gpus"][0]["outside_bytes"] == (2048 - 64 - 960) * MIB
    assert data["settings"][0]["served"] is True
    assert data["settings"][0]["reproduction"]["faithful"] is True
    assert data["settings"][0]["sentence"].startswith("expandable_segments:True would have served")


GOLDEN = """\
GPU 0 at the failure  33 events recorded
  asked for 200.0 MiB, for which a segment of 200.0 MiB was due; the device had
  64.0 MiB, and the largest free block for it was 120.0 MiB
  by home/me/train.py:4 main, in models/llama/modeling_llama.py:155 forward
  all that is free would have served it, were it in one piece
  █ in use            480.0 MiB
  ▓ fragmentation     480.0 MiB  free between what is in use
    reserved          960.0 MiB
"""


def test_the_report_begins_with_the_failure() -> None:
    recorder = _fragmented()
    recorder.alloc("x", 200 * MIB, *MLP, main(4))
    text = snapshot_text(explain(read(recorder)))
    assert text.startswith(GOLDEN), text


# what willfit writes


def _traced() -> Recording:
    """A step of a model of two layers, traced by hand: 64 MiB of weights, 16 of each activation."""
    events: list[TraceEvent] = []

    def note(handle: str, num_bytes: int, phase: PhaseName, module: str) -> None:
        place = TracePlace(module, "aten.mm")
        events.append(TraceEvent(handle, num_bytes, phase, place, None))

    for layer in range(2):
        note(f"w{layer}", 32 * MIB, "load", f"model.layers.{layer}.mlp")
    for layer in range(2):
        note(f"a{layer}", 16 * MIB, "forward", f"model.layers.{layer}.mlp")
    for layer in (1, 0):
        note(f"g{layer}", 32 * MIB, "backward", f"model.layers.{layer}.mlp")
        note(f"a{layer}", 0, "backward", f"model.layers.{layer}.mlp")
    return Recording(events=events)


def test_what_willfit_writes_is_read_back() -> None:
    snapshot = read_snapshot(pickle.dumps(written(_traced())))
    (gpu,) = explain(snapshot).gpus
    amounts = {use.name: use.num_bytes for use in gpu.categories}
    assert amounts == {"weights": 64 * MIB, "gradients": 64 * MIB}
    assert gpu.lines[0].user is not None and gpu.lines[0].user.file.startswith("model.layers.")
    reproduction = reproduced(snapshot).reproduction
    assert reproduction.num_unlike == 0 and reproduction.num_allocations == 6


def test_with_expandable_segments_what_is_mapped_is_written() -> None:
    # alive at the end: 2 × 32 MiB of weights and 2 × 32 of gradients
    snapshot = read_snapshot(pickle.dumps(written(_traced(), "expandable_segments:True")))
    (gpu,) = explain(snapshot).gpus
    assert sum(segment.num_bytes for segment in snapshot.segments) == gpu.reserved_bytes
    assert gpu.live_bytes == 128 * MIB
    assert gpu.peak_reserved_bytes == max(
        p.reserved_bytes for p in replay(_traced(), "expandable_segments:True")
    )
    reproduction = reproduced(snapshot).reproduction
    assert reproduction.num_unlike == 0 and reproduction.num_allocations == 6


def test_a_traced_llama_on_a_device_too_small_fails_as_its_snapshot_explains() -> None:
    from tests.test_trace import MODELS, WORK, job, meta_model, spec_of_model

    kind, cls, changes = MODELS["llama"]
    made, weights = job(spec_of_model(meta_model(kind, cls, **changes), BFLOAT16), WORK["full"])
    recording: Recording = made.run(shorten(made.config, weights)).recording
    peak = max(phase.reserved_bytes for phase in replay(recording))
    live = max(phase.allocated_bytes for phase in replay(recording))
    recorder = Recorder(capacity=live - 1)  # less than is alive at once
    for event in recording.events:
        stack = [frame(event.place.module, 0, event.place.op), frame("phase", 0, event.phase)]
        if event.num_bytes and not recorder.alloc(str(event.handle), event.num_bytes, *stack):
            break
        if not event.num_bytes and str(event.handle) in recorder.names:
            recorder.free(str(event.handle))
    else:
        pytest.fail(f"{live - 1} bytes were enough for {peak}")
    snapshot = read(recorder)
    (gpu,) = explain(snapshot).gpus
    assert gpu.failure is not None and gpu.failure.user is not None
    assert gpu.live_bytes == recorder.allocator.allocated_bytes
    amounts = {use.name: use.num_bytes for use in gpu.categories}
    loaded = {str(e.handle) for e in recording.events if e.num_bytes and e.phase == "load"}
    kept = [recorder.names[name] for name in loaded if name in recorder.names]
    assert amounts["weights"] == sum(recorder.allocator.live[address].size for address in kept)
    grown = replayed(snapshot, "expandable_segments:True")
    assert grown.reproduction.num_unlike == 0 and grown.reproduction.fails_alike
    # the first request that fails is not yet the peak: without gaps it would have fitted
    assert grown.served and gpu.live_bytes + gpu.failure.requested_bytes <= grown.reserved_bytes
    assert grown.reserved_bytes <= live - 1
