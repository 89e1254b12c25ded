"""One importer per source: its rows as scenarios, or why they cannot be expressed."""

from __future__ import annotations

from typing import Final

from benchmarks.ledger.importers import (
    optimum_benchmark_history,
    peft_metamath,
    qwen_speed_benchmark,
)
from benchmarks.ledger.row import Importer

IMPORTERS: Final[dict[str, Importer]] = {
    "optimum_benchmark_history": optimum_benchmark_history.express,
    "peft_metamath": peft_metamath.express,
    "qwen_speed_benchmark": qwen_speed_benchmark.express,
}
"""Importers by the name of the source's file."""
