"""One importer per source: its rows as scenarios, or why they cannot be expressed."""

from __future__ import annotations

from typing import Final

from benchmarks.ledger.importers import (
    fsdp_qlora_profile_nb,
    optimum_benchmark_history,
    peft_metamath,
    qwen_speed_benchmark,
)
from benchmarks.ledger.row import Importer
from willfit.results import Level

IMPORTERS: Final[dict[Level, dict[str, Importer]]] = {
    "formula": {
        "fsdp_qlora_profile_nb": fsdp_qlora_profile_nb.express,
        "optimum_benchmark_history": optimum_benchmark_history.express,
        "peft_metamath": peft_metamath.express,
        "qwen_speed_benchmark": qwen_speed_benchmark.express,
    },
    "trace": {
        "fsdp_qlora_profile_nb": fsdp_qlora_profile_nb.express,
        "peft_metamath": peft_metamath.express_by_trace,
    },
}
"""Importers by level and the name of the source's file. The trace runs the installed libraries, so
sources measured with releases whose code was another are left to the formulas."""
