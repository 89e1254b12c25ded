"""One traced process: the model is loaded on a simulated device, and what it does is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

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
from willfit.trace.quantized import after_loading, fake_quantized, known_shapes
from willfit.trace.recorder import Recorder
from willfit.trace.recording import Event, Handle, Place, Recording


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
        self._quantized = weights.arithmetic is not None
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
        known_shapes(self.model, self.mode)
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
                cuda_choices(self._gpu, self._stack, quantized=self._quantized)
            )
            stack.enter_context(self.mode)
            stack.enter_context(self.recorder)
            stack.enter_context(self.recorder.following(self._modules))
            yield

    def assumptions(self) -> tuple[str, ...]:
        """Which kernels ran, and why."""
        taken = self.attention.taken if self.attention is not None else {}
        return tuple(f"attention kernel {name}: {reason}" for name, reason in taken.items())

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
        rows = {n: row for row in weights.rows for n in row.row.names()}
        self._mark_states(left, rows)
        self._adopt(left, rows)
        self._check_all_known()
        with self.mode, recorder:
            after_loading(self.model, recorder)
        self._add_adapters()

    def _mark_states(self, left: Mapping[str, list[Handle]], rows: Mapping[str, LoadedRow]) -> None:
        """Scales and the like that a checkpoint stores under names of their own."""
        for name, handles in left.items():
            if not rows[name].weight_bytes:
                for handle in handles:
                    self.recorder.recording.categories[handle] = "quantization_state"

    def _adopt(self, left: Mapping[str, list[Handle]], rows: Mapping[str, LoadedRow]) -> None:
        """Loaded tensors by handle; those made float32 since are allocated anew, in their order."""
        recorder = self.recorder
        for name, tensor in self._built.base_tensors():
            handles = left.get(name)
            if not handles:
                continue
            layer = self._modules.layer(name)
            row = rows[name]
            state = not row.weight_bytes
            recorder.adopt(tensor, handles[0], "quantization_state" if state else "weights", layer)
            for handle in handles[1:]:
                recorder.recording.categories[handle] = "quantization_state"
            upcast = tensor.untyped_storage().nbytes() > row.weight_bytes
            if upcast and not (row.quantized or state):
                handle = recorder.allocate(
                    tensor.untyped_storage().nbytes(), "upcast", "weights", layer
                )
                recorder.release(handles[0], layer)
                recorder.adopt(tensor, handle, "weights", layer)

    def _check_all_known(self) -> None:
        """Every tensor of the built class was loaded, or the sum would be wrong.

        But for single numbers of a stored method, such as a measured ``input_scale``.
        """
        stored = self._built.stored
        for name, tensor in self._built.base_tensors():
            if self.recorder.knows(tensor):
                continue
            if stored and tensor.numel() == 1:
                num_bytes, layer = tensor.untyped_storage().nbytes(), self._modules.layer(name)
                handle = self.recorder.allocate(num_bytes, "buffer", "quantization_state", layer)
                self.recorder.adopt(tensor, handle, "quantization_state", layer)
            elif tensor.numel():
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
