"""Which kernel a GPU takes, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.errors import InputError
from willfit.formulas.attention import (
    AttentionShape,
    choose_kernel,
    default_implementation,
    forward_temporary_bytes,
    resolve_implementation,
    saved_bytes,
)
from willfit.scenario import Stack
from willfit.scenario.stack import TESTED
from willfit.sources.catalogue import load

TORCH_26 = Stack(versions={**TESTED, "torch": "2.6.0"})
TORCH_211 = Stack(versions={**TESTED, "torch": "2.11.0"})


def shape(**changes: Any) -> AttentionShape:
    """Llama-3-8B's attention over 4,096 tokens."""
    given_: dict[str, Any] = {
        "batch": 1, "q_len": 4096, "kv_len": 4096, "num_heads": 32, "num_kv_heads": 8,
        "head_dim": 128, "v_head_dim": 128, "dtype": FLOAT16, "masked": False, "training": False,
    }  # fmt: skip
    return AttentionShape(**{**given_, **changes})


@pytest.mark.parametrize(
    ("gpu", "changes", "stack", "kernel"),
    [
        # T4: flash needs sm_80, and efficient takes no grouped queries in torch 2.13
        ("T4", {}, Stack(), "math"),
        ("T4", {"masked": True}, Stack(), "efficient"),  # a mask makes K and V repeated
        ("T4", {"num_kv_heads": 32}, Stack(), "efficient"),
        ("T4", {"dtype": BFLOAT16}, Stack(), "math"),
        ("T4", {"dtype": BFLOAT16, "masked": True}, Stack(), "math"),
        ("L4", {}, Stack(), "flash"),
        ("L4", {"masked": True}, Stack(), "efficient"),  # flash takes no mask
        ("L4", {"dtype": FLOAT32}, Stack(), "math"),
        ("L4", {"dtype": FLOAT32, "num_kv_heads": 32}, Stack(), "efficient"),
        ("RTX 4090", {"head_dim": 512, "v_head_dim": 512}, Stack(), "efficient"),
        ("RTX 4090", {"head_dim": 224, "v_head_dim": 224, "training": True}, Stack(), "math"),
        ("A100-80GB", {"head_dim": 224, "v_head_dim": 224, "training": True}, Stack(), "flash"),
        ("H100", {"dtype": BFLOAT16}, Stack(), "cudnn"),
        ("H100", {"dtype": BFLOAT16}, TORCH_26, "flash"),
        ("H200", {"dtype": BFLOAT16}, TORCH_211, "cudnn"),  # measured
        ("H100", {"dtype": BFLOAT16, "masked": True}, Stack(), "cudnn"),
        ("B200", {"head_dim": 256, "v_head_dim": 256}, Stack(), "flash"),  # cuDNN: 128 there
        ("RTX 5090", {"dtype": BFLOAT16}, Stack(), "flash"),
    ],
)
def test_sdpa_takes_the_first_kernel_that_accepts(
    gpu: str, changes: dict[str, Any], stack: Stack, kernel: str
) -> None:
    choice = choose_kernel(shape(**changes), implementation="sdpa", gpu=find_gpu(gpu), stack=stack)
    assert choice.name == kernel


def test_flash_attention_2_on_a_t4_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"needs compute capability 8\.0 and NVIDIA T4 has 7\.5"):
        choose_kernel(
            shape(), implementation="flash_attention_2", gpu=find_gpu("T4"), stack=Stack()
        )
    with pytest.raises(InputError, match="float16 or bfloat16"):
        choose_kernel(
            shape(dtype=FLOAT32),
            implementation="flash_attention_2",
            gpu=find_gpu("L4"),
            stack=Stack(),
        )


@pytest.mark.parametrize(
    ("model", "implementation"),
    [("gemma-2-9b-it", "eager"), ("openai/gpt-oss-20b", "eager"), ("llama-3-8b", "sdpa")],
)
def test_classes_without_an_sdpa_path_are_eager_by_default(model: str, implementation: str) -> None:
    spec = load(model)
    assert spec is not None and spec.architecture is not None
    assert default_implementation(spec.architecture, Stack()) == implementation


def test_supports_sdpa_equals_the_classes_own_flag_for_every_model_type() -> None:
    """The trait table against what the real class said when the catalogue was built."""
    from willfit.sources.catalogue import entries, sdpa_flag

    wrong = {}
    for entry in entries():
        spec = load(entry.id)
        assert spec is not None
        flag = sdpa_flag(entry.id)
        if spec.architecture is not None and flag is not None:
            kind = str(spec.config.get("model_type"))
            if flag != spec.architecture.supports_sdpa and "text_config" not in spec.config:
                wrong[kind] = (flag, spec.architecture.supports_sdpa)
    assert not wrong


def test_bettertransformer_is_read_as_what_it_became() -> None:
    spec = load("opt-350m")
    assert spec is not None and spec.architecture is not None
    name, notes = resolve_implementation("BetterTransformer", spec.architecture, Stack())
    assert name == "sdpa"
    assert "BetterTransformer is gone" in notes[0]


def test_the_math_kernels_memory_is_what_its_operators_allocate() -> None:
    """Every operator's output in the real composite, plus what `_safe_softmax` hides inside."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: dict[str, int] = {}

    class Outputs(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                name = str(func).split(".")[1]
                sizes[name] = max(sizes.get(name, 0), out.untyped_storage().nbytes())
            return out

    s, d, heads, kv_heads = 64, 16, 8, 2
    q = torch.randn(1, heads, s, d, dtype=torch.float16)
    k = torch.randn(1, kv_heads, s, d, dtype=torch.float16)
    with sdpa_kernel(SDPBackend.MATH), Outputs():
        torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
    scores = 4 * heads * s * s
    assert sizes["bmm"] == sizes["_safe_softmax"] == scores  # float32, every head
    assert sizes["clone"] == 4 * heads * s * d  # K and V repeated in float32
    hidden_in_safe_softmax = scores // 4  # the bool of masked places; the softmax is written over
    alive = sizes["bmm"] + sizes["_safe_softmax"] + hidden_in_safe_softmax
    ours = forward_temporary_bytes(
        AttentionShape(
            batch=1, q_len=s, kv_len=s, num_heads=heads, num_kv_heads=kv_heads, head_dim=d,
            v_head_dim=d, dtype=FLOAT16, masked=False, training=False,
        ),
        "math",
    )  # fmt: skip
    inputs = 2 * 4 * heads * s * d + 2 * 4 * kv_heads * s * d + 2 * 4 * heads * s * d
    assert ours == alive + inputs + 4 * s * s


@pytest.mark.parametrize(
    ("kernel", "aten"),
    [
        ("flash", "_scaled_dot_product_flash_attention"),
        ("efficient", "_scaled_dot_product_efficient_attention"),
    ],
)
def test_saved_bytes_equal_what_autograd_saves(kernel: str, aten: str) -> None:
    """The aten operators themselves, on fake tensors, with saved-tensor hooks."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    batch, heads, s, d = 2, 8, 100, 64
    saved: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        if tensor.numel() > 4:
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        q, k, v = (
            torch.empty(batch, heads, s, d, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )
        op = getattr(torch.ops.aten, aten)
        if kernel == "flash":
            op(q, k, v, 0.0, True)
        else:
            op(q, k, v, None, True, 0.0, True)
    ours = saved_bytes(
        AttentionShape(
            batch=batch, q_len=s, kv_len=s, num_heads=heads, num_kv_heads=heads, head_dim=d,
            v_head_dim=d, dtype=BFLOAT16, masked=False, training=True,
        ),
        kernel,
    )  # fmt: skip
    assert ours == sum(saved.values())


@given(
    kernel=st.sampled_from(["flash", "efficient", "cudnn", "math", "eager", "flash_attention_2"]),
    dtype=st.sampled_from([FLOAT16, BFLOAT16, FLOAT32]),
    batch=st.integers(1, 4),
    length=st.integers(1, 4096),
    masked=st.booleans(),
    training=st.booleans(),
)
def test_more_batch_or_length_never_takes_less(
    kernel: str, dtype: DType, batch: int, length: int, masked: bool, training: bool
) -> None:
    def cost(batch: int, length: int) -> int:
        call = shape(
            batch=batch, q_len=length, kv_len=length, dtype=dtype, masked=masked, training=training
        )
        return forward_temporary_bytes(call, kernel) + saved_bytes(call, kernel)

    assert 0 < cost(batch, length) <= cost(batch + 1, length)
    assert cost(batch, length) <= cost(batch, length + 1)
