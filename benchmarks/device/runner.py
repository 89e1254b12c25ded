"""``python -m benchmarks.device.runner``: what the runner promises, on the GPU that is here.

    python -m benchmarks.device.runner --out rows.jsonl [--tiny] [--budget 480] [--only STEP]

Each step is a process of its own with a limit, and appends one row. ``--tiny`` runs the same steps
with small models where there is no GPU, so that the script itself is known to work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.errors import GpuNotReleasedError
from willfit.live.nvml import TOLERANCE
from willfit.runner.gpus import NvmlProbe
from willfit.runner.observer import Lines
from willfit.runner.run import run
from willfit.runner.shards import Range
from willfit.runner.shards.store import range_of

GIB: Final = 2**30
ROOT: Final = Path(os.environ.get("WILLFIT_DEVICE_DIR", "/tmp/willfit-device"))
LIMITS: Final = {
    "curve": 60, "fill": 60, "escaped": 40, "isolated": 40, "lmsys": 130, "classify": 110,
    "killed": 60, "tasks": 90,
}  # fmt: skip
"""Seconds that each step may take, in the order in which they run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that are asked for; returns 0 where all of them ended well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device.runner", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--budget", type=float, default=480.0)
    parser.add_argument("--only", action="append", choices=tuple(LIMITS))
    parser.add_argument("--step", choices=tuple(LIMITS), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    ROOT.mkdir(parents=True, exist_ok=True)
    if given.step:
        return _one(given)
    deadline = time.monotonic() + given.budget
    failed = 0
    for name in given.only or LIMITS:
        left = deadline - time.monotonic()
        if left < 15:
            print(f"{name}: no time left", flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.device.runner", "--step", name]
        command += ["--out", str(given.out), *(["--tiny"] if given.tiny else [])]
        began = time.monotonic()
        code = _within(command, min(left, LIMITS[name]))
        if code == -1:
            _append(given.out, {"step": name, "failure": "not done in time"})
        failed += bool(code)
        print(f"== {name}: {code} after {time.monotonic() - began:.1f} s", flush=True)
    return failed


def _within(command: list[str], seconds: float) -> int:
    """The step's exit code; −1 where it was not done in time, and all it started is ended."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return -1


def _append(out: Path, row: dict[str, Any]) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=str) + "\n")


def _one(given: argparse.Namespace) -> int:
    steps: dict[str, Callable[[bool], dict[str, Any]]] = {
        "curve": curve, "fill": fill, "escaped": escaped, "isolated": isolated,
        "classify": classify, "killed": killed, "tasks": tasks, "lmsys": lmsys,
    }  # fmt: skip
    row: dict[str, Any] = {"step": given.step, **facts()}
    began = time.monotonic()
    try:
        row |= steps[given.step](given.tiny)
    except Exception as error:
        traceback.print_exc()
        row["failure"] = f"{type(error).__name__}: {str(error)[:800]}"
    row["step_seconds"] = round(time.monotonic() - began, 2)
    _append(given.out, row)
    print(json.dumps(row, default=str)[:3000], flush=True)
    return int("failure" in row)


def facts() -> dict[str, Any]:
    """Device, driver and versions."""
    import importlib.metadata

    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "device": "cpu"}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    gpus = NvmlProbe().read()
    if gpus:
        found |= {"device": gpus[0].name, "total_bytes": gpus[0].total_bytes}
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
        found["driver"] = str(pynvml.nvmlSystemGetDriverVersion())
    found["cuda"] = torch.version.cuda
    return found


def used() -> int:
    """Bytes in use on GPU 0; 0 without one."""
    gpus = NvmlProbe().read()
    return gpus[0].used_bytes if gpus else 0


def free() -> int:
    """Bytes free on GPU 0; 64 MiB without one, so that the steps run."""
    gpus = NvmlProbe().read()
    return gpus[0].free_bytes if gpus else 64 * 2**20


TAKE: Final = """
import sys, time
share, busy = float(sys.argv[1]), sys.argv[2] == "busy"
import torch
device = "cuda" if torch.cuda.is_available() else "cpu"
free = torch.cuda.mem_get_info()[0] if device == "cuda" else 1 << 26
held = [torch.zeros(int(free * share) // 8, dtype=torch.uint8, device=device) for _ in range(8)]
a = torch.randn(2048, 2048, device=device)
print("ready", flush=True)
while True:
    if busy:
        a = (a @ a).clamp(-1, 1)
    else:
        time.sleep(0.1)
"""
"""Takes a share of what is free, and then computes or sleeps."""


def taker(share: float, *, busy: bool) -> subprocess.Popen[str]:
    """A process that holds memory, once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(share), "busy" if busy else "idle"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


# ---- how memory comes back


def curve(_: bool) -> dict[str, Any]:
    """Seconds from SIGKILL to the reap, and to the device's memory, with 90 % of it taken."""
    rounds = []
    for busy in (True, True, False):
        before = used()
        process = taker(0.9, busy=busy)
        full = used()
        began = time.monotonic()
        process.send_signal(signal.SIGKILL)
        points, reaped, back = [], None, None
        while time.monotonic() - began < 20:
            now = time.monotonic() - began
            if reaped is None and process.poll() is not None:
                reaped = now
            held = used()
            points.append((round(now, 4), held))
            if reaped is not None and held <= before + TOLERANCE:
                back = now
                break
            time.sleep(0.002)
        rounds.append(
            {
                "busy": busy, "before_bytes": before, "full_bytes": full, "reaped_seconds": reaped,
                "back_seconds": back, "after_bytes": used(),
                "curve": points[:: max(1, len(points) // 40)],
            }
        )  # fmt: skip
    return {"rounds": rounds}


CODE: Final = """
import subprocess, sys, time

STATE = []

def take(share):
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 1 << 26
    STATE.append(torch.zeros(int(free * share), dtype=torch.uint8, device=device))

def load():
    take(0.9)

def predict(rows):
    return [[float(STATE[0][0]), float(r["x"])] for r in rows]

HOLD = '''
import sys, time, torch
device = "cuda" if torch.cuda.is_available() else "cpu"
held = torch.zeros((1 << 30) if device == "cuda" else 1 << 20, dtype=torch.uint8, device=device)
open(sys.argv[1], "w").write("held")
time.sleep(600)
'''

def leave(env):
    import os
    path = os.path.join(os.path.dirname(__file__), "held.txt")
    if os.path.exists(path):
        os.unlink(path)
    child = subprocess.Popen([sys.executable, "-c", HOLD, path], start_new_session=True, env=env)
    while not os.path.exists(path):
        time.sleep(0.05)
    return child.pid

def grandchild(rows):
    leave(None)
    return [1.0] * len(rows)

def escapee(rows):
    import os
    env = {k: v for k, v in os.environ.items() if not k.startswith("WILLFIT")}
    if os.fork() == 0:
        leave(env)
        os._exit(0)
    os.wait()
    return [1.0] * len(rows)
"""


def _job(name: str, **stages: dict[str, Any]) -> dict[str, Any]:
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.py").write_text(CODE)
    pq.write_table(
        pa.table({"id": np.arange(64), "x": np.arange(64) / 10}), folder / "data.parquet"
    )
    for stage in stages.values():
        stage["run"] = f"{folder}/code.py:{stage['run']}"
    return {"data": f"{folder}/data.parquet", "stages": stages}


def fill(_: bool) -> dict[str, Any]:
    """Two stages that each take 90 % of the card, and one that leaves a process behind."""
    stages = {
        "first": {"run": "predict", "shards": 4}, "second": {"run": "predict", "shards": 4},
        "leaves": {"run": "grandchild", "shards": 1},
    }  # fmt: skip
    report = run(_job("fill", **stages), run_dir=ROOT / "fill/run", fresh=True, observer=Lines())
    return {"stages": [stage.json() for stage in report.stages], "after_bytes": used()}


def escaped(_: bool) -> dict[str, Any]:
    """A process that got away from its session and its mark: named, not waited for."""
    job = _job("escaped", away={"run": "escapee", "shards": 1}, next={"run": "predict"})
    message = ""
    try:
        run(job, run_dir=ROOT / "escaped/run", fresh=True, contract={"patience": 4.0})
    except GpuNotReleasedError as error:
        message = str(error)
    subprocess.run(["pkill", "-9", "-f", "held.txt"], check=False)
    time.sleep(1.5)
    return {"message": message, "after_bytes": used()}


def isolated(_: bool) -> dict[str, Any]:
    """Memory taken in a function's process, and given back."""
    import willfit

    def work(size: int) -> Any:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        held = torch.ones(size, dtype=torch.uint8, device=device)
        return held[:4], torch.cuda.memory_allocated() if device == "cuda" else 0

    size = (20 * GIB) if NvmlProbe().read() else 1 << 20
    with willfit.isolated(gpu=0 if NvmlProbe().read() else "cpu") as call:
        tensor, allocated = call(work, size)
    assert call.release is not None
    return {
        "on": str(tensor.device), "values": tensor.tolist(), "allocated_bytes": allocated,
        "release": call.release.json(),
    }  # fmt: skip


# ---- models


def checkpoint(
    name: str, folder: Path, *, tiny: bool, labels: int | None = 3, layers: int | None = None
) -> Path:
    """Random float16 weights of a real config, a byte tokenizer, and a LoRA adapter with a head.

    ``layers``: of how many, where writing all of them would take too long.
    """
    import peft
    import torch
    import transformers

    import willfit
    from benchmarks.run_speed import write_tokenizer
    from willfit.live.suite.tiny import tiny_config

    if (folder / "done").exists():
        return folder
    spec: Any = willfit.find_model(name)
    content = dict(tiny_config(spec.config) if tiny else spec.config)
    if layers is not None and not tiny:
        content["num_hidden_layers"] = layers
        content.pop("layer_types", None)
    content |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if labels is not None:
        content["num_labels"] = labels
    config = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    auto: Any = (
        transformers.AutoModelForCausalLM
        if labels is None
        else transformers.AutoModelForSequenceClassification
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = auto.from_config(config, dtype=torch.float32 if tiny else torch.float16)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    if labels is not None:
        lora = peft.LoraConfig(
            task_type="SEQ_CLS", r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            modules_to_save=["score"], init_lora_weights=False,
        )  # fmt: skip
        peft.get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))
    (folder / "done").touch()
    return folder


def texts(path: Path, rows: int, longest: int) -> Path:
    """Rows with lengths as chat logs have them, in tokens of the byte tokenizer."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(longest / 5), 0.8, rows), 8, longest).astype(int)
    letters = random.integers(97, 122, int(lengths.max()), dtype=np.uint8).tobytes().decode()
    pq.write_table(pa.table({"id": np.arange(rows), "text": [letters[:n] for n in lengths]}), path)
    return path


def holder(leaves: int) -> subprocess.Popen[str] | None:
    """A process that leaves so many bytes of GPU 0 free; None where there is none."""
    if not NvmlProbe().read():
        return None
    share = 1 - (leaves + 600 * 2**20) / free()
    return taker(share, busy=False)


def classify(tiny: bool) -> dict[str, Any]:
    """A 1B classifier: against a loop, with the estimate's batches, and with too large ones."""
    folder = ROOT / "classify"
    model = checkpoint("meta-llama/Llama-3.2-1B", folder / "model", tiny=tiny)
    data = texts(folder / "data.parquet", 64 if tiny else 600, 64 if tiny else 2000)
    base: dict[str, Any] = {
        "model": str(model), "labels": 3, "dtype": "float32" if tiny else "float16",
        "max_length": 2000, "shards": 12,
    }  # fmt: skip
    results: dict[str, Any] = {}
    held = holder(6 * GIB)
    try:
        results["free_bytes"] = free()
        for name, more in (
            ("fixed", {"batch_size": 8, "batch_tokens": 1 << 20}),
            ("auto", {}),
            ("too_large", {"batch_tokens": 200 if tiny else 3_000_000}),
        ):
            job = {"data": str(data), "stages": {"s": {**base, **more}}}
            path = folder / f"{name}.parquet"
            report = run({**job, "output": str(path)}, run_dir=folder / name, fresh=True)
            results[name] = report.stages[0].json()
    finally:
        if held is not None:
            held.kill()
            held.wait()
    results |= _against_loop(folder, model, tiny=tiny)
    return results


def _against_loop(folder: Path, model_path: Path, *, tiny: bool) -> dict[str, Any]:
    """The same batches in a plain loop in this process: equal bits, and its seconds."""
    import torch
    import transformers

    from benchmarks.run_speed import batches

    rows, logits = _by_position(folder / "fixed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader: Any = transformers.AutoModelForSequenceClassification
    dtype = torch.float32 if tiny else torch.float16
    model = loader.from_pretrained(model_path, dtype=dtype).to(device).eval()
    model.config.use_cache = False
    prepared = next((folder / "fixed/prepared").glob("*/rows.arrow"))
    work = batches(prepared, most_rows=8, cuts=rows)
    found: list[Any] = []
    began = time.monotonic()
    with torch.inference_mode():
        for batch in work:
            longest = max(map(len, batch))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=device)
            mask = torch.tensor(
                [[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=device
            )
            out = model(input_ids=ids, attention_mask=mask).logits
            found.append(out.float().cpu().numpy())
    seconds = time.monotonic() - began
    loop = np.concatenate(found)
    return {
        "loop_seconds": round(seconds, 2),
        "equal_bits": bool(np.array_equal(loop, logits)),
        "largest_difference": float(np.abs(loop - logits).max()),
    }


def _by_position(folder: Path) -> tuple[list[Range], Any]:
    """The shards' ranges and their logits, in the order of positions."""
    paths = sorted(folder.glob("stages/s/*/shards/*.parquet"))
    ranges = [found for path in paths if (found := range_of(path)) is not None]
    tables = [pq.read_table(path).column("logits").to_pylist() for path in paths]
    return ranges, np.asarray([row for table in tables for row in table], dtype=np.float32)


DRIVER: Final = """
import json, sys
from willfit.runner.run import run
run(json.loads(sys.argv[1]), run_dir=sys.argv[2])
"""


def killed(tiny: bool) -> dict[str, Any]:
    """The driver of a run is killed in mid-forward: when is the memory back, is anything left?"""
    import psutil  # type: ignore[import-untyped]

    folder = ROOT / "classify"
    model = checkpoint("meta-llama/Llama-3.2-1B", folder / "model", tiny=tiny)
    data = texts(ROOT / "killed.parquet", 200 if tiny else 900, 64 if tiny else 2000)
    stage = {"model": str(model), "labels": 3, "shards": 24, "max_length": 2000}
    job = {"data": str(data), "stages": {"s": stage}, "output": str(ROOT / "killed.csv")}
    before = used()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(job), str(ROOT / "killed")]
    )
    shards = ROOT / "killed/stages/s"
    while process.poll() is None and not list(shards.glob("*/shards/*.parquet")):
        time.sleep(0.05)
    time.sleep(0.3)
    full, began = used(), time.monotonic()
    process.kill()
    process.wait()
    back = None
    while time.monotonic() - began < 30:
        if used() <= before + TOLERANCE:
            back = time.monotonic() - began
            break
        time.sleep(0.01)
    left = [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if "willfit.worker" in " ".join(p.info["cmdline"] or [])
    ]
    kept = len(list(shards.glob("*/shards/*.parquet")))
    report = run(job, run_dir=ROOT / "killed")
    return {
        "before_bytes": before, "full_bytes": full, "back_seconds": back, "left": left,
        "shards_kept": kept, "computed_after": report.stages[0].num_computed,
        "rows": report.output_rows, "stage": report.stages[0].json(),
    }  # fmt: skip


def tasks(tiny: bool) -> dict[str, Any]:
    """Generate, embed and choose with a 1B model, 4 bit and 16 bit."""
    folder = ROOT / "tasks"
    model = checkpoint("meta-llama/Llama-3.2-1B", folder / "model", tiny=tiny, labels=None)
    data = texts(folder / "data.parquet", 24 if tiny else 200, 48 if tiny else 400)
    packed = {} if tiny else {"quantize": "nf4"}
    half = {"dtype": "float32" if tiny else "float16"}
    stages: dict[str, dict[str, Any]] = {
        "say": {"model": str(model), "task": "generate", "max_new_tokens": 16, **half, **packed},
        "embed": {"model": str(model), "task": "embed", **half},
        "pick": {"model": str(model), "choices": [" yes", " no", " maybe"], **half},
    }  # fmt: skip
    report = run(
        {"data": str(data), "stages": stages, "output": str(folder / "out.parquet")},
        run_dir=folder / "run", fresh=True,
    )  # fmt: skip
    table = pq.read_table(folder / "out.parquet")
    return {
        "columns": table.column_names, "rows": table.num_rows,
        "stages": [stage.json() for stage in report.stages],
    }  # fmt: skip


def lmsys(tiny: bool) -> dict[str, Any]:
    """Gemma-2-9b, then Llama-3-8B, a third of their layers, int8 with LoRA and a trained head.

    Beside a process that leaves 7 GiB free, as a T4 leaves to a third more of such layers.
    """
    folder = ROOT / "lmsys"
    timings, began = {}, time.monotonic()
    paths = {}
    for name, model, layers in (
        ("gemma", "google/gemma-2-9b-it", 14), ("llama", "meta-llama/Meta-Llama-3-8B", 11),
    ):  # fmt: skip
        paths[name] = checkpoint(model, folder / name, tiny=tiny, layers=layers)
        timings[f"make_{name}"] = round(time.monotonic() - began, 1)
        print(timings, flush=True)
    data = texts(folder / "data.parquet", 48 if tiny else 300, 64 if tiny else 2048)
    dtypes = {"gemma": "bfloat16", "llama": "float16"}  # Gemma-2 leaves float16's range
    stages = {
        name: {
            "model": str(path), "adapter": str(path / "adapter"), "labels": 3, "max_length": 2048,
            "shards": 10, **({} if tiny else {"quantize": "int8", "dtype": dtypes[name]}),
        }
        for name, path in paths.items()
    }  # fmt: skip
    held = holder(7 * GIB)
    try:
        free_bytes = free()
        report = run(
            {
                "data": str(data), "stages": stages,
                "ensemble": {"weights": {"gemma": 2, "llama": 1}},
                "output": str(folder / "submission.csv"),
            },
            run_dir=folder / "run", fresh=True, observer=Lines(),
        )  # fmt: skip
    finally:
        if held is not None:
            held.kill()
            held.wait()
    return {
        "free_bytes": free_bytes, "timings": timings, "rows": report.output_rows,
        "seconds": report.seconds, "stages": [stage.json() for stage in report.stages],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
