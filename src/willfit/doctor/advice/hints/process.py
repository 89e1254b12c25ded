"""Other processes, earlier models, and limits that a process put on itself."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.report import Report
from willfit.units import MIB

CONTEXT: Final = 512 * MIB
"""About what a CUDA context and its libraries take (oom.md 1.1: median of 15 messages 0.5 GiB)."""


def _others(report: Report) -> int | None:
    """What is on the device and is not this process's."""
    numbers = Numbers(report)
    if numbers.total is None or numbers.free is None:
        return None
    held = numbers.allocated if numbers.reserved is None else numbers.reserved
    own = numbers.of("this_process_bytes") or (held + CONTEXT if held is not None else 0)
    return max(numbers.total - numbers.free - own, 0) or None


def _unallocated(report: Report) -> int | None:
    """At most what is reserved and not allocated."""
    return Numbers(report).unallocated or None


def _beyond_cap(report: Report) -> int | None:
    total, allowed = report.fields.get("total_bytes"), report.fields.get("allowed_bytes")
    return max(total - allowed, 0) if total is not None and allowed is not None else None


HINTS: Final = (
    Hint(
        causes=frozenset({"other_process"}),
        id="stop_process",
        title="Stop what else is on the GPU, or take another GPU",
        snippet=(
            "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv\n"
            "kill PID   # your own processes; in a notebook restart the other kernels\n"
            "CUDA_VISIBLE_DEVICES=1 python train.py   # set before CUDA is first used"
        ),
        saves=_others,
    ),
    Hint(
        causes=frozenset({"leak_previous", "reference_model"}),
        id="fresh_process",
        title="Run each model in a process of its own: its end frees everything",
        snippet=(
            "import willfit\n"
            "willfit.release()                 # frees what it can, names who holds the rest\n"
            "result = willfit.isolated(infer)(rows)   # or: a process a model"
        ),
    ),
    Hint(
        causes=frozenset({"fragmentation"}),
        id="alloc_conf=expandable_segments:True",
        title="Let the allocator grow its segments: frees at most what is reserved and unallocated",
        snippet="export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True   # before it starts",
        saves=_unallocated,
        families=("pytorch", "tgi"),
    ),
    Hint(
        causes=frozenset({"per_process_cap"}),
        id="raise_cap",
        title="Raise the limit that the process has set on itself",
        snippet="torch.cuda.set_per_process_memory_fraction(1.0)   # or take the call out",
        saves=_beyond_cap,
        families=("pytorch",),
    ),
    Hint(
        causes=frozenset({"per_process_cap"}),
        id="raise_cap",
        title="Raise the limit of the MPS allocator, within what the machine has to spare",
        snippet="export PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0   # no limit: the machine may stall",
        families=("mps",),
    ),
    Hint(
        causes=frozenset({"context_overhead"}),
        id="fewer_contexts",
        title="Leave room for the CUDA context: a little less for the engine, or fewer processes",
        snippet="--gpu-memory-utilization 0.85   # vLLM; a context takes 0.2 to 0.6 GiB",
    ),
    Hint(
        causes=frozenset({"nccl_buffers"}),
        id="leave_room_for_nccl",
        title="Leave NCCL room: its buffers come on top of what PyTorch reserves",
        snippet="per_device_train_batch_size=1   # or NCCL_BUFFSIZE=1048576",
    ),
    Hint(
        causes=frozenset({"unified_memory"}),
        id="free_host_memory",
        title="Free host memory: GPU and host share it here, caches of files included",
        snippet=(
            "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'   # Jetson, Grace, APU\n"
            "# AMD APU: raise the share of the GPU (amdgpu.gttsize, ttm.pages_limit)"
        ),
    ),
)
