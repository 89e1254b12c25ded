"""In a notebook: a real kernel runs cells, is interrupted, is killed, and nothing stays behind."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import alive, end, gone, mark

jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

ROWS, SHARDS = 32, 16
STAGE = """
import subprocess, time
from pathlib import Path

def load():
    subprocess.Popen(["sleep", "600"], start_new_session=True)  # as an engine's own process

def predict(rows):
    time.sleep(0.1)
    with Path("computed.txt").open("a") as file:
        file.writelines(f"{row['id']}\\n" for row in rows)
    return [[row["x"], -row["x"]] for row in rows]
"""
RUN = """
import willfit
pipeline = {
    "data": "data.csv",
    "stages": {"mine": {"run": "stage.py:predict", "shards": SHARDS, "gpus": "none", "labels": 2}},
    "output": "out.csv",
}
report = willfit.run(pipeline)
print("computed", report.stages[0].num_computed, "of", report.stages[0].num_rows)
""".replace("SHARDS", str(SHARDS))


@dataclass
class Outcome:
    """What a cell came to."""

    text: str = ""
    error: str = ""
    traceback: str = ""


@dataclass
class Notebook:
    """A kernel and its client; each cell is code that is sent to it."""

    manager: Any
    client: Any
    environ: dict[str, str]
    folder: Path
    text: str = ""
    _sent: list[str] = field(default_factory=list)

    def run(self, code: str, patience: float = 30) -> Outcome:
        """Run a cell to its end."""
        self.start(code)
        return self.finish(patience)

    def start(self, code: str) -> None:
        """Begin a cell."""
        self.text = ""
        self._sent.append(self.client.execute(code))

    def finish(self, patience: float = 30) -> Outcome:
        """The rest of what the cell prints, and its error."""
        found = Outcome()
        until = time.monotonic() + patience
        while time.monotonic() < until:
            message = self._message(until)
            if message["msg_type"] == "error":
                found.error = message["content"]["ename"]
                found.traceback = "\n".join(message["content"]["traceback"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                found.text = self.text
                return found
        raise TimeoutError(f"the cell did not end; it printed {self.text!r}")

    def wait_for_text(self, text: str, patience: float = 20) -> None:
        """Return when the cell has printed a text, while it runs."""
        until = time.monotonic() + patience
        while text not in self.text:
            self._message(until)

    def wait_for_rows(self, count: int, patience: float = 20) -> None:
        """Return when workers have computed so many rows."""
        until = time.monotonic() + patience
        while len(self.computed()) < count:
            assert time.monotonic() < until, "no rows were computed"
            time.sleep(0.02)

    def computed(self) -> list[str]:
        """Ids of the rows that workers computed so far."""
        path = self.folder / "computed.txt"
        return path.read_text().split() if path.exists() else []

    def workers_are_gone(self, patience: float = 5.0) -> bool:
        """Whether the kernel alone is left within some seconds."""
        until = time.monotonic() + patience
        while any("ipykernel" not in line for line in alive(self.environ)):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def _message(self, until: float) -> Any:
        """The next message of the cell that runs."""
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=max(0.05, until - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"nothing more came after {self.text!r}") from None
            if message["parent_header"].get("msg_id") != self._sent[-1]:
                continue
            if message["msg_type"] == "stream":
                self.text += message["content"]["text"]
            return message


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A notebook in a folder with a function, its data, and nothing else."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "stage.py").write_text(STAGE)
    lines = [f"r{i:02d},{i / 8}\n" for i in range(ROWS)]
    (folder / "data.csv").write_text("id,x\n" + "".join(lines))
    environ = {**mark(), "TMPDIR": str(tmp_path)}
    manager = jupyter_client.KernelManager()
    manager.start_kernel(cwd=str(folder), env=environ)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=30)
        yield Notebook(manager=manager, client=client, environ=environ, folder=folder)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        end(environ)


def test_functions_of_cells_run_in_a_process_of_their_own(notebook: Notebook) -> None:
    outcome = notebook.run("import willfit, os, sys, threading")
    assert not outcome.error
    assert not notebook.run("model, unit = None, 'rows'").error
    assert not notebook.run(
        "class Odd(Exception):\n"
        "    pass\n"
        "def load():\n"
        "    global model\n"
        "    model = f'weights of {os.getpid()}'\n"
        "    print('loading', flush=True)\n"
        "def predict(n):\n"
        "    return f'{n} {unit}', model, os.getpid()\n"
        "def fail():\n"
        "    raise Odd('from a cell')  # here\n"
    ).error
    outcome = notebook.run(
        "with willfit.isolated('cpu') as call:\n"
        "    call(load)\n"
        "    first, held, pid = call(predict, 3)\n"
        "    unit = 'tokens'\n"
        "    second = call(predict, 4)[0]\n"
        "    try:\n"
        "        call(fail)\n"
        "    except Odd as error:\n"
        "        caught = str(error.__cause__)\n"
        "print(first, second, held == f'weights of {pid}', pid != os.getpid(), model)\n"
        "print('raise Odd(\\'from a cell\\')  # here' in caught)\n"
        "print(threading.current_thread() is threading.main_thread(), 'torch' in sys.modules)\n"
    )
    assert not outcome.error, outcome.traceback
    assert outcome.text == "loading\n3 rows 4 tokens True True None\nTrue\nTrue False\n"
    outcome = notebook.run("with willfit.isolated('cpu') as call:\n    call(fail)\n")
    assert outcome.error == "Odd" and "# here" in outcome.traceback
    assert notebook.workers_are_gone(0.5)


def test_what_a_function_prints_appears_in_its_cell_while_it_runs(notebook: Notebook) -> None:
    notebook.start(
        "import time, willfit\n"
        "from pathlib import Path\n"
        "def talk():\n"
        "    print('begun')\n"
        "    while not Path('go').exists(): time.sleep(0.02)\n"
        "    print('done')\n"
        "with willfit.isolated('cpu') as call:\n"
        "    call(talk)\n"
    )
    notebook.wait_for_text("begun\n")
    assert "done" not in notebook.text
    (notebook.folder / "go").touch()
    assert notebook.finish().text == "begun\ndone\n"


def test_an_interrupted_run_leaves_no_worker_and_goes_on_from_there(notebook: Notebook) -> None:
    notebook.start(RUN)
    notebook.wait_for_rows(ROWS // 4)
    assert len(alive(notebook.environ)) >= 3  # the kernel, a worker, what that has started
    notebook.manager.interrupt_kernel()
    outcome = notebook.finish()
    assert outcome.error == "KeyboardInterrupt", outcome.text
    assert notebook.workers_are_gone(5.0)
    before = len(notebook.computed())
    assert ROWS // 4 <= before < ROWS
    outcome = notebook.run(RUN)
    assert not outcome.error, outcome.traceback
    anew = int(outcome.text.split("computed ")[1].split()[0])
    per_shard = ROWS // SHARDS
    assert ROWS - before <= anew <= ROWS - before + 2 * per_shard  # a shard that was under way
    assert set(notebook.computed()) == {f"r{i:02d}" for i in range(ROWS)}
    assert len((notebook.folder / "out.csv").read_text().splitlines()) == ROWS + 1
    assert notebook.workers_are_gone(0.5)
    again = notebook.run(RUN + "import sys; print('torch' in sys.modules)")
    assert again.text.endswith(f"computed 0 of {ROWS}\nFalse\n")


def test_an_interrupted_call_leaves_no_process(notebook: Notebook) -> None:
    notebook.start(
        "import subprocess, time, willfit\n"
        "def work():\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    print('at work')\n"
        "    time.sleep(600)\n"
        "with willfit.isolated('cpu') as call:\n"
        "    call(work)\n"
    )
    notebook.wait_for_text("at work")
    began = time.monotonic()
    notebook.manager.interrupt_kernel()
    assert notebook.finish().error == "KeyboardInterrupt"
    assert time.monotonic() - began < 5 and notebook.workers_are_gone(0.5)
    assert notebook.run("print(call.release.gpus)").text == "()\n"


def test_a_restarted_kernel_leaves_no_worker_and_the_run_goes_on(notebook: Notebook) -> None:
    notebook.start(RUN)
    notebook.wait_for_rows(ROWS // 4)
    killed = notebook.manager.provisioner.pid
    notebook.manager.restart_kernel(now=True)
    notebook.client.wait_for_ready(timeout=30)
    assert notebook.manager.provisioner.pid != killed
    assert notebook.workers_are_gone(5.0)
    before = len(notebook.computed())
    assert before < ROWS
    outcome = notebook.run(RUN)
    assert not outcome.error, outcome.traceback
    assert f"of {ROWS}" in outcome.text and f"computed {ROWS} of" not in outcome.text
    assert set(notebook.computed()) == {f"r{i:02d}" for i in range(ROWS)}


def test_a_killed_kernel_leaves_nothing_in_the_middle_of_a_call(notebook: Notebook) -> None:
    notebook.start(
        "import subprocess, time, willfit\n"
        "def work():\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    print('at work')\n"
        "    time.sleep(600)\n"
        "with willfit.isolated('cpu') as call:\n"
        "    call(work)\n"
    )
    notebook.wait_for_text("at work")
    os.kill(notebook.manager.provisioner.pid, 9)
    assert gone(notebook.environ, 5.0)
    assert not list(notebook.folder.parent.glob("willfit-call-*"))
