"""The real model by ``from_pretrained``, with random weights in place of a checkpoint's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from willfit.emitting.call import Call
from willfit.errors import UnsupportedError
from willfit.live import realise
from willfit.live.calls import calls_of, on_cpu
from willfit.live.measured.rank import num_ranks
from willfit.scenario import Scenario

SPREAD: Final = 0.02
"""Standard deviation of the weights, as most configs' ``initializer_range``."""
PERIOD: Final = 1 << 22
"""Values that are drawn, then repeated: drawing takes a second for every 100 million."""
APART: Final = 64
"""Values between the beginnings of two tensors that share a buffer."""


def load_model(scenario: Scenario, device: str, checkpoint: str | None = None) -> Any:
    """The class that the scenario names, called as the code that `emit` writes calls it.

    ``checkpoint``: a folder to load from; without, ``from_pretrained`` is given tensors of random
    values that share one buffer in host memory, which copies them as fast as the bus goes.
    """
    calls = calls_of(scenario, None)
    call = (calls if device == "cuda" else on_cpu(calls)).load
    if checkpoint is not None:
        model = realise.load_model(checkpoint, call)
    else:
        model = _with_random_weights(scenario, call, shared=device == "cuda")
    if device == "cuda" and "device_map" not in call.arguments and not _sharded(scenario):
        import torch

        model = model.to(torch.device("cuda"))
    return model


def _sharded(scenario: Scenario) -> bool:
    """Whether accelerate takes the weights from host memory, to give each rank its part."""
    return num_ranks(scenario) > 1 and scenario.workload.loading.strategy in ("fsdp", "zero3")


def _with_random_weights(scenario: Scenario, call: Call, *, shared: bool) -> Any:
    import transformers

    cls = getattr(transformers, scenario.model.model_class, None)
    if cls is None:
        raise UnsupportedError(
            f"transformers {transformers.__version__} has no class {scenario.model.model_class}: "
            "give a whole checkpoint with --checkpoint"
        )
    settings = _settings(scenario)
    arguments = {name: realise.realised(value) for name, value in call.arguments.items()}
    arguments.pop("num_labels", None)  # it is in the settings
    arguments.pop("trust_remote_code", None)
    tensors = random_tensors(cls, settings, arguments["dtype"], shared=shared)
    return cls.from_pretrained(None, config=settings, state_dict=tensors, **arguments)


def _settings(scenario: Scenario) -> Any:
    """The library's config object of the scenario's model."""
    import transformers

    spec = scenario.model
    settings = transformers.AutoConfig.for_model(**spec.config)
    if scenario.workload.loading.num_labels is not None:
        settings.num_labels = scenario.workload.loading.num_labels
    if getattr(settings, "pad_token_id", None) is None:
        settings.pad_token_id = 0
    return settings


def random_tensors(cls: Any, settings: Any, dtype: Any, *, shared: bool) -> dict[str, Any]:
    """A state dict of random values by the names of the model; ``shared``: of one buffer.

    Each begins at a place of its own there: what shards a model tells its tensors apart by that.
    """
    import torch

    with torch.device("meta"):
        model = cls(settings)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    empty = {name: value for name, value in model.state_dict().items() if name not in tied}
    longest = max(tensor.numel() for tensor in empty.values())
    if not shared:
        drawn = _drawn(dtype)
        return {name: _values(tensor, drawn) for name, tensor in empty.items()}
    source = _buffer(longest + APART * len(empty), dtype)
    starts = range(0, APART * len(empty), APART)
    return {
        name: _values(tensor, source[start:], shared=True)
        for start, (name, tensor) in zip(starts, empty.items(), strict=True)
    }


@lru_cache(maxsize=2)
def _buffer(count: int, dtype: Any) -> Any:
    """Random values in pinned memory where it can be had; the first `PERIOD` repeat."""
    import torch

    try:
        buffer = torch.empty(count, dtype=dtype, pin_memory=True)
    except RuntimeError:  # containers may limit what can be pinned: then copying takes longer
        buffer = torch.empty(count, dtype=dtype)
    return _repeat(_drawn(dtype), buffer)


def _drawn(dtype: Any) -> Any:
    import torch

    return torch.empty(PERIOD, dtype=torch.float32).normal_(std=SPREAD).to(dtype)


def _repeat(drawn: Any, target: Any) -> Any:
    """The target, one-dimensional, filled with the values again and again."""
    whole = target.numel() // PERIOD * PERIOD
    target[:whole].view(-1, PERIOD).copy_(drawn)
    target[whole:].copy_(drawn[: target.numel() - whole])
    return target


def _values(like: Any, source: Any, *, shared: bool = False) -> Any:
    """A tensor of that shape: a view of the source, or one of its own with the source's values."""
    import torch

    if not like.dtype.is_floating_point:
        return torch.zeros(like.shape, dtype=like.dtype)
    if shared:
        return source[: like.numel()].view(like.shape)
    return _repeat(source, torch.empty(like.numel(), dtype=source.dtype)).view(like.shape)
