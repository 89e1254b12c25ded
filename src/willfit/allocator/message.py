"""What torch says when memory runs out, from the numbers that it says it with.

Templates: c10/cuda/CUDACachingAllocator.cpp `malloc` of each release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.units import GIB, KIB, MIB


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """What the driver says that a process uses."""

    pid: int | None
    """None is the process that ran out of memory."""
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class OutOfMemory:
    """The state in which a request failed."""

    tried_bytes: int
    """The segment that was asked of the device: 20 MiB for a tensor of 1 to 10 MiB."""
    total_bytes: int
    """Of the device."""
    free_bytes: int
    """On the device, after everything cached that could be was given back."""
    allocated_bytes: int
    reserved_bytes: int
    """Allocated and cached."""
    requested_bytes: int = 0
    """Size of the tensor."""
    allowed_bytes: int | None = None
    """per_process_memory_fraction of the total; None is no limit."""
    private_pool_bytes: int = 0
    """Free in the pools of CUDA graphs, which torch counts as allocated."""
    gpu: int = 0
    processes: tuple[GpuProcess, ...] = ()
    num_retries: int = 0
    """How often cached segments had been given back to serve a request, this one included."""
    rejected_early: bool = False
    """Whether throw_on_cudamalloc_oom refused it before anything was given back."""


_TO_2_0: Final = (
    "Tried to allocate {tried} (GPU {gpu}; {total} total capacity; {allowed}{allocated} already "
    "allocated; {free} free; "
)
_FROM_2_1: Final = (
    "Tried to allocate {tried}. GPU {gpu} has a total capacity of {total} of which {free} is free. "
    "{processes}{allowed}Of the allocated memory {active} is allocated by PyTorch, {pools}and "
    "{unallocated} is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting "
)
_EXPANDABLE: Final = (
    "=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management  "
)
_SPLIT: Final = (
    "max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and "
    "PYTORCH_CUDA_ALLOC_CONF"
)
_VARIABLES: Final = "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
_OPTIMIZING: Final = (
    "(https://docs.pytorch.org/docs/stable/notes/cuda.html"
    "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"
)
_TEMPLATES: Final[tuple[tuple[tuple[int, int], str], ...]] = (
    ((2, 11), f"{_FROM_2_1}PYTORCH_CUDA_ALLOC_CONF{_EXPANDABLE}{_OPTIMIZING}"),
    ((2, 10), f"{_FROM_2_1}PYTORCH_ALLOC_CONF{_EXPANDABLE}{_VARIABLES}"),
    ((2, 2), f"{_FROM_2_1}PYTORCH_CUDA_ALLOC_CONF{_EXPANDABLE}{_VARIABLES}"),
    # 2.1 misspelt the word and left the limit out
    ((2, 1), f"{_FROM_2_1}{_SPLIT}".replace("capacity", "capacty").replace("{allowed}", "")),
    (
        (1, 10),
        f"{_TO_2_0}{{reserved}} reserved in total by PyTorch) If reserved memory is >> allocated "
        f"memory try setting {_SPLIT}",
    ),
    ((1, 4), f"{_TO_2_0}{{reserved}} reserved in total by PyTorch)"),
    ((1, 0), f"{_TO_2_0}{{cached}} cached)"),
)


def out_of_memory_message(state: OutOfMemory, release: tuple[int, ...] = (2, 13)) -> str:
    """The text of ``torch.OutOfMemoryError`` in this release of torch, 1.0 to 2.14.

    Boundaries between releases are ± 1 minor before 2.1. What 2.4 added (private pools) is left
    out where there are none, so 2.2 and 2.3 share its template.
    """
    if state.rejected_early:
        return (
            "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
            "per_process_memory_fraction limit. Requested size: "
            + format_size(state.requested_bytes)
        )
    fitting = (text for first, text in _TEMPLATES if release[:2] >= first)
    template = next(fitting, _TEMPLATES[-1][1])
    return "CUDA out of memory. " + template.format(gpu=state.gpu, **_words(state))


def _words(state: OutOfMemory) -> dict[str, str]:
    pools, allowed = state.private_pool_bytes, state.allowed_bytes
    cached = state.reserved_bytes - state.allocated_bytes
    graphs = f"with {format_size(pools)} allocated in private pools (e.g., CUDA Graphs), "
    return {
        "tried": format_size(state.tried_bytes),
        "total": format_size(state.total_bytes),
        "free": format_size(state.free_bytes),
        "allowed": f"{format_size(allowed)} allowed; " if allowed is not None else "",
        "processes": "".join(map(_process, state.processes)),
        "allocated": format_size(state.allocated_bytes),
        "active": format_size(state.allocated_bytes + pools),
        "pools": graphs if pools else "",
        "cached": format_size(cached),
        "unallocated": format_size(cached - pools),
        "reserved": format_size(state.reserved_bytes),
    }


def _process(process: GpuProcess) -> str:
    name = "Including non-PyTorch memory, this process"
    if process.pid is not None:
        name = f"Process {process.pid}"
    return f"{name} has {format_size(process.used_bytes)} memory in use. "


def format_size(num_bytes: int) -> str:
    """As torch words it: two decimals, and up to 1024 of a unit: ``1024.00 MiB``."""
    if num_bytes <= KIB:
        return f"{num_bytes} bytes"
    if num_bytes <= MIB:
        return f"{num_bytes / KIB:.2f} KiB"
    if num_bytes <= GIB:
        return f"{num_bytes / MIB:.2f} MiB"
    return f"{num_bytes / GIB:.2f} GiB"
