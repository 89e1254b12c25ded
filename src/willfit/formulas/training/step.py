"""One training step: what its layers keep, which kernel they take, what autocast copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.formulas.attention import AttentionShape, choose_kernel, repeats_always
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.inference.logits import KEEP_TYPE
from willfit.formulas.training.held import Held
from willfit.formulas.training.loss import kept_logits_bytes
from willfit.formulas.training.offload import STASH, pinned_bytes, staying_per_token
from willfit.formulas.training.saved import (
    attention_saved,
    embedding_bytes_per_token,
    layer_bytes_per_token,
    mlp_bytes_per_token,
)
from willfit.formulas.weights import LoadedRow
from willfit.scenario.model import Attention, LayerGroup

LOGITS_STAY_HALF_SINCE: Final = "4.45"
"""transformers release whose models give logits in their own type; before, ``logits.float()`` in
causal models but those of `KEEP_TYPE`."""

INPUTS_RELEASED_SINCE: Final = "0.43.2"
"""bitsandbytes release whose 4-bit products no longer keep their input (pull request 1270)."""


@dataclass(frozen=True, kw_only=True)
class Step(Held):
    """A training step: what forward keeps of it for backward."""

    def length_of(self, group: LayerGroup) -> int:
        """Positions of a sequence in a layer: an encoder's may be fixed (Whisper's frames)."""
        fixed = self.architecture.encoder_len
        encoder = group in self.architecture.encoder_layers
        return fixed if encoder and fixed is not None else self.settings.seq_len

    def shape(self, attention: Attention, length: int | None = None) -> AttentionShape:
        """The attention call of one layer; ``length`` where it is not the sequence's."""
        length = length or self.settings.seq_len
        window = attention.window is not None and length > attention.window
        return attention_shape(
            attention,
            self.stream.compute,
            batch=self.settings.batch,
            q_len=length,
            kv_len=length,
            masked=self.settings.masked or window or self.architecture.relative_bias,
            training=True,
            autocast=self.stream.autocast,
            always_repeats=repeats_always(self.stack),
        )

    def kernel(self, attention: Attention) -> str:
        """The kernel that it takes."""
        return choose_kernel(
            self.shape(attention),
            implementation=self.settings.implementation,
            gpu=self.gpu,
            stack=self.stack,
            forced=self.training.sdpa_kernel,
        ).name

    def layer_kept(self, group: LayerGroup) -> int:
        """What one layer of this group keeps for backward."""
        per_token = layer_bytes_per_token(
            self.architecture, group, self.stream, self.computing_adapter
        )
        tokens = self.settings.batch * self.length_of(group)
        kept = round(tokens * per_token)
        if group.attention is not None:
            shape = self.shape(group.attention, self.length_of(group))
            kernel = self.kernel(group.attention)
            kept += attention_saved(group.attention, shape, kernel, self.stream)
            kept += self._relative_bias(shape)
            if group.attention.cross:
                kept += attention_saved(group.attention, self._across(shape), kernel, self.stream)
        if group.recurrent is not None:
            inner = group.recurrent.inner_size
            kept += tokens * inner * 6 * self.stream.compute.block_bytes
        return kept

    def _across(self, shape: AttentionShape) -> AttentionShape:
        """The decoder's call over the encoder's positions."""
        positions = self.architecture.encoder_len or self.settings.seq_len
        return replace(shape, kv_len=positions, causal=False, masked=self.settings.masked)

    def _relative_bias(self, shape: AttentionShape) -> int:
        """T5's positions as every layer keeps them, laid out for its kernel: e·H·S²."""
        if not self.architecture.relative_bias:
            return 0
        return shape.dtype.num_bytes(shape.num_heads * shape.q_len * shape.kv_len)

    def all_groups(self) -> list[LayerGroup]:
        """Encoder's and decoder's layers."""
        return [*self.architecture.encoder_layers, *self.architecture.layers]

    def kept_bytes(self) -> int:
        """Activations on the GPU at the end of forward."""
        kept = self.saved_bytes()
        if not self.training.offload_activations:
            return kept
        return min(kept, sum(g.count * self.layer_staying(g) for g in self.all_groups())
                   + self._stash())  # fmt: skip

    def first_layer_kept(self) -> int:
        """What is left of them while the first layer is in backward."""
        first = max((self.layer_kept(group) for group in self.all_groups()), default=0)
        if not self.training.offload_activations or self.settings.checkpointing:
            return first
        return min(first, max(map(self.layer_staying, self.all_groups()), default=0)
                   + self._stash())  # fmt: skip

    def layer_staying(self, group: LayerGroup) -> int:
        """What one layer keeps on the GPU although activations are offloaded."""
        if self.settings.checkpointing:
            return 0
        per_token = staying_per_token(self.architecture, group, self.stream)
        staying = self.settings.batch * self.length_of(group) * per_token
        if group.attention is None or not self.stream.trained:
            return staying
        fused = self.kernel(group.attention) not in ("eager", "math")
        return staying + (self.shape(group.attention).output_bytes() if fused else 0)

    def _stash(self) -> int:
        """The last tensors, whose copies to the host are under way: at most as wide as the MLP."""
        width = self.architecture.hidden_size * self.stream.residual.block_bytes
        if not self.settings.checkpointing:
            inner = max(map(self.mlp_width, self.all_groups()), default=0)
            width = max(inner * self.stream.compute.block_bytes, 2 * width)
        return STASH * self.settings.tokens * width

    def pinned_bytes(self) -> int:
        """Host memory that offloaded activations wait in: all that is saved, in pinned blocks."""
        if not self.training.offload_activations:
            return 0
        tokens, e = self.settings.tokens, self.stream.compute.block_bytes
        narrow = tokens * self.architecture.hidden_size * self.stream.residual.block_bytes
        if self.settings.checkpointing:
            return pinned_bytes(self.saved_bytes(), narrow)
        groups = self.all_groups()
        inside = sum(
            group.count
            * round(tokens * mlp_bytes_per_token(self.architecture, group.mlp, self.stream))
            for group in groups
            if group.mlp is not None
        )
        wide = tokens * e * max(map(self.mlp_width, groups), default=0)
        outside = max(self.saved_bytes() - inside, 0)
        return pinned_bytes(inside, wide) + pinned_bytes(outside, narrow)

    def saved_bytes(self) -> int:
        """What autograd keeps at the end of forward: every layer's, or only each layer's input."""
        groups = self.all_groups()
        first = self.settings.tokens * embedding_bytes_per_token(self.architecture, self.stream)
        if self.settings.checkpointing:
            positions = sum(group.count * self.length_of(group) for group in groups)
            width = self.architecture.hidden_size * self.stream.residual.block_bytes
            inputs = positions * self.settings.batch * width
            unfreed = 0 if self.settings.reentrant else self.product_inputs()
            return first + inputs + unfreed + self.head_cast()
        kept = sum(group.count * self.layer_kept(group) for group in groups)
        return first + kept + self.casts() + self.product_inputs()

    def head_cast(self) -> int:
        """Autocast's copy of an output head of another type, outside every checkpoint: 2·V·h.

        A frozen one's too: its product needs it for the gradient of its input. A fused loss takes
        the weight as it is, a part of it at a time.
        """
        cast = self.weights.dtype is FLOAT32 or self.kbit or self.promotes
        fused = self.settings.chunked_loss or self.model.classifier
        if not self.stream.autocast or not cast or fused:
            return 0
        return 2 * self.architecture.vocab_size * self.architecture.hidden_size

    def cached_casts(self) -> int:
        """Autocast's copies of what trains where checkpoints keep none: to the end of forward.

        torch autocast_mode.cpp `cached_cast`: float32 leaves that want a gradient, until autocast
        ends, and the loss is made before. Without checkpoints backward needs them all the same.
        """
        if not self.settings.checkpointing or not self.stream.autocast:
            return 0
        if self.adapter is not None:
            return self._adapter_casts()
        return self._casts_of(row for row in self.trained_rows if row.dtype is FLOAT32)

    def layer_cast(self) -> int:
        """Autocast's copies of a layer's weights in its MLP's backward: all but the last one's."""
        layers = max(self.architecture.num_layers, 1)
        down = max(map(self.mlp_width, self.all_groups()), default=0)
        in_layers = self.casts() - self.head_cast()
        return max(in_layers // layers - 2 * down * self.architecture.hidden_size, 0)

    def product_inputs(self, *, all_of_them: bool = False) -> int:
        """LLM.int8 keeps product inputs in ``ctx``, which non-reentrant checkpointing cannot free.

        bitsandbytes autograd/_functions.py `MatMul8bitLt`, and `MatMul4Bit` before 0.43.2: inputs
        of attention, of the MLP and of its down projection; that of the output projection where
        attention does not keep it. A parallel branch shares its input; relu keeps its result
        itself. ``all_of_them`` counts what other operators keep too: ``ctx`` lives past backward,
        as long as the outputs do.
        """
        if not self._products_keep_inputs:
            return 0
        per_token = 0
        for group in self.all_groups():
            attention = group.attention
            own = (
                all_of_them
                or self.settings.checkpointing
                or (attention is not None and self.kernel(attention) in ("eager", "math"))
            )
            inputs = (2 if own else 1) + (0 if self.architecture.parallel_residual else 1)
            relu = self.architecture.hidden_act == "relu"
            kept_anyway = relu and not self.settings.checkpointing and not all_of_them
            inner = 0 if kept_anyway else self.mlp_width(group)
            per_token += group.count * (inputs * self.architecture.hidden_size + inner)
        return self.stream.residual.num_bytes(self.settings.tokens * per_token)

    @property
    def _products_keep_inputs(self) -> bool:
        quantization = self.weights.quantization
        if quantization is None:
            return False
        released = self.stack.at_least("bitsandbytes", INPUTS_RELEASED_SINCE)
        return quantization.scheme == "int8" or not released

    def casts(self) -> int:
        """Autocast's copies of weights of another type, adapters' too, kept for backward."""
        if not self.stream.autocast:
            return 0
        casts = self._adapter_casts() + self._casts_of(self.weights.rows)
        return casts + (self.head_cast() if self.kbit and self.weights.dtype is not FLOAT32 else 0)

    def _adapter_casts(self) -> int:
        adapter = self.computing_adapter
        return 2 * adapter.num_params if adapter and adapter.dtype is FLOAT32 else 0

    def _casts_of(self, rows: Iterable[LoadedRow]) -> int:
        return sum(
            2 * loaded.row.num_elements * loaded.row.count
            for loaded in rows
            if (loaded.dtype is FLOAT32 or self.promotes)
            and loaded.row.module in ("Linear", "Conv1D")
            and loaded.row.name.endswith("weight")
            and not loaded.quantized
            and not (self.settings.chunked_loss and self._is_head(loaded))
        )

    def _is_head(self, loaded: LoadedRow) -> bool:
        return loaded.row.shape[:1] == (self.architecture.vocab_size,)

    def mlp_width(self, group: LayerGroup) -> int:
        """Inner width of a layer, all experts of a token counted."""
        mlp = group.mlp
        if mlp is None:
            return 0
        routed = mlp.intermediate_size * max(mlp.experts_per_token, 1)
        return (routed if mlp.num_experts else mlp.intermediate_size) + mlp.shared_intermediate_size

    @property
    def logits_dtype(self) -> DType:
        """Type that the head gives."""
        return self.stream.compute

    def kept_logits(self) -> int:
        """Logits that the outputs keep until the next step: none with a fused loss."""
        settings = self.settings
        if not settings.keeps_outputs or settings.chunked_loss or self.model.classifier:
            return 0
        earlier = not self.stack.at_least("transformers", LOGITS_STAY_HALF_SINCE)
        own_type = str(self.model.config.get("model_type")) in KEEP_TYPE
        upcast = earlier and self.architecture.is_decoder and not own_type
        dtype = FLOAT32 if upcast else self.logits_dtype
        return kept_logits_bytes(self.architecture, self.settings.tokens, dtype)

    def kept_with_outputs(self) -> int:
        """What outputs keep past backward besides logits: K and V, and their graph's ``ctx``.

        Reentrant checkpointing has no products in that graph.
        """
        if not self.settings.keeps_outputs:
            return 0
        if self.settings.checkpointing and self.settings.reentrant:
            return self.kept_cache()
        return self.kept_cache() + self.product_inputs(all_of_them=True)

    def kept_cache(self) -> int:
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
        return self.stream.compute.num_bytes(self.settings.tokens * per_token)
