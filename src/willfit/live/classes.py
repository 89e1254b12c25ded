"""Which attention implementations the model's real class has."""

from __future__ import annotations

from dataclasses import dataclass

from willfit.scenario import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Support:
    """What the class declares; None where it is not among the installed transformers'."""

    sdpa: bool | None
    flash: bool | None


def support_of(model: ModelSpec) -> Support:
    """``_supports_sdpa`` and ``_supports_flash_attn`` of the class (``…_2`` before 4.55)."""
    import transformers

    cls = getattr(transformers, model.model_class, None)
    if cls is None:
        sdpa = model.architecture.supports_sdpa if model.architecture is not None else None
        return Support(sdpa=sdpa, flash=None)
    flash = getattr(cls, "_supports_flash_attn", None)
    if flash is None:
        flash = getattr(cls, "_supports_flash_attn_2", False)
    return Support(sdpa=bool(getattr(cls, "_supports_sdpa", False)), flash=bool(flash))
