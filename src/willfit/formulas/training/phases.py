"""A training step put together: backward and the optimizer step on one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from willfit.devices import cublas_workspace_bytes
from willfit.errors import InputError, UnsupportedError
from willfit.formulas.modules import norms_in_float32, num_layer_norms
from willfit.formulas.phase import ComponentName, Phase, PhaseName, Phases
from willfit.formulas.quantization import OUTPUT_EMBEDDINGS
from willfit.formulas.training import fsdp
from willfit.formulas.training.backward import Backward
from willfit.formulas.training.freeze import EMBEDDINGS
from willfit.formulas.training.lora import build_adapter
from willfit.formulas.training.settings import fill_training, require_scaled
from willfit.formulas.training.step import Step
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import ModelSpec
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Strategy, Training


def training_phases(
    model: ModelSpec,
    training: Training,
    gpu: Gpu | None,
    stack: Stack,
    weights: LoadedWeights,
    *,
    strategy: Strategy = "ddp",
    num_gpus: int = 1,
) -> Phases:
    """Phases of a steady training step (the optimizer's states exist) on one GPU."""
    step, adapter_notes = training_step(
        model, training, gpu, stack, weights, strategy=strategy, num_gpus=num_gpus
    )
    return _phases(step, adapter_notes)


def training_step(
    model: ModelSpec,
    training: Training,
    gpu: Gpu | None,
    stack: Stack,
    weights: LoadedWeights,
    *,
    strategy: Strategy = "ddp",
    num_gpus: int = 1,
) -> tuple[Step, tuple[str, ...]]:
    """The step with every default filled in, and what was assumed of its adapter.

    Raises `UnsupportedError` and `InputError` on what has no formula.
    """
    architecture = model.architecture
    if architecture is None:
        raise UnsupportedError(
            f"the formulas do not know the activations of {model.model_class}: "
            "willfit[trace] runs the real class"
        )
    if training.adapter_config is not None:
        method = str(training.adapter_config.get("peft_type"))[:30]
        raise UnsupportedError(
            f"peft_type {method} has no closed formula: --trace (willfit[trace]) runs PEFT's code"
        )
    if training.method == "full" and any(loaded.quantized for loaded in weights.rows):
        raise InputError(
            "quantised weights cannot be trained themselves: use --train lora or --train qlora"
        )
    if norms_in_float32(model):
        architecture = replace(architecture, norm_keeps_fp32=True)
    if architecture.parallel_residual:  # Falcon's have one or two
        norms = num_layer_norms(model, architecture)
        architecture = replace(architecture, norms_per_layer=norms)
    settings = fill_training(training, architecture, stack)
    if not settings.optimizer.closed:
        raise UnsupportedError(
            f"optimizer {settings.optimizer_name} has no closed formula: --trace (willfit[trace]) "
            "runs it"
        )
    lora = training.lora_config
    adapter, adapter_notes = build_adapter(model, lora) if lora is not None else (None, ())
    step = Step(
        model=model,
        architecture=architecture,
        training=training,
        settings=settings,
        gpu=gpu,
        stack=stack,
        weights=weights,
        adapter=adapter,
        strategy=strategy,
        num_gpus=num_gpus,
    )
    if step.fully_sharded:
        fsdp.require_stepped(settings.optimizer_name, stack, packed=step.packed)
    if step.scales:
        require_scaled(tensor.dtype for tensor in step.trainables)
    return step, adapter_notes


def _phases(step: Step, notes: Iterable[str]) -> Phases:
    """Forward ends at the loss; backward starts there, ends with all gradients; then step."""
    kept = step.kept_bytes()
    backward = Backward(step=step).largest(kept)
    phases = (
        _phase(
            step,
            "backward",
            gradients=backward.gradients,
            parts=backward.parts,
            cached=backward.cached,
        ),
        _phase(
            step,
            "step",
            gradients=step.stepping_gradients,
            parts={
                "activations": step.kept_with_outputs(),
                "logits": step.kept_logits(),
                "temporaries": step.step_temporary_bytes,
            },
        ),
    )
    return Phases(
        phases=phases,
        assumptions=(*notes, *step.settings.assumptions, *_notes(step)),
        unsupported=_unsupported(step),
        num_trainable_params=sum(t.num_elements * t.count for t in step.trainables),
    )


def _phase(
    step: Step,
    name: PhaseName,
    *,
    gradients: int,
    parts: Mapping[ComponentName, int],
    cached: int = 0,
) -> Phase:
    sharded = step.sharded
    components: dict[ComponentName, int] = {
        "weights": sharded.weights,
        "quantization_state": step.weights.state_allocated_bytes,
        "adapters": step.adapter_bytes,
        "gradients": gradients,
        "optimizer_states": sharded.optimizer_states,
        **parts,
        "communication": sharded.communication + parts.get("communication", 0),
        "workspaces": 2 * cublas_workspace_bytes(step.gpu),
    }
    notes: dict[ComponentName, str] = {
        "optimizer_states": step.settings.optimizer_name,
        "activations": f"{step.settings.batch} × {step.settings.seq_len} tokens"
        + (", checkpointed" if step.settings.checkpointing else ""),
        "workspaces": "cuBLAS, forward and backward threads",
        "communication": sharded.note,
    }
    pinned = step.pinned_bytes() if name == "backward" else 0
    return Phase(
        name=name,
        components=components,
        notes=notes,
        host_bytes=step.optimizer_state_bytes[1] + pinned,
        pinned_bytes=pinned,
        cached_bytes=cached,
    )


def _notes(step: Step) -> tuple[str, ...]:
    kernels = {
        step.kernel(group.attention) for group in step.all_groups() if group.attention is not None
    }
    notes = [f"attention kernel {', '.join(sorted(kernels))}"] if kernels else []
    if step.weights.quantization is not None and step.training.prepare_kbit is None:
        notes.append("prepare_model_for_kbit_training not called (--prepare-kbit if it is)")
    if step.training.use_liger_kernel:
        notes.append("Liger's norm, gated MLP and loss, as for a model that it knows")
    if step.settings.optimizer.paged:
        notes.append("paged optimizer states in managed memory, counted as host RAM")
    if step.training.offload_activations:
        notes.append(
            "activations in pinned host memory until backward (TRL's activation_offloading)"
        )
    if step.training.freeze:
        notes.append(f"{', '.join(step.training.freeze)} frozen: no gradient, no state")
    if not set(step.training.freeze) <= {*EMBEDDINGS, *OUTPUT_EMBEDDINGS}:
        notes.append("activations as if frozen layers were trained: --trace runs them as they are")
    return tuple(notes)


def _unsupported(step: Step) -> tuple[str, ...]:
    if step.strategy in ("tp", "device_map") and step.num_gpus > 1:
        return (f"training with --strategy {step.strategy} on several GPUs",)
    if any(group.recurrent is not None for group in step.all_groups()):
        return (
            "activations of state-space and linear-attention layers in training, of which the "
            "number above has the least part: --trace (willfit[trace]) runs the real class",
        )
    return ()
