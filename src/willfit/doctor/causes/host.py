"""Host memory: a killed process, a refused host allocation, a notebook that restarted."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.numbers import Numbers, worked_out
from willfit.doctor.causes.words import has, in_frames, is_of, near, says
from willfit.doctor.report import Report
from willfit.units import GIB

LARGEST_PIECE: Final = 64 * GIB
"""No single weight is larger: 256,000 × 53,248 entries of 4 bytes, the widest vocabulary and the
widest model published, are 51 GiB."""
_ACCUMULATED: Final = re.compile(r"nested_concat|pad_across|gather_for_metrics|compute_metrics")
_PAGING: Final = re.compile(r"1455|paging|页面文件")
_XLA_HOST: Final = re.compile(r"Out of memory allocating \d")
_STATUS: Final = re.compile(r"0xc0000409|signal: killed|signal 9|SIGKILL", re.IGNORECASE)


def _find(report: Report) -> Cause | None:
    if is_of(report, "cpu"):
        return _allocator(report)
    if is_of(report, "mmap-paging"):
        return _mapped(report)
    if is_of(report, "ray"):
        return _ray(report)
    if is_of(report, "notebook"):
        return certain(
            "host_ram",
            "A hosted notebook restarts when its RAM is used up; a full GPU "
            "raises an error instead and leaves the notebook running.",
        )
    if is_of(report, "jax") and says(report, _XLA_HOST):
        return likely(
            "host_ram",
            "“Out of memory allocating” is what XLA's CPU client says: this is "
            "host RAM; on a GPU it says “while trying to allocate”.",
        )
    if is_of(report, "host-kill", "tgi", "ollama", "lmstudio"):
        return _killed(report)
    return None


def _killed(report: Report) -> Cause | None:
    if is_of(report, "host-kill"):
        return likely(
            "host_ram",
            "The process was killed from outside (SIGKILL): that is the kernel's answer to full "
            "host RAM or to a cgroup's limit, and also what `kill -9`, a scheduler or a time limit "
            "does; a full GPU raises an error instead.",
            _seen(report),
            "`dmesg` or the cgroup's memory.events confirms it.",
        )
    if says(report, _STATUS):
        return likely(
            "host_ram",
            "The model's runner was ended by the system, which happens where host RAM runs out; a "
            "full GPU would have been reported by CUDA.",
        )
    return None


def _seen(report: Report) -> str:
    """The last figure that DeepSpeed printed before, of the whole machine."""
    percent = report.fields.get("cpu_percent")
    if percent is None:
        return ""
    return (
        f"The last figure before it is {percent} % of the machine's RAM: a container's or a job's "
        "limit can be below the machine's."
    )


def _allocator(report: Report) -> Cause:
    tried = Numbers(report).tried
    asked = f"{amount(tried)} of host RAM were refused" if tried else "Host RAM was refused"
    found = in_frames(report, _ACCUMULATED)
    if found:
        return likely(
            "eval_accumulation",
            f"{asked} in {found}: what evaluation gathers stays in host RAM until it ends.",
        )
    if tried and tried > LARGEST_PIECE and not has(report, "deepspeed", "zero_offload"):
        return guess(
            "activations_batch_seq",
            f"{asked} for a single tensor: no weight is that "
            "large, a product of batch and length is.",
        )
    return certain("host_ram", f"{asked} by PyTorch's CPU allocator: no GPU is involved.")


def _mapped(report: Report) -> Cause:
    tried = Numbers(report).tried
    if tried:
        return certain(
            "host_ram",
            f"Mapping a file of {amount(tried)} was refused: the kernel does "
            "not promise more memory than RAM and swap can hold.",
        )
    if near(report, _PAGING):
        return certain(
            "host_ram", "Windows could not commit memory: RAM and page file together are used up."
        )
    return likely("host_ram", "The system refused host memory.")


def _ray(report: Report) -> Cause:
    numbers = Numbers(report)
    used, total = numbers.of("host_used_bytes"), numbers.of("host_total_bytes")
    if used and total:
        text = worked_out(total, ("−", used, "used"))
        return certain("host_ram", f"Ray ends workers before the node's RAM is full: {text} left.")
    return certain("host_ram", "Ray's memory monitor ended workers: the node's RAM was full.")


RULE: Final = Rule(
    name="host memory",
    mechanism="Only host memory is guarded by killing, by the CPU allocator and by mmap.",
    find=_find,
)
