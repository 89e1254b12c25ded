"""vLLM's information lines: what its start-up measured, in the wordings of V0 and V1."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.messages.numbers import RATIO, SIGNED, Fact

_PATTERNS: Final = (
    r"# (?:GPU|CUDA|cuda|rocm|hpu|xpu|tpu|neuron) blocks: (?P<gpu_blocks>\d{1,9})(?!\d)",
    rf"total_gpu_memory \((?P<total_bytes>{AMOUNT})\) x gpu_memory_utilization "
    rf"\((?P<utilization>{RATIO})\) = (?P<budget_bytes>{AMOUNT})",
    rf"model weights take (?P<weights_bytes>{AMOUNT})",
    rf"[Ll]oading (?:model )?(?:weights )?took (?P<weights_bytes>{AMOUNT})",
    rf"non_torch_memory takes (?P<non_torch_bytes>{AMOUNT})",
    rf"activation peak memory takes (?P<activation_bytes>{AMOUNT})",
    rf"memory reserved for KV Cache is (?P<kv_available_bytes>{SIGNED})",
    rf"Available KV cache memory: (?P<kv_available_bytes>{SIGNED})",
    rf"total_gpu_memory=(?P<total_bytes>{AMOUNT})",
    rf"\bkv_cache_size=(?P<kv_available_bytes>{SIGNED})",
    r"KV cache size: (?P<kv_tokens>\d{1,3}(?:,\d{3}){0,4}|\d{1,12}) tokens",
    rf"Graph capturing finished in \d{{1,6}} secs?, took (?P<graphs_bytes>{AMOUNT})",
)

FACTS: Final = tuple(Fact(pattern=re.compile(pattern)) for pattern in _PATTERNS)
"""For every report of vLLM: the last of each kind before it."""
