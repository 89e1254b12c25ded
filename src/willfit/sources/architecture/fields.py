"""Reading a config's shape fields: bounded, typed, by every name that the libraries use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from willfit.errors import InputError

MAX_SIZE: Final = 2**31
"""Bound on a width, a count or a vocabulary: real configs stay far below."""
MAX_LAYERS: Final = 10_000

SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim", "model_dim"),
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    "num_heads": (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
    ),
    "intermediate_size": (
        "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim",
        "decoder_ffn_dim",
    ),
    "max_context": (
        "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length",
        "max_target_positions", "seq_length",
    ),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token", "moe_top_k", "top_k_experts"),
    "hidden_act": (
        "hidden_act", "hidden_activation", "activation_function", "activation",
        "feed_forward_proj", "mlp_hidden_act",
    ),
}  # fmt: skip
"""Names of one quantity, the usual one first."""


class Fields:
    """A config mapping whose values are checked when they are read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def size(self, name: str, default: int | None = None) -> int | None:
        """A whole number ≥ 0 by any of its names; ``default`` where it is absent or null."""
        for key in SYNONYMS.get(name, (name,)):
            value = self.config.get(key)
            if value is not None:
                return _whole(key, value, MAX_LAYERS if name == "num_layers" else MAX_SIZE)
        return default

    def need(self, name: str) -> int:
        """A whole number ≥ 1 that must be there."""
        value = self.size(name)
        if not value:
            known = SYNONYMS.get(name, (name,))
            raise InputError(
                f"the config has no usable {known[0]}: expected a whole number of at least 1 "
                f"under {' or '.join(known[:3])}"
            )
        return value

    def text(self, name: str, default: str = "") -> str:
        """A text by any of its names."""
        for key in SYNONYMS.get(name, (name,)):
            value = self.config.get(key)
            if isinstance(value, str):
                return value
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        value = self.config.get(name)
        return default if value is None else bool(value)

    def number(self, name: str) -> float | None:
        """A number, None where absent."""
        value = self.config.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def rate(self, names: Iterable[str], default: float) -> float:
        """The first of these numbers that the config has."""
        found = (self.number(name) for name in names)
        return next((rate for rate in found if rate is not None), default)

    def items(self, name: str) -> list[Any] | None:
        """A list, bounded; None where absent."""
        value = self.config.get(name)
        if not isinstance(value, (list, tuple)):
            return None
        if len(value) > MAX_LAYERS:
            raise InputError(f"{name} has {len(value)} entries: expected one per layer")
        return list(value)

    def nested(self, name: str) -> Fields:
        """The fields of a nested mapping (empty where absent)."""
        value = self.config.get(name)
        return Fields(value if isinstance(value, Mapping) else {})


def _whole(key: str, value: Any, ceiling: int) -> int:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or (isinstance(value, float) and not value.is_integer()):
        raise InputError(f"{key} is {str(value)[:40]!r}: expected a whole number")
    if not 0 <= value <= ceiling:
        raise InputError(f"{key} is {value}: expected a whole number from 0 to {ceiling:,}")
    return int(value)
