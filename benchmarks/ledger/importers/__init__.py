"""One importer per source: its rows as scenarios, or why they cannot be expressed."""

from __future__ import annotations

from typing import Final

from benchmarks.ledger.importers import (
    fsdp_qlora_profile_nb,
    hf_docs,
    hf_sdpa_tables,
    hub_pages,
    llmperf_bnb_a10_derived,
    measured,
    optimum_benchmark_derekliu35,
    optimum_benchmark_history,
    peft_metamath,
    qwen_speed_benchmark,
)
from benchmarks.ledger.row import Importer
from willfit.results import Level

_BOTH: Final[dict[str, Importer]] = {
    "fsdp_qlora_profile_nb": fsdp_qlora_profile_nb.express,
    "hf_docs": hf_docs.express,
    "hf_sdpa_tables": hf_sdpa_tables.express,
    "llmperf_bnb_a10_derived": llmperf_bnb_a10_derived.express,
    "hub_pages": hub_pages.express,
    "optimum_benchmark_derekliu35": optimum_benchmark_derekliu35.express,
}
IMPORTERS: Final[dict[Level, dict[str, Importer]]] = {
    "formula": {
        **_BOTH,
        "measured": measured.express,
        "optimum_benchmark_history": optimum_benchmark_history.express,
        "peft_metamath": peft_metamath.express,
        "qwen_speed_benchmark": qwen_speed_benchmark.express,
    },
    "trace": {
        **_BOTH,
        "measured": measured.express_by_trace,
        "optimum_benchmark_history": optimum_benchmark_history.express_by_trace,
        "peft_metamath": peft_metamath.express_by_trace,
    },
}
"""Importers by level and the name of the source's file. The trace runs the installed libraries, or
another release from a side directory (`releases`) where the importer asks for one; a source of
another release shows what has changed since, and one is left to the formulas."""
