"""Held: weights, adapters, gradients and states of one rank, and the types that it computes in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.formulas.modules import FUSED_GATE_UP, FUSED_QKV, has_module
from willfit.formulas.training import fsdp, parallel, static, zero
from willfit.formulas.training.freeze import trained_rows
from willfit.formulas.training.lora import Adapter
from willfit.formulas.training.saved import Stream
from willfit.formulas.training.settings import TrainingSettings
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import Architecture, ModelSpec
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Strategy, Training
from willfit.units import ceil_div

VIEWS_FUSED_QKV: Final = ("gpt_neox", "phi3")
"""Model types whose v is a view of it, and whose rotary embedding concatenates (transformers 5.23
modeling_gpt_neox.py, modeling_phi3.py); Falcon indexes, which copies, and GPT-2 views all three."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a training job has on one GPU of one or several, every default filled in."""

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

    @cached_property
    def kbit(self) -> bool:
        """Whether the model was prepared for k-bit training; only callers do that, no trainer."""
        return bool(self.training.prepare_kbit)

    @property
    def promotes(self) -> bool:
        """Whether autocast's 16-bit type is not the weights': their sums are float32.

        torch's type promotion: bfloat16 + float16 is float32, so the first layer's residual sum is,
        and every stream after it.
        """
        autocast, own = self.settings.autocast, self.weights.dtype
        if autocast is None or self._cast is not None or self.deepspeed:
            return False
        return own is not FLOAT32 and autocast is not own

    @cached_property
    def stream(self) -> Stream:
        """Types that the layers work in."""
        autocast = self.settings.autocast
        residual = FLOAT32 if self.kbit or self.promotes else self.weights.dtype
        if autocast is not None and (self._cast is not None or self.deepspeed):
            residual, autocast = autocast, None
        return Stream(
            residual=residual,
            compute=autocast or residual,
            trained=self.adapter is None,
            quantized=self.packed,
            autocast=autocast is not None,
            fused_qkv=has_module(self.model, *FUSED_QKV),
            fused_gate_up=has_module(self.model, *FUSED_GATE_UP),
            liger=self.training.use_liger_kernel,
            views_fused_qkv=str(self.model.config.get("model_type")) in VIEWS_FUSED_QKV,
        )

    @cached_property
    def trainables(self) -> tuple[static.Trainable, ...]:
        """Tensors that are trained."""
        return static.trainables(self.weights, self.adapter, self.training.freeze)

    @cached_property
    def trained_rows(self) -> tuple[LoadedRow, ...]:
        """The model's own parameters that are trained: none beside an adapter."""
        if self.adapter is not None:
            return ()
        return trained_rows(self.weights.rows, self.training.freeze)

    @cached_property
    def stepped(self) -> tuple[static.Trainable, ...]:
        """What the optimizer is given, of all ranks together.

        DeepSpeed gives it flat float32 masters, which no rule for embeddings or matrices finds
        (stage_1_and_2.py, stage3.py `fp32_partitioned_groups_flat`); FSDP the shards that it keeps.
        """
        if self.deepspeed:
            return (static.flat(self.trained_elements),)
        if self._shard_growth != 1:
            return tuple(replace(tensor, dtype=FLOAT32) for tensor in self.trainables)
        return self.trainables

    @cached_property
    def optimizer_state_bytes(self) -> tuple[int, int]:
        """States on the GPU, and outside of it, before any sharding."""
        trainer = self.training.trainer != "loop"
        return static.optimizer_state_bytes(
            self.stepped, self.settings.optimizer, full_embeddings=trainer
        )

    @property
    def stepping_gradients(self) -> int:
        """Gradients on one rank while the optimizer steps: DeepSpeed's are flat, in float32.

        Stage 3 has the place that they were reduced into besides (stage3.py `_prepare_sub_group`).
        """
        if not self.deepspeed:
            return self.sharded.gradients or self.largest_gradient
        flat = zero.MASTER_BYTES * self._stepped_at_once
        return flat + (self.sharded.gradients if self.strategy == "zero3" else 0)

    @property
    def _stepped_at_once(self) -> int:
        """Values of DeepSpeed's that a rank's optimizer is given at a time."""
        share = ceil_div(self.trained_elements, self.num_gpus)
        return zero.stepped_at_once(zero.STAGES[self.strategy], share)

    @property
    def step_temporary_bytes(self) -> int:
        """What the optimizer's step takes for a while on one rank."""
        if self.deepspeed:
            flat = static.flat(self._stepped_at_once)
            return static.step_temporary_bytes((flat,), self.settings.optimizer)
        whole = static.step_temporary_bytes(self.stepped, self.settings.optimizer)
        return ceil_div(whole, self.shards)

    @property
    def largest_gradient(self) -> int:
        """The one that is waiting where a step is a part of backward (LOMO)."""
        return max((t.num_bytes // t.count for t in self.trainables), default=0)

    @cached_property
    def sharded(self) -> parallel.Sharded:
        """What one rank holds under the strategy."""
        growth, masters = self._shard_growth, 0
        gradients = growth * static.total_bytes(self.trainables)
        if self.deepspeed:
            masters = zero.MASTER_BYTES * self.trained_elements
            gradients = self._trained_as_computed
        return parallel.shard(
            self.strategy,
            degree=self.num_gpus,
            weights=self._weights_as_computed * (growth if self.adapter is None else 1),
            gradients=0 if self.settings.optimizer.gradients_freed else gradients,
            optimizer_states=self.optimizer_state_bytes[0],
            masters=masters,
        )

    @cached_property
    def live(self) -> zero.Live | None:
        """What ZeRO-3 has gathered while it computes; None under other strategies."""
        if not self.deepspeed or self.strategy != "zero3":
            return None
        rows = self.weights.rows
        everything = sum(map(self._as_computed, rows))
        inside = sum(self._as_computed(row) for row in rows if self._in_layers(row))
        size = self.stream.compute.block_bytes
        return zero.Live(
            everything=zero.live_bytes(everything // size, size),
            outside=everything - inside,
            layer=inside // self._layers,
            partition=self.sharded.gradients,
        )

    @property
    def _layers(self) -> int:
        return max(self.architecture.num_layers, 1)

    def _in_layers(self, row: LoadedRow) -> bool:
        """Whether every layer has a tensor of the row."""
        return row.row.count >= self._layers

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed shares out what one of several ranks has."""
        return self.num_gpus > 1 and self.strategy in zero.STAGES

    @property
    def fully_sharded(self) -> bool:
        """Whether FSDP does."""
        return self.num_gpus > 1 and self.strategy == "fsdp"

    @cached_property
    def trained_elements(self) -> int:
        """Values that are trained."""
        return sum(t.num_elements * t.count for t in self.trainables)

    @property
    def _trained_as_computed(self) -> int:
        """Bytes of all gradients as DeepSpeed computes them."""
        autocast = self.settings.autocast
        dtype = autocast if autocast is not None else self._trained_dtype
        return dtype.num_bytes(self.trained_elements)

    @cached_property
    def buckets(self) -> zero.Buckets | None:
        """Of ZeRO's stages 1 and 2; None for any other strategy and for one GPU."""
        if not self.deepspeed or self.strategy == "zero3":
            return None
        if self.adapter is None:
            rows = [row.row for row in self.trained_rows if self._in_layers(row)]
            in_layers = sum(row.num_elements * row.count for row in rows)
        else:
            in_layers = self.trained_elements
        return zero.Buckets(
            layers=self._layers,
            element_bytes=self._trained_as_computed // max(self.trained_elements, 1),
            layer_elements=in_layers // self._layers,
            all_elements=self.trained_elements,
            partition=self.sharded.gradients,
        )

    @property
    def _trained_dtype(self) -> DType:
        return self.adapter.dtype if self.adapter is not None else self.weights.dtype

    @property
    def _shard_growth(self) -> int:
        """2 where a rank of FSDP has in float32 alone what was loaded in 16 bit and trains.

        accelerate upcasts what FSDP trains where mixed precision is on (utils/fsdp_utils.py
        `fsdp2_prepare_model`); a plain loop's and float32 adapters stay as they are.
        """
        mixed = self.settings.autocast is not None and self.training.trainer != "loop"
        if not self.fully_sharded or not mixed:
            return 1
        recent = fsdp.upcasts(self.stack, packed=self.packed)
        return 2 if recent and self._trained_dtype.block_bytes < 4 else 1

    @property
    def packed(self) -> bool:
        """Whether weights are quantised, by loading or as they are stored."""
        return self.weights.quantization is not None or self.model.quantization is not None

    @property
    def shards(self) -> int:
        """Parts that the optimizer's work is split into."""
        return self.num_gpus if self.strategy in parallel.SHARDED else 1

    @property
    def adapter_bytes(self) -> int:
        """The adapter on one rank: sharded where weights are."""
        if self.adapter is None:
            return 0
        own = self._shard_growth * static.total_bytes(self.trainables)
        if self.deepspeed:
            own = self._trained_as_computed
        return ceil_div(own, self.num_gpus if self.strategy in ("fsdp", "zero3") else 1)

    @property
    def computing_adapter(self) -> Adapter | None:
        """The adapter as products see it: FSDP gathers it, DeepSpeed casts it to 16 bit."""
        autocast = self.settings.autocast
        cast = self.fully_sharded or self.deepspeed
        if self.adapter is None or not cast or autocast is None:
            return self.adapter
        return replace(self.adapter, dtype=autocast)

    @cached_property
    def weight_bytes(self) -> int:
        """Weights on the device, after preparation for k-bit training."""
        cast_back = self.deepspeed and self.settings.autocast is not None
        growth = static.kbit_upcast(self.weights)[0] if self.kbit and not cast_back else 0
        return self.weights.allocated_bytes - self.weights.state_allocated_bytes + growth

    @cached_property
    def gathered(self) -> fsdp.Gathered | None:
        """The units of FSDP; None for any other strategy and for one GPU."""
        if not self.fully_sharded:
            return None
        carved = fsdp.is_carved(
            self.stack, packed=self.packed, tied=self.model.tied, trainer=self.training.trainer
        )
        sizes = {"layer": 0, "tail": 0, "embedding": 0}
        for row in self.weights.rows:
            if self._in_layers(row):
                unit = "layer"
            else:
                unit = "embedding" if carved and "Embedding" in row.row.module else "tail"
            sizes[unit] += self.as_gathered(row.total_bytes)
        sizes["layer"] //= self._layers
        own, autocast = self._trained_dtype, self.settings.autocast
        compute = autocast or own
        growth = own.block_bytes / compute.block_bytes * self._shard_growth
        if self.adapter is None:
            units = {name: fsdp.Unit(size, size) for name, size in sizes.items()}
        else:
            trained = static.total_bytes(self.trainables) * compute.block_bytes // own.block_bytes
            units = {name: fsdp.Unit(size, 0) for name, size in sizes.items()}
            part = trained // self._layers
            units["layer"] = fsdp.Unit(sizes["layer"] + part, part)
        return fsdp.Gathered(
            degree=self.num_gpus,
            layers=self._layers,
            shard_growth=growth,
            copies_out=fsdp.is_second(self.stack, packed=self.packed),
            layer=units["layer"],
            tail=units["tail"],
            embedding=units["embedding"],
        )

    @property
    def scales(self) -> bool:
        """Whether fp16's scaler finds gradients as they were computed.

        FSDP's are reduced into the type of its shards, and DeepSpeed has a scaler of its own.
        """
        sharded = self.fully_sharded or self.deepspeed
        return self.settings.autocast is FLOAT16 and not sharded

    @property
    def _cast(self) -> DType | None:
        """Another type that weights have where they are used: autocast has nothing to cast.

        accelerate 1.15 dataclasses.py `FullyShardedDataParallelPlugin.set_mixed_precision`;
        DeepSpeed casts the whole model instead (runtime/engine.py `_configure_distributed_model`).
        """
        sharded = self.fully_sharded or self.deepspeed
        if not sharded or self.packed or self.settings.autocast is self.weights.dtype:
            return None
        return self.settings.autocast

    def _as_computed(self, row: LoadedRow) -> int:
        """Bytes of weights as DeepSpeed casts them, packed ones not; others keep them all."""
        autocast = self.settings.autocast
        if not self.deepspeed or autocast is None or row.quantized or not row.dtype.is_floating:
            return row.total_bytes
        return row.total_bytes * autocast.block_bytes // row.dtype.block_bytes

    @property
    def _weights_as_computed(self) -> int:
        saved = sum(row.total_bytes - self._as_computed(row) for row in self.weights.rows)
        return self.weight_bytes - saved

    def as_gathered(self, num_bytes: int) -> int:
        """Bytes of weights, or of their gradients, in the type in which FSDP gathers them."""
        if self._cast is None:
            return num_bytes
        return num_bytes * self._cast.block_bytes // self.weights.dtype.block_bytes
