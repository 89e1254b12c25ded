"""vLLM's sentences, of V0 and of V1 up to 0.32."""

from __future__ import annotations

from typing import Final

from willfit.doctor.messages.numbers import NUM, RATIO
from willfit.doctor.messages.squeezed import SQUEEZED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording

_FAMILY: Final = "vllm"
_WRAPPER: Final = frozenset({"wrapper"})

TABLE: Final = (
    # 0.1 to 0.32; a negative budget is printed in a line before
    Wording(pattern=unspaced(r"No available memory for the cache blocks(?=\.|$)"), family=_FAMILY),
    Wording(  # V0
        pattern=unspaced(
            r"model's max seq len \((?P<max_model_len>\d{1,12})\) is larger than the maximum "
            r"number of tokens that can be stored in KV cache \((?P<kv_tokens>\d{1,12})\)"
        ),
        family=_FAMILY,
        release="vllm V0",
    ),
    Wording(  # V1; the parenthesis that never closes is in the program
        pattern=unspaced(
            r"max seq len \((?P<max_model_len>\d{1,12})\), \(?"
            rf"(?P<kv_needed_bytes>{NUM} [KMGT]i?B) KV cache is needed, which is larger than the "
            rf"available KV cache memory \((?P<kv_available_bytes>{AMOUNT})\)"
            r"(?:\. (?:Based on the available memory, the e|E)stimated maximum model length is "
            r"(?P<estimated_max_len>\d{1,12})(?=\.|$))?"
        ),
        family=_FAMILY,
        release="vllm V1",
    ),
    Wording(
        pattern=unspaced(r"Cannot auto-fit max_model_len: not enough GPU memory available"),
        family=_FAMILY,
        release="vllm V1",
    ),
    Wording(
        pattern=unspaced(
            rf"Free memory on device (?:[a-z]{{2,8}}:(?P<gpu>\d{{1,3}}) )?\((?P<free_bytes>{NUM})/"
            rf"(?P<total_bytes>{NUM}) GiB\) on startup is less than (?:desired GPU memory "
            r"utilization|the engine's budget after excluding external process's weights) "
            rf"\((?P<utilization>{RATIO}), (?P<requested_bytes>{NUM}) GiB\)"
        ),
        family=_FAMILY,
        release="vllm V1",
        unit="GiB",
    ),
    Wording(  # the back end for processors, where the same flag is a share of host memory
        pattern=unspaced(
            rf"Available memory on node \d{{1,3}} \((?P<host_free_bytes>{NUM})/"
            rf"(?P<host_total_bytes>{NUM}) GiB\) on startup is less than desired CPU memory "
            rf"utilization \((?P<utilization>{RATIO}), (?P<host_required_bytes>{NUM}) GiB\)"
        ),
        family=_FAMILY,
        marks=frozenset({"host"}),
        unit="GiB",
    ),
    Wording(
        pattern=unspaced(
            r"out of memory occurred when warming up (?:sampler|pooler(?: \(task=[^()]{1,60}\))?) "
            r"with (?P<dummy_requests>\d{1,7}) dummy requests"
        ),
        family=_FAMILY,
        marks=frozenset({"sampler_warmup"}),
    ),
    Wording(
        pattern=unspaced(
            rf"Error in memory profiling\. Initial free memory (?P<initial_free_bytes>{NUM})"
            rf"(?: GiB)?, current free memory (?P<current_free_bytes>{NUM}) GiB"
        ),
        family=_FAMILY,
        marks=frozenset({"other_process_left"}),
        unit="GiB",
    ),
    Wording(  # V0 printed whole bytes
        pattern=unspaced(
            r"Error in memory profiling\. Initial free memory (?P<initial_free_bytes>\d{1,15}), "
            r"current free memory (?P<current_free_bytes>\d{1,15})(?=\.)"
        ),
        family=_FAMILY,
        marks=frozenset({"other_process_left"}),
        unit="bytes",
    ),
    Wording(
        pattern=unspaced(
            rf"Too large swap space\. (?P<host_required_bytes>{NUM} GiB) out of the "
            rf"(?P<host_total_bytes>{NUM} GiB) total CPU memory is allocated for the swap space"
        ),
        family=_FAMILY,
        marks=frozenset({"host"}),
    ),
    Wording(  # torch's own message follows in parentheses
        pattern=unspaced(r"Failed to load model - not enough GPU memory"),
        family=_FAMILY,
        weight="aftermath",
    ),
    Wording(
        pattern=unspaced(
            r"(?:Sequence group|Request) \S{1,60}? is preempted by (?:PreemptionMode\.)?"
            r"[A-Z]{4,12} mode because there is not enough KV cache space"
        ),
        family=_FAMILY,
        marks=frozenset({"not_fatal"}),
    ),
    Wording(
        pattern=unspaced(
            r"Input prompt \((?P<prompt_tokens>\d{1,9}) tokens\)(?: \+ lookahead slots "
            r"\(\d{1,6}\))? is too long and exceeds the capacity of block_manager"
        ),
        family=_FAMILY,
        marks=frozenset({"not_fatal"}),
    ),
    Wording(
        pattern=unspaced(r"Error in memory profiling\. This happens when"),
        family=_FAMILY,
        marks=frozenset({"other_process_left"}),
    ),
    *(
        Wording(pattern=unspaced(words), family=_FAMILY, weight="aftermath", marks=_WRAPPER)
        for words in (
            r"Engine core initialization failed\. See root cause above",
            r"EngineCore failed to start",
            r"Engine process failed to start",
        )
    ),
)
