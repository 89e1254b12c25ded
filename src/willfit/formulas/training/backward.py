"""Backward: the moments that could be a step's peak, and the worst of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from willfit.dtypes import FLOAT32
from willfit.formulas.attention import backward_temporary_bytes
from willfit.formulas.gemm import Gemm
from willfit.formulas.phase import ComponentName
from willfit.formulas.training import fsdp, static, zero
from willfit.formulas.training.loss import (
    LIGER_SUMS_SINCE,
    kept_logits_bytes,
    liger_loss_bytes,
    loss_forward_bytes,
    loss_peak_bytes,
    trl_loss_bytes,
)
from willfit.formulas.training.optimizers import step_copies
from willfit.formulas.training.saved import (
    mlp_bytes_per_token,
    norm_input_bytes,
    norms_embeddings,
    takes_power,
)
from willfit.formulas.training.step import Step
from willfit.scenario.model import LayerGroup


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Bytes at one moment of backward."""

    gradients: int
    parts: Mapping[ComponentName, int]
    cached: int = 0
    """Free in the pools of other streams."""

    @property
    def total(self) -> int:
        """Gradients and everything else."""
        return self.gradients + sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Backward:
    """The backward pass of a step."""

    step: Step

    def largest(self, kept: int) -> Moment:
        """The worst moment: loss, last norm, last layer, first layer, embedding.

        Layers' gradients appear from the last to the first, the embedding's at the very end. Before
        all of them, while forward makes the loss, autocast has what it cast beside the checkpoints.
        """
        gradients = self.step.sharded.gradients
        accumulated = gradients if self.step.settings.accumulation > 1 else 0
        head, layer = self._head_gradient(), self._one_layer()
        first = self.step.first_layer_kept()
        missing = self._embedding_gradient() + self._layer_gradient()
        logits = self.step.kept_logits()
        stream = self.step.settings.tokens * self.step.architecture.hidden_size * 4
        at_loss = max(accumulated, head) if self.step.training.loss == "logits" else accumulated
        moments = [
            Moment(gradients=at_loss,
                      parts={"activations": kept + self._final_norm(), "logits": self._loss()}),
            Moment(gradients=max(accumulated, head),
                      parts={"activations": kept, "temporaries": self._norm_backward(),
                             "logits": logits}),
            Moment(gradients=max(accumulated, head),
                      parts={"activations": kept + layer.activations,
                             "temporaries": layer.temporaries, "logits": logits}),
            Moment(gradients=max(accumulated, gradients - missing, 0),
                      parts={"activations": first + self.step.layer_cast(), "logits": logits,
                             "temporaries": layer.temporaries}),
            Moment(gradients=gradients,
                      parts={"activations": 0, "logits": logits,
                             "temporaries": stream + self._tied_gradient()}),
        ]  # fmt: skip
        if self.step.gathered is not None or self.step.buckets is not None:
            moments = list(self._of_rank(moments))
        elif self.step.live is not None:
            moments = list(self._with_live(moments, self.step.live))
        if casts := self.step.cached_casts():
            still: Mapping[ComponentName, int] = {
                "activations": kept + casts + self._final_norm() + self.step.kept_with_outputs(),
                "logits": self._loss_in_forward() + logits,
            }
            moments.append(Moment(gradients=accumulated, parts=still))
        if self.step.settings.optimizer.gradients_freed:
            update: Mapping[ComponentName, int] = {
                "activations": kept + stream,
                "temporaries": self._head_update(),
            }
            moments.append(Moment(gradients=0, parts=update))
        return max(moments, key=lambda moment: moment.total)

    def _of_rank(self, moments: Sequence[Moment]) -> Iterator[Moment]:
        """The same moments, and one more, where gradients are reduced one after the other."""
        loss, norm, last, first, end = moments
        amounts = [moment.parts["activations"] for moment in moments]
        between, whole = self._whole(amounts[2] - amounts[3])
        amounts.insert(3, amounts[3] + between)
        for moment, kept, there in zip(
            (loss, norm, last, first, first, end), amounts, whole, strict=True
        ):
            parts = {**moment.parts, "activations": kept, "communication": there.communication}
            yield Moment(gradients=there.gradients, parts=parts, cached=there.cached)

    def _with_live(self, moments: Sequence[Moment], live: zero.Live) -> Iterator[Moment]:
        """The same moments with what ZeRO-3 has gathered."""
        whole = live.at_moments(head=self._head_gradient(), tied=self.step.model.tied)
        for moment, there in zip(moments, whole, strict=True):
            parts = {**moment.parts, "communication": there.communication}
            yield Moment(gradients=there.gradients, parts=parts)

    def _whole(self, above_first: int) -> tuple[int, Iterator[fsdp.Whole]]:
        """What layers above the first still keep at the moment before it, and what is whole when.

        ``above_first``: bytes that all layers but the first keep.
        """
        step = self.step
        widest = max(map(step.mlp_width, step.all_groups()), default=0)
        own = step.weights.dtype.num_bytes(widest * step.architecture.hidden_size)
        head = step.as_gathered(self._head_gradient())
        own = step.as_gathered(own) if step.adapter is None else 0
        accumulates = step.settings.accumulation > 1
        above = max(step.architecture.num_layers - 1, 1)
        if step.gathered is not None:
            units = step.gathered
            accumulated = units.all_trained if accumulates else 0
            moments = units.at_moments(head=head, own=own, accumulated=accumulated)
            return max(above_first, 0) // above, moments
        buckets = step.buckets
        assert buckets is not None
        whole = buckets.all_elements * buckets.element_bytes
        left = whole if step.strategy == "zero1" else buckets.partition
        kept = max(above - buckets.layers_a_bucket, 0) / above
        return round(max(above_first, 0) * kept), buckets.at_moments(
            head=head, tied=self.step.model.tied, own=own, accumulated=left if accumulates else 0
        )

    def _head_update(self) -> int:
        """LOMO updates the head when the next gradient arrives, with all activations still there.

        lomo-optim 0.1.1 lomo.py `fuse_update`, adalomo.py.
        """
        if not self._head_trained:
            return 0
        architecture, e = self.step.architecture, self.step.weights.dtype.block_bytes
        elements = architecture.vocab_size * architecture.hidden_size
        return round(step_copies(self.step.settings.optimizer, e) * elements)

    def _norm_backward(self) -> int:
        """The last norm's backward: 24·h a token where it is trained, 20·h where it is frozen.

        Identified on llama, the saved float32 input among it (±1·h); LayerNorm: input, gradients.
        """
        if not self.step.architecture.rms_norm:
            per_width = 4 * self.step.stream.residual.block_bytes
        else:
            per_width = 24 if self.step.stream.trained else 20
        return per_width * self.step.settings.tokens * self.step.architecture.hidden_size

    def _layer_gradient(self) -> int:
        """Gradients that one layer lacks while its MLP is in backward: all but the last product's.

        Shards are so much smaller that none is taken as missing.
        """
        whole_gradients = static.total_bytes(self.step.trainables)
        if self.step.adapter is not None or self.step.sharded.gradients < whole_gradients:
            return 0
        layers = max(self.step.architecture.num_layers, 1)
        rows = [row for row in self.step.trained_rows if row.row.count >= layers]
        down = max(map(self.step.mlp_width, self.step.all_groups()), default=0)
        whole = sum(row.total_bytes for row in rows) // layers
        own = self.step.weights.dtype.num_bytes(down * self.step.architecture.hidden_size)
        return max(whole - own, 0)

    def _final_norm(self) -> int:
        """The last norm keeps its input, RMSNorm in float32; a trained head what it is given.

        BERT and its kin end with a layer's own norm; the head of a masked language model is a
        product, an activation and a norm before the product with the vocabulary.
        """
        architecture = self.step.architecture
        e = self.step.stream.residual.block_bytes
        per_width = norm_input_bytes(architecture, self.step.stream)
        per_width += e if self.step.stream.trained else 0
        if norms_embeddings(architecture) and architecture.vocab_size:
            compute = self.step.stream.compute.block_bytes
            per_width = e if self.step.model.classifier else e + 3 * compute
        return self.step.settings.tokens * architecture.hidden_size * per_width

    def _loss(self) -> int:
        architecture, tokens = self.step.architecture, self.step.settings.tokens
        if not architecture.vocab_size or self.step.model.classifier:
            return 4 * self.step.settings.batch * architecture.vocab_size
        dtype = self.step.logits_dtype
        if self.step.training.loss == "logits":  # its expanded gradient is copied for each product
            return self.step.kept_logits() + kept_logits_bytes(architecture, tokens, dtype)
        if self.step.settings.chunked_loss:
            gpu = self.step.gpu
            in_place = gpu is None or gpu.sm >= LIGER_SUMS_SINCE
            trl = self.step.training.trainer == "trl"
            fused = trl_loss_bytes if trl else partial(liger_loss_bytes, sums_in_place=in_place)
            return fused(
                architecture,
                tokens=tokens,
                dtype=dtype,
                weight_dtype=self.step.stream.residual,
                trained=self._head_trained,
            )
        whole = loss_peak_bytes(
            architecture,
            tokens=tokens,
            dtype=dtype,
            keeps_outputs=self.step.settings.keeps_outputs,
            upcast=self._loss_in_float32,
        )
        if not self.step.settings.keeps_outputs or dtype.block_bytes == 4:
            return whole
        # outputs of releases whose models give float32 logits keep those, not the half ones
        return whole + self.step.kept_logits() - kept_logits_bytes(architecture, tokens, dtype)

    def _loss_in_forward(self) -> int:
        """Logits and log-softmax under autocast, before any gradient.

        Liger makes its gradients in forward; TRL's fused head has nothing whole there.
        """
        architecture, tokens = self.step.architecture, self.step.settings.tokens
        if self.step.settings.chunked_loss and self.step.training.trainer != "trl":
            return self._loss()
        if self.step.model.classifier or self.step.settings.chunked_loss:
            return 0
        return loss_forward_bytes(architecture, tokens=tokens, dtype=self.step.logits_dtype)

    @property
    def _loss_in_float32(self) -> bool:
        """Causal models upcast their logits; so does autocast, whose list has log-softmax."""
        architecture = self.step.architecture
        causal = architecture.is_decoder and not architecture.encoder_layers
        return causal or self.step.stream.autocast

    def _one_layer(self) -> _OneLayer:
        """One layer in backward: recomputed activations under checkpointing, and temporaries.

        Gradients of the product, of up and of gate, 3·I·e (ungated, of the activation and of its
        input, 2·I·e), and about 1.1·h·e of the stream; where the layer is trained its saved product
        is freed first: 2·I·e (1·I·e) and 2.1·h·e. Or the attention
        backward where that is more: what the MLP kept is gone by then. A quantised base
        dequantises its largest weight.
        """
        groups = self.step.all_groups()
        recomputed = max((self.step.layer_kept(group) for group in groups), default=0)
        e = max(self.step.stream.compute.block_bytes, self._mlp_element_bytes())
        tokens = self.step.settings.tokens
        outer = 2.1 if self.step.stream.trained else 1.1
        inner = max((self._mlp_gradients(group, e) for group in groups), default=0)
        mlp = tokens * (inner + e * outer * self.step.architecture.hidden_size)
        attention = max(map(self._attention, groups), default=0)
        return _OneLayer(
            activations=recomputed + self.step.layer_cast()
            if self.step.settings.checkpointing
            else 0,
            temporaries=max(round(mlp), attention) + self._dequantised(),
        )

    def _mlp_gradients(self, group: LayerGroup, e: int) -> int:
        """Bytes a token, where most are alive; of an activation made of a power, 3·I in float32."""
        if group.mlp is None:
            return 0
        width, freed = self.step.mlp_width(group), int(self.step.stream.trained)
        if takes_power(self.step.architecture):
            return width * (3 * FLOAT32.block_bytes - freed * e)
        return width * e * ((3 if group.mlp.gated else 2) - freed)

    def _attention(self, group: LayerGroup) -> int:
        """Attention's backward above all that the layer kept; parallel branches keep the MLP's."""
        attention = group.attention
        if attention is None:
            return 0
        work = backward_temporary_bytes(self.step.shape(attention), self.step.kernel(attention))
        if group.mlp is None or self.step.architecture.parallel_residual:
            return work
        per_token = mlp_bytes_per_token(self.step.architecture, group.mlp, self.step.stream)
        freed = self.step.settings.batch * self.step.length_of(group) * per_token
        return max(work - round(freed), 0)

    def _mlp_element_bytes(self) -> int:
        return self.step.stream.residual.block_bytes if self.step.stream.quantized else 0

    def _dequantised(self) -> int:
        """The largest quantised weight in the types of the weight and of the gradient.

        bitsandbytes autograd/_functions.py `MatMul4Bit.backward`, `MatMul8bitLt.backward`.
        """
        gemm = Gemm.of(self.step.weights)
        if gemm.quantization is None:
            return 0
        own = self.step.weights.dtype.num_bytes(gemm.largest_elements)
        compute = gemm.compute_dtype
        other = (
            compute.num_bytes(gemm.largest_elements)
            if compute is not self.step.weights.dtype
            else 0
        )
        return own + other

    def _head_gradient(self) -> int:
        """A trained head's gradient exists before the layers' backward."""
        return self._table_gradient() if self._head_trained else 0

    def _table_gradient(self) -> int:
        """One tensor of the vocabulary's size, V·h."""
        vocab, hidden = self.step.architecture.vocab_size, self.step.architecture.hidden_size
        tables = [
            row.num_elements
            for row in self.step.model.tensors
            if row.shape[:1] == (vocab,) and len(row.shape) == 2
        ]
        return self.step.weights.dtype.block_bytes * max(tables, default=vocab * hidden)

    def _embedding_gradient(self) -> int:
        """The gradient that the input embedding makes last; a tied one is there from the head."""
        return self._table_gradient() if self._embedding_trained and not self.step.model.tied else 0

    @cached_property
    def _embedding_trained(self) -> bool:
        return self._trains_table(embedding=True)

    @cached_property
    def _head_trained(self) -> bool:
        """A head of its own, or the embedding that it shares."""
        return self._trains_table(embedding=self.step.model.tied)

    def _trains_table(self, *, embedding: bool) -> bool:
        """Whether the embedding's or the head's V·h is trained."""
        if self.step.adapter is not None or not self.step.training.freeze:
            return self.step.adapter is None
        size = self.step.architecture.vocab_size
        tables = [r.row for r in self.step.trained_rows if r.row.shape[:1] == (size,)]
        return any(("Embedding" in table.module) is embedding for table in tables)

    def _tied_gradient(self) -> int:
        """A tied embedding's dense gradient, and its sum with the head's: a third tensor.

        Measured: 80 published runs of BERT-like models at small batches (transformers' SDPA
        tables) lie one such tensor above the other two. Where autocast cast the weight, the head's
        gradient is cast back, a tensor of its own and no view, into which the engine adds (torch
        autograd/input_buffer.cpp `can_accumulate_inplace`; an H200's runs: two tensors, not three).
        So is a fused loss's: TRL's casts it from float32 at its end, Liger's is there all along.
        """
        if not self.step.model.tied:
            return 0
        cast = self.step.stream.autocast and self.step.weights.dtype is FLOAT32
        cast = cast and self.step.gathered is None and not self.step.deepspeed
        own = cast or self.step.settings.chunked_loss
        return (1 if own else 2) * self.step.as_gathered(self._head_gradient())


@dataclass(frozen=True, kw_only=True)
class _OneLayer:
    activations: int
    temporaries: int
