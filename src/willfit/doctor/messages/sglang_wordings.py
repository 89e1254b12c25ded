"""SGLang's sentences, of 0.1 to 0.5."""

from __future__ import annotations

from typing import Final

from willfit.doctor.messages.numbers import NUM
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording

FAMILY: Final = "sglang"
_NOT_FATAL: Final = frozenset({"not_fatal"})

TABLE: Final = (
    Wording(  # the double t is in 0.1
        pattern=unspaced(
            r"Not enought? memory\. Please try to increase --mem-fraction-static"
            r"(?:\. Current value: (?:self\.server_args\.)?mem_fraction_static="
            r"(?P<mem_fraction_static>0\.\d{1,12}))?"
        ),
        family=FAMILY,
    ),
    Wording(  # 0.5.11 on
        pattern=unspaced(
            r"Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static="
            r"(?P<mem_fraction_static>[01]\.\d{1,12})(?:\. Raise --mem-fraction-static above "
            r"(?P<min_mem_fraction_static>[01]\.\d{1,12}))?"
        ),
        family=FAMILY,
    ),
    Wording(
        pattern=unspaced(
            r"ut of memory\. Try to lower your batch size\. Try to allocate "
            r"(?P<tried_tokens>\d{1,12}) tokens\.(?: Ava[il]{2,3}able (?:full )?tokens: "
            r"(?P<available_tokens>\d{1,12}))?"
        ),
        family=FAMILY,
    ),
    Wording(
        pattern=unspaced(
            r"alloc_req_slots runs out of memory|Out of memory\. Please set a smaller "
            r"number for `--max-running-requests`"
        ),
        family=FAMILY,
        marks=frozenset({"request_slots"}),
    ),
    Wording(
        pattern=unspaced(r"Out of memory even after retracting all other requests"),
        family=FAMILY,
    ),
    Wording(
        pattern=unspaced(
            r"The memory capacity is unbalanced\. Some GPUs may be occupied by other processes"
            r"(?:\. pre_model_load_memory=(?P<free_bytes>\d{1,5}\.\d{1,12})\d{0,12}, "
            r"local_gpu_memory=(?P<local_free_bytes>\d{1,5}\.\d{1,12})\d{0,12},)?"
        ),
        family=FAMILY,
        marks=frozenset({"unbalanced"}),
        unit="GB",
    ),
    Wording(  # without the minus it is a warning of a healthy start
        pattern=unspaced(
            r"max_total_tokens=(?P<max_total_tokens>\d{1,12}) is larger than the profiled value "
            r"(?P<profiled_tokens>-\d{1,12})\. Use"
        ),
        family=FAMILY,
    ),
    Wording(
        pattern=unspaced(
            r"KV cache pool is full\. Retract requests|[Dd]ecode out of memory happened"
        ),
        family=FAMILY,
        marks=_NOT_FATAL,
    ),
    Wording(  # torch's own message stands behind the colon
        pattern=unspaced(
            r"Capture (?:[a-z ]{1,30})?(?:cuda|CUDA) ?graph failed: "
            r"(?:CUDA|HIP) (?:error: )?out of memory"
        ),
        family=FAMILY,
        weight="aftermath",
        marks=frozenset({"graph_capture"}),
    ),
    Wording(  # the hierarchical cache; its GB are 10⁹ bytes
        pattern=unspaced(
            rf"Not enough host memory available\. Requesting (?P<host_required_gb>{NUM}) GB but "
            rf"only have (?P<host_available_gb>{NUM}) GB free"
        ),
        family=FAMILY,
        marks=frozenset({"host"}),
    ),
    Wording(  # a pool that gave None where slots were expected
        pattern=unspaced(
            r"(?:infer|schedule)_batch\.py.{0,400}?AttributeError: 'NoneType' object has no "
            r"attribute 'cpu'"
        ),
        family=FAMILY,
        marks=frozenset({"disguised"}),
    ),
    Wording(
        pattern=unspaced(
            rf"Failed to allocate memory for \w{{1,60}} with size (?P<tried_bytes>{NUM}) and "
            r"alignment \d{1,6} in AlignedAllocator"
        ),
        family=FAMILY,
        marks=frozenset({"workspace"}),
        unit="bytes",
    ),
    Wording(
        pattern=unspaced(
            rf"Buffer overflow when allocating memory for \w{{1,60}} with size "
            rf"(?P<tried_bytes>{NUM}) and alignment \d{{1,6}}, but only "
            rf"(?P<available_bytes>{NUM}) bytes available in AlignedAllocator"
        ),
        family=FAMILY,
        marks=frozenset({"workspace"}),
        unit="bytes",
    ),
)
