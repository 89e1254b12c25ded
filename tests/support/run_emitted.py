"""Emitted texts run one after the other in one process; what each left behind, as JSON.

``python run_emitted.py JOBS.json`` with a list of jobs: ``{"name", "text"}`` runs a text and
describes the objects that it left, ``{"name", "calls"}`` looks every keyword up in the library.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import importlib.metadata
import inspect
import json
import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _before_4_48()
    out, sys.stdout = sys.stdout, sys.stderr
    answers = {job["name"]: _answer(job) for job in jobs}
    out.write(json.dumps(answers))


def _before_4_48() -> None:
    """They refuse bitsandbytes without CUDA, from before its CPU kernels; today's Liger them."""
    version = importlib.metadata.version("transformers")
    if tuple(map(int, version.split(".")[:2])) < (4, 48):
        sys.modules["liger_kernel"] = None  # type: ignore[assignment]  # as if not installed
        import transformers.integrations as integrations

        integrations.validate_bnb_backend_availability = lambda **_: True


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    os.chdir(tempfile.mkdtemp(dir=Path(sys.argv[1]).parent))
    before = dict(os.environ)
    try:
        if "calls" in job:
            unknown = [word for call in job["calls"] for word in _unknown(call)]
            return {"unknown": unknown, **_of_optimizer(job["calls"])}
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(job["text"], f"<{job['name']}>", "exec"), names)
        return _described(names)
    except BaseException:
        return {"error": traceback.format_exc()[-2500:]}
    finally:
        os.environ.clear()
        os.environ.update(before)
        gc.collect()


def _unknown(call: dict[str, Any]) -> list[str]:
    """Keywords that the callee would ignore or refuse."""
    given = set(call["arguments"])
    if call["name"] == "model.generate":
        from transformers import GenerationConfig

        return sorted(given - set(vars(GenerationConfig())))
    owner, _, method = call["name"].partition(".")
    target = getattr(importlib.import_module(call["library"]), owner)
    if method == "from_pretrained":
        from transformers import PretrainedConfig, PreTrainedModel

        code = inspect.getsource(inspect.unwrap(PreTrainedModel.from_pretrained))
        known = {word for word in given if f'"{word}"' in code or f"{word}:" in code}
        known |= {"num_labels"} if hasattr(PretrainedConfig, "num_labels") else set()
        return sorted(given - known - {"trust_remote_code"})  # which the auto class takes
    return sorted(given - set(inspect.signature(target).parameters))


def _of_optimizer(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The class and settings that the Trainer takes for ``optim``, from the real arguments."""
    from transformers import Trainer

    names = ("TrainingArguments", "SFTConfig")
    given = next((call for call in calls if call["name"] in names), None)
    if given is None:
        return {}
    cls = getattr(importlib.import_module(given["library"]), given["name"])
    arguments = cls(**{**given["arguments"], "use_cpu": True})
    kept = {k: v for k, v in given["arguments"].items() if k != "report_to"}  # "none" is []
    changed = {k: v for k, v in kept.items() if _plain(getattr(arguments, k)) != v}
    assert not changed, changed
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    kept = {k: v for k, v in settings.items() if k in ("is_paged", "optim_bits", "fused")}
    return {"optimizer": optimizer.__name__, **kept}


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _described(names: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "environment": {k: v for k, v in os.environ.items() if k.startswith("PYTORCH")}
    }
    model = names["model"]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found |= _of_model(base)
    if hasattr(model, "peft_config"):
        found |= _of_adapter(model)
    if "trainer" in names:
        found |= _of_trainer(names["trainer"])
    if "results" in names:
        found["results"] = len(names["results"])
    if "probabilities" in names:
        found["probability_sums"] = sorted(
            {round(float(x), 3) for x in names["probabilities"].sum(-1)}
        )
    return found


def _of_model(base: Any) -> dict[str, Any]:
    layers = [m for m in base.modules() if hasattr(m, "gradient_checkpointing")]
    functions = [getattr(m, "_gradient_checkpointing_func", None) for m in layers]
    kinds = Counter(
        type(module).__name__
        for name, module in base.named_modules()
        if "Linear" in type(module).__name__ or "Conv1D" in type(module).__name__
    )
    packed = [
        m
        for m in base.modules()
        if type(m).__module__ == "bitsandbytes.nn.modules" and hasattr(m, "compute_dtype")
    ]
    state = packed[0].weight.quant_state if packed else None
    head = getattr(base, "score", None) or getattr(base, "lm_head", None)
    embeddings = base.get_input_embeddings()
    return {
        "class": type(base).__name__,
        "dtype": str(base.dtype),
        "attention": base.config._attn_implementation,
        "linears": dict(kinds),
        "quant_type": state and state.quant_type,
        "nested": bool(packed and packed[0].weight.compress_statistics),
        "compute_dtype": str(packed[0].compute_dtype) if packed else None,
        "head": type(head).__name__,
        "num_labels": base.config.num_labels,
        "use_cache": base.config.use_cache,
        "device": str(base.device),
        "checkpointing": bool(base.is_gradient_checkpointing),
        "reentrant": sorted({str(f.keywords.get("use_reentrant")) for f in functions if f is not None and hasattr(f, "keywords")}),
        "input_requires_grad": bool(embeddings._forward_hooks),
        "frozen": sorted({n.rpartition(".")[0].rpartition(".")[2] for n, p in base.named_parameters() if not p.requires_grad}),
    }  # fmt: skip


def _of_adapter(model: Any) -> dict[str, Any]:
    config = model.peft_config["default"]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {
        "r": getattr(config, "r", None),
        "lora_dropout": getattr(config, "lora_dropout", None),
        "use_dora": getattr(config, "use_dora", None),
        "target_modules": sorted({n.rpartition(".")[2] for n in config.target_modules or ()}),
        "task_type": str(getattr(config.task_type, "value", config.task_type)),
        "peft_type": str(config.peft_type.value),
        "trained_dtypes": sorted({str(p.dtype) for p in trained.values()}),
        "head_trained": any("modules_to_save" in name for name in trained),
        "ranks": sorted({min(p.shape) for n, p in trained.items() if "lora_" in n and p.ndim == 2}),
    }


def _of_trainer(trainer: Any) -> dict[str, Any]:
    optimizer = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    arguments = trainer.args
    wanted = {}
    for name in (f.name for f in dataclasses.fields(arguments)):
        value = getattr(arguments, name)
        wanted[name] = getattr(value, "value", value)
    rows = trainer.train_dataset
    return {
        "trainer": type(trainer).__name__,
        "args": json.loads(json.dumps(wanted, default=str)),
        "optimizer": type(optimizer).__name__,
        "bits": getattr(getattr(optimizer, "args", None), "optim_bits", None),
        "paged": getattr(optimizer, "is_paged", None),
        "collator": type(trainer.data_collator).__name__,
        "rows": len(rows),
        "longest_row": max(len(row["input_ids"]) for row in rows),
        "steps": trainer.state.global_step,
    }


if __name__ == "__main__":
    main()
