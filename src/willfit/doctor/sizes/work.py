"""Work: rows and tokens that one pass of a scenario sees."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.errors import WillfitError
from willfit.formulas.inference.settings import default_context
from willfit.formulas.training.settings import fill_training
from willfit.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Work:
    """One forward pass."""

    batch: int
    seq_len: int
    """Tokens of a row."""

    @property
    def tokens(self) -> int:
        """B·S."""
        return self.batch * self.seq_len

    @property
    def words(self) -> str:
        """``8 × 1,024 tokens``."""
        return f"{self.batch:,} × {self.seq_len:,} tokens"


def work_of(scenario: Scenario) -> Work | None:
    """Micro-batch and length of a training, batch and prompt of an inference; None for loading."""
    workload, architecture = scenario.workload, scenario.model.architecture
    if workload.training is not None:
        try:
            settings = fill_training(workload.training, architecture, scenario.stack)
        except WillfitError:
            return None
        return Work(batch=settings.batch, seq_len=settings.seq_len)
    inference = workload.inference
    if inference is None:
        return None
    context = inference.context_len or default_context(architecture)
    new = inference.max_new_tokens or 1
    prompt = context if new == 1 else max(context - new, 1)
    return Work(batch=inference.batch_size, seq_len=prompt)
