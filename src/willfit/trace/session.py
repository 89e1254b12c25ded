"""One traced process: the model is loaded on a simulated device, and what it does is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from willfit.devices import cublas_workspace_bytes
from willfit.errors import UnsupportedError
from willfit.formulas.loading import loading_script, moving_script, warmup_bytes
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.trace.build import Built
from willfit.trace.cuda import CudaAttention, cuda_choices, temporaries
from willfit.trace.fakes import fake_mode, to_fakes
from willfit.trace.modules import Modules
from willfit.trace.quantized import fake_quantized
from willfit.trace.recorder import Recorder
from willfit.trace.recording import Event, Handle, Place, Recording

_CONVOLUTIONS: Final = ("workspaces of cuDNN's convolutions are not counted",)
"""cuDNN measures or guesses an algorithm for each shape; its workspace follows from that choice."""


class Session:
    """A model on fake tensors, whose allocations are recorded from loading on."""

    def __init__(
        self,
        built: Built,
        weights: LoadedWeights,
        gpu: Gpu | None,
        stack: Stack,
        *,
        device_map: bool,
        warmup_weights: LoadedWeights | None = None,
    ) -> None:
        """``warmup_weights``: what the loader's first block is sized by, if not ``weights``."""
        self._whole = warmup_weights or weights
        self._quantized = weights.quantization is not None
        self.mode = fake_mode()
        self.model = built.model
        self.recorder = Recorder(
            temporaries(quantized=self._quantized), workspaces=(cublas_workspace_bytes(gpu),)
        )
        self.attention: CudaAttention | None = None
        self._built = built
        self._gpu = gpu
        self._stack = stack
        if self._quantized:
            fake_quantized(self.model, self.mode, getattr(torch, weights.dtype.name))
        to_fakes(self.model, self.mode)
        self._modules = Modules(self.model, built.paths)
        self._load(weights, device_map=device_map)

    @property
    def recording(self) -> Recording:
        """What was recorded so far."""
        return self.recorder.recording

    @contextmanager
    def running(self) -> Iterator[None]:
        """The user's code runs inside: on fake tensors, with this GPU's choices, recorded."""
        with ExitStack() as stack:
            self.attention = stack.enter_context(
                cuda_choices(
                    self._gpu,
                    self._stack,
                    quantized=self._quantized,
                    implementation=_implementation(self.model),
                )
            )
            stack.enter_context(self.mode)
            stack.enter_context(self.recorder)
            stack.enter_context(self.recorder.following(self._modules))
            yield

    def mark_cache(self, tensors: Iterable[Any]) -> None:
        """These tensors are of the KV cache."""
        self.recorder.mark(tensors, "kv_cache")

    def assumptions(self) -> tuple[str, ...]:
        """Which kernels ran, and why; what of them is not known."""
        taken = self.attention.taken if self.attention is not None else {}
        kernels = (f"attention kernel {name}: {reason}" for name, reason in taken.items())
        return (*kernels, *_CONVOLUTIONS) if self._convolves() else tuple(kernels)

    def _convolves(self) -> bool:
        return any(event.place.op.startswith("aten.convolution") for event in self.recording.events)

    def _load(self, weights: LoadedWeights, *, device_map: bool) -> None:
        """Loading's events, and every parameter known by the storage that loading gave it."""
        recorder = self.recorder
        if device_map:
            warmup = warmup_bytes(self._whole, self._gpu, self._stack)
            if warmup:
                recorder.release(recorder.allocate(warmup, "warm-up", "weights"))
        script = loading_script(weights) if device_map else moving_script(weights)
        left: dict[str, list[Handle]] = {}
        for name, events in script:
            layer = self._modules.layer(name)
            alive: dict[Handle, None] = {}
            for event in events:
                handle = ("load", event.handle)
                recorder.recording.events.append(
                    Event(handle, event.num_bytes, "load", Place(name, "load"), layer)
                )
                if event.num_bytes:
                    alive[handle] = None
                else:
                    del alive[handle]
            left[name] = list(alive)
        self._adopt(left, {n: row for row in weights.rows for n in row.row.names()})
        self._check_all_known()
        self._add_adapters()

    def _adopt(self, left: Mapping[str, list[Handle]], rows: Mapping[str, LoadedRow]) -> None:
        """Loaded tensors by handle; those made float32 since are allocated anew, in their order."""
        recorder = self.recorder
        for name, tensor in self._built.base_tensors():
            handles = left.get(name)
            if not handles:
                continue
            layer = self._modules.layer(name)
            recorder.adopt(tensor, handles[0], "weights", layer)
            for handle in handles[1:]:
                recorder.recording.categories[handle] = "quantization_state"
            row = rows[name]
            if not row.quantized and tensor.untyped_storage().nbytes() > row.weight_bytes:
                handle = recorder.allocate(
                    tensor.untyped_storage().nbytes(), "upcast", "weights", layer
                )
                recorder.release(handles[0], layer)
                recorder.adopt(tensor, handle, "weights", layer)

    def _check_all_known(self) -> None:
        """Every tensor of the built class was loaded, or the sum would be wrong."""
        for name, tensor in self._built.base_tensors():
            if tensor.numel() and not self.recorder.knows(tensor):
                raise UnsupportedError(
                    f"the trace built {type(self.model).__name__} with {name}, which the tensor "
                    "table lacks: leave --trace out for the formulas' estimate"
                )

    def _add_adapters(self) -> None:
        """What is not of the base model was put in after loading and moved to the device."""
        for module in self.model.modules():
            if id(module) in self._built.paths:
                continue
            for tensor in [*module._parameters.values(), *module._buffers.values()]:
                if tensor is None or self.recorder.knows(tensor):
                    continue
                layer = self._modules.layer(self._modules.path_of(module))
                handle = self.recorder.allocate(
                    tensor.untyped_storage().nbytes(), "adapter", "adapters", layer
                )
                self.recorder.adopt(tensor, handle, "adapters", layer)


def _implementation(model: torch.nn.Module) -> str | None:
    """The attention that a model was built with, by its name in transformers."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)
