"""One importer per source: its rows as scenarios, or why they cannot be expressed."""

from __future__ import annotations

from typing import Final

from benchmarks.ledger.importers import (
    optimum_benchmark_history,
    peft_metamath,
    qwen_speed_benchmark,
)
from benchmarks.ledger.row import Importer
from willfit.results import Level

IMPORTERS: Final[dict[Level, dict[str, Importer]]] = {
    "formula": {
        "optimum_benchmark_history": optimum_benchmark_history.express,
        "peft_metamath": peft_metamath.express,
        "qwen_speed_benchmark": qwen_speed_benchmark.express,
    },
    "trace": {
        "optimum_benchmark_history": optimum_benchmark_history.express_by_trace,
        "peft_metamath": peft_metamath.express_by_trace,
    },
}
"""Importers by level and the name of the source's file. The trace runs the installed libraries, or
another release from a side directory (`releases`); other sources are left to the formulas."""
