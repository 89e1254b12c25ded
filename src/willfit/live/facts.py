"""What the rules and remarks look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.changes.current import dtype_of, gpus
from willfit.changes.loading import in_range
from willfit.dtypes import BFLOAT16, FLOAT16, DType
from willfit.live.asked import Asked
from willfit.live.classes import Support
from willfit.live.here import Here
from willfit.scenario import Gpu, Inference, Scenario, Training

HALF: Final = (FLOAT16, BFLOAT16)
FLASH: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules judge."""

    asked: Asked
    scenario: Scenario
    support: Support
    here: Here

    @property
    def dtype(self) -> DType:
        """Type that unquantised weights are loaded in."""
        return dtype_of(self.scenario)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs planned for; none on a machine without."""
        return gpus(self.scenario)

    @property
    def work(self) -> Inference | Training:
        """What is done with the model; loading alone counts as inference."""
        workload = self.scenario.workload
        return workload.training or workload.inference or Inference()

    @property
    def attention(self) -> str:
        """The implementation: that given, else SDPA where the class has it."""
        given = (self.work.attn or "").strip().lower().replace("-", "_")
        return given or ("eager" if self.support.sdpa is False else "sdpa")

    @property
    def has_encoder(self) -> bool:
        """Whether some of it reads all positions at once: BERT, ViT, T5, Whisper."""
        architecture = self.scenario.model.architecture
        if architecture is None:
            return not self.scenario.model.model_class.endswith(("ForCausalLM", "LMHeadModel"))
        return not architecture.is_decoder or bool(architecture.encoder_layers)

    @property
    def half(self) -> DType:
        """The 16-bit type that these GPUs compute in: bfloat16 since compute capability 8.0.

        Before that float16, unless the model's activations leave its range.
        """
        old = any(gpu.sm < 80 for gpu in self.gpus)
        if self.scenario.model.stored_dtype is FLOAT16:
            return FLOAT16
        return FLOAT16 if old and self.overflows is None else BFLOAT16

    @property
    def overflows(self) -> str | None:
        """Why float16 is too narrow for this model, in words."""
        return in_range(self.scenario)
