"""Activations that a LoRA or QLoRA layer keeps, against counts on the real libraries.

Each figure is bytes per token and hidden unit of one decoder layer with frozen weights, r 8, counted on
peft 0.21.2 and bitsandbytes 0.50.2 layers with CUDA's kernels substituted: hidden size 1,024,
intermediate size 3,072, 16 query heads, 4 key heads of 64.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from willfit.dtypes import BFLOAT16, FLOAT32
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.training.lora import Adapter, Target
from willfit.formulas.training.saved import Stream, attention_saved, layer_bytes_per_token
from willfit.scenario.model import Architecture, Attention, LayerGroup, Mlp

H, WIDTH, HEADS, KV_HEADS, D = 1024, 3072, 16, 4, 64
TOKENS = 512
FEATURES = {
    "q_proj": (H, H),
    "k_proj": (H, KV_HEADS * D),
    "v_proj": (H, KV_HEADS * D),
    "o_proj": (H, H),
    "gate_proj": (H, WIDTH),
    "up_proj": (H, WIDTH),
    "down_proj": (WIDTH, H),
}
ALL = tuple(FEATURES)
QV = ("q_proj", "v_proj")


def kept(
    names: tuple[str, ...], *, autocast: bool, dropout: float, four_bit: bool, kbit: bool
) -> float:
    """Bytes per token and hidden unit of one layer by the formulas."""
    attention = Attention(num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=D, v_head_dim=D)
    group = LayerGroup(count=1, attention=attention, mlp=Mlp(intermediate_size=WIDTH))
    architecture = Architecture(hidden_size=H, vocab_size=0, max_context=None, layers=(group,))
    adapter = Adapter(
        targets=tuple(
            Target(
                name=f"layers.0.{name}.weight",
                count=1,
                in_features=FEATURES[name][0],
                out_features=FEATURES[name][1],
            )
            for name in names
        ),
        r=8,
        dtype=FLOAT32,
        dropout=dropout,
        dora=False,
        saved_modules=(),
    )
    residual = FLOAT32 if kbit else BFLOAT16
    stream = Stream(
        residual=residual,
        compute=BFLOAT16 if autocast else residual,
        trained=False,
        quantized=four_bit,
        autocast=autocast,
    )
    # float32 queries reach the memory-efficient kernel, with keys and values at every head
    float32 = stream.compute is FLOAT32
    shape = attention_shape(
        replace(attention, num_kv_heads=HEADS) if float32 else attention,
        stream.compute,
        batch=2,
        q_len=TOKENS // 2,
        kv_len=TOKENS // 2,
        masked=False,
        training=True,
    )
    kernel = "efficient" if float32 else "flash"
    casts = 2 * adapter.num_params if autocast else 0  # half copies of the adapters themselves
    own = attention_saved(attention, shape, kernel, stream) + casts
    return (layer_bytes_per_token(architecture, group, stream, adapter) + own / TOKENS) / H


@pytest.mark.parametrize(
    ("names", "autocast", "dropout", "four_bit", "kbit", "counted"),
    [
        (ALL, True, 0.0, False, False, 50.4),
        (ALL, False, 0.0, False, False, 67.5),
        (ALL, True, 0.05, False, False, 59.4),
        (ALL, False, 0.05, False, False, 76.5),
        (QV, True, 0.0, False, False, 35.3),
        (QV, False, 0.0, False, False, 39.2),
        (ALL, True, 0.0, True, False, 42.4),
        (ALL, True, 0.05, True, False, 59.4),
        # after prepare_model_for_kbit_training the stream is float32
        (ALL, True, 0.0, True, True, 66.4),
        (ALL, True, 0.05, True, True, 77.4),
        (ALL, False, 0.0, True, True, 80.5),
        (ALL, False, 0.05, True, True, 105.5),
    ],
)
def test_kept_bytes_are_within_two_percent_of_the_count(
    names: tuple[str, ...],
    autocast: bool,
    dropout: float,
    four_bit: bool,
    kbit: bool,
    counted: float,
) -> None:
    ours = kept(names, autocast=autocast, dropout=dropout, four_bit=four_bit, kbit=kbit)
    assert ours == pytest.approx(counted, rel=0.02)
