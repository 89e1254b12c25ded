"""ModelSpec: a checkpoint as stored. Its tensor table, its shape facts, its quantisation."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal

from willfit.dtypes import DType

_RANGES: Final = re.compile(r"\{([^{}]*)\}")


class TensorKind(Enum):
    """What a row of the tensor table is to its module."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    NON_PERSISTENT_BUFFER = "non_persistent_buffer"
    """Built at load time, absent from the checkpoint (rotary ``inv_freq``)."""


def expand_pattern(pattern: str) -> Iterator[str]:
    """The names that a pattern stands for: ``h.{0-2,7}.w`` is h.0.w, h.1.w, h.2.w and h.7.w."""
    pieces = _RANGES.split(pattern)
    choices = [
        [piece] if index % 2 == 0 else [str(number) for number in _numbers(piece)]
        for index, piece in enumerate(pieces)
    ]
    return ("".join(combination) for combination in itertools.product(*choices))


def pattern_count(pattern: str) -> int:
    """How many names a pattern stands for."""
    return math.prod(len(_numbers(ranges)) for ranges in _RANGES.findall(pattern))


def _numbers(ranges: str) -> list[int]:
    numbers: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """Equal tensors of repeated layers, as one row: ``model.layers.{0-31}.mlp.up_proj.weight``."""

    name: str
    """Name pattern; ``{0-31}`` or ``{0,2,5-7}`` stands for one tensor per number."""
    shape: tuple[int, ...]
    """Shape of one of them."""
    dtype: DType
    """Element type as stored."""
    module: str
    """Class of the module that owns it: ``Linear``, ``Embedding``, ``LlamaRMSNorm``, ``Conv1D``."""
    kind: TensorKind = TensorKind.PARAMETER
    tied_to: str | None = None
    """Name of the tensor whose storage it shares (it then takes no bytes of its own), or None."""
    since: str | None = None
    """transformers release that introduced it; None for always."""
    until: str | None = None
    """transformers release that dropped it; None for never."""

    @cached_property
    def count(self) -> int:
        """Number of tensors in this row."""
        return pattern_count(self.name)

    @cached_property
    def num_elements(self) -> int:
        """Elements of one tensor."""
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether the row holds parameters, as opposed to buffers."""
        return self.kind is TensorKind.PARAMETER

    @property
    def owner(self) -> str:
        """Path pattern of the owning module: the name without its last part."""
        return self.name.rpartition(".")[0]

    def names(self) -> Iterator[str]:
        """Every tensor name of the row."""
        return expand_pattern(self.name)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A softmax-attention token mixer and what it caches."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    """Width of one query/key head."""
    v_head_dim: int
    """Width of one value head (equals head_dim unless the config says otherwise)."""
    window: int | None = None
    """Sliding-window length in tokens, None for full attention."""
    chunked: bool = False
    """Whether `window` is a chunk (Llama-4) rather than a sliding window."""
    kv_lora_rank: int | None = None
    """Latent width of MLA; None for ordinary K and V."""
    qk_rope_head_dim: int = 0
    """Rotary part of an MLA head, cached once per token."""
    q_lora_rank: int | None = None
    """Latent width of MLA queries; None where queries are projected directly."""
    qk_norm: bool = False
    """Whether queries and keys are normalised per head or per projection."""
    softcap: float | None = None
    """Soft cap on attention scores (Gemma-2); forces eager attention."""
    causal: bool = True
    cross: bool = False
    """Whether the layer also attends to an encoder (encoder–decoder models), and caches that."""
    eager_score_bytes: tuple[int, int, int] | None = None
    """Bytes per score at eager attention's peak in float16, bfloat16 and float32, where the class
    has its own."""
    dropout: float = 0.0
    """On the softmax's result, active in training."""
    softmax_in_own_type: bool = False
    """Whether eager attention computes the softmax in the scores' type, not in float32."""
    keeps_weights: bool = False
    """Whether the model holds the weights that eager attention of the layer before returned."""
    broadcasts_kv: bool = False
    """Whether eager attention lets the product broadcast a single key head (Falcon): K and V are
    copied to all heads one after the other, not together."""
    indexer_dim: int = 0
    """Per-token width that a sparse-attention indexer caches besides K and V (DeepSeek-V3.2)."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """How transformers' own code goes through a prompt where no kernel is installed."""

    kind: Literal["selective", "chunked", "delta"]
    """Mamba-1: a state for every token; Mamba-2: chunks; gated delta nets: chunks and a solve."""
    num_heads: int
    """Heads of the values; channels of Mamba-1, whose heads are one wide."""
    key_dim: int
    """Rows of a head's state: the state size, or the keys' width."""
    value_dim: int
    """Columns of a head's state: the head size, or the values' width."""
    chunk_len: int = 1
    """Tokens that are worked on together, to whose multiple a prompt is padded."""
    shares_keys: bool = False
    """Whether several heads have one key, which is then repeated."""


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A linear-attention or state-space mixer: its cache does not grow with the context."""

    conv_elements: int
    """Elements of the convolution state per sequence (channels × kernel)."""
    state_elements: int
    """Elements of the recurrent state per sequence."""
    state_dtype: DType | None = None
    """Type of the recurrent state where the model fixes it (often float32), else None: model's."""
    inner_size: int = 0
    """Width of the mixer's inner activations."""
    conv_size: int = 0
    """Channels of its convolution."""
    widened: bool = False
    """Whether a float32 factor makes the projections float32 (Falcon-H1's ``mup_vector``)."""
    scan: Scan | None = None
    """None where there is no scan, or none whose memory is known."""


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """The feed-forward part of a layer."""

    intermediate_size: int
    """Inner width of the dense MLP, or of one expert."""
    gated: bool = True
    """Three matrices (gate, up, down) rather than two."""
    num_experts: int = 0
    """Routed experts, 0 for a dense MLP."""
    experts_per_token: int = 0
    shared_intermediate_size: int = 0
    """Inner width of the always-active expert, 0 if there is none."""


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """``count`` equal layers (not necessarily adjacent; order never matters to bytes)."""

    count: int
    attention: Attention | None = None
    recurrent: Recurrent | None = None
    mlp: Mlp | None = None
    shares_cache: bool = False
    """Whether the layer reuses another layer's K and V (Gemma-3n) and caches nothing."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the closed formulas need to know of a transformer: shapes, not names."""

    hidden_size: int
    vocab_size: int
    """Rows of the output projection (0 if the model has none)."""
    max_context: int | None
    """Longest context the config allows, None if unlimited or unknown."""
    layers: tuple[LayerGroup, ...]
    """Layers of the text decoder, or of the only stack."""
    encoder_layers: tuple[LayerGroup, ...] = ()
    """Layers of the encoder of an encoder–decoder model."""
    encoder_len: int | None = None
    """Positions of the encoder where they are fixed (Whisper's 1,500 frames)."""
    is_decoder: bool = True
    """Whether the model generates and therefore has a KV cache."""
    supports_sdpa: bool = True
    """Whether transformers dispatches SDPA for this class (Gemma-2, gpt-oss: False → eager)."""
    sdpa_releases: tuple[tuple[str, str], ...] = ()
    """Where that changed: first release with SDPA and first without, "" where none is."""
    final_softcap: float | None = None
    """Soft cap on logits: two extra transient copies."""
    norms_per_layer: int = 2
    rms_norm: bool = True
    """RMSNorm (upcasts to fp32 in transformers) rather than LayerNorm."""
    post_norm: bool = False
    """Norms after attention and MLP only (OLMo-2): no normalised copy beside the residual."""
    relative_bias: bool = False
    """T5: every self-attention adds a table of positions by heads to its scores."""
    fixed_positions: bool = False
    """Whether positions are rows of a table, so that ``max_context`` cannot be passed."""
    learned_positions: bool = False
    """GPT-2: position embeddings stay alive through the layers, and one more copy of the stream."""
    scaled_logits: bool = False
    """Logits are multiplied by a constant, which makes a second copy (Cohere, Granite)."""
    norm_keeps_fp32: bool = False
    """Gemma's RMSNorm: the normalised float32 tensor is kept for the gradient of its weight."""
    parallel_residual: bool = False
    """Attention and MLP read the same input (NeoX, Falcon, GPT-J, Cohere, Phi)."""
    hidden_act: str = "silu"
    dropout: float = 0.0
    """Hidden dropout active in training, 0 for modern decoders."""
    activation_dropout: float = 0.0
    """On the activation inside the MLP (T5, BART)."""

    @property
    def num_layers(self) -> int:
        """Layers of the main stack."""
        return sum(group.count for group in self.layers)

    @property
    def all_layers(self) -> int:
        """Layers of both stacks."""
        return self.num_layers + sum(group.count for group in self.encoder_layers)


@dataclass(frozen=True, kw_only=True)
class StoredQuantization:
    """How a checkpoint is already quantised on disk; its tensors are counted as stored."""

    method: str
    """``bitsandbytes-nf4``, ``gptq``, ``awq``, ``fp8``, ``mxfp4``, ``compressed-tensors``…"""
    bits: float
    """Nominal bits of one quantised weight."""
    group_size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The ``quantization_config`` as found."""


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """Something that decides bytes and is not known, with the range of its effect."""

    name: str
    """What is not known, in a few words."""
    low_bytes: int
    """Smallest effect on device bytes against the nominal figure (may be negative)."""
    high_bytes: int
    """Largest effect on device bytes against the nominal figure."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The tensor table of the same checkpoint under another auto class."""

    model_class: str
    tensors: tuple[TensorRow, ...]
    no_split: tuple[str, ...] = ()
    composite: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A checkpoint as stored: architecture, tensor table, stored dtype and quantisation."""

    id: str
    """Name to show: Hub id, path or catalogue name."""
    library: str
    """``transformers``, ``timm`` or ``gguf``."""
    source: str
    """Where the shapes come from: ``catalogue``, ``hub``, ``local``, ``gguf``, ``timm``."""
    standing: str
    """How far the shapes are verified, in words for the reader."""
    model_class: str
    """Class that the tensor table describes: ``LlamaForCausalLM``."""
    tensors: tuple[TensorRow, ...]
    stored_dtype: DType
    """Type of the checkpoint's floating-point weights, which transformers 5 loads by default."""
    architecture: Architecture | None
    """Shape facts for the formulas; None where they do not know the family."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The config's facts as found (untrusted data, bounded in size)."""
    no_split: tuple[str, ...] = ()
    """Path patterns of modules that placement keeps whole (``_no_split_modules``)."""
    composite: tuple[str, ...] = ()
    """Path patterns of tensor owners that also have child modules without tensors."""
    quantization: StoredQuantization | None = None
    keep_in_fp32: tuple[str, ...] = ()
    """Name fragments that stay float32 under float16 (``wo`` in T5)."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Tables of other auto classes by name, where stored: ``AutoModel``."""
    classifier: bool = False
    """Whether the head classifies a sequence: logits of one position, labels wide."""
    stated_num_params: int | None = None
    """Parameters before quantisation packed them; None where the table says it."""
    assumptions: tuple[str, ...] = ()
    unknowns: tuple[Unknown, ...] = ()

    @cached_property
    def module_names(self) -> frozenset[str]:
        """Last parts of the paths of the modules that own a tensor: ``q_proj``."""
        return frozenset(row.owner.rpartition(".")[2] for row in self.tensors)

    @cached_property
    def tied(self) -> bool:
        """Whether a tensor is another's too: the head the input embedding."""
        return any(row.tied_to is not None for row in self.tensors)

    @cached_property
    def num_params(self) -> int:
        """Parameters, tied ones counted once; those before packing where it is quantised."""
        if self.quantization is not None and self.stated_num_params is not None:
            return self.stated_num_params
        return sum(
            row.num_elements * row.count
            for row in self.tensors
            if row.is_parameter and row.tied_to is None
        )
