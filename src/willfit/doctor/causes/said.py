"""Said: wordings that name the cause by themselves, as their readers have marked them."""

from __future__ import annotations

from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.words import is_of
from willfit.doctor.report import Report

_TABLE: Final = (
    ("sdpa-kernel", "not_memory", certain("not_a_memory_problem", "The attention kernel that was "
     "asked for does not exist for this GPU, type or mask: it is not about memory. A T4 has no "
     "flash attention; let PyTorch choose the kernel.")),
    ("triton", "on_chip", certain("not_a_memory_problem", "It is the memory on the chip, of one "
     "block of threads, that a kernel exceeds: a smaller block or another kernel helps, no GPU "
     "memory does.")),
    ("bitsandbytes", "paged_memory", likely("pinned_host_memory", "This line of bitsandbytes makes "
     "managed memory, of a paged optimizer: it is host memory that CUDA pages, scarce on WSL.")),
    ("bitsandbytes", "dispatched", likely("model_too_big", "The quantised weights are above what "
     "the GPUs have free, so that some modules were put on CPU or disk.",
     "If they should fit: look for another process on the GPU, a GPU that is not seen, or a device "
     "map that is given.")),
    ("accelerate", "offloaded_to_disk", likely("model_too_big", "The weights are above what GPUs "
     "and RAM have free: some are read from disk in every pass.")),
    ("accelerate", "offloaded_to_host", likely("model_too_big", "The weights are above what the "
     "GPUs have free: some are copied from RAM in every pass.")),
    ("accelerate", "batch_size_zero", likely("model_too_big", "Not even a batch of one fitted.")),
    ("accelerate", "evaluation", likely("eval_accumulation", "It was evaluation that ran out, and "
     "only training's batch is made smaller by itself: logits are kept until evaluation ends.")),
    ("nvml-assert", "impossible_size", certain("corrupted_shape_bug", "A size near 2⁶⁴ is a "
     "negative one: an extension computed a shape that does not exist.")),
    ("nvml-assert", "nvml_omitted", certain("not_fatal", "Only the list of processes is left "
     "out.")),
    ("vllm", "host", likely("host_ram", "It is RAM of the machine that the setting asks for.")),
    ("vllm", "wrapper", guess("unknown", "This line only wraps another failure: the cause stands "
     "above it, in a worker's lines.")),
    ("tgi", "wrapper", guess("unknown", "This line only wraps another failure: the cause stands "
     "above it.")),
    ("deepspeed", "workspace", likely("library_workspace", "DeepSpeed's inference kernels reserve "
     "a workspace for the longest output at once: a smaller max_out_tokens shrinks it.")),
    ("mlx", "buffer_limit", certain("allocator_limit", "Metal allows one buffer only a part of "
     "memory, whatever is free.")),
    ("llama.cpp-vulkan", "buffer_limit", certain("allocator_limit", "The driver's limit of one "
     "piece (maxMemoryAllocationSize) is named: a smaller micro-batch (-ub) or context makes the "
     "buffer smaller.")),
    ("llama.cpp-metal", "buffer_limit", certain("allocator_limit", "Metal allows one buffer only a "
     "part of memory, whatever is free.")),
    ("nvidia-smi", "dead_process", likely("other_process", "A process without a name holds memory: "
     "it died and its parent, or the driver, has not let go; end the parent, or reset the GPU.")),
    ("tensorflow", "disguised", guess("activations_batch_seq", "A tensor could not be copied to "
     "the GPU: it was full.")),
    ("mlx", "resource_limit", certain("allocator_limit", "Metal limits how many buffers exist, "
     "whatever their size: free what is kept in lists.")),
    ("mps", "one_buffer", certain("allocator_limit", "Metal refuses one buffer of this size, "
     "whatever is free.")),
    ("pytorch-xpu", "one_buffer", certain("allocator_limit", "The driver refuses one piece of more "
     "than 4 GiB, whatever is free.")),
    ("pytorch-xpu", "host_memory", likely("host_ram", "The driver says that it is host memory.")),
    ("dataloader-shm", "maybe_not_memory", guess("shm", "A bus error is what a full /dev/shm "
     "gives; a file that shrank while it was mapped gives it too.")),
    ("notebook", "maybe_not_memory", guess("host_ram", "The kernel was ended from outside: full "
     "RAM does that; a full GPU raises an error and leaves the kernel running.")),
    ("nccl", "maybe_not_memory", guess("nccl_buffers", "NCCL does not say what failed: memory, or "
     "another rank, or the network. NCCL_DEBUG=WARN does.")),
    ("cublas", "maybe_not_memory", guess("activations_batch_seq", "A library could not start: "
     "mostly the card is full; an index out of range or a driver gives the same words. "
     "CUDA_LAUNCH_BLOCKING=1, or a run on CPU, tells.")),
)  # fmt: skip
"""Family, mark, and the cause that the two mean."""


def _find(report: Report) -> Cause | None:
    for family, mark, cause in _TABLE:
        if mark in report.marks and is_of(report, family):
            return cause
    if "not_fatal" in report.marks:
        return certain("not_fatal", "A warning before another attempt: the program goes on.")
    return None


RULE: Final = Rule(
    name="said by the wording",
    mechanism="These sentences exist in their program for one reason alone.",
    find=_find,
)
