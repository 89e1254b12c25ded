"""What only the model type tells: facts of transformers' classes that no config field carries.

Source of every row: the modelling and configuration files of transformers 5.23 for that type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from willfit.sources.architecture.fields import Fields


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Facts of a class; the defaults are those of a Llama-like decoder."""

    sdpa: bool = True
    """``_supports_sdpa``: else attention is eager by default."""
    rms_norm: bool = True
    norms_per_layer: int = 2
    parallel_residual: bool = False
    gated: bool = True
    qk_norm: bool = False
    decoder: bool = True
    full_every: int | None = None
    """Every n-th layer is full attention and the rest sliding, where the config does not list."""
    window: int | None = None
    """Default sliding window where the config is silent."""
    hidden_dropout: float = 0.0
    """Default of the hidden dropout where the config is silent."""
    max_context: int | None = None
    """Default of the longest context where the config is silent."""
    post_norm: bool = False
    learned_positions: bool = False
    eager_score_bytes: tuple[int, int, int] | None = None
    """Bytes per score of eager attention in float16, bfloat16 and float32, where the class keeps
    fewer or more copies."""
    attention_dropout: float = 0.0
    """Default of the dropout on attention's softmax where the config is silent."""
    activation_dropout: float = 0.0
    """Default of the dropout inside the MLP where the config is silent."""
    softmax_in_own_type: bool = False
    """Whether eager attention leaves the softmax in 16 bit, not in float32."""
    keeps_weights: bool = False
    """Whether a layer's attention weights live through the next layer (eager)."""
    broadcasts_kv: bool = False
    hidden_act: str = "silu"
    """Activation where the config has no field for it."""
    head_dim: int | None = None
    """Default head size where the config is silent and hidden / heads is not it."""
    num_kv_heads: int | None = None
    """Default number of key heads where the config is silent and it is not all heads."""


_CLASSIC = Traits(
    rms_norm=False,
    gated=False,
    hidden_dropout=0.1,
    attention_dropout=0.1,
    softmax_in_own_type=True,
)
"""What GPT-2 and BERT have in common."""
_ENCODER = replace(_CLASSIC, decoder=False, max_context=512)
_T5 = Traits(
    hidden_dropout=0.1,
    attention_dropout=0.1,
    activation_dropout=0.1,
    softmax_in_own_type=True,
)
_BART = Traits(
    rms_norm=False, gated=False, hidden_dropout=0.1, max_context=1024, softmax_in_own_type=True
)

TRAITS: Final[dict[str, Traits]] = {
    "gpt2": replace(_CLASSIC, learned_positions=True, max_context=1024),
    "gpt_bigcode": replace(_CLASSIC, softmax_in_own_type=False, max_context=1024),
    "gpt_neo": Traits(
        keeps_weights=True,
        eager_score_bytes=(8, 8, 8),
        sdpa=False,
        rms_norm=False,
        gated=False,
        max_context=2048,
    ),
    "gptj": Traits(
        sdpa=False, rms_norm=False, gated=False, parallel_residual=True, norms_per_layer=1
    ),
    "gpt_neox": Traits(rms_norm=False, gated=False, parallel_residual=True, max_context=2048),
    "opt": Traits(rms_norm=False, gated=False, hidden_dropout=0.1, max_context=2048),
    "bloom": Traits(
        hidden_act="bloom",
        eager_score_bytes=(12, 14, 16),
        sdpa=False,
        rms_norm=False,
        gated=False,
    ),
    "falcon": Traits(
        broadcasts_kv=True,
        eager_score_bytes=(8, 8, 16),
        rms_norm=False,
        gated=False,
        parallel_residual=True,
        max_context=2048,
    ),
    "mpt": Traits(sdpa=False, rms_norm=False, gated=False, max_context=2048),
    "phi": Traits(rms_norm=False, gated=False, parallel_residual=True, norms_per_layer=1),
    "starcoder2": Traits(rms_norm=False, gated=False),
    "stablelm": Traits(rms_norm=False),
    "nemotron": Traits(rms_norm=False, gated=False),
    "nemotron_h": Traits(gated=False, norms_per_layer=1),
    "cohere": Traits(rms_norm=False, parallel_residual=True, norms_per_layer=1),
    "cohere2": Traits(rms_norm=False, parallel_residual=True, norms_per_layer=1, full_every=4),
    "olmo": Traits(rms_norm=False),
    "dbrx": Traits(rms_norm=False),
    "gemma2": Traits(
        head_dim=256, num_kv_heads=4, sdpa=False, norms_per_layer=4, full_every=2, window=4096
    ),
    "gemma3": Traits(
        head_dim=256, num_kv_heads=4, norms_per_layer=4, qk_norm=True, full_every=6, window=4096
    ),
    "gemma3_text": Traits(
        head_dim=256, num_kv_heads=4, norms_per_layer=4, qk_norm=True, full_every=6, window=4096
    ),
    "gemma3n_text": Traits(
        head_dim=256, num_kv_heads=2, norms_per_layer=4, qk_norm=True, full_every=5, window=512
    ),
    "gemma4_text": Traits(sdpa=False, norms_per_layer=4, qk_norm=True, full_every=6, window=512),
    "gpt_oss": Traits(head_dim=64, num_kv_heads=8, sdpa=False, full_every=2, window=128),
    "mimo_v2_flash": Traits(sdpa=False, head_dim=192, num_kv_heads=4),
    "gemma": Traits(head_dim=256),
    "glm": Traits(head_dim=128, num_kv_heads=2),
    "seed_oss": Traits(head_dim=128, num_kv_heads=8),
    "minimax_m2": Traits(head_dim=128, num_kv_heads=8),
    "mistral": Traits(num_kv_heads=8),
    "ministral": Traits(num_kv_heads=8),
    "mixtral": Traits(num_kv_heads=8),
    "qwen3": Traits(head_dim=128, qk_norm=True),
    "qwen3_moe": Traits(qk_norm=True),
    "olmo2": Traits(post_norm=True, qk_norm=True),
    "olmo3": Traits(post_norm=True, qk_norm=True, full_every=4, window=4096),
    "olmoe": Traits(qk_norm=True),
    "exaone4": Traits(post_norm=True, qk_norm=True, full_every=4, window=4096),
    "qwen3_next": Traits(head_dim=256, num_kv_heads=2, qk_norm=True, full_every=4),
    "glm4": Traits(head_dim=128, num_kv_heads=2, norms_per_layer=4),
    "mamba": Traits(sdpa=False, norms_per_layer=1),
    "mamba2": Traits(sdpa=False, norms_per_layer=1),
    "falcon_mamba": Traits(sdpa=False, norms_per_layer=1),
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "electra": _ENCODER,
    "albert": Traits(rms_norm=False, gated=False, decoder=False, max_context=512),
    "distilbert": _ENCODER,
    "mpnet": Traits(
        sdpa=False, rms_norm=False, gated=False, decoder=False, hidden_dropout=0.1, max_context=512
    ),
    "modernbert": Traits(rms_norm=False, decoder=False, full_every=3, window=128),
    "clip_text_model": Traits(rms_norm=False, gated=False, decoder=False, max_context=77),
    "siglip_text_model": Traits(rms_norm=False, gated=False, decoder=False, max_context=64),
    "vit": Traits(rms_norm=False, gated=False, decoder=False),
    "deit": Traits(rms_norm=False, gated=False, decoder=False),
    "dinov2": Traits(rms_norm=False, gated=False, decoder=False),
    "t5": replace(_T5, gated=False, hidden_act="relu"),
    "mt5": _T5,
    "bart": _BART,
    "mbart": _BART,
    "pegasus": _BART,
    "whisper": Traits(rms_norm=False, gated=False, max_context=448, softmax_in_own_type=True),
}
"""Traits by ``model_type``; a type that is not here has a Llama-like decoder's."""

PLAIN: Final = Traits()


def traits_of(fields: Fields) -> Traits:
    """The traits of a config's model type; a Llama-like decoder's where it is not listed."""
    model_type = fields.text("model_type")
    return TRAITS.get(model_type) or TRAITS.get(model_type.removesuffix("_text")) or PLAIN
