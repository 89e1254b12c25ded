"""Training settings with every default filled in as the trainer would, and said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import InputError
from willfit.formulas.attention import resolve_implementation
from willfit.formulas.positions import require_positions
from willfit.formulas.training.optimizers import (
    Optimizer,
    default_optimizer,
    find_optimizer,
)
from willfit.scenario.model import Architecture
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Training

DEFAULT_BATCH: Final = 8
"""``per_device_train_batch_size`` (transformers 5.23 training_args.py; TRL the same)."""
DEFAULT_LENGTH: Final = 1024
"""``max_length`` of TRL's SFTConfig; the Trainer has none, so the same is assumed there."""
VARLEN: Final = ("flash", "kernels-community")
"""Implementations that take rows of several sequences as they are; others need a mask of S²."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training step does."""

    batch: int
    seq_len: int
    optimizer_name: str
    optimizer: Optimizer
    checkpointing: bool
    reentrant: bool
    autocast: DType | None
    """Type of autocast, None without."""
    implementation: str
    keeps_outputs: bool
    """Whether logits and cache live until the next step (a plain loop)."""
    chunked_loss: bool
    """Whether logits are never materialised whole (TRL's fused head, Liger)."""
    accumulation: int
    packed: bool
    """Whether a micro-batch is one row of whole sequences, told apart by their positions."""
    masked: bool
    """Whether attention is given a mask: for padding, or between packed sequences."""
    step_lengths: tuple[int, ...]
    """Sequence lengths of successive steps where the data's are known; the longest is the last."""
    assumptions: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """B·S of a micro-batch."""
        return self.batch * self.seq_len


def fill_training(
    training: Training, architecture: Architecture | None, stack: Stack
) -> TrainingSettings:
    """Defaults of the trainer at the stack's version, each in ``assumptions``.

    Without an architecture the attention stays as given, for the class itself to decide.
    """
    notes: list[str] = []
    trl = training.trainer == "trl"
    batch = micro_batch_of(training)
    if training.micro_batch_size is None:
        notes.append(f"per_device_train_batch_size {batch}, the trainer's default")
    seq_len = _length(training, architecture, notes)
    checkpointing = checkpointing_of(training)
    if training.gradient_checkpointing is None:
        notes.append(f"gradient checkpointing {'on' if trl else 'off'}, the trainer's default")
    name = optimizer_of(training, stack)
    if training.optimizer is None:
        notes.append(f"optimizer {name}, the trainer's default")
    autocast = autocast_of(training)
    if autocast is not None and not training.bf16 and not training.fp16:
        notes.append("bf16 autocast on, TRL's default")
    if training.offload_activations and not trl:
        raise InputError(
            "--activation-offloading is a setting of TRL's SFTConfig: add --trainer trl, or leave "
            "it out"
        )
    packed = training.packing and trl
    if packed:
        seq_len, batch = seq_len * batch, 1
        notes.append("the sequences of a micro-batch are one row without padding (TRL's packing)")
    implementation, attention_notes = resolve_implementation(training.attn, architecture, stack)
    return TrainingSettings(
        batch=batch,
        seq_len=seq_len,
        optimizer_name=name,
        optimizer=find_optimizer(name),
        checkpointing=checkpointing,
        reentrant=bool(training.use_reentrant),
        autocast=autocast,
        implementation=implementation,
        keeps_outputs=training.trainer == "loop",
        chunked_loss=trl or training.use_liger_kernel,
        accumulation=training.gradient_accumulation_steps,
        packed=packed,
        masked=training.padded or (packed and not implementation.startswith(VARLEN)),
        step_lengths=_step_lengths(training, seq_len, batch, notes),
        assumptions=(*notes, *attention_notes),
    )


def require_scaled(trained: Iterable[DType]) -> None:
    """Raise `InputError` for what fp16's scaler refuses after the first backward."""
    if any(dtype is FLOAT16 for dtype in trained):
        raise InputError(
            "--fp16 trains float32 weights, and these are float16 (torch's GradScaler raises "
            "'Attempting to unscale FP16 gradients'): give --dtype float32, train an adapter, or "
            "leave --fp16 out"
        )


def micro_batch_of(training: Training) -> int:
    """``per_device_train_batch_size`` that is taken."""
    return training.micro_batch_size or DEFAULT_BATCH


def checkpointing_of(training: Training) -> bool:
    """Whether layers are computed again in backward: TRL's default is yes, the Trainer's no."""
    given = training.gradient_checkpointing
    return training.trainer == "trl" if given is None else given


def optimizer_of(training: Training, stack: Stack) -> str:
    """``optim`` as given, else the trainer's; a plain loop's is torch's own AdamW."""
    if training.optimizer is not None:
        return training.optimizer
    return default_optimizer(stack) if training.trainer != "loop" else "adamw_torch"


def autocast_of(training: Training) -> DType | None:
    """Type of autocast, None without: TRL turns bfloat16 on by itself.

    trl 1.16 base_config.py: ``bf16`` is ``not fp16`` where it was not given.
    """
    if training.bf16:
        return BFLOAT16
    if training.fp16:
        return FLOAT16
    return BFLOAT16 if training.trainer == "trl" and training.bf16 is None else None


def default_length(architecture: Architecture | None) -> int:
    """Tokens of a sequence where neither a limit nor the data says."""
    longest = architecture.max_context if architecture is not None else None
    return min(DEFAULT_LENGTH, longest or DEFAULT_LENGTH)


def length_of(training: Training, architecture: Architecture | None) -> int:
    """The longest micro-batch decides: the data's longest within the limit, the limit, the default.

    Tokens of one sequence.
    """
    if training.lengths:
        longest = max(training.lengths)
        return min(longest, training.max_length or longest)
    return training.max_length or default_length(architecture)


def _length(training: Training, architecture: Architecture | None, notes: list[str]) -> int:
    """The same, refused where it is longer than the model's table of positions."""
    most = training.max_length or max(training.lengths, default=0)
    longest = architecture.max_context if architecture is not None else None
    if longest is not None and most > longest:
        require_positions(architecture, most)
    length = length_of(training, architecture)
    if not most:
        notes.append(f"every sequence {length} tokens long: give --max-length or --lengths")
    return length


QUANTILES: Final = (0.1, 0.5, 0.9)
"""Batches, from short to long, that come between the longest one's first and second time."""


def _step_lengths(
    training: Training, longest: int, batch: int, notes: list[str]
) -> tuple[int, ...]:
    """Longest, short, middle, long, longest again: what the allocator finds is of other shapes.

    The q-quantile of the longest of B lengths is the q^(1/B)-quantile of a length; of B lengths
    that are alike it is their own (the Trainer's `LengthGroupedSampler`, longest batch first).
    """
    lengths = sorted(min(length, longest) for length in training.lengths)
    if not lengths or lengths[0] == lengths[-1] or training.packing:
        return ()
    notes.append("batches of other lengths come before the longest, in order of a typical epoch")
    alike = batch if not training.group_by_length else 1
    typical = [lengths[int(q ** (1 / alike) * (len(lengths) - 1))] for q in QUANTILES]
    return (longest, *typical, longest)


def gradient_dtype(weight_dtype: DType) -> DType:
    """A gradient has the type of its parameter."""
    return weight_dtype if weight_dtype.is_floating else FLOAT32
