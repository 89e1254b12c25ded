"""A training step put together: forward, backward, clip and step on one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from willfit.devices import cublas_workspace_bytes
from willfit.dtypes import FLOAT32, DType
from willfit.errors import InputError, UnsupportedError
from willfit.formulas.attention import AttentionShape, backward_temporary_bytes, choose_kernel
from willfit.formulas.gemm import Gemm
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.modules import FUSED_GATE_UP, FUSED_QKV, has_module
from willfit.formulas.phase import ComponentName, Phase, PhaseName, Phases
from willfit.formulas.training import parallel, static
from willfit.formulas.training.lora import Adapter, build_adapter
from willfit.formulas.training.loss import (
    chunked_loss_bytes,
    kept_logits_bytes,
    loss_peak_bytes,
)
from willfit.formulas.training.saved import Stream, attention_saved, layer_bytes_per_token
from willfit.formulas.training.settings import TrainingSettings, fill_training
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import Architecture, Attention, LayerGroup, ModelSpec
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Lora, Strategy, Training

VIEWS_FUSED_QKV: Final = ("gpt_neox", "phi3")
"""Model types whose v is a view of it, and whose rotary embedding concatenates (transformers 5.23
modeling_gpt_neox.py, modeling_phi3.py); Falcon indexes, which copies, and GPT-2 views all three."""

LOGITS_STAY_HALF_SINCE: Final = "4.45"
"""transformers release whose models give logits in their own type; before, ``logits.float()``."""


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
    architecture = model.architecture
    if architecture is None:
        raise UnsupportedError(
            f"the formulas do not know the activations of {model.model_class}: "
            "willfit[trace] runs the real class"
        )
    if training.method == "full" and any(loaded.quantized for loaded in weights.rows):
        raise InputError(
            "quantised weights cannot be trained themselves: use --train lora or --train qlora"
        )
    adapter, adapter_notes = (
        (None, ()) if training.method == "full" else build_adapter(model, training.lora or Lora())
    )
    step = _Step(
        model=model,
        architecture=architecture,
        training=training,
        settings=fill_training(training, architecture, stack),
        gpu=gpu,
        stack=stack,
        weights=weights,
        adapter=adapter,
        strategy=strategy,
        num_gpus=num_gpus,
    )
    return step.phases(adapter_notes)


@dataclass(frozen=True, kw_only=True)
class _Step:
    model: ModelSpec
    architecture: Architecture
    training: Training
    settings: TrainingSettings
    gpu: Gpu | None
    stack: Stack
    weights: LoadedWeights
    adapter: Adapter | None
    strategy: Strategy
    num_gpus: int

    def phases(self, notes: Iterable[str]) -> Phases:
        """Forward ends at the loss; backward starts there, ends with all gradients; then step."""
        kept = self._kept_bytes()
        backward = self._largest_backward(kept)
        phases = (
            self._phase("backward", gradients=backward.gradients, parts=backward.parts),
            self._phase(
                "step",
                gradients=self._sharded.gradients,
                parts={
                    "activations": self._kept_cache() if self.settings.keeps_outputs else 0,
                    "logits": self._kept_logits(),
                    "temporaries": static.step_temporary_bytes(
                        self.settings.optimizer, self._trainables
                    ),
                },
            ),
        )
        return Phases(
            phases=phases,
            assumptions=(*notes, *self.settings.assumptions, *self._notes()),
            unsupported=self._unsupported(),
            num_trainable_params=sum(t.num_elements * t.count for t in self._trainables),
        )

    @cached_property
    def _kbit(self) -> bool:
        """Whether the model was prepared for k-bit training; only callers do that, no trainer."""
        return bool(self.training.prepare_kbit)

    @cached_property
    def _stream(self) -> Stream:
        quantized = self.weights.quantization is not None or self.model.quantization is not None
        residual = FLOAT32 if self._kbit else self.weights.dtype
        autocast = self.settings.autocast
        return Stream(
            residual=residual,
            compute=autocast or residual,
            trained=self.adapter is None,
            quantized=quantized,
            autocast=autocast is not None,
            fused_qkv=has_module(self.model, *FUSED_QKV),
            fused_gate_up=has_module(self.model, *FUSED_GATE_UP),
            views_fused_qkv=str(self.model.config.get("model_type")) in VIEWS_FUSED_QKV,
        )

    @cached_property
    def _trainables(self) -> tuple[static.Trainable, ...]:
        return static.trainables(self.weights, self.adapter)

    @cached_property
    def _sharded(self) -> parallel.Sharded:
        gradients = static.total_bytes(self._trainables)
        return parallel.shard(
            self.strategy,
            degree=self.num_gpus,
            weights=self._weight_bytes,
            trainable=gradients,
            gradients=0 if self.settings.optimizer.gradients_freed else gradients,
            optimizer_states=static.optimizer_state_bytes(
                self.settings.optimizer, self._trainables
            ),
            largest_block=self._largest_block,
            half_precision=self.weights.dtype.block_bytes < 4,
        )

    @cached_property
    def _weight_bytes(self) -> int:
        growth = static.kbit_upcast(self.weights)[0] if self._kbit else 0
        return self.weights.allocated_bytes - self.weights.state_allocated_bytes + growth

    @cached_property
    def _largest_block(self) -> int:
        layers = max(self.architecture.num_layers, 1)
        in_layers = sum(r.total_bytes for r in self.weights.rows if r.row.count >= layers)
        largest = max((r.weight_bytes for r in self.weights.rows), default=0)
        return max(in_layers // layers, largest)

    def _shape(self, attention: Attention) -> AttentionShape:
        window = attention.window is not None and self.settings.seq_len > attention.window
        return attention_shape(
            attention,
            self._stream.compute,
            batch=self.settings.batch,
            q_len=self.settings.seq_len,
            kv_len=self.settings.seq_len,
            masked=self.training.padded or window,
            training=True,
        )

    def _kernel(self, attention: Attention) -> str:
        return choose_kernel(
            self._shape(attention),
            implementation=self.settings.implementation,
            gpu=self.gpu,
            stack=self.stack,
        ).name

    def _layer_kept(self, group: LayerGroup) -> int:
        per_token = layer_bytes_per_token(self.architecture, group, self._stream, self.adapter)
        kept = round(self.settings.tokens * per_token)
        if group.attention is not None:
            shape = self._shape(group.attention)
            kernel = self._kernel(group.attention)
            kept += attention_saved(group.attention, shape, kernel, self._stream)
        if group.recurrent is not None:
            inner = group.recurrent.inner_size
            kept += self.settings.tokens * inner * 6 * self._stream.compute.block_bytes
        return kept

    def _all_groups(self) -> list[LayerGroup]:
        return [*self.architecture.encoder_layers, *self.architecture.layers]

    def _kept_bytes(self) -> int:
        """Activations kept at the end of forward: every layer's, or only each layer's input."""
        groups = self._all_groups()
        if self.settings.checkpointing:
            layers = sum(group.count for group in groups)
            e = self._stream.residual.block_bytes
            inputs = layers * self.settings.tokens * self.architecture.hidden_size * e
            return inputs + self._unfreed_int8(groups) + self._head_cast()
        return sum(group.count * self._layer_kept(group) for group in groups) + self._casts()

    def _head_cast(self) -> int:
        """Autocast's copy of a float32 output head, outside every checkpoint: 2·V·h."""
        if not self._stream.autocast or self.weights.dtype is not FLOAT32:
            return 0
        return 2 * self.architecture.vocab_size * self.architecture.hidden_size

    def _layer_cast(self) -> int:
        """Autocast's copies of a layer's weights in its MLP's backward: all but the last one's."""
        layers = max(self.architecture.num_layers, 1)
        down = max(map(self._mlp_width, self._all_groups()), default=0)
        in_layers = self._casts() - self._head_cast()
        return max(in_layers // layers - 2 * down * self.architecture.hidden_size, 0)

    def _unfreed_int8(self, groups: list[LayerGroup]) -> int:
        """LLM.int8 keeps product inputs in ``ctx``, which non-reentrant checkpointing cannot free.

        bitsandbytes autograd/_functions.py `MatMul8bitLt`: inputs of attention, of its output
        projection, of the MLP and of its down projection.
        """
        quantization = self.weights.quantization
        if quantization is None or quantization.scheme != "int8" or self.settings.reentrant:
            return 0
        per_token = sum(
            group.count
            * (
                3 * self.architecture.hidden_size
                + (group.mlp.intermediate_size if group.mlp else 0)
            )
            for group in groups
        )
        return 2 * self.settings.tokens * per_token

    def _casts(self) -> int:
        """Autocast's half-precision copies of float32 weights, adapters' too, kept for backward."""
        if not self._stream.autocast:
            return 0
        adapter = self.adapter
        casts = 2 * adapter.num_params if adapter and adapter.dtype is FLOAT32 else 0
        return casts + sum(
            2 * loaded.row.num_elements * loaded.row.count
            for loaded in self.weights.rows
            if loaded.dtype is FLOAT32
            and loaded.row.module in ("Linear", "Conv1D")
            and loaded.row.name.endswith("weight")
            and not loaded.quantized
        )

    def _largest_backward(self, kept: int) -> _Backward:
        """The worst moment: loss, last norm, last layer, first layer, embedding.

        Layers' gradients appear from the last to the first, the embedding's at the very end.
        """
        gradients = self._sharded.gradients
        accumulated = gradients if self.settings.accumulation > 1 else 0
        head, layer = self._head_gradient(), self._one_layer()
        first = max((self._layer_kept(group) for group in self._all_groups()), default=0)
        missing = self._embedding_gradient() + self._layer_gradient()
        logits = self._kept_logits()
        stream = self.settings.tokens * self.architecture.hidden_size * 4
        moments = [
            _Backward(gradients=accumulated,
                      parts={"activations": kept + self._final_norm(), "logits": self._loss()}),
            _Backward(gradients=max(accumulated, head),
                      parts={"activations": kept, "temporaries": self._norm_backward(),
                             "logits": logits}),
            _Backward(gradients=max(accumulated, head),
                      parts={"activations": kept + layer.activations,
                             "temporaries": layer.temporaries, "logits": logits}),
            _Backward(gradients=max(accumulated, gradients - missing, 0),
                      parts={"activations": first + self._layer_cast(), "logits": logits,
                             "temporaries": layer.temporaries}),
            _Backward(gradients=gradients,
                      parts={"activations": 0, "logits": logits,
                             "temporaries": stream + self._tied_gradient()}),
        ]  # fmt: skip
        return max(moments, key=lambda moment: moment.total)

    def _norm_backward(self) -> int:
        """The last norm's backward: 24·h a token where it is trained, 20·h where it is frozen.

        Identified on llama, the saved float32 input among it (±1·h); LayerNorm: input, gradients.
        """
        if not self.architecture.rms_norm:
            per_width = 4 * self._stream.residual.block_bytes
        else:
            per_width = 24 if self._stream.trained else 20
        return per_width * self.settings.tokens * self.architecture.hidden_size

    def _layer_gradient(self) -> int:
        """Gradients that one layer lacks while its MLP is in backward: all but the last product's.

        Shards are so much smaller that none is taken as missing.
        """
        whole_gradients = static.total_bytes(self._trainables)
        if self.adapter is not None or self._sharded.gradients < whole_gradients:
            return 0
        layers = max(self.architecture.num_layers, 1)
        rows = [row for row in self.weights.rows if row.row.count >= layers]
        down = max(map(self._mlp_width, self._all_groups()), default=0)
        whole = sum(row.total_bytes for row in rows) // layers
        own = self.weights.dtype.num_bytes(down * self.architecture.hidden_size)
        return max(whole - own, 0)

    def _final_norm(self) -> int:
        """The last norm keeps its float32 input; a trained head keeps what it is given."""
        e = self._stream.residual.block_bytes if self._stream.trained else 0
        return self.settings.tokens * self.architecture.hidden_size * (4 + e)

    def _loss(self) -> int:
        architecture, tokens = self.architecture, self.settings.tokens
        if not architecture.vocab_size or self.model.classifier:
            return 4 * self.settings.batch * architecture.vocab_size
        dtype = self._logits_dtype
        if self.settings.chunked_loss:
            return chunked_loss_bytes(
                architecture, tokens=tokens, dtype=dtype, head_trained=self.adapter is None
            )
        return loss_peak_bytes(
            architecture, tokens=tokens, dtype=dtype, keeps_outputs=self.settings.keeps_outputs
        )

    @property
    def _logits_dtype(self) -> DType:
        return self._stream.compute

    def _kept_logits(self) -> int:
        if not self.settings.keeps_outputs or self.model.classifier:
            return 0
        upcast = not self.stack.at_least("transformers", LOGITS_STAY_HALF_SINCE)
        dtype = FLOAT32 if upcast else self._logits_dtype
        return kept_logits_bytes(self.architecture, self.settings.tokens, dtype)

    def _kept_cache(self) -> int:
        """K and V that ``outputs.past_key_values`` keeps alive (use_cache is on unless told)."""
        if self.settings.checkpointing or not self.architecture.is_decoder:
            return 0
        per_token = sum(
            group.count
            * group.attention.num_kv_heads
            * (group.attention.head_dim + group.attention.v_head_dim)
            for group in self.architecture.layers
            if group.attention is not None
        )
        return self._stream.compute.num_bytes(self.settings.tokens * per_token)

    def _one_layer(self) -> _OneLayer:
        """One layer in backward: recomputed activations under checkpointing, and temporaries.

        Gradients of the product, of up and of gate, 3·I·e, and about 1.1·h·e of the stream; where
        the layer is trained its saved product is freed first: 2·I·e and 2.1·h·e. Or the attention
        backward where that is more. A quantised base dequantises its largest weight.
        """
        groups = self._all_groups()
        recomputed = max((self._layer_kept(group) for group in groups), default=0)
        e = max(self._stream.compute.block_bytes, self._mlp_element_bytes())
        tokens = self.settings.tokens
        widths = [self._mlp_width(group) for group in groups]
        inner, outer = (2, 2.1) if self._stream.trained else (3, 1.1)
        widest = max(widths, default=0)
        mlp = tokens * e * (inner * widest + outer * self.architecture.hidden_size)
        attention = max(
            (
                backward_temporary_bytes(self._shape(g.attention), self._kernel(g.attention))
                for g in groups
                if g.attention is not None
            ),
            default=0,
        )
        return _OneLayer(
            activations=recomputed + self._layer_cast() if self.settings.checkpointing else 0,
            temporaries=max(round(mlp), attention) + self._dequantised(),
        )

    def _mlp_element_bytes(self) -> int:
        return self._stream.residual.block_bytes if self._stream.quantized else 0

    def _mlp_width(self, group: LayerGroup) -> int:
        mlp = group.mlp
        if mlp is None:
            return 0
        routed = mlp.intermediate_size * max(mlp.experts_per_token, 1)
        return (routed if mlp.num_experts else mlp.intermediate_size) + mlp.shared_intermediate_size

    def _dequantised(self) -> int:
        """The largest quantised weight in the types of the weight and of the gradient.

        bitsandbytes autograd/_functions.py `MatMul4Bit.backward`, `MatMul8bitLt.backward`.
        """
        gemm = Gemm.of(self.weights)
        if gemm.quantization is None:
            return 0
        own = self.weights.dtype.num_bytes(gemm.largest_elements)
        compute = gemm.compute_dtype
        other = compute.num_bytes(gemm.largest_elements) if compute is not self.weights.dtype else 0
        return own + other

    def _head_gradient(self) -> int:
        """A trained head's gradient exists before the layers' backward."""
        if self.adapter is not None:
            return 0
        e = self.weights.dtype.block_bytes
        return e * self.architecture.vocab_size * self.architecture.hidden_size

    def _embedding_gradient(self) -> int:
        """The gradient that the input embedding makes last; a tied one is there from the head."""
        return 0 if self._tied else self._head_gradient()

    def _tied_gradient(self) -> int:
        """A tied embedding's dense gradient, before it is added to the head's."""
        return self._head_gradient() if self._tied else 0

    @cached_property
    def _tied(self) -> bool:
        return any(row.tied_to is not None for row in self.model.tensors)

    def _phase(
        self, name: PhaseName, *, gradients: int, parts: Mapping[ComponentName, int]
    ) -> Phase:
        sharded = self._sharded
        optimizer = self.settings.optimizer
        states = 0 if optimizer.paged else sharded.optimizer_states
        adapters = static.total_bytes(self._trainables) if self.adapter is not None else 0
        components: dict[ComponentName, int] = {
            "weights": sharded.weights,
            "quantization_state": self.weights.state_allocated_bytes,
            "adapters": adapters,
            "gradients": gradients,
            "optimizer_states": states,
            **parts,
            "communication": sharded.communication,
            "workspaces": 2 * cublas_workspace_bytes(self.gpu),
        }
        notes: dict[ComponentName, str] = {
            "optimizer_states": self.settings.optimizer_name,
            "activations": f"{self.settings.batch} × {self.settings.seq_len} tokens"
            + (", checkpointed" if self.settings.checkpointing else ""),
            "workspaces": "cuBLAS, forward and backward threads",
            "communication": sharded.note,
        }
        paged = sharded.optimizer_states if optimizer.paged else 0
        return Phase(name=name, components=components, notes=notes, host_bytes=paged)

    def _notes(self) -> tuple[str, ...]:
        kernels = {
            self._kernel(group.attention)
            for group in self._all_groups()
            if group.attention is not None
        }
        notes = [f"attention kernel {', '.join(sorted(kernels))}"] if kernels else []
        if self.weights.quantization is not None and self.training.prepare_kbit is None:
            notes.append("prepare_model_for_kbit_training not called (--prepare-kbit if it is)")
        if self.training.use_liger_kernel:
            notes.append("Liger's norm and SwiGLU keep less than counted: an upper bound")
        if any(group.recurrent is not None for group in self._all_groups()):
            notes.append("activations of linear-attention layers are rough: checked by no run")
        if self.settings.optimizer.paged:
            notes.append("paged optimizer states in managed memory, counted as host RAM")
        return tuple(notes)

    def _unsupported(self) -> tuple[str, ...]:
        if self.strategy in ("tp", "device_map") and self.num_gpus > 1:
            return (f"training with --strategy {self.strategy} on several GPUs",)
        return ()


@dataclass(frozen=True, kw_only=True)
class _Backward:
    gradients: int
    parts: Mapping[ComponentName, int]

    @property
    def total(self) -> int:
        return self.gradients + sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class _OneLayer:
    activations: int
    temporaries: int
