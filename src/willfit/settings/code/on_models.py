"""Methods of models: what a script does with one that it has loaded."""

from __future__ import annotations

from typing import Any, Final

from willfit.settings.code.reading import Reading
from willfit.settings.code.values import Made, Model, Site, Unknown

_GENERATES: Final = (
    "generate",
    "chat",
    "stream_chat",
    "create_chat_completion",
    "create_completion",
)
_STAYS: Final = (
    "eval", "train", "requires_grad_", "to_bettertransformer", "merge_and_unload", "unload",
    "base_model", "tie_weights",
)  # fmt: skip
_MOVES: Final = ("to", "cuda", "cpu", "half", "bfloat16", "float")


def model_call(reading: Reading, model: Model, site: Site) -> Any:
    """Note a call of a model or of a method, and say what it returns."""
    method = model.path.rpartition(".")[2]
    if method in ("", "module", "model", "forward", "encode", "__call__"):
        role = "generate" if _generates(model, method) else "forward"
        reading.add(role, site.node, of=model, site=site)
        return Unknown("outputs")
    if method in _GENERATES:
        reading.add("generate", site.node, of=model, site=site)
        return Unknown("outputs")
    if method in _STAYS or method in _MOVES:
        role = "moved" if method in _MOVES else "mode"
        reading.add(role, site.node, of=model, site=site, value=method)
        return Model(model.load)
    if method == "get_peft_model":  # unsloth's, which is a static method
        return Unknown()
    if method == "add_adapter":
        config = next((v.value for v in site.given.values() if isinstance(v.value, Made)), None)
        config = site.first if isinstance(site.first, Made) else config
        if config is not None:
            reading.add("peft", site.node, of=model, site=config.site, value=site)
        return Unknown()
    reading.add(method, site.node, of=model, site=site)
    return Model(model.load, model.path) if "parameters" in method else Unknown(method)


def _generates(model: Model, method: str) -> bool:
    if method in ("encode", "forward"):
        return False
    return model.load.kind in ("pipeline", "llama.cpp") or bool(model.load.used("pipeline"))
