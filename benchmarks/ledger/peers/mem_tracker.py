"""torch's own MemTracker under FakeTensorMode, on the real model of a scenario.

`track_external` and the hooks of a module refuse a parameter that asks for no gradient ("cannot
register a hook on a tensor that doesn't require gradient"), so that adapters cannot be tracked as
torch ships it: such parameters are given no hook here, which changes nothing that is counted.
"""

from __future__ import annotations

import importlib.metadata
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final
from unittest import mock

from benchmarks.ledger.peers._peer import AboutPeer, Answer, NotPredicted
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.training.settings import TrainingSettings, fill_training
from willfit.formulas.weights.cast import loading_dtype
from willfit.scenario import Scenario
from willfit.scenario.workload import Training

ABOUT: Final = AboutPeer(
    title="torch MemTracker, fake tensors",
    version=f"torch {importlib.metadata.version('torch').partition('+')[0]}",
    licence="BSD-3-Clause",
    source="https://github.com/pytorch/pytorch/blob/main/torch/distributed/_tools/mem_tracker.py",
    claims="the peak of allocated memory by category; it rounds to blocks for CUDA tensors alone",
    called="two training steps, or a prompt and the last token of its answer, of the real class "
    "(transformers, PEFT) on fake CPU tensors; parameters without gradient get no hook",
    counters=("allocated", "reserved"),
    level="trace",
    slow=True,
)
"""It counts tensors: allocated memory, of which reserved is never less. No context."""
MOST_PARAMS: Final = 4_000_000_000
"""Larger models take minutes."""
OPTIMIZERS: Final = frozenset({"adamw_torch", "adamw_torch_fused", "sgd"})
_CPU: Final = "cpu"


def predict(scenario: Scenario) -> Answer:
    """The tracker's peak, bytes."""
    obstacle = _obstacle(scenario)
    if obstacle:
        return NotPredicted(reason=obstacle)
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch.manual_seed(0)
    model = _model(scenario)
    with FakeTensorMode(allow_non_fake_inputs=True), _hooks_where_there_is_a_gradient():
        _to_fakes(model)
        work = _training(model, scenario) if scenario.workload.training else None
        return _peak(model, work or _inference(model, scenario))


def _obstacle(scenario: Scenario) -> str | None:
    work, model = scenario.workload, scenario.model
    if model.library != "transformers":
        return f"models of {model.library} are not made here"
    if scenario.machine is not None and len(scenario.machine.gpus) > 1:
        return "it is asked about one device"
    if model.quantization is not None or work.loading.quantization is not None:
        return "the classes of packed weights cannot be made of fake tensors"
    if model.num_params > MOST_PARAMS:
        return "larger than 4 B parameters, which would take minutes"
    if work.training is None:
        return None
    optimizer = fill_training(work.training, model.architecture, scenario.stack).optimizer_name
    if optimizer not in OPTIMIZERS:
        return f"optimizer {optimizer} is not tried on fake tensors"
    if work.training.trainer == "trl" or work.training.use_liger_kernel:
        return "the loss of TRL or Liger is not written here"
    return None


def _model(scenario: Scenario) -> Any:
    """The real class on the meta device, with its adapter."""
    import torch
    import transformers

    work, spec = scenario.workload, scenario.model
    config: Any = transformers.AutoConfig.for_model(**spec.config)
    if work.loading.num_labels is not None:
        config.num_labels = work.loading.num_labels
    part = work.training or work.inference
    attention = part.attn if part is not None else None
    config._attn_implementation = "eager" if attention == "eager" else "sdpa"
    dtype = loading_dtype(spec, work.loading, scenario.stack)[0]
    maker: Any = getattr(transformers, work.loading.auto_class or spec.model_class)
    make = getattr(maker, "from_config", None) or maker._from_config
    with torch.device("meta"):
        model = make(config, dtype=getattr(torch, dtype.name))
    return _adapted(model, work.training) if work.training else model.eval()


def _adapted(model: Any, training: Training) -> Any:
    model.train()
    if training.method == "full":
        return model
    import peft

    if training.adapter_config is not None:
        config: Any = peft.get_peft_config(dict(training.adapter_config))
    else:
        lora = training.lora_config
        assert lora is not None
        targets: Any = lora.target_modules and list(lora.target_modules)
        config = peft.LoraConfig(
            r=lora.r,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            lora_dropout=lora.dropout,
            use_dora=lora.use_dora,
            modules_to_save=list(lora.modules_to_save) or None,
            task_type="CAUSAL_LM",
        )
    return peft.get_peft_model(model, config)


def _to_fakes(model: Any) -> None:
    """Every tensor as a fake one on the CPU, tied ones tied."""
    import torch

    made: dict[int, Any] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None and id(old) not in made:
                new = torch.empty(old.shape, dtype=old.dtype, device=_CPU)
                made[id(old)] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            module._parameters[name] = None if old is None else made[id(old)]
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=_CPU)


@contextmanager
def _hooks_where_there_is_a_gradient() -> Iterator[None]:
    import torch
    from torch.utils.hooks import RemovableHandle

    def only(register: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, hook: (
            register(tensor, hook) if tensor.requires_grad else RemovableHandle(OrderedDict())
        )

    names = ("register_hook", "register_post_accumulate_grad_hook")
    first, second = (
        mock.patch.object(torch.Tensor, name, only(getattr(torch.Tensor, name))) for name in names
    )
    with first, second:
        yield


Run = tuple[list[Any], Callable[[Any], None]]
"""What exists before it, and what is done under a tracker."""


def _peak(model: Any, run: Run) -> int:
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker

    external, work = run
    tracker: Any = MemTracker()
    tracker.track_external(model, *external)
    with tracker:
        work(tracker)
    return int(tracker.get_tracker_snapshot("peak")[torch.device(_CPU)]["Total"])


def _training(model: Any, scenario: Scenario) -> Run:
    import torch

    training = scenario.workload.training
    assert training is not None
    settings = fill_training(training, scenario.model.architecture, scenario.stack)
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": settings.reentrant})
        if training.method != "full":
            model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer_name == "sgd":
        optimizer: Any = torch.optim.SGD(trained, foreach=True)
    else:
        fused = settings.optimizer_name == "adamw_torch_fused"
        optimizer = torch.optim.AdamW(trained, fused=fused, foreach=not fused)

    def steps(tracker: Any) -> None:
        kept = None
        for _ in range(2):
            batch = _batch(training, settings, scenario.workload.loading.num_labels)
            loss, outputs = _loss(model, batch, training, settings)
            kept = outputs if settings.keeps_outputs else None
            del outputs
            loss.backward()
            if training.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            tracker.reset_mod_stats()  # as it asks for between calls of a module
        del kept

    return [optimizer], steps


def _batch(training: Training, settings: TrainingSettings, num_labels: int | None) -> Any:
    """What the model is called with, alive through the step as a script's batch is."""
    import torch

    length = max(training.step_lengths, default=settings.seq_len)
    ids = torch.zeros((settings.batch, length), dtype=torch.int64, device=_CPU)
    batch: dict[str, Any] = {"input_ids": ids}
    if training.padded:
        batch["attention_mask"] = torch.ones_like(ids)
    if training.loss == "model":
        batch["labels"] = ids[:, 0] if num_labels is not None else ids
    if settings.checkpointing:
        batch["use_cache"] = False
    return batch


def _loss(
    model: Any, batch: Any, training: Training, settings: TrainingSettings
) -> tuple[Any, Any]:
    import torch

    cast: Any = nullcontext()
    if settings.autocast is not None:
        cast = torch.autocast(_CPU, dtype=getattr(torch, settings.autocast.name))
    with cast:
        outputs = model(**batch)
    return outputs.logits.sum() if training.loss == "logits" else outputs.loss, outputs


def _inference(model: Any, scenario: Scenario) -> Run:
    """A prompt; then the last token of the answer, with the cache as long as it is by then."""
    import torch

    inference = scenario.workload.inference
    if inference is None:
        return [], lambda _: None
    dtype = loading_dtype(scenario.model, scenario.workload.loading, scenario.stack)[0]
    settings = fill_defaults(scenario.model.architecture, inference, dtype, scenario.stack)
    given: dict[str, Any] = {"use_cache": True} if inference.use_cache else {}
    if not inference.full_logits and inference.use_cache:
        given["logits_to_keep"] = 1

    def generate(tracker: Any) -> None:
        with torch.no_grad():
            ids = torch.zeros((settings.batch, settings.prompt_len), dtype=torch.int64, device=_CPU)
            outputs = model(input_ids=ids, **given)
            cache = outputs.past_key_values if inference.use_cache else None
            if cache is None:
                return
            del outputs
            for layer in cache.layers:
                missing = settings.context_len - 1 - layer.keys.shape[-2]
                if missing > 0:
                    layer.keys, layer.values = (
                        torch.cat([t, t.new_zeros((*t.shape[:-2], missing, t.shape[-1]))], dim=-2)
                        for t in (layer.keys, layer.values)
                    )
            tracker.reset_mod_stats()
            model(input_ids=ids[:, :1], past_key_values=cache, **given)

    return [], generate
