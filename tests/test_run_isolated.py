"""Isolated calls: one process a block, nothing of it left, its GPU's memory measured back."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.support.processes import VARIABLE, alive, end, gone, mark, script

import willfit
from willfit.errors import (
    GpuNotReleasedError,
    InputError,
    StageFailedError,
    StorageError,
    WillfitError,
)
from willfit.live.nvml import FakeCard, FakeNvml, LiveGpu, live_gpus
from willfit.runner.calls import RemoteTraceback
from willfit.runner.gpus import ScriptedProbe
from willfit.runner.isolated import CallTimeoutError, _Output
from willfit.runner.protocol import MARK
from willfit.units import GIB

Memory = Callable[[], Sequence[int]]


def gpus(memory: Memory, holder: int = 77) -> ScriptedProbe:
    """Cards with so much in use as a function says at every reading."""

    def read(_: int) -> list[LiveGpu]:
        return live_gpus(
            FakeNvml(
                cards=tuple(
                    FakeCard(
                        name="Tesla T4", total=16 * GIB, used=used, capability=(7, 5),
                        processes=((holder, "python", used),) if used else (),
                    )
                    for used in memory()
                )
            )
        )  # fmt: skip

    return ScriptedProbe(read)


IDLE = gpus(lambda: (0, 0))


def cell(code: str) -> dict[str, Any]:
    """What a cell of a notebook defines: names of ``__main__`` that nothing can import."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), names)
    return names


# ---- calls and what they give


def test_calls_of_a_block_share_one_process_that_is_not_ours() -> None:
    with willfit.isolated("cpu") as call:
        first, second = call(os.getpid), call(os.getpid)
        assert call(divmod, 17, 5) == (3, 2)
        assert call(lambda x, *, y: x - y, 5, y=2) == 3
    assert first == second != os.getpid()
    with willfit.isolated("cpu") as call:
        assert call(os.getpid) not in (first, os.getpid())


def test_lambdas_closures_nested_functions_partials_and_methods_can_be_called() -> None:
    factor = 3

    def outer(x: int) -> int:
        def inner(y: int) -> int:
            return y * factor if y < 10 else inner(y - 1)

        return inner(x)

    class Model:
        def __init__(self, weight: int) -> None:
            self.weight = weight

        def predict(self, x: int) -> int:
            return self.weight * x

    with willfit.isolated("cpu") as call:
        assert call(outer, 12) == 27
        assert call(functools.partial(outer, 2)) == 6
        assert call(Model(5).predict, 4) == 20
        assert call(lambda: (lambda: factor)()) == 3
        model = call(Model, 7)
        assert isinstance(model, Model) and model.predict(2) == 14


def test_what_a_function_keeps_in_a_global_is_there_for_the_next_call() -> None:
    names = cell(
        "model, cache, calls = None, {}, 0\n"
        "def load():\n"
        "    global model, calls\n"
        "    model, calls = 'weights', calls + 1\n"
        "    cache['rows'] = 3\n"
        "def predict(x):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return model, cache, calls, x\n"
    )
    with willfit.isolated("cpu") as call:
        call(names["load"])
        assert call(names["predict"], 1) == ("weights", {"rows": 3}, 2, 1)
        assert call(names["predict"], 2) == ("weights", {"rows": 3}, 3, 2)
    with willfit.isolated("cpu") as call:
        assert call(names["predict"], 1) == (None, {}, 1, 1)
    assert (names["model"], names["cache"], names["calls"]) == (None, {}, 0)


def test_a_global_that_the_caller_changes_arrives_with_the_next_call() -> None:
    names = cell(
        "fold, kept, step, table = 0, [], len, {}\n"
        "def run():\n"
        "    kept.append(fold)\n"
        "    return fold, list(kept), step('abc'), table.get('f', lambda: 0)()\n"
    )
    with willfit.isolated("cpu") as call:
        for fold in range(3):
            names["fold"] = fold
            names["step"] = lambda text, n=fold: len(text) * n
            names["table"] = {"f": lambda n=fold: n * 10}
            assert call(names["run"]) == (
                fold, list(range(fold + 1)), 3 * fold, fold * 10,
            )  # fmt: skip
        names["kept"] = [9]
        assert call(names["run"])[1] == [9, 2]


def test_what_one_function_defines_others_of_the_process_can_pickle_by_name() -> None:
    names = cell(
        "import pickle, multiprocessing\n"
        "def double(x): return 2 * x\n"
        "def share():\n"
        "    with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "        return pool.map(double, [1, 2]), pickle.loads(pickle.dumps(double))(4)\n"
    )
    with willfit.isolated("cpu") as call:
        assert call(names["share"]) == ([2, 4], 8)


def test_classes_of_the_caller_come_back_as_the_callers_own() -> None:
    names = cell(
        "unit = 'tokens'\n"
        "class Score:\n"
        "    seen = 0\n"
        "    def __init__(self, n): self.n = n\n"
        "    def text(self): return f'{self.n} {unit}'\n"
        "def make(n):\n"
        "    Score.seen += 1\n"
        "    return Score(n)\n"
    )
    method = names["Score"].text
    with willfit.isolated("cpu") as call:
        score = call(names["make"], 3)
    names["unit"] = "rows"
    assert type(score) is names["Score"] and names["Score"].text is method
    assert score.text() == "3 rows" and names["Score"].seen == 0


def test_large_arrays_go_both_ways_unchanged() -> None:
    given = np.random.default_rng(0).standard_normal((1_500_000, 3))  # 36 MB
    with willfit.isolated("cpu") as call:
        taken = call(lambda x: x[::-1] * 2, given)
    assert taken.dtype == given.dtype and np.array_equal(taken, given[::-1] * 2)


def test_tensors_and_modules_go_both_ways() -> None:
    torch = pytest.importorskip("torch")
    given = torch.nn.Linear(3, 2)
    with willfit.isolated("cpu") as call:
        taken, tensor = call(lambda m: (m, m(torch.ones(1, 3))), given)
    assert isinstance(taken.weight, torch.nn.Parameter)
    assert torch.equal(taken.weight, given.weight) and torch.equal(tensor, given(torch.ones(1, 3)))


def test_tensors_of_a_gpu_come_back_on_the_cpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def make() -> Any:
        net = torch.nn.Linear(2, 2).cuda()
        return net, net.weight.half()[0]

    with willfit.isolated(gpu=0) as call:
        net, row = call(make)
    assert {net.weight.device.type, row.device.type} == {"cpu"}
    assert torch.equal(net.weight.half()[0], row)
    assert call.release is not None and call.release.gpus[0].peak_bytes > 100 * 2**20


def test_modules_beside_the_caller_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour.py").write_text("def where(): return __file__\n")
    with willfit.isolated("cpu") as call:
        monkeypatch.syspath_prepend(str(tmp_path))
        import neighbour  # type: ignore[import-not-found]

        assert call(neighbour.where) == str(tmp_path / "neighbour.py")
        script = "import sys; print(bool(sys.flags.safe_path))"
        shown = call(lambda: subprocess.check_output([sys.executable, "-c", script], text=True))
        assert shown.strip() == str(bool(getattr(sys.flags, "safe_path", False)))


# ---- exceptions


def test_an_exception_is_raised_here_with_the_processs_traceback_and_the_process_lives() -> None:
    names = cell("class Odd(ValueError):\n    pass\ndef fail(x):\n    raise Odd('odd', x)\n")
    with willfit.isolated("cpu") as call:
        before = call(os.getpid)
        with pytest.raises(names["Odd"]) as raised:
            call(names["fail"], 3)
        assert call(os.getpid) == before
    assert raised.value.args == ("odd", 3)
    cause = raised.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert 'File "<cell>", line 4, in fail' in str(cause) and "Odd: ('odd', 3)" in str(cause)
    assert "calls.py" not in str(cause)


def test_the_traceback_shows_lines_also_where_no_file_has_them() -> None:
    import linecache

    code = "def fail():\n    return 1 / 0  # this line\n"
    linecache.cache["/gone/cell_7.py"] = (len(code), None, code.splitlines(True), "/gone/cell_7.py")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "/gone/cell_7.py", "exec"), names)
    with willfit.isolated("cpu") as call, pytest.raises(ZeroDivisionError) as raised:
        call(names["fail"])
    assert "return 1 / 0  # this line" in str(raised.value.__cause__)


def test_an_exception_lets_go_of_what_its_frames_held() -> None:
    names = cell(
        "import weakref, builtins\n"
        "class Tensor: pass\n"
        "def fail():\n"
        "    held = Tensor()\n"
        "    builtins.watched = weakref.ref(held)\n"
        "    try:\n"
        "        raise KeyError('inner')\n"
        "    except KeyError as error:\n"
        "        cycle = error\n"
        "        raise RuntimeError('outer') from error\n"
        "def look(): return builtins.watched() is None\n"
    )
    with willfit.isolated("cpu") as call:
        with pytest.raises(RuntimeError, match="outer") as raised:
            call(names["fail"])
        assert call(names["look"])
    assert "KeyError: 'inner'" in str(raised.value.__cause__)


def test_an_exception_that_cannot_be_carried_over_is_told_by_its_text() -> None:
    names = cell(
        "import threading\n"
        "class Held(Exception):\n"
        "    def __init__(self): self.lock = threading.Lock(); super().__init__('has a lock')\n"
        "class Picky(Exception):\n"
        "    def __init__(self, a, b): super().__init__(f'{a} {b}')\n"
        "def fail(kind): raise (Held() if kind == 'held' else Picky('two', 'words'))\n"
    )
    with willfit.isolated("cpu") as call:
        for kind, text in (("held", "Held: has a lock"), ("picky", "Picky: two words")):
            with pytest.raises(RuntimeError, match=text) as raised:
                call(names["fail"], kind)
            assert isinstance(raised.value.__cause__, RemoteTraceback)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda call: call(len, threading.Lock()), "the call of len cannot be sent"),
        (lambda call: call(threading.Lock), "lock returned cannot be sent back"),
        (lambda call: call(lambda: (n for n in "ab")), "lambda> returned cannot be sent back"),
        (lambda call: call("len", 3), "expected a function and then its arguments"),
    ],
)
def test_what_cannot_be_sent_is_one_sentence_and_the_process_lives(
    act: Callable[[Any], Any], said: str
) -> None:
    with willfit.isolated("cpu") as call:
        with pytest.raises(InputError, match=said) as refused:
            act(call)
        assert "\n" not in str(refused.value)
        assert call(len, "abc") == 3


def test_a_disk_that_is_full_is_told_as_such_and_the_process_lives() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
        return bytes(2 << 20)

    with willfit.isolated("cpu") as call:
        with pytest.raises(StorageError, match=r"what .*limited returned cannot be written"):
            call(limited)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
        try:
            with pytest.raises(StorageError, match=r"the call of len cannot be .* set TMPDIR"):
                call(len, bytes(2 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert call(len, bytes(2 << 20)) == 2 << 20


# ---- the end of a process


@pytest.mark.parametrize(
    ("death", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "something killed it (signal 9"),
        ("os._exit(137)", "something killed it (signal 9, exit code 137)"),
        ("ctypes.string_at(0)", "signal 11 (SIGSEGV) ended it"),
        ("sys.exit(3)", "it left with code 3"),
    ],
)
def test_a_process_that_dies_says_why_and_shows_its_last_words(death: str, why: str) -> None:
    names = cell(
        f"import os, signal, ctypes, sys\ndef die():\n    print('last words')\n    {death}\n"
    )
    with willfit.isolated("cpu") as call:
        with pytest.raises(StageFailedError) as died:
            call(names["die"])
        assert why in str(died.value) and "last words" in str(died.value)
        assert ("Fatal Python error" in str(died.value)) == ("SIGSEGV" in why)
        with pytest.raises(StageFailedError, match="len cannot be called: its process is gone"):
            call(len, "abc")
    with pytest.raises(StageFailedError, match="cannot be called"):
        call(len, "abc")


def test_a_process_that_is_killed_between_calls_is_told_at_the_next() -> None:
    with willfit.isolated("cpu") as call:
        os.kill(call(os.getpid), signal.SIGKILL)
        with pytest.raises(StageFailedError, match="the process of len died: something killed it"):
            call(len, "abc")


def test_a_call_that_takes_too_long_is_ended_with_its_process() -> None:
    with willfit.isolated("cpu", timeout=0.6) as call:
        pid = call(os.getpid)
        began = time.monotonic()
        with pytest.raises(CallTimeoutError, match=r"sleep took longer than 0\.6 s") as late:
            call(time.sleep, 60)
        assert time.monotonic() - began < 8 and not psutil.pid_exists(pid)
        assert isinstance(late.value, TimeoutError) and isinstance(late.value, WillfitError)
        with pytest.raises(StageFailedError, match="ended by CallTimeoutError"):
            call(os.getpid)


def test_after_its_block_a_process_takes_no_calls() -> None:
    with willfit.isolated("cpu") as call:
        pid = call(os.getpid)
    assert not psutil.pid_exists(pid)
    with pytest.raises(StageFailedError, match="its block is over"):
        call(len, "abc")


def test_what_a_block_raises_passes_and_its_process_is_gone() -> None:
    pids: list[int] = []

    def block(error: type[BaseException]) -> None:
        with willfit.isolated("cpu") as call:
            pids.append(call(os.getpid))
            raise error

    for error in (LookupError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            block(error)
        assert not psutil.pid_exists(pids[-1])
    assert len(set(pids)) == 3


def test_files_are_the_users_alone_and_gone_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with willfit.isolated("cpu") as call:
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        during = call(lambda: sorted(path.suffix for path in folder.iterdir()))
        assert during == [".json", ".txt"]  # a call's file is gone before the function runs
        assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".txt"]
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 // 0)
        assert len(list(folder.iterdir())) == 2
    assert not list(tmp_path.iterdir())


# ---- what is printed


def test_what_functions_print_is_shown_while_they_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "flag"
    shown: list[str] = []

    def talk() -> None:
        sys.stdout.write("first\n")
        sys.stderr.write("to stderr\n")
        subprocess.run(["echo", "from below"], check=True)
        while not flag.exists():
            time.sleep(0.02)
        sys.stdout.write("läst ✓\n")

    def watch() -> None:
        until = time.monotonic() + 20
        while "from below" not in "".join(shown) and time.monotonic() < until:
            shown.append(capsys.readouterr().out)
            time.sleep(0.02)
        flag.touch()

    thread = threading.Thread(target=watch)
    thread.start()
    with willfit.isolated("cpu") as call:
        call(talk)
        shown.append(capsys.readouterr().out)
        call(functools.partial(print, "end", end=""))
    thread.join()
    text = "".join([*shown, capsys.readouterr().out])
    assert text == "first\nto stderr\nfrom below\nläst ✓\nend" == call.log


def test_a_character_in_two_parts_is_shown_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = _Output(tmp_path / "output.txt")
    with (tmp_path / "output.txt").open("ab", buffering=0) as file:
        for part in (b"a\xe2", b"\x9c", b"\x93\xff\n"):
            file.write(part)
            output.show()
    output.keep()
    assert capsys.readouterr().out == "a✓\ufffd\n"


# ---- GPUs


@pytest.mark.parametrize(
    ("gpu", "outside", "inside"),
    [
        (0, None, ("0", "PCI_BUS_ID")),
        (1, None, ("1", "PCI_BUS_ID")),
        ([1, 0], None, ("1,0", "PCI_BUS_ID")),
        ("cpu", None, ("", "PCI_BUS_ID")),
        (0, "1", ("1", "PCI_BUS_ID")),
        (None, "1", ("1", None)),
        (None, None, (None, None)),
    ],
)
def test_the_process_sees_its_own_gpus_alone(
    gpu: Any, outside: str | None, inside: tuple[str | None, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if outside is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outside)
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    with willfit.isolated(gpu, probe=IDLE) as call:
        assert call(lambda: tuple(map(os.environ.get, names))) == inside
    assert call.release is not None
    asked = {0: [0], 1: [1], "cpu": []}.get(gpu, [1, 0]) if isinstance(gpu, (int, str)) else gpu
    if outside == "1":
        asked = [1]
    assert [card.index for card in call.release.gpus] == ([0, 1] if asked is None else asked)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpu": 2}, "gpu=2 was given and the GPUs that can be seen are 0, 1"),
        ({"gpu": -1}, "gpu=-1 was given and the GPUs"),
        ({"gpu": "0"}, "gpu='0' was given: expected a GPU's number"),
        ({"gpu": []}, r"gpu=\[\] was given: expected"),
        ({"gpu": [0, 0]}, "a list of different ones"),
        ({"gpu": True}, "gpu=True was given: expected"),
        ({"gpu": 0.0}, "expected a GPU's number"),
        ({"gpu": 0, "probe": ScriptedProbe(lambda _: ())}, "no GPU can be seen: name one that is"),
        ({"timeout": 0}, "timeout=0 was given: expected seconds, more than 0"),
        ({"patience": None}, "patience=None was given"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said), willfit.isolated(**{"probe": IDLE, **given}):
        pytest.fail("the block must not begin")


class Card:
    """A card whose memory follows a process: taken while it lives, and for a while after."""

    def __init__(self, *, late: float, place: int = 0) -> None:
        self.late, self.place, self.pid, self.ended = late, place, 0, 0.0

    def memory(self) -> tuple[int, int]:
        held = 0
        if self.pid and psutil.pid_exists(self.pid):
            held = 14 * GIB
        elif self.pid:
            self.ended = self.ended or time.monotonic()
            held = 9 * GIB if time.monotonic() - self.ended < self.late else 0
        return (held, GIB) if self.place == 0 else (0, GIB + held)


def test_a_block_lasts_until_its_memory_is_back() -> None:
    card = Card(late=0.7)
    with willfit.isolated(gpu=0, probe=gpus(card.memory)) as call:
        card.pid = call(os.getpid)
    release = call.release
    assert release is not None and release.seconds >= 0.6
    (gpu,) = release.gpus
    assert (gpu.index, gpu.before_bytes, gpu.peak_bytes, gpu.after_bytes) == (0, 0, 14 * GIB, 0)
    assert release.line().startswith("GPU 0 14.00 GiB → 0 B, back in ")


def test_memory_that_does_not_come_back_is_an_error_that_names_the_holder() -> None:
    card = Card(late=3600)
    probe = gpus(card.memory, holder=4711)
    with (
        pytest.raises(GpuNotReleasedError, match=r"GPU 0 has 9\.00 GiB .*process 4711") as refused,
        willfit.isolated(gpu=0, patience=0.3, probe=probe) as call,
    ):
        card.pid = call(os.getpid)
    assert call.release is None and not psutil.pid_exists(card.pid)
    assert str(refused.value).endswith("end those processes before more is put on the GPU")


def test_memory_on_another_card_is_not_this_blocks_matter() -> None:
    card = Card(late=3600, place=1)
    with willfit.isolated(gpu=0, patience=0.3, probe=gpus(card.memory)) as call:
        card.pid = call(os.getpid)
    assert call.release is not None and call.release.gpus[0].peak_bytes == 0
    card = Card(late=3600, place=1)
    with (
        pytest.raises(GpuNotReleasedError, match=r"GPU 1 has 10\.00 GiB"),
        willfit.isolated(patience=0.3, probe=gpus(card.memory)) as call,
    ):
        card.pid = call(os.getpid)


def test_a_failed_block_still_refuses_and_an_interrupted_one_warns() -> None:
    def block(error: type[BaseException]) -> None:
        card = Card(late=3600)
        with willfit.isolated(gpu=0, patience=0.2, probe=gpus(card.memory)) as call:
            card.pid = call(os.getpid)
            raise error

    with pytest.raises(GpuNotReleasedError) as refused:
        block(LookupError)
    assert isinstance(refused.value.__context__, LookupError)
    with (
        pytest.warns(RuntimeWarning, match="memory did not come back"),
        pytest.raises(KeyboardInterrupt),
    ):
        block(KeyboardInterrupt)


# ---- what runs below


BELOW = """
import multiprocessing, os, subprocess, sys, time

def grow():
    sleep = ["sleep", "600"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    subprocess.Popen(sleep, start_new_session=True, env={"PATH": os.environ["PATH"]})
    subprocess.run(["sh", "-c", "setsid sleep 600 & sleep 0.05"], check=True)
    fork = multiprocessing.get_context("fork")
    fork.Process(target=time.sleep, args=(600,), daemon=True).start()
    return os.getpid()
"""


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody reaps has."""
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def test_grandchildren_are_gone_with_the_block_wherever_they_went(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = mark()
    monkeypatch.setenv(VARIABLE, environ[VARIABLE])
    names, below = cell(BELOW), []
    try:
        with willfit.isolated("cpu") as call:
            pid = call(names["grow"])
            below = psutil.Process(pid).children(recursive=True)
            assert len(alive(environ)) >= 5 and len(below) == 4
        assert not alive(environ)
        assert not [process for process in below if runs(process)]
    finally:
        end(environ)
        for process in filter(runs, below):
            process.kill()


def test_grandchildren_of_a_process_that_was_killed_are_gone_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = mark()
    monkeypatch.setenv(VARIABLE, environ[VARIABLE])
    names = cell(BELOW.replace(', env={"PATH": os.environ["PATH"]}', ""))
    try:
        with contextlib.suppress(StageFailedError), willfit.isolated("cpu") as call:
            os.kill(call(names["grow"]), signal.SIGKILL)
            call(len, "abc")
        assert not alive(environ)
    finally:
        end(environ)


SCRIPT = (
    BELOW
    + """
import signal, threading, willfit

def work():
    grow()
    print("GROWN")
    time.sleep(600)

def block():
    try:
        with willfit.isolated("cpu") as call:
            call(work)
    except KeyboardInterrupt:
        print("INTERRUPTED")

how = sys.argv[1]
if how == "forked":  # a child of ours keeps the pipe's end open
    threading.Timer(1.2, lambda: os.fork() or time.sleep(600)).start()
if how == "thread":
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
else:
    block()
"""
)


@pytest.mark.parametrize("how", ["plain", "thread", "forked"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_caller_that_is_killed_leaves_nothing_behind(
    how: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with script(SCRIPT, how) as (process, environ):
        assert process.stdout is not None and process.stdout.readline() == "GROWN\n"
        if how == "forked":
            time.sleep(1.2)
        assert len(alive(environ)) >= 6 and len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        process.wait(timeout=10)
        if how == "forked":  # the child is the caller's own affair
            for child in [p for p in psutil.process_iter() if _is_fork_of(p, environ)]:
                until = time.monotonic() + 10
                while len(alive(environ)) > 1 and time.monotonic() < until:
                    time.sleep(0.05)
                assert child.is_running() and len(alive(environ)) == 1
                child.kill()
        assert gone(environ) and not list(tmp_path.iterdir())


def _is_fork_of(process: psutil.Process, environ: dict[str, str]) -> bool:
    with contextlib.suppress(psutil.Error):
        own = process.environ().get(VARIABLE) == environ[VARIABLE]
        return own and MARK not in process.environ()
    return False


def test_an_interrupt_in_a_call_ends_the_process_at_once() -> None:
    with script(SCRIPT, "plain") as (process, environ):
        assert process.stdout is not None and process.stdout.readline() == "GROWN\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "INTERRUPTED\n"
        assert process.wait(timeout=10) == 0 and time.monotonic() - began < 5
        assert not alive(environ)


def test_a_process_outlives_the_thread_that_started_it() -> None:
    manager = willfit.isolated("cpu")
    started: list[Any] = []
    thread = threading.Thread(target=lambda: started.append(manager.__enter__()))
    thread.start()
    thread.join()
    (call,) = started
    time.sleep(1.2)  # more than two looks at the parent
    try:
        assert call(len, "abc") == 3
    finally:
        manager.__exit__(None, None, None)


def test_threads_may_share_a_process_and_get_their_own_answers() -> None:
    found: dict[int, int] = {}
    with willfit.isolated("cpu") as call:

        def ask(n: int) -> None:
            found[n] = call(lambda: n * n)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {n: n * n for n in range(8)}


def test_blocks_may_be_nested() -> None:
    with willfit.isolated(gpu=0, probe=IDLE) as outer:
        with willfit.isolated(gpu=1, probe=IDLE) as inner:
            shown = [call(os.getenv, "CUDA_VISIBLE_DEVICES") for call in (outer, inner)]
        assert shown == ["0", "1"] and outer(len, "abc") == 3


def test_pickles_of_the_protocol_hold_what_was_said() -> None:
    error = RemoteTraceback("Traceback")
    assert str(error) == '\n"""\nTraceback"""'
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_view_comes_back_without_what_lies_behind_it() -> None:
    """Torch pickles a view's whole storage: four numbers of 256 MiB would be a file of 256 MiB."""

    def view() -> Any:
        import torch

        return torch.arange(1 << 26, dtype=torch.int32)[3:7]

    with willfit.isolated("cpu") as call:
        found = call(view)
    assert found.tolist() == [3, 4, 5, 6] and found.untyped_storage().nbytes() == 16
