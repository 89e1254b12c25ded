"""``TrainingArguments``, a loop's own calls and the length of rows in a user's code."""

from __future__ import annotations

from typing import Any, Final

from willfit.doctor.edits import Edit, after_statement, dropped, replaced
from willfit.doctor.placing import Code, Nowhere, changed, written
from willfit.doctor.placing.around import place_kernel
from willfit.emitting import Arguments
from willfit.emitting.training import length_of
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Scenario
from willfit.settings.code.values import Site

LEFT: Final = (
    "per_device_eval_batch_size", "ddp_find_unused_parameters", "output_dir", "save_strategy",
    "save_total_limit", "report_to", "eval_strategy", "evaluation_strategy", "dataset_text_field",
    "optim_target_modules",
)  # fmt: skip
"""Arguments that are emitted and that no change is about."""


def place_training(
    code: Code, before: Scenario, after: Scenario, old: Arguments, new: Arguments
) -> list[Edit]:
    """Edits for every argument of the training that differs."""
    if old.training is None or new.training is None:
        raise Nowhere
    if old.training.name != new.training.name:
        raise Nowhere  # another trainer
    differing = {k: v for k, v in changed(old.training, new.training).items() if k not in LEFT}
    length = differing.pop("max_length", differing.pop("max_seq_length", None))
    if length is None and length_of(before) != length_of(after):
        length = length_of(after)
    if old.prepare is not None and new.prepare is None:
        differing["gradient_checkpointing"] = new.training.arguments["gradient_checkpointing"]
    edits = _length(code, length) if length is not None else []
    loops = after.workload.training is not None and after.workload.training.trainer == "loop"
    edits += _loop(code, differing, after) if loops else _arguments(code, differing)
    step = "forward" if loops else "train"
    if loops and old.sdpa_kernel != new.sdpa_kernel:
        raise Nowhere  # backward may compute the layers again, outside of a ``with``
    return edits + place_kernel(code, old.sdpa_kernel, new.sdpa_kernel, step)


def _length(code: Code, length: int) -> list[Edit]:
    """In the trainer's config or in the trainer; else where the rows are tokenised."""
    for name in ("arguments", "trainer"):
        site = code.loaded.sites.get(name)
        keyword = next(
            (k for k in ("max_length", "max_seq_length") if site and k in site.given), ""
        )
        if site is not None and keyword:
            return [code.set(site, keyword, length)]
    if code.loaded.rows:
        return _some(code.cut_rows(length))
    if code.has("arguments") and code.site("arguments").last == "SFTConfig":
        return [code.set(code.site("arguments"), "max_length", length)]
    raise Nowhere


def _some(edits: list[Edit]) -> list[Edit]:
    if not edits:
        raise Nowhere
    return edits


def _arguments(code: Code, differing: dict[str, Any]) -> list[Edit]:
    """In the call of ``TrainingArguments`` that the trainer gets."""
    if not differing:
        return []
    if differing.get("gradient_checkpointing") is False and _switched_on(code):
        raise Nowhere
    site = code.site("arguments")
    edits: list[Edit] = []
    for name, value in differing.items():
        if value is not None:
            edits.append(code.set(site, name, value))
        elif name in site.given:
            edits += _without(site, name)
    return edits


def _switched_on(code: Code) -> bool:
    """Whether the model itself is told to checkpoint, which arguments do not take back."""
    adapter = code.loaded.sites.get("adapter")
    asked = adapter is not None and "use_gradient_checkpointing" in adapter.given
    return asked or code.has("gradient_checkpointing_enable") or code.has("prepare")


def _without(site: Site, name: str) -> list[Edit]:
    edit = dropped(site, name)
    if edit is None:
        raise Nowhere
    return [edit]


def _loop(code: Code, differing: dict[str, Any], after: Scenario) -> list[Edit]:
    edits: list[Edit] = []
    for name, value in differing.items():
        if name == "gradient_checkpointing":
            edits += _checkpointing(code, after)
        elif name == "optim":
            edits += _optimizer(code, value)
        elif name == "per_device_train_batch_size":
            edits += _batch(code, value)
        elif name in ("bf16", "fp16"):
            edits += _precision(code, name, value)
        elif name == "gradient_accumulation_steps" and code.has("accelerator"):
            if "gradient_accumulation_steps" in code.site("accelerator").given:
                edits.append(code.set(code.site("accelerator"), name, value))
        elif name not in ("gradient_accumulation_steps", "gradient_checkpointing_kwargs"):
            raise Nowhere
    if "gradient_checkpointing_kwargs" in differing and "gradient_checkpointing" not in differing:
        edits += _reentrant(code, differing["gradient_checkpointing_kwargs"])
    return edits


def _checkpointing(code: Code, after: Scenario) -> list[Edit]:
    training = after.workload.training
    if training is None or not checkpointing_of(training) or _switched_on(code):
        raise Nowhere
    kwargs = {"use_reentrant": bool(training.use_reentrant)}
    call = f"gradient_checkpointing_enable(gradient_checkpointing_kwargs={written(kwargs)})"
    return [after_statement(code.site("load"), [f"{code.variable()}.{call}"], code.cells)]


def _reentrant(code: Code, kwargs: Any) -> list[Edit]:
    if kwargs is None:
        raise Nowhere
    name = "gradient_checkpointing_kwargs"
    return [code.set(code.site("gradient_checkpointing_enable"), name, kwargs)]


OPTIMIZERS: Final = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
    "lion_8bit": "Lion8bit",
    "lion_32bit": "Lion32bit",
    "paged_lion_8bit": "PagedLion8bit",
}
"""Classes of bitsandbytes.optim by the Trainer's names."""
_SHARED: Final = frozenset({"params", "lr", "betas", "eps", "weight_decay"})
"""Arguments that they take as torch's AdamW does."""


def _optimizer(code: Code, name: str) -> list[Edit]:
    site = code.site("optimizer")
    if name == "adamw_torch_fused" and site.last == "AdamW" and "torch" in site.name:
        return [code.set(site, "fused", True)]
    cls = OPTIMIZERS.get(name)
    lion = "Lion" in (cls or "") and "eps" in site.given
    if cls is None or lion or not site.given.keys() <= _SHARED:
        raise Nowhere
    imports = code.imports("bitsandbytes.optim", [cls])
    return [*imports, replaced(site.cell, site.node.func, cls)]


def _batch(code: Code, value: int) -> list[Edit]:
    if code.has("loader"):
        return [code.set(code.site("loader"), "batch_size", value)]
    return [code.stride(value)]


def _precision(code: Code, name: str, value: bool) -> list[Edit]:
    """Of ``Accelerator``; an autocast of the loop's own is left to the user."""
    if not code.has("accelerator") or not value:
        raise Nowhere
    return [code.set(code.site("accelerator"), "mixed_precision", name)]
