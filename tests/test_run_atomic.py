"""Files of a run: whole or not there, whatever dies, fills up or refuses while they are written."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.errors import InputError
from willfit.runner.atomic import (
    MAX_JSON_BYTES,
    read_json,
    remove_stale,
    write_bytes,
    write_json,
    writing,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_sentence(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text and not text.endswith("."), text
    return text


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_is_what_is_read(obj: dict[str, Any]) -> None:
    path = Path(os.environ["XDG_CACHE_HOME"]) / "round" / "stage.json"
    write_json(path, obj)
    assert read_json(path) == obj
    assert names(path.parent) == ["stage.json"]


def test_a_file_has_its_name_only_once_it_is_flushed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        steps.append(
            "flush folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "flush file"
        )
        fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        steps.append("rename")
        assert Path(source).parent == Path(target).parent
        assert Path(source).name.startswith(f".tmp-{os.getpid()}-")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_bytes(tmp_path / "a", b"content")
    assert steps == ["flush file", "rename", "flush folder"]


def test_others_may_read_a_file_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


WRITERS = {
    "ours": "write_bytes(path, data)",
    "naive": "path.write_bytes(data)",
}
LOOP = """
import itertools, sys
from pathlib import Path
from willfit.runner.atomic import write_bytes
path, filler = Path(sys.argv[1]), b"x" * 16_000_000
for number in itertools.count():
    data = b'{{"number": %d, "filler": "%b"}}' % (number, filler[number % 1000:])
    {writer}
    print(number, flush=True)
"""


def killed_at_random(writer: str, path: Path, rng: random.Random) -> tuple[int, bool]:
    """The last number whose writing had returned, and whether a whole file was left."""
    command = [sys.executable, "-c", LOOP.format(writer=WRITERS[writer]), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    return int(said.split(b"\n")[-2]), read_json(path) is not None


def test_a_kill_at_any_moment_leaves_the_last_whole_file(tmp_path: Path) -> None:
    rng, left_over = random.Random(1), 0
    for _ in range(20):
        last, whole = killed_at_random("ours", tmp_path / "stage.json", rng)
        found = read_json(tmp_path / "stage.json")
        assert whole and found is not None
        assert found["number"] in (last, last + 1)  # renamed, but not yet said
        assert len(found["filler"]) == 16_000_000 - found["number"] % 1000
        left_over += remove_stale(tmp_path)
        assert names(tmp_path) == ["stage.json"]
    assert left_over >= 1  # the kills did fall into the writing


def test_the_kills_break_a_file_that_is_written_in_place(tmp_path: Path) -> None:
    rng = random.Random(2)
    rounds = (killed_at_random("naive", tmp_path / "stage.json", rng) for _ in range(40))
    assert any(not whole for _, whole in rounds)


AT_A_CALL = """
import os, signal, sys
from pathlib import Path
from willfit.runner.atomic import write_json
path, calls, last = Path(sys.argv[1]), [], int(sys.argv[2])
def counted(function):
    def call(*given):
        for when in ("before", "after"):
            calls.append(when)
            if len(calls) > last:
                os.kill(os.getpid(), signal.SIGKILL)
            if when == "before":
                result = function(*given)
        return result
    return call
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
write_json(path, {"number": 2})
"""


@pytest.mark.parametrize(("calls", "left"), list(enumerate([1, 1, 1, 2, 2, 2])))
def test_a_kill_before_or_after_each_step_leaves_the_old_file_or_the_new(
    tmp_path: Path, calls: int, left: int
) -> None:
    """Before and after: flush of the file, rename, flush of the folder."""
    write_json(tmp_path / "stage.json", {"number": 1})
    command = [sys.executable, "-c", AT_A_CALL, str(tmp_path / "stage.json"), str(calls)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert read_json(tmp_path / "stage.json") == {"number": left}
    assert remove_stale(tmp_path) == (left == 1)


LIMITED = """
import resource, sys
from pathlib import Path
from willfit.errors import InputError
from willfit.runner.atomic import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 200_000)
except InputError as error:
    print(error)
"""


def test_a_limit_on_file_sizes_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    write_json(path, {"old": 1})
    command = [sys.executable, "-c", LIMITED, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"cannot write {path} (File too large): raise the limit")
    assert said.count("\n") == 1
    assert read_json(path) == {"old": 1} and names(tmp_path) == ["stage.json"]


FULL = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from willfit.errors import InputError
from willfit.runner.atomic import write_bytes, write_json, writing
folder = Path(sys.argv[1])
write_json(folder / "stage.json", {"old": 1})
def by_pyarrow():
    with writing(folder / "shard") as pending:
        pq.write_table(pa.table({"x": os.urandom(2_000_000).hex().split("0")}), pending.path)
def refused(write):
    try:
        write()
    except InputError as error:
        print(error)
    assert os.listdir(folder) == ["stage.json"], os.listdir(folder)
refused(lambda: write_bytes(folder / "stage.json", b"x" * 2_000_000))
refused(by_pyarrow)
write_json(folder / "stage.json", {"new": 1})
os.system(f"mount -o remount,ro {folder}")
refused(lambda: write_json(folder / "stage.json", {"newer": 1}))
print((folder / "stage.json").read_text())
"""


def own_mounts() -> list[str]:
    """A command that gives its command a mount table of its own; skips where there is none."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no mount table of its own can be had here")
    return prefix


def test_a_full_disk_and_a_read_only_one_leave_the_old_file_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    prefix = own_mounts()
    (tmp_path / "script.py").write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f'mount -t tmpfs -o size=1m none "{disk}" && "{sys.executable}" "{tmp_path}/script.py" "{disk}"'
    done = subprocess.run(
        [*prefix, "sh", "-c", mounted], capture_output=True, text=True, check=False
    )
    if "mount:" in done.stderr:
        pytest.skip("no disk can be mounted here")
    full, pyarrow, read_only, *content = done.stdout.splitlines()
    for said in (full, pyarrow):
        assert said.startswith(f"cannot write {disk}/") and "free some space" in said, said
    assert "No space left on device" in full and "are free there" in full
    assert read_only == (
        f"cannot write {disk}/stage.json (Read-only file system): "
        "name a folder that this user can write to"
    )
    assert json.loads("".join(content)) == {"new": 1}


@pytest.mark.parametrize("below", ["file/stage.json", "file/in/stage.json", "folder"])
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write") as error:
        write_bytes(tmp_path / below, b"x")
    assert str(tmp_path / below) in one_sentence(error)
    assert names(tmp_path) == ["file", "folder"] and not names(tmp_path / "folder")


def test_values_that_json_does_not_have_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_a_file_may_get_its_name_after_it_was_written(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with writing(tmp_path / "shard") as pending:
        pq.write_table(pa.table({"x": [1, 2]}), pending.path)
        assert not (tmp_path / "shard").exists()
        final = pending.commit("000-002.abc.parquet")
    assert final == pending.committed == tmp_path / "000-002.abc.parquet"
    assert pq.read_table(final)["x"].to_pylist() == [1, 2]
    assert names(tmp_path) == [final.name]


def test_without_a_late_name_it_goes_where_it_was_meant_to_go(tmp_path: Path) -> None:
    with writing(tmp_path / "rows.arrow") as pending:
        Path(pending).write_bytes(b"rows")
    assert (tmp_path / "rows.arrow").read_bytes() == b"rows"


@pytest.mark.parametrize("raised", [KeyError("x"), KeyboardInterrupt(), OSError(errno.EIO, "read")])
def test_what_is_raised_while_writing_passes_and_the_unfinished_file_goes(
    tmp_path: Path, raised: BaseException
) -> None:
    def write() -> None:
        with writing(tmp_path / "shard") as pending:
            pending.path.write_bytes(b"half")
            raise raised

    with pytest.raises(type(raised)) as error:
        write()
    assert error.value is raised and names(tmp_path) == []


def test_a_disk_that_fills_up_under_the_writer_is_one_sentence(tmp_path: Path) -> None:
    def write() -> None:
        with writing(tmp_path / "shard"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left on device") as error:
        write()
    assert "free some space" in one_sentence(error) and names(tmp_path) == []


def test_a_final_name_stays_in_its_folder_and_is_given_once(tmp_path: Path) -> None:
    with writing(tmp_path / "shard") as pending:
        for name in ("../shard", "a/b", "", ".tmp-1"):
            with pytest.raises(ValueError, match="the name of a file beside"):
                pending.commit(name)
        pending.commit("shard")
        with pytest.raises(RuntimeError, match="committed already"):
            pending.commit("again")
    assert names(tmp_path) == ["shard"]


BROKEN = {
    "nothing": b"", "no object": b"[1]", "not a number": b'{"a": NaN}', "infinite": b'{"a": 1e999}',
    "no text": b"\xff\xfe\x00", "twice": b'{"a": 1, "a": 2}', "deep": b'{"a":' * 9999 + b"1" + b"}" * 9999,
    "long number": b'{"a": ' + b"1" * 9999 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


def test_a_file_that_was_cut_anywhere_is_as_good_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"max_length": 2048, "files": {"a": [1, 2.5, None, "→"]}})
    content = (tmp_path / "a.json").read_bytes()
    for length in range(len(content.rstrip())):
        (tmp_path / "cut.json").write_bytes(content[:length])
        assert read_json(tmp_path / "cut.json") is None, length


def test_no_file_a_folder_and_a_giant_are_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    with (tmp_path / "giant.json").open("wb") as file:
        file.write(b"{}")
        file.truncate(MAX_JSON_BYTES + 1)
    for name in ("none.json", "none/none.json", "file/none.json", ".", "giant.json"):
        assert read_json(tmp_path / name) is None


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(InputError, match="symbolic links") as error:
        read_json(tmp_path / "loop.json")
    one_sentence(error)


def test_only_unfinished_files_are_stale(tmp_path: Path) -> None:
    for name in (".tmp-1-ab", ".tmp-", "a.parquet", ".hidden", "b.tmp-1"):
        (tmp_path / name).write_text("")
    assert remove_stale(tmp_path) == 2
    assert names(tmp_path) == [".hidden", "a.parquet", "b.tmp-1"]
    assert remove_stale(tmp_path / "none") == 0
