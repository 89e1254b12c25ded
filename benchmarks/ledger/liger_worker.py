"""A process that runs Liger's benchmark scripts on fake tensors and tells the peak of each.

``python -m benchmarks.ledger.liger_worker SCRIPTS``, with the release of Liger first on the path: a
JSON object a line in, one a line out. No GPU is needed: Triton's kernels do nothing (their callers
allocate), devices are the fake CPU, and what was recorded is replayed by the simulated allocator.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.ledger.releases import without_datasets
from benchmarks.ledger.stand_ins import OnTheCpu, StandIns, cuda
from willfit.allocator.simulator import Allocator
from willfit.devices import cublas_workspace_bytes, find_gpu
from willfit.estimator.replay import placed
from willfit.scenario.stack import Stack
from willfit.trace.cuda import cuda_choices, temporaries
from willfit.trace.fakes import fake_mode
from willfit.trace.quiet import quiet
from willfit.trace.recorder import Recorder
from willfit.trace.recording import Event

ITERATIONS: Final = 3
"""Of the ten that the benchmark takes the median of: from the second on all are alike."""


def main() -> int:
    """Answer questions until the end of the input."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    scripts = Path(sys.argv[1])
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = {"bytes": _peak(scripts, json.loads(line))}
        except Exception as error:  # another's code: whatever it raises is the answer
            if os.environ.get("LIGER_WORKER_DEBUG"):
                raise
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=out, flush=True)
    return 0


def _peak(scripts: Path, asked: Mapping[str, Any]) -> int:
    """Most that is allocated during the last iteration."""
    gpu = find_gpu(asked["gpu"])
    with cuda(gpu, asked["gpu"]), quiet():
        _extend(scripts.parents[1] / "src")
        utils, found = _benchmarks(scripts, str(asked["script"]))
        function = found[asked["kernel"]]
        recorder = _Recorder(
            temporaries(quantized=False), workspaces=(cublas_workspace_bytes(gpu),)
        )
        marks: list[int] = []

        def test_memory(run: Callable[[], object], *_: Any, **__: Any) -> list[float]:
            for _iteration in range(ITERATIONS):
                marks.append(recorder.position())
                run()
            marks.append(recorder.position())
            return [0.0, 0.0, 0.0]  # nobody looks at them

        utils.measure = test_memory
        config = {
            name: getattr(torch, value.removeprefix("torch."))
            if str(value).startswith("torch.")
            else value
            for name, value in asked["config"].items()
        }
        question = utils.SingleBenchmarkRunInput(
            x=asked["x"],
            kernel_provider=asked["provider"],
            kernel_operation_mode=asked["mode"],
            extra_benchmark_config=config,
        )
        with (
            cuda_choices(lambda _: gpu, Stack(), quantized=False),
            fake_mode(),
            recorder,
            OnTheCpu(),
        ):
            function(question)
        peak = _largest(recorder, marks[-2], marks[-1])
        if asked["mode"] == "forward":
            peak += sum(e.num_bytes for e in recorder.recording.events[marks[0] :] if _space(e))
        return peak


def _space(event: Event) -> bool:
    """Whether it is cuBLAS's workspace: backward's is there too, for time was measured before."""
    return str(event.handle).startswith("cuBLAS")


class _Recorder(Recorder):  # type: ignore[no-untyped-call]
    """Values that code reads are ones, of which there are some; no comparison is true."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._ones: set[int] = set()

    def position(self) -> int:
        """Number of events so far."""
        self._end_sum()
        return len(self.recording.events)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """``torch.equal(grad, 1)`` asks whether autograd began with the ones it makes itself."""
        if func is _EQUAL:
            return args[0].untyped_storage()._cdata in self._ones
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is _ONES_LIKE:
            self._ones.add(out.untyped_storage()._cdata)
        return out

    def _zero(self, tensor: torch.Tensor) -> bool | int | float:
        if tensor.dtype == torch.bool:
            return False
        return 1.0 if tensor.dtype.is_floating_point else 1


def _largest(recorder: Recorder, start: int, end: int) -> int:
    """Peak of allocated bytes between two positions."""
    allocator = Allocator()
    events = recorder.recording.events
    peak = 0
    for number, _ in enumerate(placed(events, allocator)):
        if number == start - 1:
            peak = allocator.allocated_bytes
        if start <= number < end:
            peak = max(peak, allocator.allocated_bytes)
    return peak


_EQUAL: Final = torch.ops.aten.equal.default
_ONES_LIKE: Final = torch.ops.aten.ones_like.default


@lru_cache
def _benchmarks(scripts: Path, script: str) -> tuple[Any, dict[str, Any]]:
    """The script's functions that measure memory, by the kernel's name."""
    for folder in (str(scripts), str(scripts.parents[1])):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    utils: Any = importlib.import_module("utils")
    found: dict[str, Any] = {}

    def run_benchmarks(**given: Any) -> None:
        if given.get("metric_name") == "memory":
            found[given["kernel_name"]] = given["bench_test_fn"]

    def test_memory(*args: Any, **kwargs: Any) -> Any:
        return utils.measure(*args, **kwargs)

    utils.run_benchmarks = run_benchmarks
    utils._test_memory = test_memory
    utils.parse_benchmark_script_args = lambda: Namespace(
        overwrite=False, model=None, sweep_mode="token_length", bt=2048, kernel=None
    )
    if (scripts / "benchmark_model_configs.py").is_file():
        configs: Any = importlib.import_module("benchmark_model_configs")
        configs.estimate_kernel_peak_memory = lambda *_, **__: 2**30
    run_name = "megatron" if "mp.spawn" in (scripts / script).read_text() else "__main__"
    names = runpy.run_path(str(scripts / script), run_name=run_name)
    if "_bench_memory_one" in names:  # one rank of several, in this process
        kernel = script.removeprefix("benchmark_").removesuffix(".py")
        found[kernel] = partial(_one_rank, utils, names)
    return utils, found


def _one_rank(utils: Any, names: dict[str, Any], given: Any) -> None:
    """Megatron's losses: a script of its own form, whose step is a closure."""
    config = given.extra_benchmark_config
    parallel = config["TP"]
    logits, target = names["_make_inputs"](
        config["S"], config["B"], given.x // parallel, given.x, "cuda"
    )
    forward = names["_select_fwd"](given.kernel_provider, None)

    def step() -> None:
        logits.grad = None
        forward(logits, target).sum().backward()

    utils.measure(step)


@lru_cache
def _extend(source: Path) -> None:
    """Modules that an older release lacks and the scripts import come from a later one."""
    for name in ("", ".transformers", ".ops", ".chunked_loss"):
        with contextlib.suppress(ImportError):
            package: Any = importlib.import_module(f"liger_kernel{name}")
            later = source.joinpath("liger_kernel", *name.split(".")[1:])
            package.__path__ = [*package.__path__, str(later)]


if __name__ == "__main__":
    importlib.import_module("transformers.models.llama.modeling_llama")
    importlib.import_module("torch._dynamo")
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        del sys.modules[name]  # an installed one, which torch has imported, looks for a driver
    sys.meta_path.insert(0, StandIns())
    without_datasets()
    sys.exit(main())
