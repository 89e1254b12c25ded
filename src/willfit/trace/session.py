"""One traced process: the model is loaded on a simulated device, and what it does is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

from willfit.devices import cublas_workspace_bytes
from willfit.errors import UnsupportedError
from willfit.formulas.loading import loading_script, moving_script
from willfit.formulas.phase import ComponentName
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack
from willfit.scenario.workload import SdpaKernel
from willfit.trace.build import Built
from willfit.trace.cuda import CudaAttention, cuda_choices, products, temporaries
from willfit.trace.dispatch import Dispatch
from willfit.trace.fakes import fake_mode, in_dicts, to_fakes
from willfit.trace.modules import Modules
from willfit.trace.quantized import after_loading, fake_quantized, known_shapes
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
        gpus: Sequence[Gpu | None],
        stack: Stack,
        *,
        dispatch: Dispatch,
        device_map: bool,
        warmups: Sequence[int] = (),
    ) -> None:
        """``warmups``: bytes of the block that the loader takes first, by GPU."""
        self._quantized = weights.arithmetic is not None
        self.mode = fake_mode()
        self.model = built.model
        self.recorder = Recorder(
            temporaries(quantized=self._quantized),
            products=products(quantized=self._quantized),
            workspaces=[cublas_workspace_bytes(gpu) for gpu in gpus],
            home=dispatch.home,
        )
        self.attention: CudaAttention | None = None
        self.alive: list[object] = []
        """What outlives the recording: an optimizer's cycles are collected at no fixed moment."""
        self._built = built
        self._gpus = gpus
        self._dispatch = dispatch
        self._stack = stack
        if self._quantized:
            fake_quantized(self.model, self.mode, getattr(torch, weights.dtype.name))
        known_shapes(self.model, self.mode)
        to_fakes(self.model, self.mode)
        self._modules = Modules(self.model, built.paths)
        self._load(weights, warmups, device_map=device_map)

    @property
    def recording(self) -> Recording:
        """What was recorded so far."""
        return self.recorder.recording

    @contextmanager
    def running(
        self, *, packed: bool = False, sdpa_kernel: SdpaKernel | None = None
    ) -> Iterator[None]:
        """The user's code runs inside: on fake tensors, with this GPU's choices, recorded.

        ``packed``: rows hold several sequences, which transformers then looks for.
        ``sdpa_kernel``: the only one that SDPA may take.
        """
        with ExitStack() as stack:
            self.attention = stack.enter_context(
                cuda_choices(
                    self._gpu_of,
                    self._stack,
                    quantized=self._quantized,
                    implementation=_implementation(self.model),
                    packed=packed,
                    sdpa_kernel=sdpa_kernel,
                )
            )
            stack.enter_context(self.mode)
            stack.enter_context(self.recorder)
            stack.enter_context(self._dispatch.copying(self.recorder))
            stack.enter_context(self.recorder.following(self._modules))
            yield

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU, on which the loss is."""
        return self._gpus[0]

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

    def _gpu_of(self, tensor: torch.Tensor) -> Gpu | None:
        return self._gpus[self.recorder.gpu_of(tensor)]

    def _load(self, weights: LoadedWeights, warmups: Sequence[int], *, device_map: bool) -> None:
        """Loading's events, and every parameter known by the storage that loading gave it."""
        recorder = self.recorder
        for gpu, warmup in enumerate(warmups):
            if warmup:
                recorder.release(recorder.allocate(warmup, "warm-up", "weights", gpu=gpu))
        script = loading_script(weights) if device_map else moving_script(weights)
        left: dict[str, list[Handle]] = {}
        for name, events in script:
            layer = self._modules.layer(name)
            device = self._dispatch.device(name)
            if not isinstance(device, int):
                left[name] = [("host", name)]
                continue
            alive: dict[Handle, None] = {}
            for event in events:
                handle = ("load", event.handle)
                recorder.recording.events.append(
                    Event(handle, event.num_bytes, "load", Place(name, "load"), layer, device)
                )
                if event.num_bytes:
                    alive[handle] = None
                else:
                    del alive[handle]
            left[name] = list(alive)
        rows = {n: row for row in weights.rows for n in row.row.names()}
        self._mark_states(left, rows)
        self._adopt(left, rows)
        self._add_buffers()
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
            layer, gpu = self._modules.layer(name), self._dispatch.home(name)
            row = rows[name]
            category: ComponentName = "weights" if row.weight_bytes else "quantization_state"
            recorder.adopt(tensor, handles[0], category, layer, gpu)
            for handle in handles[1:]:
                recorder.recording.categories[handle] = "quantization_state"
            upcast = tensor.untyped_storage().nbytes() > row.weight_bytes
            if upcast and row.weight_bytes and not row.quantized:
                handle = recorder.allocate(
                    tensor.untyped_storage().nbytes(), "upcast", "weights", layer, gpu
                )
                recorder.release(handles[0], layer)
                recorder.adopt(tensor, handle, "weights", layer, gpu)

    def _add_buffers(self) -> None:
        """Buffers of no checkpoint that another release has: 4.35 keeps cos and sin by layer."""
        for module in self.model.modules():
            if id(module) not in self._built.paths:
                continue
            for local in sorted(module._non_persistent_buffers_set):
                tensor = module._buffers.get(local)
                if tensor is None or self.recorder.knows(tensor):
                    continue
                self._put(module, tensor, "buffer", "weights")

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
            named = [*module._parameters.items(), *module._buffers.items()]
            for name, tensor in [*named, *(("", tensor) for tensor in in_dicts(module))]:
                if tensor is None or self.recorder.knows(tensor):
                    continue
                if (id(module), name) in self._built.on_host:
                    self.recorder.disregard(tensor)
                    continue
                self._put(module, tensor, "adapter", "adapters")

    def _put(
        self, module: torch.nn.Module, tensor: torch.Tensor, what: str, category: ComponentName
    ) -> None:
        """A module's tensor on its GPU."""
        path = self._modules.path_of(module)
        layer, gpu = self._modules.layer(path), self._dispatch.home(path)
        amount = tensor.untyped_storage().nbytes()
        handle = self.recorder.allocate(amount, what, category, layer, gpu)
        self.recorder.adopt(tensor, handle, category, layer, gpu)


def _implementation(model: torch.nn.Module) -> str | None:
    """The attention that a model was built with, by its name in transformers."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)
