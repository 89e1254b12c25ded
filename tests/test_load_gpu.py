"""`willfit.load` and its rules on a real GPU; without one there is nothing to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny import tiny

from willfit.dtypes import DTYPES
from willfit.errors import InputError
from willfit.formulas.attention import AttentionShape, kernel_refusal
from willfit.live.here import look
from willfit.live.load import load

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

BACKENDS = {
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("kernel", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("head_dim", [64, 20])
def test_a_kernel_is_refused_exactly_where_torch_has_none(
    kernel: str, dtype: str, masked: bool, grouped: bool, head_dim: int
) -> None:
    """Torch raises "No available kernel" where the rule has a reason, and only there."""
    here = look()
    shape = AttentionShape(
        batch=1, q_len=32, kv_len=32, num_heads=4, num_kv_heads=2 if grouped else 4,
        head_dim=head_dim, v_head_dim=head_dim, dtype=DTYPES[dtype], masked=masked,
        training=False,
    )  # fmt: skip
    ours = kernel_refusal(kernel, shape, here.gpus[0], here.stack)
    if grouped and masked:
        pytest.skip("transformers repeats grouped keys under a mask")
    assert (ours is not None) is _raises(kernel, dtype, masked, grouped, head_dim), ours


def _raises(kernel: str, dtype: str, masked: bool, grouped: bool, head_dim: int) -> bool:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def tensor(heads: int) -> Any:
        return torch.randn(1, heads, 32, head_dim, device="cuda", dtype=getattr(torch, dtype))

    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool, device="cuda") if masked else None
    keys, values = (tensor(2 if grouped else 4) for _ in range(2))
    try:
        with torch.no_grad(), sdpa_kernel(getattr(SDPBackend, BACKENDS[kernel])):
            scaled_dot_product_attention(
                tensor(4), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )
    except RuntimeError as error:
        assert "No available kernel" in str(error)  # noqa: PT017 - either outcome is right
        return True
    return False


@pytest.mark.parametrize("quantize", [None, "int8", "nf4", "fp4"])
def test_the_model_is_on_the_gpu_and_generates(folder: Path, quantize: str | None) -> None:
    loaded = load(tiny(folder, "opt", "float16"), quantize=quantize, context=32)
    assert loaded.model.device.type == "cuda"
    assert loaded.on_target == {}
    ids = torch.tensor([[3, 4, 5, 6]], device="cuda")
    with loaded.kernels():
        out = loaded.model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert out.shape == (1, 7)


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_flash_alone_runs_where_the_rules_let_it(folder: Path, quantize: str | None) -> None:
    path, ids = tiny(folder, "opt", "float16"), torch.tensor([[3, 4, 5, 6]], device="cuda")
    if look().gpus[0].sm < 80:
        with pytest.raises(InputError, match="No available kernel"):
            load(path, quantize=quantize, sdpa_kernel="flash", context=32)
        return
    loaded = load(path, quantize=quantize, sdpa_kernel="flash", context=32)
    with loaded.kernels():
        assert loaded.model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 4
    with pytest.raises(InputError, match="needs 16 bit"):
        load(path, dtype="float32", sdpa_kernel="flash", context=32)


def test_a_missing_flash_attn_is_sdpa(folder: Path) -> None:
    here = look()
    if here.flash_attn or here.hub_kernels or here.gpus[0].sm < 80:
        pytest.skip("flash-attn can be had, or this GPU has no kernels")
    loaded = load(tiny(folder, "llama"), attn="flash_attention_2", context=32)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_what_is_free_is_what_the_driver_says() -> None:
    """Total − free, less this process's own context, is in use by others."""
    here = look()
    for index, (gpu, in_use) in enumerate(zip(here.gpus, here.in_use_bytes, strict=True)):
        free, total = torch.cuda.mem_get_info(index)
        assert gpu.capacity_bytes == torch.cuda.get_device_properties(index).total_memory
        assert 0 <= in_use <= total - free
