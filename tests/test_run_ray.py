"""Workers on the nodes of a Ray cluster: the same results, whatever node, agent or driver dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.hub_server import COMMIT, HubServer, Repo

from willfit.errors import GpuNotReleasedError, InputError, StageFailedError
from willfit.live.nvml import FakeCard, FakeNvml, LiveGpu
from willfit.runner.content import digest_bytes
from willfit.runner.gpus import Devices, NvmlProbe
from willfit.runner.processes import Ended, PlaceLostError, Said
from willfit.runner.protocol import MARK, Booted, Job, Loaded, ShardDone, Take
from willfit.runner.replica import groups
from willfit.runner.run import run
from willfit.units import GIB

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from willfit.runner.ray_backend import agents  # noqa: E402
from willfit.runner.ray_backend.agent import Agent, Mailbox  # noqa: E402
from willfit.runner.ray_backend.launcher import Place, RayLauncher  # noqa: E402
from willfit.runner.ray_backend.models import located, model_files  # noqa: E402
from willfit.runner.ray_backend.scratch import Scratch  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # agents have no tests

RESOURCES = {"num_cpus": 1, "num_gpus": 2}
HEARTBEATS = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
    "health_check_timeout_ms": 500, "health_check_failure_threshold": 2,
}  # fmt: skip
"""A node counts as lost after about a second instead of 15."""
T4 = FakeCard(name="Tesla T4", total=16 * GIB, used=0)
TWO = NvmlProbe(nvml=FakeNvml(cards=(T4, T4)))
ROWS, SHARDS = 60, 12
EXPECTED = pa.table(
    {
        "id": range(ROWS),
        "twice": [i / 7 * 2 for i in range(ROWS)],
        "name": [f"row {i}" for i in range(ROWS)],
    }
)
CODE = """
import os, signal, time

def tell(name, text):
    with open(name, "a") as log:  # in the driver's current folder, which the node has
        log.write(text + "\\n")

def predict(rows):
    ids = [row["id"] for row in rows]
    tell("began", " ".join(map(str, ids)))
    time.sleep({seconds})
    {more}
    place = os.environ.get("RAY_RAYLET_PID", "-"), os.environ.get("CUDA_VISIBLE_DEVICES", "-")
    tell("places", " ".join([*place, str(os.getppid())]))
    return {{"twice": [row["x"] * 2 for row in rows], "name": [f"row {{i}}" for i in ids]}}
"""
DRIVER = """
import sys
from willfit.live.nvml import FakeCard, FakeNvml
from willfit.runner.gpus import NvmlProbe
from willfit.runner.observer import Silent
from willfit.runner.run import run

card = FakeCard(name="Tesla T4", total=16 << 30, used=0)
run("p.yaml", backend="ray", probe=NvmlProbe(nvml=FakeNvml(cards=(card, card))), observer=Silent())
"""


class Ray:
    """A cluster of two nodes that are processes of this machine, the driver's own among them."""

    def __init__(self) -> None:
        head = {"include_dashboard": False, "_system_config": HEARTBEATS, **RESOURCES}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.other = self.cluster.add_node(**RESOURCES)

    @property
    def nodes(self) -> list[Any]:
        """In the order in which their GPUs are numbered."""
        return sorted((self.cluster.head_node, self.other), key=lambda node: str(node.node_id))

    def pull_the_plug(self) -> None:
        """Of the other node: SIGKILL to its raylet."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = None

    def complete(self) -> None:
        if self.other is None:
            self.other = self.cluster.add_node(**RESOURCES)

    @staticmethod
    def raylet(node: Any) -> str:
        """Its process id, which all that runs on the node finds in its environment."""
        return str(node.all_processes["raylet"][0].process.pid)


@pytest.fixture(scope="module")
def module_cluster() -> Iterator[Ray]:
    found = Ray()
    yield found
    found.cluster.shutdown()


@pytest.fixture
def cluster(module_cluster: Ray, monkeypatch: pytest.MonkeyPatch) -> Ray:
    monkeypatch.setenv("RAY_ADDRESS", module_cluster.cluster.address)
    module_cluster.complete()
    return module_cluster


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline of one function over 60 rows in 12 shards, on one GPU of each node."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(
        pa.table({"id": range(ROWS), "x": [i / 7 for i in range(ROWS)]}), tmp_path / "data.parquet"
    )
    write_code(tmp_path)
    write_pipeline(tmp_path)
    return tmp_path


def write_code(folder: Path, *, seconds: float = 0.05, more: str = "pass") -> None:
    (folder / "code.py").write_text(CODE.format(seconds=seconds, more=more))


def write_pipeline(folder: Path, **settings: Any) -> None:
    settings = {"run": "code.py:predict", "shards": SHARDS, "gpus": [0, 2], **settings}
    stage = json.dumps(settings)
    (folder / "p.yaml").write_text(
        f"data: data.parquet\nstages: {{mine: {stage}}}\noutput: out.parquet\n"
    )


def output(folder: Path) -> pa.Table:
    return pq.read_table(folder / "out.parquet")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def num_began(folder: Path) -> int:
    return len(lines(folder / "began"))


def until(true: Any, process: Any = None, seconds: float = 40.0) -> None:
    began = time.monotonic()
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() - began < seconds, "it took too long"
        time.sleep(0.05)


def workers_of(cluster: Ray) -> list[Any]:
    """Worker processes, and all below them, on its nodes."""
    raylets, found = {cluster.raylet(node) for node in cluster.nodes}, []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            env = process.environ()
            if MARK in env and env.get("RAY_RAYLET_PID") in raylets:
                found.append(process)
    return found


def driver(folder: Path) -> subprocess.Popen[str]:
    code = folder / "driver.py"
    code.write_text(DRIVER)
    return subprocess.Popen(
        [sys.executable, str(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


# ---- the same results


def test_results_are_those_of_the_local_backend_and_each_worker_has_a_gpu_of_its_own(
    cluster: Ray, folder: Path
) -> None:
    write_pipeline(folder, gpus="all")
    run("p.yaml", run_dir=folder / "local", probe=NvmlProbe(nvml=FakeNvml()))
    assert output(folder).equals(EXPECTED)
    for name in ("began", "places", "out.parquet"):
        (folder / name).unlink()
    write_code(folder, seconds=0.5)
    report = run("p.yaml", backend="ray", probe=TWO)
    assert output(folder).equals(EXPECTED)
    places = {tuple(line.split()[:2]) for line in lines(folder / "places")}
    raylets = {raylet for raylet, _ in places}
    assert len(raylets) == 2
    assert places == {(raylet, device) for raylet in raylets for device in "01"}
    assert num_began(folder) == SHARDS
    (stage,) = report.stages
    assert stage.release is not None
    assert [gpu.index for gpu in stage.release.gpus] == [0, 1, 2, 3]
    assert not workers_of(cluster)
    assert not ray.is_initialized()


def test_without_gpus_a_node_has_one_worker_that_sees_none(cluster: Ray, folder: Path) -> None:
    write_code(folder, seconds=0.3, more=die_once(folder))
    write_pipeline(folder, gpus="none")
    report = run("p.yaml", backend="ray", probe=TWO)
    assert output(folder).equals(EXPECTED)
    seen = [line.split(" ") for line in lines(folder / "places")]
    assert {device for _, device, _ in seen} == {""}
    assert len({raylet for raylet, _, _ in seen}) == 2
    # one worker of the two was killed by its first shard, which another computed
    assert (report.stages[0].num_starts, report.stages[0].num_retries) == (3, 1)
    assert num_began(folder) == SHARDS + 1


def die_once(folder: Path) -> str:
    killed = str(folder / "killed")
    return f"os.path.exists({killed!r}) or (open({killed!r}, 'x'), os.kill(os.getpid(), 9))"


# ---- what dies


def test_the_shards_of_a_lost_node_are_computed_by_the_others(cluster: Ray, folder: Path) -> None:
    write_code(folder, seconds=0.4)
    process = driver(folder)
    try:
        until(lambda: len({line.split()[0] for line in lines(folder / "places")}) == 2, process)
        cluster.pull_the_plug()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")  # nor a word of Ray's
    assert output(folder).equals(EXPECTED)
    assert SHARDS <= num_began(folder) <= SHARDS + 1  # its worker's shard, no other
    ids = sorted(int(i) for path in shards(folder) for i in pq.read_table(path)["id"].to_pylist())
    assert ids == list(range(ROWS))
    (released,) = folder.glob("runs/p/stages/mine/*/released.json")
    assert len(json.loads(released.read_text())["gpus"]) == 1  # that of a lost node is unknown
    notes = json.loads((folder / "runs/p/progress.json").read_text())["notes"]
    assert any("was lost" in note and "the others go on without it" in note for note in notes)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/p/stages/mine/*/shards/*.parquet"))


def test_where_no_node_is_left_the_stage_fails_and_the_same_run_goes_on_later(
    cluster: Ray, folder: Path
) -> None:
    write_code(folder, seconds=0.4)
    write_pipeline(folder, gpus=[2, 3])

    def kill_agent() -> None:
        until(lambda: len(shards(folder)) >= 2)
        os.kill(int(lines(folder / "places")[-1].split()[-1]), signal.SIGKILL)

    killer = threading.Thread(target=kill_agent)
    killer.start()
    with pytest.raises(StageFailedError, match=r"node \S+ was lost .*no other node is left"):
        run("p.yaml", backend="ray", probe=TWO)
    killer.join()
    kept = len(shards(folder))
    assert 2 <= kept < SHARDS
    (folder / "began").unlink()
    write_pipeline(folder, gpus="all")
    run("p.yaml", backend="ray", probe=TWO)
    assert output(folder).equals(EXPECTED)
    assert num_began(folder) == SHARDS - kept


def test_a_driver_that_is_killed_leaves_nothing_and_the_next_one_goes_on(
    cluster: Ray, folder: Path
) -> None:
    write_code(folder, seconds=0.4)
    process = driver(folder)
    until(lambda: len(shards(folder)) >= 3, process)
    assert workers_of(cluster)
    process.kill()
    process.communicate()
    until(lambda: not workers_of(cluster), seconds=10.0)
    kept, began = len(shards(folder)), num_began(folder)
    run("p.yaml", backend="ray", probe=TWO)
    assert output(folder).equals(EXPECTED)
    assert num_began(folder) - began == SHARDS - kept


# ---- memory


class FilesProbe:
    """Two cards a node; what is in use on the second one is in a file of the node's name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Sequence[LiveGpu]:
        path = self.folder / os.environ["RAY_RAYLET_PID"]
        used = int(path.read_text()) if path.exists() else 0
        process = ((77, "python", used),) if used else ()
        cards = (T4, replace(T4, used=used, processes=process))
        return NvmlProbe(nvml=FakeNvml(cards=cards)).read()


def test_memory_that_a_node_does_not_give_back_stops_the_run_and_names_the_node(
    cluster: Ray, folder: Path
) -> None:
    leaking = cluster.raylet(cluster.nodes[1])
    used = f"open('{leaking}', 'w').write('{3 * GIB}')"
    write_code(folder, more=f"os.environ['RAY_RAYLET_PID'] == '{leaking}' and {used}")
    write_pipeline(folder, gpus=[0, 2, 3], shards=6)
    with pytest.raises(GpuNotReleasedError) as error:
        run("p.yaml", backend="ray", probe=FilesProbe(folder), contract={"patience": 0.5})
    assert "GPU 3 has 3.00 GiB in use" in str(error.value)
    assert f"process 77 python on {cluster.nodes[1].node_ip_address}#" in str(error.value)
    assert "GPU 1 has" not in str(error.value)


# ---- the cluster


def test_gpus_that_others_hold_are_left_to_them(
    cluster: Ray, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipeline(folder, gpus="all")
    monkeypatch.setattr(agents, "SETTLING", 0.5)
    ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        nodes = [affinity(node.node_id, soft=False) for node in cluster.nodes]
        holder = ray.remote(Holder)
        held = [
            holder.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=node).remote()
            for gpus, node in zip((1, 2), nodes, strict=True)
        ]
        theirs = ray.get([one.devices.remote() for one in held])
        said = Notes()
        run("p.yaml", backend="ray", probe=TWO, observer=said)
        assert ray.is_initialized()  # it was the caller's
    finally:
        ray.shutdown()
    assert theirs[1] == "0,1"
    seen = {line.split()[1] for line in lines(folder / "places")}
    assert seen == {"0", "1"} - {theirs[0]}
    assert [note for note in said.notes if "GPUs are in use, so it is left out" in note]


class Holder:
    def devices(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, now: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage_ended(self, report: Any) -> None: ...


class BrokenProbe:
    def read(self) -> Sequence[LiveGpu]:
        raise RuntimeError("the driver is another than the library")


def test_a_cluster_none_of_whose_agents_starts_says_why(cluster: Ray, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no node of the Ray cluster can be used.*the driver is"):
        run("p.yaml", backend="ray", probe=BrokenProbe())
    with pytest.raises(InputError, match="NVML finds none of the GPUs that Ray counts there"):
        run("p.yaml", backend="ray", probe=NvmlProbe(nvml=FakeNvml()))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", r"nobody answers at 127\.0\.0\.1:1.*ray start --head.*backend: local"),
        ("local", "which is no cluster that runs: start one with `ray start --head`"),
    ],
)
def test_without_a_cluster_none_is_started(
    address: str, sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=sentence):
        run("p.yaml", backend="ray")
    assert not ray.is_initialized()


def test_a_machine_that_belongs_to_no_cluster_is_told_how_to_get_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", none)
    with pytest.raises(InputError, match=r"no Ray cluster.*`ray start --head`.*backend: local"):
        run("p.yaml", backend="ray")
    assert not ray.is_initialized()


def test_ray_is_imported_for_its_backend_alone_and_missed_in_one_sentence() -> None:
    code = """
        import sys
        import willfit.runner.run
        assert "ray" not in sys.modules
        sys.modules["ray"] = None
        import willfit.runner.ray_backend
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert "MissingLibraryError: backend ray needs the package ray" in found.stderr
    assert "pip install 'willfit[ray]'" in found.stderr


# ---- places


class Idle:
    """A node of which only the number of workers is asked."""

    def __init__(self, num_workers: int, lost: str = "") -> None:
        self.num_workers, self.lost = num_workers, lost


def test_a_gpu_whose_node_is_lost_is_no_place_for_a_worker() -> None:
    lost, here = Idle(0, lost="node b was lost (no answer)"), Idle(3)
    launcher = RayLauncher(
        local=None,
        nodes=[lost, here],
        places={"b/0": Place(node=lost, device="0")},  # type: ignore[arg-type]
    )
    job = Job(kind="stage", name="s", parent=1)
    with pytest.raises(PlaceLostError, match="node b was lost"):
        launcher.start(job, devices="b/0", log=Path("log"), listener=lambda _: None)
    assert launcher._idlest() is here  # without a GPU any node will do


def test_a_model_is_not_spread_over_two_nodes() -> None:
    nodes = {0: "a", 1: "a", 2: "a", 3: "b", 4: "b"}
    assert groups(list(nodes), 2, nodes) == [(0, 1), (3, 4)]
    assert groups(list(nodes), 2) == [(0, 1), (2, 3)]
    devices = Devices(gpus={}, names={}, nvml_index={}, nodes=nodes)
    assert [devices.node(gpus) for gpus in [(3, 4), ()]] == ["b", ""]


# ---- the agent, by itself


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = Agent("here", TWO, has_gpus=True, folder=str(tmp_path / "nowhere"))
    yield found
    with contextlib.suppress(OSError):
        found.close()


def stage_job(tmp_path: Path, folder: Path) -> tuple[Job, str]:
    """A stage of 4 rows whose function is in ``folder``, and the digest of its prepared rows."""
    table = pa.table(
        {
            "#row": range(4),
            "#id": range(4),
            "#length": [1] * 4,
            "#sequences": [1] * 4,
            "x": range(4),
        }
    )
    path = tmp_path / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    stage = {"run": f"{folder / 'code.py'}:predict"}
    job = Job(kind="stage", name="s", stage=stage, fingerprint="f", parent=1)
    return job, digest_bytes(path.read_bytes())


def test_an_agent_does_what_it_is_told_twice_once(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def predict(rows): return [[r['x']] for r in rows]")
    job, digest = stage_job(tmp_path, tmp_path)
    data = (tmp_path / "rows.arrow").read_bytes()
    for offset in (0, 100, 0):
        agent.receive(digest, offset, data[offset : offset + 100] if offset == 0 else data[100:])
    agent.complete(digest)
    agent.complete(digest)
    for _ in range(2):
        agent.start("w", job, "1", digest)
    (booted, loaded) = heard(agent, 2)
    assert isinstance(booted, Booted)
    assert (booted.devices, isinstance(loaded, Loaded)) == ("1", True)
    for _ in range(2):
        assert agent.send("w", 1, Take(start=0, stop=4))
    (done,) = heard(agent, 1)
    assert isinstance(done, ShardDone)
    assert done.data  # the file itself
    assert agent.end("w", 5.0)
    (ended,) = heard(agent, 1)
    assert isinstance(ended, Ended)
    assert (ended.code, ended.lost) == (0, False)
    assert not agent.send("w", 2, Take(start=0, stop=4))
    agent.close()
    assert not list((tmp_path / f"willfit-nodes-{os.getuid()}").glob("*/"))


_read: dict[int, int] = {}


def heard(agent: Agent, count: int) -> list[Said]:
    """The next events of its workers, heartbeats left out."""
    found: list[Said] = []
    began = time.monotonic()
    while len(found) < count:
        assert time.monotonic() - began < 30
        for number, _, said in agent.heard(_read.get(id(agent), 0), 1.0):
            _read[id(agent)] = number
            found += [said] if getattr(said, "type", "") not in ("heartbeat", "progress") else []
    return found


def test_a_worker_that_was_ended_before_it_began_never_begins(agent: Agent, tmp_path: Path) -> None:
    job, digest = stage_job(tmp_path, tmp_path)
    assert not agent.end("w", 0.0)
    agent.start("w", job, "0", digest)
    assert not agent.send("w", 1, Take(start=0, stop=4))
    assert not agent.heard(0, 0.0)


def test_a_worker_that_dies_brings_the_end_of_its_log_and_why(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("print('out of patience')\nimport os\nos._exit(3)")
    job, digest = stage_job(tmp_path, tmp_path)
    agent.receive(digest, 0, (tmp_path / "rows.arrow").read_bytes())
    agent.complete(digest)
    agent.start("w", job, "0", digest)
    (_, ended) = heard(agent, 2)
    assert isinstance(ended, Ended)
    assert (ended.code, "out of patience" in ended.log) == (3, True)
    assert ended.why.startswith("it left with code 3")


def test_letters_are_kept_until_the_next_ones_are_asked_for() -> None:
    box = Mailbox()
    for number in (1, 2):
        box.put("w", Ended(code=number, log=""))
    assert [letter.number for letter in box.after(0, 0.0)] == [1, 2]
    assert [letter.number for letter in box.after(0, 0.0)] == [1, 2]  # the answer was lost
    assert [letter.number for letter in box.after(1, 0.0)] == [2]
    assert box.after(2, 0.0) == []


def test_rows_that_are_not_what_was_sent_are_refused(agent: Agent) -> None:
    agent.receive("0" * 32, 0, b"rows")
    with pytest.raises(InputError, match="is not what was sent"):
        agent.complete("0" * 32)


def test_code_goes_by_copy_unless_the_node_has_the_same(agent: Agent, tmp_path: Path) -> None:
    files = {"code.py": b"import part", "part.py": b"x = 1", "../up.py": b"y = 2"}
    away = f"{tmp_path / 'nowhere'}/code.py:predict"
    found = agent.place({"run": away}, {}, files)["run"]
    path = Path(found.rpartition(":")[0])
    assert {name: (path.parent / name).read_bytes() for name in files} == files
    assert path.is_relative_to(tmp_path / f"willfit-nodes-{os.getuid()}")
    home = tmp_path / "home" / "stage"
    for name, data in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(data)
    here = f"{home / 'code.py'}:predict"
    assert agent.place({"run": here}, {}, files)["run"] == here
    (home / "part.py").write_text("x = 2")
    assert agent.place({"run": here}, {}, files)["run"] == found


def test_a_scratch_folder_is_removed_once_nobody_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = Scratch.new(), Scratch.new()
    os.close(first.lock)  # as when its agent and its workers are killed
    third = Scratch.new()
    assert [f.folder.exists() for f in (first, second, third)] == [False, True, True]
    for one in (second, third):
        one.remove()


# ---- models on nodes


def save_model(folder: Path, weight: bytes = b"w") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weight)
    return {"model": str(folder)}


def place(stage: Mapping[str, Any], files: Any) -> str:
    return located(files["model"], setting="model", code=False, node="b")


def test_a_model_must_be_on_the_node_and_be_the_drivers(tmp_path: Path) -> None:
    stage = save_model(tmp_path / "m")
    files = model_files(stage)
    assert place(stage, files) == stage["model"]
    other = replace(files["model"], samples={**files["model"].samples, "model.safetensors": "0"})
    with pytest.raises(InputError, match=r"node b: model\.safetensors in .* is another file than"):
        place(stage, {"model": other})
    more = replace(files["model"], samples={**files["model"].samples, "more.safetensors": "0"})
    with pytest.raises(InputError, match=r"node b: more\.safetensors in .* is missing"):
        place(stage, {"model": more})
    away = replace(files["model"], path=str(tmp_path / "nowhere"))
    with pytest.raises(
        InputError, match=r"node b has no .*/nowhere, which the driver has: copy it"
    ):
        place(stage, {"model": away})


def test_a_model_of_the_hub_is_fetched_to_the_node_at_the_drivers_commit(tmp_path: Path) -> None:
    stage = save_model(tmp_path / f"models--org--m/snapshots/{COMMIT}")
    gone = stage["model"].replace(str(tmp_path), "/nowhere")
    code = f"""
        from willfit.runner.ray_backend.models import ModelFiles, located, model_files
        here = model_files({stage!r})["model"]
        model = ModelFiles(path={gone!r}, samples=here.samples)
        print(located(model, setting="model", code=False, node="b"))
    """
    repo = Repo(files={"config.json": b"{}", "model.safetensors": b"w", "more.bin": b"no"})
    with HubServer({"org/m": repo}) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**env, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert Path(found).name == COMMIT
        assert sorted(p.name for p in Path(found).iterdir()) == ["config.json", "model.safetensors"]
        assert not hub.served["org/m/more.bin"]
