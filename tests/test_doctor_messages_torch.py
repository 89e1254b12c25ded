"""What torch, its kin and the host say: every number of a message, and none that it has not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import grows_at_most

from willfit.allocator.message import GpuProcess, OutOfMemory, format_size, out_of_memory_message
from willfit.doctor.amounts import read_amount
from willfit.doctor.find import reports_in
from willfit.doctor.messages import READERS, pytorch
from willfit.doctor.messages.nvml_assert import release_of
from willfit.doctor.passage import Flat, Line
from willfit.doctor.report import Report
from willfit.units import GIB, KIB, MIB

TORCH = {
    "pytorch-cuda", "pytorch-hip", "pytorch-xpu", "mps", "cpu", "pytorch-legacy", "nvml-assert",
    "cuda-error", "cublas", "nccl", "triton", "vllm-cumem", "dataloader-shm", "mmap-paging",
    "host-kill", "notebook", "ray", "sdpa-kernel",
}  # fmt: skip
MINE = {
    "pytorch-cuda", "pytorch-async", "pytorch-expandable", "pytorch-hip", "pytorch-xpu", "mps", "cpu", "pytorch-legacy",
    "nvml-assert", "cuda-error", "cublas", "nccl", "triton", "vllm-cumem", "dataloader-shm",
    "mmap-paging", "host-kill", "notebook", "ray", "sdpa-kernel", "pytorch-npu",
}  # fmt: skip
PREFIX = re.compile(
    r"\x1b\[[0-9;]*m|#033\[\d*m|</?(?:pre|span)\b[^>]*>"
    r"|^(?:\[rank\d\]: |SUBPROCESS: |> |\d{4}-\d\d-\d\dT[\d:.]+Z )",
    re.MULTILINE,
)


def flat_of(text: str, origins: frozenset[str] = frozenset()) -> Flat:
    lines = PREFIX.sub("", text).splitlines()
    return Flat([Line(number=i, text=line) for i, line in enumerate(lines, 1)], origins)


def read(text: str, origins: frozenset[str] = frozenset()) -> list[Report]:
    """What the readers of this file find where one of their needles is in a line, in order."""
    flat = flat_of(text, origins)
    readers = [reader for reader in READERS if reader.name in MINE]
    assert {reader.name for reader in readers} == MINE
    heard = [r for r in readers if any(n in line.text for n in r.needles for line in flat.lines)]
    return [found for reader in heard for found in reader.read(flat)]


def one(text: str) -> Report:
    found = read(text)
    assert len(found) == 1, [(f.family, f.quote) for f in found]
    return found[0]


def bytes_of(amount: str) -> int:
    return read_amount(amount).num_bytes


# the corpus


TEXT_WINS = {
    # 2⁶⁴ − 1,118,208 is worked out in the thread; the text has the line alone
    "275_pt_block_2pow64.log": {"assert_line": 991},
}


TWO_RANKS = {"111_vllm_two_rank_private_pools.log", "218_mmap_uniworld_ranks.log"}


def test_every_entry_of_the_corpus(shared: Path) -> None:
    corpus = shared / "oom_corpus"
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").open()]
    mine = [row for row in rows if row["family"].split("+")[0] in TORCH or _routed(row)]
    assert len(mine) >= 100 and set(TEXT_WINS) <= {row["file"] for row in mine}
    for row in mine:
        found = reports_in((corpus / "raw" / row["file"]).read_bytes())
        assert len(found) == (2 if row["file"] in TWO_RANKS else 1), row["file"]
        wanted = TEXT_WINS.get(row["file"], row["fields"])
        assert (found[0].family, dict(found[0].fields)) == (row["family"], wanted), row["file"]
        release = re.match(r"torch (\d\.\d+)(?:\.\d+)?$", row["version_guess"])
        if release and found[0].release:
            assert _within(found[0].release, release[1]), (row["file"], found[0].release)


def _routed(row: Mapping[str, Any]) -> bool:
    return row["family"] == "tgi" and row["fields"].get("backend") == "CUDA"


def _within(said: str, release: str) -> bool:
    """``torch 1.10-2.0`` holds 1.13; ``torch 2.5+`` holds 2.6."""
    first, _, last = said.removeprefix("torch ").partition("-")
    number = _number(release)
    if first.endswith("+"):
        return number >= _number(first[:-1])
    return _number(first) <= number <= _number(last or first)


def _number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


# round trips: numbers to text to numbers


RELEASES = [(1, m) for m in (0, 3, 4, 9, 10, 13)] + [(2, m) for m in range(15)]
SIZES = st.integers(0, 200 * GIB) | st.integers(0, 4 * MIB) | st.just(0)


@st.composite
def states(draw: st.DrawFn) -> OutOfMemory:
    processes = draw(
        st.lists(st.builds(GpuProcess, pid=st.integers(1, 4_194_304), used_bytes=SIZES), max_size=4)
    )
    if draw(st.booleans()):
        processes.append(GpuProcess(pid=None, used_bytes=draw(SIZES)))
    allocated, pools, cached = draw(SIZES), draw(st.just(0) | SIZES), draw(SIZES)
    return OutOfMemory(
        tried_bytes=draw(SIZES),
        total_bytes=draw(SIZES),
        free_bytes=draw(SIZES),
        allocated_bytes=allocated,
        reserved_bytes=allocated + pools + cached,
        allowed_bytes=draw(st.none() | SIZES),
        private_pool_bytes=pools,
        gpu=draw(st.integers(0, 15)),
        processes=tuple(processes),
    )


def expected(state: OutOfMemory, release: tuple[int, int]) -> dict[str, int]:
    """What the template of this release has room for, in bytes before they were printed."""
    pools = state.private_pool_bytes
    numbers = {
        "tried_bytes": state.tried_bytes,
        "total_bytes": state.total_bytes,
        "free_bytes": state.free_bytes,
        "allocated_bytes": state.allocated_bytes + pools,
    }
    cached = state.reserved_bytes - state.allocated_bytes
    if (1, 4) <= release < (2, 1):
        numbers["reserved_bytes"] = state.reserved_bytes
    else:
        numbers["reserved_unallocated_bytes"] = cached - pools
    if pools:
        numbers["private_pools_bytes"] = pools
    if state.allowed_bytes is not None and release != (2, 1):
        numbers["allowed_bytes"] = state.allowed_bytes
    own = [p.used_bytes for p in state.processes if p.pid is None]
    if own and release >= (2, 1):
        numbers["this_process_bytes"] = own[0]
    return numbers


def wrapped(text: str, width: int) -> str:
    """As a terminal copies it: broken anywhere, in a number as well as in a word."""
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


@given(states(), st.sampled_from(RELEASES), st.integers(24, 400), st.booleans())
def test_a_message_gives_back_the_numbers_it_was_written_from(
    state: OutOfMemory, release: tuple[int, int], width: int, wrap: bool
) -> None:
    if release < (2, 4):
        state = replace(state, private_pool_bytes=0)
    message = "RuntimeError: " + out_of_memory_message(state, release)
    found = one(wrapped(message, width) if wrap else message)
    numbers = expected(state, release)
    assert found.family == "pytorch-cuda" and found.weight == "numbers"
    assert {n for n in found.fields if n.endswith("_bytes")} == set(numbers)
    for name, true in numbers.items():
        printed = read_amount(format_size(true))
        assert found.fields[name] == printed.num_bytes, name
        assert abs(found.fields[name] - true) <= printed.slack_bytes + 1, name
        assert found.printed[name] == format_size(true), name
    assert (found.fields["backend"], found.fields["gpu"]) == ("CUDA", state.gpu)
    others = [{"pid": p.pid, "bytes": bytes_of(format_size(p.used_bytes))} for p in state.processes
              if p.pid is not None]  # fmt: skip
    assert found.fields.get("processes", []) == (others if release >= (2, 1) else [])
    assert _within(found.release, ".".join(map(str, release))), (found.release, release)
    assert "cut_off" not in found.marks


@given(states(), st.sampled_from(RELEASES), st.data())
def test_a_message_cut_off_anywhere_says_less_and_nothing_else(
    state: OutOfMemory, release: tuple[int, int], data: st.DataObject
) -> None:
    message = out_of_memory_message(state, release)
    whole = one(message)
    head = len("CUDA out of memory.")
    end = data.draw(st.integers(head, len(message)))
    start = data.draw(st.sampled_from([0, 0, 0, head, end // 2]))
    for found in read(message[start:end]):
        assert found.family == "pytorch-cuda"
        for name, value in found.fields.items():
            if name == "processes":
                assert all(process in whole.fields[name] for process in value)
            elif start == 0:
                assert whole.fields[name] == value, (name, message[start:end])
            else:
                # cut in the middle of a number its first digits are lost
                assert (
                    str(whole.printed.get(name, value)).endswith(
                        str(found.printed.get(name, value))
                    )
                    or name == "gpu"
                )
    if start == 0:
        assert read(message[:end])


def test_fields_come_one_by_one_as_the_text_grows() -> None:
    state = OutOfMemory(
        tried_bytes=224 * MIB, total_bytes=15 * GIB, free_bytes=11 * MIB, allocated_bytes=13 * GIB,
        reserved_bytes=14 * GIB, gpu=3, processes=(GpuProcess(pid=77, used_bytes=14 * GIB),),
    )  # fmt: skip
    message = out_of_memory_message(state)
    seen: list[str] = []
    for end in range(len("CUDA out of memory."), len(message) + 1):
        seen += [name for name in one(message[:end]).fields if name not in seen]
    assert seen == [
        "tried_bytes", "backend", "gpu", "total_bytes", "free_bytes", "processes",
        "allocated_bytes", "reserved_unallocated_bytes",
    ]  # fmt: skip


def test_ranks_of_one_text_keep_their_numbers() -> None:
    def of(gpu: int) -> str:
        state = OutOfMemory(
            tried_bytes=(gpu + 1) * MIB, total_bytes=80 * GIB, free_bytes=gpu * KIB,
            allocated_bytes=(70 + gpu) * GIB, reserved_bytes=79 * GIB, gpu=gpu,
        )  # fmt: skip
        return f"[rank{gpu}]: torch.OutOfMemoryError: {out_of_memory_message(state)}"

    found = read("\n".join(of(gpu) for gpu in range(8)))
    assert [f.fields["gpu"] for f in found] == list(range(8))
    assert [f.fields["tried_bytes"] for f in found] == [(gpu + 1) * MIB for gpu in range(8)]
    assert [f.line for f in found] == list(range(1, 9))


# templates that the package does not write


NEW = "GPU 2 has a total capacity of 31.50 GiB of which 1.25 GiB is free. "
OF = "Of the allocated memory 29.75 GiB is allocated by PyTorch, and 96.00 MiB is reserved by PyTorch but unallocated."
OF_FIELDS = {"allocated_bytes": int(29.75 * GIB), "reserved_unallocated_bytes": 96 * MIB}
NEW_FIELDS = {"gpu": 2, "total_bytes": int(31.5 * GIB), "free_bytes": int(1.25 * GIB), **OF_FIELDS}

TEMPLATES: list[tuple[str, str, dict[str, Any], str, set[str]]] = [
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. " + NEW + OF
        + " expandable_segments is enabled. If instead the process is running out of virtual",
        "pytorch-cuda", {"backend": "CUDA", "tried_bytes": int(2.5 * GIB), **NEW_FIELDS},
        "torch 2.15+", {"expandable_on"},
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Allocation was preemptively rejected because "
        "it would exceed per_process_memory_fraction limit. Requested size: 3.00 GiB. " + NEW + OF,
        "pytorch-cuda", {"backend": "CUDA", "tried_bytes": 3 * GIB, **NEW_FIELDS},
        "torch 2.12+", {"rejected_early"},
    ),
    (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU  has a total capacity of 31.50 GiB "
        "of which 1.25 GiB is free. " + OF,
        "pytorch-cuda",
        {"backend": "CUDA", "tried_bytes": 20 * MIB, **{k: v for k, v in NEW_FIELDS.items() if k != "gpu"}},
        "torch 2.3", {"nul_bug"},
    ),
    (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 2 has a total capacity of 31.50 GiB "
        "of which 1.25 GiB is free. Process 41 has 17179869184.00 GiB memory in use. Process 42 "
        "has 2.00 GiB memory in use. " + OF,
        "pytorch-cuda",
        {"backend": "CUDA", "tried_bytes": 20 * MIB, "processes": [{"pid": 42, "bytes": 2 * GIB}],
         **NEW_FIELDS},
        "torch 2.2+", {"na_process"},
    ),
    (
        "RuntimeError: HIP out of memory. Tried to allocate 20.00 MiB (GPU 1; 23.98 GiB total "
        "capacity; 21.00 GiB already allocated; 0 bytes free; 22.00 GiB reserved in total by "
        "PyTorch)",
        "pytorch-hip",
        {"backend": "HIP", "gpu": 1, "tried_bytes": 20 * MIB, "total_bytes": bytes_of("23.98 GiB"),
         "allocated_bytes": 21 * GIB, "free_bytes": 0, "reserved_bytes": 22 * GIB},
        "torch 1.4-1.9", set(),
    ),
    (
        "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.50 GiB. " + NEW
        + "30.00 GiB allowed; Of the allocated memory 29.75 GiB is allocated by PyTorch, with "
        "64.00 MiB allocated in private pools (e.g., HIP Graphs), and 96.00 MiB is reserved by "
        "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_HIP_ALLOC_CONF=expandable_segments:True to avoid fragmentation.",
        "pytorch-hip",
        {"backend": "HIP", "tried_bytes": int(2.5 * GIB), "allowed_bytes": 30 * GIB,
         "private_pools_bytes": 64 * MIB, **NEW_FIELDS},
        "torch 2.5+", {"advises_expandable"},
    ),
    (
        "XPU out of memory. Tried to allocate 2.50 GiB. GPU 2 has a total capacity of 31.50 GiB. "
        + OF + " Please use `empty_cache` to release all unoccupied cached memory.",
        "pytorch-xpu",
        {"backend": "XPU", "gpu": 2, "tried_bytes": int(2.5 * GIB), "total_bytes": int(31.5 * GIB),
         **OF_FIELDS},
        "torch 2.5-2.7", set(),
    ),
    (
        "RuntimeError: XPU out of memory. Tried to allocate 1.50 GiB (GPU 0; 15.50 GiB total "
        "capacity; 14.00 GiB already allocated; 14.25 GiB reserved in total by PyTorch)",
        "pytorch-xpu",
        {"backend": "XPU", "gpu": 0, "tried_bytes": int(1.5 * GIB),
         "total_bytes": int(15.5 * GIB), "allocated_bytes": 14 * GIB,
         "reserved_bytes": int(14.25 * GIB)},
        "torch 1.4-1.9", set(),
    ),
    (
        "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total "
        "capacity; 56.50 GiB already allocated; 56.50 GiB current active; 1.25 GiB free; 58.75 GiB "
        "reserved in total by PyTorch) If reserved memory is >> allocated memory try setting "
        "max_split_size_mb to avoid fragmentation.",
        "pytorch-npu",
        {"backend": "NPU", "gpu": 0, "tried_bytes": 2 * GIB, "total_bytes": int(60.97 * GIB),
         "allocated_bytes": int(56.5 * GIB), "free_bytes": int(1.25 * GIB),
         "reserved_bytes": int(58.75 * GIB)},
        "torch 1.10-2.0", {"advises_split"},
    ),
    (
        "RuntimeError: Current platform can NOT allocate memory block with size larger than 4GB! "
        "Tried to allocate 6.25 GiB",
        "pytorch-xpu", {"tried_bytes": int(6.25 * GIB)}, "", {"one_buffer"},
    ),
    (
        "RuntimeError: Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "pytorch-xpu", {}, "", {"driver"},
    ),
    (
        "RuntimeError: MPS backend out of memory (MPS allocated: 10.50 GiB, other allocations: "
        "384.00 KiB, max allowed: 11.00 GiB). Tried to allocate 1024.00 MiB on shared pool. Use",
        "mps",
        {"backend": "MPS", "allocated_bytes": int(10.5 * GIB), "other_bytes": 384 * KIB,
         "allowed_bytes": 11 * GIB, "tried_bytes": GIB},
        "torch 2.6+", set(),
    ),
    (
        "RuntimeError: MPS backend out of memory (MPS allocated: 10.50 GB, other allocations: "
        "384.00 KB). Tried to allocate 5.00 MB on private pool.",
        "mps",
        {"backend": "MPS", "allocated_bytes": int(10.5 * GIB), "other_bytes": 384 * KIB,
         "tried_bytes": 5 * MIB},
        "torch 1.12-2.5", set(),
    ),
    ("RuntimeError: Invalid buffer size: 12.50 GB", "mps", {"tried_bytes": int(12.5 * GIB)},
     "torch 1.12-2.5", {"one_buffer"}),
    (
        "torch.OutOfMemoryError: Allocation on device 1 would exceed allowed memory. (out of "
        "memory)\nCurrently allocated     : 9.50 GiB\nRequested               : 640.00 MiB\n"
        "Device limit            : 11.50 GiB\nFree (according to CUDA): 7.25 MiB\n"
        "PyTorch limit (set by user-supplied memory fraction)\n"
        "                        : 17179869184.00 GiB",
        "pytorch-cuda",
        {"backend": "CUDA", "gpu": 1, "allocated_bytes": int(9.5 * GIB), "tried_bytes": 640 * MIB,
         "total_bytes": int(11.5 * GIB), "free_bytes": int(7.25 * MIB)},
        "", {"malloc_async"},
    ),
    (
        "[rank0]:[W905 00:28:47 CUDACachingAllocator.cpp:508] expandable_segments: memory mapping "
        "failed with OOM on device 3 while trying to map 20971520 bytes (free: 4521984, total: "
        "101971460096)",
        "pytorch-cuda",
        {"gpu": 3, "tried_bytes": 20 * MIB, "free_bytes": 4521984, "total_bytes": 101971460096},
        "torch 2.13+", {"map_failed", "not_fatal"},
    ),
    ("torch.OutOfMemoryError: Allocation on device", "pytorch-cuda", {}, "",
     {"malloc_async", "cut_off", "nul_bug"}),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate "
        "memory)",
        "cpu", {"backend": "CPU", "tried_bytes": 8 * GIB}, "", set(),
    ),
    (
        "RuntimeError: [enforce fail at ..\\c10\\core\\impl\\alloc_cpu.cpp:72] data. "
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1024 bytes.",
        "cpu", {"backend": "CPU", "tried_bytes": KIB}, "", set(),
    ),
    (
        "RuntimeError: $ Torch: not enough memory: you tried to allocate 3GB. Buy new RAM! at "
        "/pytorch/aten/src/TH/THGeneral.cpp:204",
        "cpu", {"backend": "CPU", "tried_bytes": 3 * GIB}, "torch 0.1-0.4", set(),
    ),
    (
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.50 GiB for an array with "
        "shape (30, 1024, 1024, 28) and data type float32",
        "cpu", {"tried_bytes": int(3.5 * GIB)}, "", {"numpy"},
    ),
    ("memory allocation of 17179869184 bytes failed", "cpu", {"tried_bytes": 16 * GIB}, "",
     {"rust"}),
    ("Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nMemoryError", "cpu",
     {}, "", {"bad_alloc"}),
    ("THCudaCheck FAIL file=/b/THC/THCGeneral.cpp line=663 error=2 : out of memory",
     "pytorch-legacy", {}, "torch 0.1-0.4", set()),
    (
        "RuntimeError: !handles_.at(i) INTERNAL ASSERT FAILED at \"/__w/pytorch/pytorch/c10/cuda/"
        "CUDACachingAllocator.cpp\":487, please report a bug to PyTorch.",
        "nvml-assert", {"assert_line": 487}, "torch 2.14", {"poisoned_segment"},
    ),
    ("W0101 nvmlInit_v2 failed; omitting per-process memory info from CUDA out-of-memory messages.",
     "nvml-assert", {}, "torch 2.14+", {"nvml_omitted"}),
    ("RuntimeError: CUDA driver error: out of memory", "cuda-error", {}, "", set()),
    ("CUDA Error: out of memory: File exists", "cuda-error", {}, "", set()),
    ("RuntimeError: HIP error: out of memory", "cuda-error", {}, "", {"hip"}),
    ("MemoryError: std::bad_alloc: out_of_memory: CUDA error at: /x/cuda_memory_resource.hpp:70: "
     "cudaErrorMemoryAllocation out of memory", "cuda-error", {}, "", set()),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
     "cublas", {}, "", {"maybe_not_memory"}),
    ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cublas", {}, "", {"cudnn"}),
    ("RuntimeError: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear", "cublas", {},
     "", {"cudnn", "maybe_not_memory"}),
    ("node1:77:901 [3] include/alloc.h:99 NCCL WARN Failed to CUDA calloc async 4194304 bytes",
     "nccl", {"tried_bytes": 4 * MIB}, "", set()),
    ("node1:77:901 [3] transport/p2p.cc:275 NCCL WARN Cuda failure 2 'out of memory'", "nccl", {},
     "", set()),
    ("RuntimeError: Triton Error [HIP]: out of memory", "triton", {}, "", set()),
    ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 163840, "
     "Hardware limit: 101376. Reducing block sizes or `num_stages` may help.", "triton",
     {"required_bytes": 160 * KIB, "limit_bytes": 99 * KIB}, "", {"on_chip"}),
    ("CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:119", "vllm-cumem", {}, "",
     set()),
    ("RuntimeError: unable to write to file </torch_18692_1954506624>: No space left on device (28)",
     "dataloader-shm", {}, "", set()),
    ("RuntimeError: unable to mmap 4096 bytes from file <a.safetensors>: Cannot allocate memory "
     "(12)", "mmap-paging", {"tried_bytes": 4 * KIB}, "", set()),
    ("OSError: [WinError 1455] Die Auslagerungsdatei ist zu klein, um diesen Vorgang "
     "durchzuführen.", "mmap-paging", {}, "", {"windows"}),
    ("safetensors_rust.SafetensorError: ファイルのマップに失敗しました (os error 1455)", "mmap-paging",
     {}, "", {"windows"}),
    ("RuntimeError: Couldn't open shared file mapping: <torch_9_1>, error code: <1455>",
     "mmap-paging", {}, "", {"windows"}),
    ("OSError: [Errno 12] Cannot allocate memory", "mmap-paging", {}, "", set()),
    ("Your notebook tried to allocate more memory than is available. It has restarted.",
     "notebook", {}, "", {"kaggle"}),
    ("Runtime error\nMemory limit exceeded (16Gi)", "notebook", {"limit_bytes": 16 * GIB}, "",
     {"spaces"}),
    ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
     "ray", {}, "", set()),
    ("RayOutOfMemoryError: More than 95% of the memory on node gpu7 is used (60.25 / 62.5 GB). The",
     "ray", {"host_used_bytes": int(60.25 * GIB), "host_total_bytes": int(62.5 * GIB)}, "", set()),
    ("RuntimeError: No available kernel. Aborting execution.", "sdpa-kernel", {}, "",
     {"not_memory"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "family", "fields", "release", "marks"), TEMPLATES, ids=[t[0][:60] for t in TEMPLATES]
)
def test_templates(
    text: str, family: str, fields: dict[str, Any], release: str, marks: set[str]
) -> None:
    found = one(text)
    assert (found.family, dict(found.fields)) == (family, fields)
    assert (found.release, set(found.marks)) == (release, marks)


@pytest.mark.parametrize("width", [47, 60, 79])
@pytest.mark.parametrize("row", [t for t in TEMPLATES if t[2]], ids=lambda t: t[0][:40])
def test_templates_with_numbers_survive_a_terminal(row: tuple[Any, ...], width: int) -> None:
    text, family, fields, *_ = row
    found = read(wrapped(text.replace("\n", " "), width))
    assert (found[0].family, dict(found[0].fields)) == (family, fields)


def test_who_wrote_the_passage_is_part_of_the_family() -> None:
    message = out_of_memory_message(
        OutOfMemory(tried_bytes=MIB, total_bytes=GIB, free_bytes=0, allocated_bytes=GIB,
                    reserved_bytes=GIB)
    )  # fmt: skip
    raised = f"torch.OutOfMemoryError: {message}"
    router = f"ERROR prefill{{id=1}}: text_generation_client: router/src/lib.rs:33: Server error: {message}"
    launcher = "\n[2026-01-05 10:00:00,000] [INFO] [launch.py:319:sigkill_handler] Killing"
    engine = '\n  File "/usr/lib/vllm/worker/gpu_worker.py", line 9, in load_model'
    assert one(raised).family == "pytorch-cuda"
    assert read(raised, frozenset({"vllm"}))[0].family == "pytorch-cuda+vllm"
    assert one(raised + engine).family == "pytorch-cuda+vllm"
    far = engine + "\nstep 1: loss 2.0" * 2000
    assert one(far + "\n" + raised).family == "pytorch-cuda"
    spoken = Flat([Line(number=1, text=raised, speaker="EngineCore_DP0 pid=7")])
    assert [f.family for f in pytorch.READER.read(spoken)] == ["pytorch-cuda+vllm"]
    assert read(raised + launcher)[0].family == "pytorch-cuda+deepspeed"
    assert one(router).family == "tgi"
    assert one(raised.replace("CUDA out", "HIP out") + engine).family == "pytorch-hip+vllm"


@pytest.mark.parametrize(
    ("message", "line", "release"),
    [
        # 1154 is the query in 2.1 and in 2.10: the builder's path tells them apart
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/C.cpp"', 1154, "torch 2.1"),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/C.cpp"', 1154, "torch 2.10"),
        ('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/src/c10/C.cpp"', 1154, "torch 2.1 or 2.10"),
        ("NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL", 963, "torch 2.5"),
        ("NVML_SUCCESS == api->nvmlDeviceGetHandleByPciBusId_v2_(x) INTERNAL", 829, "torch 2.3"),
        # a line of another column
        ("NVML_SUCCESS == r INTERNAL ASSERT FAILED", 963, ""),
        ("!handles_.at(i) INTERNAL ASSERT FAILED", 582, "torch 2.15"),
        ("p.block != nullptr && p.block->ptr != nullptr", 487, ""),
    ],
)  # fmt: skip
def test_the_line_of_an_assertion_tells_the_release(message: str, line: int, release: str) -> None:
    assert release_of(message, line) == release


# the host


KILLS: list[tuple[str, set[str], dict[str, Any], str]] = [
    ("Killed", {"shell"}, {}, "words"),
    ("Loading checkpoint shards:  33%|███▎      | 1/3 [00:10<00:21, 10.9s/it]Killed", {"shell"}, {}, "words"),
    ("./train.sh: line 12: 48213 Killed                  python train.py --fp16", {"shell"}, {}, "words"),
    ("[1]  + 48213 killed     python train.py", {"shell"}, {}, "words"),
    ("zsh: killed     python app.py", {"shell"}, {}, "words"),
    ("make: *** [Makefile:7: train] Killed", {"shell"}, {}, "words"),
    (
        "[ 9931.2] Out of memory: Killed process 4321 (python3) total-vm:98566144kB, anon-rss:64000000kB, file-rss:0kB, shmem-rss:8kB, UID:1000",
        {"kernel"}, {"total_vm_bytes": 98566144 * KIB, "anon_rss_bytes": 64000000 * KIB}, "words",
    ),
    (
        "Memory cgroup out of memory: Killed process 77 (pt_main_thread) total-vm:2048kB, anon-rss:1024kB",
        {"kernel"}, {"total_vm_bytes": 2 * MIB, "anon_rss_bytes": MIB}, "words",
    ),
    ("kernel: Out of memory: Kill process 77 (python) score 937 or sacrifice child", {"kernel"}, {}, "words"),
    ("slurmstepd: error: Detected 3 oom_kill events in StepId=55.0. Some of the step tasks have been OOM Killed.", {"slurm"}, {}, "words"),
    ("srun: error: gpu-12: task 3: Out Of Memory", {"slurm"}, {}, "words"),
    ("train.service: Failed with result 'oom-kill'.", {"systemd"}, {}, "words"),
    ("train.service: Main process exited, code=killed, status=9/KILL", {"systemd"}, {}, "words"),
    ("    Last State:     Terminated\n      Reason:       OOMKilled\n      Exit Code:    137", {"container", "exit_137"}, {}, "words"),
    ("trainer-0   0/1     OOMKilled   3 (20s ago)   5m", {"container"}, {}, "words"),
    ("The command '/bin/sh -c python bake.py' returned a non-zero code: 137", {"exit_137"}, {}, "aftermath"),
    ("Process finished with exit code 137 (interrupted by signal 9: SIGKILL)", {"sigkill"}, {}, "aftermath"),
    ("subprocess.CalledProcessError: Command '['python', 'x.py']' died with <Signals.SIGKILL: 9>.", {"sigkill"}, {}, "aftermath"),
    ("torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL", {"sigkill"}, {}, "aftermath"),
    ("RuntimeError: DataLoader worker (pid 812) is killed by signal: Killed.", {"sigkill"}, {}, "aftermath"),
    ("  exitcode  : -9 (pid: 812)\n  error_file: <N/A>\n  traceback : Signal 9 (SIGKILL) received by PID 812", {"exit_137", "sigkill"}, {}, "aftermath"),
    ("mpirun noticed that process rank 3 with PID 0 on node n7 exited on signal 9 (Killed).", {"sigkill"}, {}, "aftermath"),
    (
        "[INFO] [utils.py:789:see_memory_usage] CPU Virtual Memory:  used = 10.5 GB, percent = 40.1%\n"
        "[INFO] [utils.py:789:see_memory_usage] CPU Virtual Memory:  used = 99.25 GB, percent = 98.7%\n"
        "[launch.py:321:sigkill_handler] ['python'] exits with return code = -9",
        {"exit_137"}, {"cpu_used_bytes": int(99.25 * GIB), "cpu_percent": 98.7}, "aftermath",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "marks", "fields", "weight"), KILLS, ids=[k[0].strip()[:50] for k in KILLS]
)
def test_traces_of_a_kill(text: str, marks: set[str], fields: dict[str, Any], weight: str) -> None:
    found = one(text)
    assert (found.family, set(found.marks), dict(found.fields)) == ("host-kill", marks, fields)
    assert found.weight == weight


def test_a_worker_and_its_parent_tell_of_one_bus_error() -> None:
    text = (
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
        "shared memory (shm).\nTraceback (most recent call last):\nRuntimeError: DataLoader "
        "worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's workers"
    )
    assert (one(text).line, one(text.splitlines()[0]).line) == (3, 1)


def test_the_kernels_second_victim_is_a_second_report() -> None:
    found = read(
        "oom-kill:constraint=CONSTRAINT_NONE,task=python,pid=10,uid=0\n"
        "Out of memory: Killed process 10 (python) total-vm:8kB, anon-rss:4kB\n"
        "Out of memory: Killed process 11 (python) total-vm:80kB, anon-rss:40kB\n"
    )
    assert [f.fields.get("anon_rss_bytes") for f in found] == [4 * KIB, 40 * KIB]


# false alarms


SAID_BY_NOBODY = [
    # programs
    'raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")',
    "    except torch.cuda.OutOfMemoryError:",
    "    except RuntimeError as e:\n        if 'CUDA out of memory' in str(e):",
    '        if "out of memory" in str(e) or "CUDA error: out of memory" in str(e):',
    'assert "CUDA out of memory. Tried to allocate 1.00 GiB" in message',
    'with pytest.raises(RuntimeError, match="CUDA out of memory. Tried to allocate"):',
    'logger.warning("CUDA out of memory. Tried to allocate 5.00 GiB, retrying")',
    'print("RuntimeError: CUDA error: out of memory")',
    'OOM = "MPS backend out of memory (MPS allocated: 9.00 GiB, other allocations: 1.00 GiB)"',
    "        return 'CUBLAS_STATUS_ALLOC_FAILED'",
    '    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";',
    "# RuntimeError: CUDA error: out of memory",
    "// CUDA error: out of memory",
    'TORCH_CHECK(false, "CUDA out of memory. Tried to allocate ", format_size(size));',
    'if container.reason == "OOMKilled":',
    "except MemoryError:",
    "class OutOfMemoryError(MemoryError): pass",
    'if proc.returncode in (137, -9): retry()',
    "if exit_code == 137:",
    'fault = [OOM("CUDA out of memory. Tried to allocate 2.00 GiB")]',
    'oom = RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB (GPU 0; 47.5 GiB total)")',
    'run(RuntimeError("HIP out of memory. Tried to allocate 66.54 GiB."))',
    '    RuntimeError("CUDA out of memory"),',
    '    "MPS backend out of memory",  # MPS OOM',
    "self.process.returncode = -9",
    "    if p.exitcode == -9:",
    "the source of ``out of resource: shared memory`` in autotuning",
    # documentation
    "If you see `RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB`, use a smaller batch.",
    "You may get a message such as \"CUDA error: out of memory\" when the card is small.",
    "This avoids CUDA out of memory errors by splitting the batch.",
    "how to fix CUDA out of memory",
    "Large batches can cause CUDA out of memory.",
    "If a container stops with exit code 137, look at its memory limit.",
    "Pods may be OOMKilled when limits are low.",
    "The Linux OOM killer picks a process by its oom_score.",
    "See the section on shared memory (shm) of DataLoader workers.",
    'AssertionError: "out of memory" does not match "NVML_SUCCESS == r INTERNAL ASSERT FAILED..."',
    # healthy logs
    "tests/test_oom.py::test_out_of_memory PASSED",
    "tests/test_oom.py::test_says[RuntimeError: CUDA out of memory. Tried to allocate 1.00 GiB] PASSED",
    "killed 3 zombie processes",
    "Killed 3 stale workers, 5 left",
    "monitoring signal 9 unit, ok",
    "oom_score_adj is 0, OOM score 12, oom_kill 0",
    '"OOMKilled": false, "ExitCode": 0',
    "OOMKilled: false",
    "worker 3 exited with code 0; 137 files left",
    "exit code 0, 137 tests run",
    "epoch 137 loss -9.1 exit code: 0",
    "step 9 return value -9.25",
    "CPU Virtual Memory:  used = 30.13 GB, percent = 8.3%",
    "(GPU 0; rank 1) free: 12.00 GiB free, 3.00 GiB cached",
    "Allocation on device 0: 1.00 GiB",
    "Tried to allocate 3 agents to the pool",
    "Process 12 has 4.00 GiB",
    "NCCL INFO cudaDriverVersion 12040, NCCL WARN could not find plugin",
    "INFO Available kernel: flash",
    "SIGKILL timeout set to 30 s",
    "Sending SIGTERM to process 12, SIGKILL follows in 30 s",
    "[INFO] Killed time: 3 s",
    "kills=3 killed=0",
    "The kernel is running. Kernel restarted by user.",
    "memory usage threshold of 0.95 set for the memory monitor",
    "INTERNAL ASSERT FAILED handlers: 0",
]  # fmt: skip


@pytest.mark.parametrize("text", SAID_BY_NOBODY)
def test_words_about_failures_are_no_failure(text: str) -> None:
    assert [(f.family, f.quote) for f in read(text)] == []


SAID = [
    '{"level": "error", "error": "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8.00 GiB"}',
    "ERROR worker: [OutOfMemoryError('CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity;')]",
    "I get `CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity` with batch 4",
    "level=error msg=\"CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8.00 GiB\"",
    "Error while training: CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity",
    "E   RuntimeError: CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity",
    "worker 3 gave return code 1 with error: \"CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity",
    "错误：CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity",
    "| WARNING: ran out of memory with exception: CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total capacity",
]  # fmt: skip


@pytest.mark.parametrize("text", SAID)
def test_messages_inside_other_text_are_heard(text: str) -> None:
    found = one(text)
    assert found.fields == {
        "backend": "CUDA", "gpu": 0, "tried_bytes": int(1.5 * GIB), "total_bytes": 8 * GIB,
    }  # fmt: skip


FRAMED = [
    (
        "│ OutOfMemoryError: CUDA out of memory. Tried to allocate 1.5 │\n"
        "│ 0 GiB (GPU 0; 8.00 GiB total capac                           │\n"
        "│ ity; 6.00 GiB already allocated; 0 bytes free)               │"
    ),
    (
        "# RuntimeError: CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB total\n"
        "# capacity; 6.00 GiB already\n# allocated; 0 bytes free"
    ),
    (
        "> > RuntimeError: CUDA out of memory. Tried to allocate 1.50 GiB (GPU 0; 8.00 GiB\n"
        "> > total capacity; 6.00 GiB already allocated; 0 bytes\n> > free"
    ),
    (
        "- CUDA out of memory. Tried to allocate 1.50 GiB\n- (GPU 0; 8.00 GiB total capacity\n"
        "- 6.00 GiB already allocated\n- 0 bytes free"
    ),
]


@pytest.mark.parametrize("text", FRAMED, ids=["box", "comment", "quotation", "list"])
def test_messages_in_frames(text: str) -> None:
    assert dict(one(text).fields) == {
        "backend": "CUDA", "gpu": 0, "tried_bytes": int(1.5 * GIB), "total_bytes": 8 * GIB,
        "allocated_bytes": 6 * GIB, "free_bytes": 0,
    }  # fmt: skip


def test_json_spells_line_ends() -> None:
    text = next(text for text, *_ in TEMPLATES if "user-supplied" in text)
    fields = next(fields for other, _, fields, *_ in TEMPLATES if other == text)
    assert dict(one(json.dumps({"error": text})).fields) == fields


def test_a_loggers_echo_is_no_second_report() -> None:
    said = SAID[5].removeprefix("E   ")
    echo = "ERROR - CUDA out of memory. Tried to allocate 1.50 GiB."
    assert len(read(f"{said}\n{echo}")) == 1
    assert len(read(f"{said}\n{echo.replace('1.50', '1.75')}")) == 2


# any text


PIECES = [text for text, *_ in TEMPLATES] + [text for text, *_ in KILLS] + SAID + SAID_BY_NOBODY


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=40), max_size=5), st.data())
def test_no_text_is_too_strange(pieces: list[str], data: st.DataObject) -> None:
    text = "\n".join(pieces)
    cut = data.draw(st.integers(0, len(text)))
    for found in read(text[:cut] + data.draw(st.text(max_size=8)) + text[cut:]):
        assert 1 <= found.line <= found.last_line
        assert found.quote and len(found.quote) <= 600
        amounts = {name for name in found.fields if name.endswith("_bytes")}
        assert set(found.printed) <= amounts


REPEATED = [
    "1", "1.5 GiB ", "CUDA out of memory. ", "(GPU 1; 2.00 GiB total capacity;", '"', "raise ",
    "Process 12 has 4.00 GiB memory in use. ", "NVML_SUCCESS == ", "Killed\n", "exit code ",
    '!handles_.at(i) INTERNAL ASSERT FAILED at "', "unable to mmap 1 bytes from file <", "it/s]",
    "Memory on the node (x) where the task (", "THCudaCheck FAIL file=", "oom-kill:constraint=",
    "Out of memory: Killed process 1 (a)", "\n", "CUDA error: out of memory\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", REPEATED)
def test_reading_takes_linear_time(piece: str) -> None:
    short, long = (piece * (length // len(piece)) for length in (8_000, 32_000))
    # four times the text: 4 times the work, 16 times where it is quadratic
    assert grows_at_most(10, lambda: read(short), lambda: read(long))
