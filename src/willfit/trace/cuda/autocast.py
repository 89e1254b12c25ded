"""CUDA's autocast for a trace that runs on the CPU, whose autocast has other lists of operators.

torch 2.13 ATen/autocast_mode.h (`AT_FORALL_*`) and autocast_mode.cpp, which registers those for
CUDA. What the CPU lists and CUDA does not is passed on as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils._pytree import tree_map

from willfit.trace.cuda.kernels import Kernel, operator, registered, replaced

LOWER: Final = (
    "_convolution.deprecated", "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc",
    "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "prelu",
    "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm",
    "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "_thnn_fused_lstm_cell",
    "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_scaled_dot_product_flash_attention", "scaled_dot_product_attention",
)  # fmt: skip
"""In autocast's own type (`AT_FORALL_LOWER_PRECISION_FP`)."""
FLOAT32: Final = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p",
    "reciprocal", "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar",
    "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "frobenius_norm.dim",
    "nuclear_norm", "nuclear_norm.dim", "cosine_similarity", "poisson_nll_loss",
    "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss",
    "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss",
    "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss",
    "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp",
    "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "upsample_nearest3d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bicubic2d_aa",
)  # fmt: skip
"""In float32 (`AT_FORALL_FP32`)."""
FLOAT32_DTYPE: Final = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum",
    "linalg_vector_norm", "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum",
    "sum.dim_IntList",
)  # fmt: skip
"""With ``dtype=float32`` where the call names no type (`AT_FORALL_FP32_SET_OPT_DTYPE`)."""
FLOAT32_OVERLOAD: Final = {
    "norm.Scalar": "norm.ScalarOpt_dtype",
    "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype",
}
"""By the overload that takes a type (`AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE`)."""
PROMOTE: Final = (
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put",
    "tensordot", "scatter_add",
)  # fmt: skip
"""In the widest type among the arguments (`AT_FORALL_PROMOTE`)."""
BANNED: Final = "binary_cross_entropy"
"""Refused, as its gradient overflows in half precision."""

_KEY: Final = "AutocastCPU"


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """``torch.autocast("cpu")`` has CUDA's lists for the duration, in recomputation too.

    Weights' casts are cached as long as torch caches its own: until the outermost autocast ends.
    ``torch.is_autocast_enabled()`` without a device asks for CUDA's, which here is the CPU's: where
    it says no, PEFT's quantised layers cast their input to the adapter's type (lora/bnb.py).
    """
    cache = _Cache()
    clear, enabled = torch.clear_autocast_cache, torch.is_autocast_enabled

    def clear_both() -> None:
        cache.casts.clear()
        clear()

    def enabled_here(device_type: str = "cpu") -> bool:
        return enabled(device_type)

    rows = [
        (torch, "clear_autocast_cache", clear_both),
        (torch, "is_autocast_enabled", enabled_here),
    ]
    with replaced(rows), registered(_KEY, dict(_rows(cache))):
        yield


def _rows(cache: _Cache) -> Iterator[tuple[str, Kernel]]:
    """Every operator whose kernel at the CPU's key is not CUDA's."""
    theirs = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_registrations_for_dispatch_key(_KEY)
        if name.startswith("aten::")
    }
    for name in LOWER:
        if name not in theirs:  # else it is in the CPU's list of the same policy
            yield name, _lower(operator(name), cache)
    for name in FLOAT32:
        yield name, _float32(operator(name))
    for name in FLOAT32_DTYPE:
        yield name, _with_dtype(operator(name))
    for name, other in FLOAT32_OVERLOAD.items():
        yield name, _by_overload(operator(name), operator(other))
    for name in PROMOTE:
        yield name, _promoted(operator(name))
    yield BANNED, _refused
    ours = {*LOWER, *FLOAT32, *FLOAT32_DTYPE, *FLOAT32_OVERLOAD, *PROMOTE, BANNED}
    for name in sorted(theirs - ours):
        yield name, torch.library.fallthrough_kernel


def without_autocast(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The call as an operator of a list makes its own inside: nothing there is cast again."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    with torch._C._ExcludeDispatchKeyGuard(keys):
        return function(*args, **kwargs)


def _eligible(value: Any) -> bool:
    """Tensors of floats but float64 (`is_eligible`)."""
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.dtype != torch.float64
    )


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda value: value.to(dtype) if _eligible(value) else value, arguments)


class _Cache:
    """Casts of trained float32 weights, which torch makes once (`cached_cast`)."""

    def __init__(self) -> None:
        self.casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """(weight, its cast) by the weight's ``id``."""

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """``value`` in ``dtype`` where that is a tensor to be cast."""
        if not _eligible(value):
            return value
        if not (
            value.dtype == torch.float32
            and value.requires_grad
            and value.is_leaf
            and not value._is_view()
            and torch.is_autocast_cache_enabled()
        ):
            return value.to(dtype)
        if id(value) not in self.casts:
            self.casts[id(value)] = (value, value.to(dtype))
        return self.casts[id(value)][1]


def _lower(function: Any, cache: _Cache) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("cpu")
        args, kwargs = tree_map(lambda value: cache.cast(value, dtype), (args, kwargs))
        return without_autocast(function, *args, **kwargs)

    return kernel


def _float32(function: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _cast((args, kwargs), torch.float32)
        return without_autocast(function, *args, **kwargs)

    return kernel


def _with_dtype(function: Any) -> Kernel:
    names = [argument.name for argument in function._schema.arguments]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if _eligible(args[0]) and given.get("dtype") is None:
            args = args[: names.index("dtype")]
            kwargs = {**kwargs, "dtype": torch.float32}
        return without_autocast(function, *args, **kwargs)

    return kernel


def _by_overload(function: Any, with_dtype: Any) -> Kernel:
    names = [argument.name for argument in function._schema.arguments]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if not _eligible(args[0]):
            return without_autocast(function, *args, **kwargs)
        given = {
            argument.name: argument.default_value
            for argument in function._schema.arguments
            if argument.has_default_value()
        }
        given |= dict(zip(names, args, strict=False)) | kwargs
        return without_autocast(with_dtype, **given, dtype=torch.float32)

    return kernel


def _promoted(function: Any) -> Kernel:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        widest = torch.get_autocast_dtype("cpu")

        def look(value: Any) -> Any:
            nonlocal widest
            if _eligible(value) and value.dtype == torch.float32:
                widest = torch.float32
            return value

        tree_map(look, (args, kwargs))
        args, kwargs = _cast((args, kwargs), widest)
        return without_autocast(function, *args, **kwargs)

    return kernel


def _refused(*_: Any, **__: Any) -> Any:
    raise RuntimeError(
        "torch refuses F.binary_cross_entropy under autocast: use "
        "F.binary_cross_entropy_with_logits"
    )
