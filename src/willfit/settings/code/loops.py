"""How a loop of the script's own trains: its optimizer, its batches, its precision."""

from __future__ import annotations

from typing import Any

from willfit.settings.code.around import around, first
from willfit.settings.code.gathered import Gathered, dtype_name, plain
from willfit.settings.code.optimizers import OPTIMIZERS
from willfit.settings.code.reading import Load, Reading, Use
from willfit.settings.code.values import Site


def read_loop(reading: Reading, load: Load, gathered: Gathered) -> None:
    """Optimizer, batch, precision and clipping of a loop's step."""
    flags = gathered.flags
    flags["trainer"] = "loop"
    optimizer = first(around(reading, load, "optimizer"))
    if optimizer is not None and optimizer.site is not None:
        flags["optim"] = optimizer_of(optimizer.site)
    else:
        gathered.assume("the loop's optimizer is not in the text: adamw_torch")
        flags["optim"] = "adamw_torch"
    batch = training_batch(reading, load)
    if batch is not None:
        flags["per_device_train_batch_size"] = batch
    else:
        gathered.assume("the loop's batch is not in the text: 1")
        flags["per_device_train_batch_size"] = 1
    _precision(reading, load, gathered)
    accelerator = first(around(reading, load, "accelerator"))
    steps = accelerator.site.known("gradient_accumulation_steps") if (
        accelerator is not None and accelerator.site is not None) else None  # fmt: skip
    gathered.default("gradient_accumulation_steps", _count(steps) or _accumulated(reading, load))
    clip = first(around(reading, load, "clip"))
    norm = clip.site.known("max_norm") if clip is not None and clip.site is not None else None
    flags["max_grad_norm"] = 1.0 if clip is not None else 0.0
    if isinstance(norm, (int, float)) and norm > 0:
        flags["max_grad_norm"] = float(norm)
    if around(reading, load, "data_parallel"):
        gathered.assume("nn.DataParallel: with several GPUs add --strategy dp")


def optimizer_of(site: Site) -> str:
    """The Trainer's name for an optimizer that is made by hand."""
    name = OPTIMIZERS[site.last]
    return "adamw_torch_fused" if name == "adamw_torch" and site.value("fused") is True else name


def training_batch(reading: Reading, load: Load) -> int | None:
    """Rows of a loop's step: of the loader that shuffles, or of the stride over the rows."""
    use = loader_of(reading, load)
    batch = use.site.value("batch_size", 1) if use is not None and use.site is not None else None
    if use is None:
        strides = around(reading, load, "strides")
        batch = strides[0].value if strides else None
    return _count(plain(batch))


def loader_of(reading: Reading, load: Load) -> Use | None:
    """The ``DataLoader`` of a loop's steps: the one that shuffles, else the first."""
    return first(
        around(reading, load, "loader"),
        lambda use: use.site is not None and use.site.value("shuffle") is True,
    )


def _count(value: Any) -> int | None:
    counts = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return value if counts else None


def _accumulated(reading: Reading, load: Load) -> int | None:
    """The 8 of ``if (step + 1) % 8 == 0: optimizer.step()``."""
    steps = around(reading, load, "step")
    for use in around(reading, load, "modulo"):
        if any(use.cell == s.cell and use.line <= s.line <= use.last_line for s in steps):
            return _count(use.value)
    return None


def _precision(reading: Reading, load: Load, gathered: Gathered) -> None:
    """Autocast, of float16 where it is not said, and what ``Accelerator`` was asked for."""
    for use in around(reading, load, "accelerator"):
        asked = use.site.known("mixed_precision") if use.site is not None else None
        if asked in ("bf16", "fp16"):
            gathered.flags[asked] = True
            return
    for use in around(reading, load, "autocast"):
        site = use.site
        if (
            site is None
            or site.value("enabled") is False
            or site.value("device_type") in ("cpu", False)
        ):
            continue
        dtype = dtype_name(site.value("dtype")) if "dtype" in site.given else "float16"
        gathered.flags["bf16" if dtype == "bfloat16" else "fp16"] = True
        return
